import functools
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.common.errors import CheckpointError

from .states import abstract, assert_restores, bits, mesh_of, sharding, state_of


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as opened:
        yield opened


def test_a_relative_folder_stays_where_it_was_meant(tmp_path, monkeypatch):
    state = {"w": jnp.arange(3.0)}
    monkeypatch.chdir(tmp_path)
    with Checkpoints("runs/one/checkpoints") as opened:
        opened.save(1, state, {})
        monkeypatch.chdir("/")
        opened.wait()
        assert bits(opened.restore(1, abstract(state))[0]) == bits(state)
    assert (tmp_path / "runs/one/checkpoints/1").is_dir()


def test_every_kind_of_leaf_comes_back_bit_for_bit(checkpoints):
    params = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.array([1.1, -0.0, jnp.nan, jnp.inf], jnp.bfloat16)}
    state = {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "ints": [jnp.arange(-3, 3, dtype=jnp.int8), jnp.array([2**32 - 1], jnp.uint32), jnp.array([True, False])],
        "half": jnp.array([6e-8, 65504.0], jnp.float16),
        "scalar": jnp.float32(0.1),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8, impl="rbg"), 3),
        "old_key": jax.random.PRNGKey(9),
        "numpy": np.array([2**62, -1]),
        "numpy_scalar": np.float64(0.1),
        "python": (3, 2**40, 0.1, True),
        "empty": jnp.zeros((0, 4)),
        "empty_numpy": np.zeros((2, 0), np.int16),
    }
    checkpoints.save(5, state, {"rows": 12, "cursor": [1, [2]]}, {"loss": 1.5})
    restored, data_state = checkpoints.restore(5, abstract(state))
    assert bits(restored) == bits(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert data_state == {"rows": 12, "cursor": [1, [2]]}
    assert jax.random.key_impl(restored["keys"]) == jax.random.key_impl(state["keys"])


@pytest.mark.parametrize(("shape", "spec"), [((4, 2), ("b", "a")), ((2,), ("a",)), ((1,), ()), ((8,), (None, "a"))])
def test_restores_on_another_mesh(checkpoints, shape, spec):
    values = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    saved_on = mesh_of((8,), ("a",))
    state = {
        "w": jax.device_put(values, sharding(saved_on, "a")),
        "keys": jax.device_put(keys, sharding(saved_on, "a")),
    }
    checkpoints.save(1, state, {})
    mesh = mesh_of(shape, ("a", "b")[: len(shape)])
    wanted = {
        "w": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=sharding(mesh, *spec)),
        "keys": jax.ShapeDtypeStruct((8,), keys.dtype, sharding=sharding(mesh, "a")),
    }
    restored, _ = checkpoints.restore(1, wanted)
    assert restored["w"].sharding.is_equivalent_to(wanted["w"].sharding, 2)
    assert restored["keys"].sharding.device_set == wanted["keys"].sharding.device_set
    assert bits(restored) == bits(state)


def test_arrays_may_be_donated_and_overwritten_after_save(checkpoints):
    overwrite = functools.partial(jax.jit, donate_argnums=0)(lambda x: x * 0 - 1)
    device, host = jnp.ones((1024, 1024)), np.ones((256, 256), np.float32)
    checkpoints.save(1, {"device": device, "host": host}, {})
    for _ in range(3):
        device = overwrite(device)
    device.block_until_ready()
    host[:] = -1
    restored, _ = checkpoints.restore(1, abstract({"device": device, "host": host}))
    assert (restored["device"] == 1).all()
    assert (restored["host"] == 1).all()


