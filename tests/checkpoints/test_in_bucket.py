"""Checkpoints and the run's lock in a bucket."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load, load_file

from t5x_instruct.checkpoints.checksums import CHECKSUMS_NAME
from t5x_instruct.checkpoints.lease import Lease
from t5x_instruct.checkpoints.lock import lock_model_dir
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import open_source, save_run_identity
from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import BucketRefused, CheckpointError
from t5x_instruct.common.paths import as_path
from tests.checkpoints import tiny_hf


@pytest.fixture
def folder(bucket, request):
    return as_path(f"gs://test/{request.node.name}")


def state(step):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    return {"w": jax.device_put(jnp.arange(8.0) * step, sharding), "step": step}


def test_steps_are_saved_restored_and_removed(folder):
    with Checkpoints(folder / "checkpoints", keep_last=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"rows": step})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    # A save that is cut off leaves objects under the final name, and no checksums.
    (folder / "checkpoints" / "4" / "state" / "d").write_bytes(b"half")
    damaged = next(path for path in (folder / "checkpoints" / "2" / "state").objects() if "/d/" in str(path))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 3
        restored, data = checkpoints.restore(3, state(0))
        np.testing.assert_array_equal(restored["w"], state(3)["w"])
        assert (restored["step"], data) == (3, {"rows": 3})
        with pytest.raises(CheckpointError, match="is damaged: crc32c"):
            checkpoints.restore(2, state(0))
        checkpoints.save(4, state(4), {"rows": 4})
        checkpoints.wait()
        assert checkpoints.latest() == 4
    assert (folder / "checkpoints" / "4" / CHECKSUMS_NAME).exists()
    assert not (folder / "checkpoints" / "4" / "state" / "d").is_file()
    assert "tensorflow" not in sys.modules or "seqio" in sys.modules, "gs:// went through TensorFlow"


def test_one_run_at_a_time(folder):
    with Lease(folder / "run.lock", beat=0.05) as holder:
        with pytest.raises(CheckpointError, match="is in use by process .*choose another MODEL_DIR"):
            Lease(folder / "run.lock", beat=0.1, lost=60.0).__enter__()
        holder.check()
    assert not (folder / "run.lock").exists()
    with lock_model_dir(folder) as check:
        check()
        assert (folder / "run.lock").exists()
    assert not (folder / "run.lock").exists()


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_at_once(folder):
    code = (
        "import os, sys\n"
        "from t5x_instruct.checkpoints.lease import Lease\n"
        "from t5x_instruct.common.paths import as_path\n"
        "Lease(as_path(sys.argv[1])).__enter__()\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "run.lock")], check=False, timeout=120)
    assert (folder / "run.lock").exists()
    began = time.monotonic()
    with lock_model_dir(folder):
        assert time.monotonic() - began < 30


def test_who_was_taken_for_gone_saves_nothing_more(folder):
    path = folder / "run.lock"
    with Lease(path, beat=0.02) as silent:
        silent.check()
        path.write_bytes(b'{"pid": 1, "host": "other"}')
        while silent._problem is None:
            time.sleep(0.01)
        with pytest.raises(CheckpointError, match="was taken by process 1"):
            silent.check()
    assert path.read_bytes() == b'{"pid": 1, "host": "other"}', "what is another's stays"
    with Lease(path, beat=0.02, lost=0.05) as taker:  # it does not write again
        taker.check()
    assert not path.exists()


def test_a_run_into_an_absent_bucket_ends_with_the_fix(bucket):
    with pytest.raises(BucketRefused, match="buckets create gs://absent"), lock_model_dir("gs://absent/run"):
        pass


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_and_a_run_are_converted_from_bucket_to_bucket(folder, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path / "cache"))
    tiny_hf.write_folder(tmp_path / "theirs", "llama_tied")
    for name, content in written(tmp_path / "theirs").items():
        (folder / "theirs" / name).write_bytes(content)

    def convert(source, target):
        assert main(["convert", "--from", str(source), "--to", str(target)]) == 0
        return written(target)

    ours = convert(folder / "theirs", folder / "ours")
    assert ours == convert(tmp_path / "theirs", tmp_path / "ours")
    held = load_file(tmp_path / "theirs" / "model.safetensors")
    found = load(ours["model.safetensors"])
    assert held.keys() == found.keys()
    for name, array in held.items():
        np.testing.assert_array_equal(found[name], array)

    source = open_source(str(tmp_path / "theirs"))
    with Checkpoints(folder / "run" / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": source.params_fn(None)}, {})
    save_run_identity(folder / "run", source.model_config, source.vocabulary, "chat")
    bucket.asked.clear()
    run = convert(folder / "run", folder / "of_run")
    assert run["model.safetensors"] == ours["model.safetensors"]
    # All parameters are read together: Orbax reads what a step holds anew each time that it is asked for an array.
    (times,) = (times for name, times in bucket.asked.items() if name.endswith("/1/state/_METADATA"))
    assert len(source.tensors) > 8 >= times