def test_a_tree_that_does_not_fit_is_one_error_that_lists_all(checkpoints):
    checkpoints.save(1, {"params": {"kernel": jnp.ones((2, 3)), "scale": jnp.ones(4), "bias": jnp.ones(5)}}, {})
    wanted = {"params": {"kernal": jnp.ones((2, 3)), "scale": jnp.ones(5), "bias": jnp.ones(5, jnp.bfloat16)}}
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(1, abstract(wanted))
    text = str(error.value)
    assert "4 differences" in text
    assert "params/kernal float32[2, 3] is not in the checkpoint; nearest: 'params/kernel'" in text
    assert "params/kernel float32[2, 3] is in the checkpoint but not wanted; nearest: 'params/kernal'" in text
    assert "params/scale is float32[4] in the checkpoint, float32[5] is wanted" in text
    assert "params/bias is float32[5] in the checkpoint, bfloat16[5] is wanted" in text


def test_a_part_of_the_state_can_be_restored(checkpoints):
    checkpoints.save(1, state_of(1), {})
    params, _ = checkpoints.restore(1, abstract(state_of(1)["params"]), subtree="params")
    assert bits(params) == bits(state_of(1)["params"])
    assert checkpoints.saved_tree(1)["params/w"] == ((16, 8), "float32")


def test_keep_last(checkpoints):
    for step in (1, 2, 3, 10):
        checkpoints.save(step, state_of(step), {"rows": step})
    checkpoints.wait()
    assert checkpoints.steps() == [3, 10]
    assert checkpoints.latest() == 10
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["10", "3"]
    for step in (3, 10):
        assert_restores(checkpoints, step)


def test_the_best_step_is_told_by_what_the_newest_was_saved_with(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best() is None
        checkpoints.save(1, state_of(1), {}, {"loss": 0.1, "accuracy": 0.5})
        checkpoints.wait()
        assert checkpoints.best() is None
    with Checkpoints(tmp_path, keep_best=("accuracy", "max")) as checkpoints:
        checkpoints.save(2, state_of(2), {}, {"loss": 0.2, "accuracy": 0.4})
        checkpoints.save(3, state_of(3), {})
        checkpoints.wait()
    with Checkpoints(tmp_path) as checkpoints:  # one that only reads needs not be told
        assert checkpoints.best() == (1, "accuracy", 0.5)


@pytest.mark.parametrize(
    ("mode", "kept"),
    [("min", [3, 6]), ("max", [5, 6])],  # of equal ones the newest; NaN and steps without metrics are never best
)
def test_keep_best(tmp_path, mode, kept):
    losses = {1: 0.5, 2: 0.2, 3: 0.2, 4: float("nan"), 5: 0.9, 6: None}
    with Checkpoints(tmp_path, keep_last=1, keep_best=("loss", mode)) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state_of(step), {"rows": step}, None if loss is None else {"loss": loss})
        checkpoints.wait()
        assert checkpoints.steps() == kept
    # Another process knows the best one from disk.
    with Checkpoints(tmp_path, keep_last=1, keep_best=("loss", mode)) as checkpoints:
        checkpoints.save(7, state_of(7), {"rows": 7}, {"loss": 0.3})
        checkpoints.wait()
        assert checkpoints.steps() == [kept[0], 7]


def test_an_unknown_metric_to_keep_is_an_error_before_anything_is_written(tmp_path):
    with Checkpoints(tmp_path / "c", keep_best=("los", "min")) as checkpoints:
        with pytest.raises(CheckpointError, match="unknown metric 'los'; nearest: 'loss'"):
            checkpoints.save(1, state_of(1), {}, {"loss": 1.0})
        assert checkpoints.latest() is None


@pytest.mark.parametrize("arguments", [{"keep_last": 0}, {"keep_best": ("loss", "best")}])
def test_settings_are_checked(tmp_path, arguments):
    with pytest.raises(CheckpointError, match=next(iter(arguments))):
        Checkpoints(tmp_path, **arguments)


def test_steps_only_grow(checkpoints):
    checkpoints.save(5, state_of(5), {"rows": 5})
    for step in (5, 4):
        with pytest.raises(CheckpointError, match=f"step {step} is not newer than step 5"):
            checkpoints.save(step, state_of(step), {"rows": step})
    assert_restores(checkpoints, 5)


def test_what_cannot_be_saved_is_refused_and_nothing_is_left(checkpoints):
    checkpoints.save(1, state_of(1), {"rows": 1})
    for state, data_state in [({"x": "text"}, {}), ({"x": jnp.ones(1)}, {"x": {1, 2}}), ({}, {})]:
        with pytest.raises(CheckpointError, match="cannot be saved"):
            checkpoints.save(2, state, data_state)
    assert checkpoints.steps() == [1]
    checkpoints.save(2, state_of(2), {"rows": 2})
    assert_restores(checkpoints, 2)


def test_a_step_that_is_not_there_names_those_that_are(checkpoints):
    checkpoints.save(3, state_of(3), {"rows": 3})
    with pytest.raises(CheckpointError, match="there is no step 4 .* complete steps: 3"):
        checkpoints.restore(4, abstract(state_of(3)))


def test_an_empty_or_absent_folder_has_no_steps_and_is_not_made(checkpoints):
    assert checkpoints.latest() is None
    assert checkpoints.steps() == []
    assert not checkpoints.folder.exists()


def test_incomplete_steps_are_skipped_with_a_warning_and_removed_at_the_next_save(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1), {"rows": 1})
        checkpoints.save(2, state_of(2), {"rows": 2})
    (tmp_path / "2" / "CHECKSUMS.json").unlink()
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        with caplog.at_level(logging.WARNING):
            assert checkpoints.latest() == 1
        assert f"{tmp_path / '2'} is incomplete" in caplog.text
        with pytest.raises(CheckpointError, match="2 is incomplete"):
            checkpoints.restore(2, abstract(state_of(2)))
        checkpoints.save(3, state_of(3), {"rows": 3})
        checkpoints.wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "notes"]
        for step in (1, 3):
            assert_restores(checkpoints, step)


def test_a_damaged_list_of_files_is_kept_until_a_newer_step_is_complete(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1), {"rows": 1})
    path = tmp_path / "1" / "CHECKSUMS.json"
    path.write_bytes(path.read_bytes()[:-5])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(CheckpointError):
            checkpoints.save(2, {"x": "text"}, {})
        assert path.exists()
        checkpoints.save(2, state_of(2), {"rows": 2})
        checkpoints.wait()
        assert not path.exists()
        assert checkpoints.steps() == [2]


def test_errors_of_the_background_are_raised_once_and_earlier_steps_stay(checkpoints, monkeypatch):
    from t5x_instruct.checkpoints import checksums

    checkpoints.save(1, state_of(1), {"rows": 1})
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "_write", functools.partial(_fail, OSError(28, "No space left on device")))
        checkpoints.save(2, state_of(2), {"rows": 2})
        with pytest.raises(CheckpointError, match="step 2 could not be saved .* disk is full .* intact"):
            checkpoints.wait()
    checkpoints.wait()
    assert checkpoints.steps() == [1]
    assert not (checkpoints.folder / "2").exists()
    checkpoints.save(2, state_of(2), {"rows": 2})
    assert_restores(checkpoints, 2)
    assert_restores(checkpoints, 1)


def _fail(error, *_):
    raise error


def test_is_silent_and_free_of_tensorflow(tmp_path):
    code = f"""
import logging, sys
logging.basicConfig(level=logging.INFO)
logging.getLogger("jax").setLevel(logging.ERROR)
logging.getLogger("asyncio").setLevel(logging.ERROR)
import jax.numpy as jnp
from t5x_instruct.checkpoints import manager, restore
with manager.Checkpoints({str(tmp_path)!r}) as checkpoints:
    checkpoints.save(1, {{"x": jnp.ones(3)}}, {{}})
    checkpoints.restore(1, {{"x": jnp.ones(3)}})
sys.exit("tensorflow" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert result.stdout + result.stderr == ""
