"""Real processes over loopback: each reads its share, together they are one run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_instruct.data.prepared import ensure_prepared
from t5x_instruct.data.vocabularies import ByteVocabulary

from .two_hosts import STEPS, settings

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prepared(prepared_root):
    ensure_prepared(settings(prepared_root).prepare_spec(ByteVocabulary(), "bytes"))
    return prepared_root


def run_hosts(count, prepared, output):
    """Starts `count` processes with four devices in all and reads what each of them saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for host in range(count):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
            "PYTHONPATH": str(CHECKOUT),
            "T5X_INSTRUCT_COORDINATOR": f"127.0.0.1:{port}",
            "T5X_INSTRUCT_NUM_HOSTS": str(count),
            "T5X_INSTRUCT_HOST": str(host),
        }
        if count == 1:
            del environment["T5X_INSTRUCT_COORDINATOR"]
        command = [sys.executable, "-m", "tests.multidevice.two_hosts", str(prepared), str(output)]
        children.append(
            subprocess.Popen(command, env=environment, cwd=CHECKOUT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        )
    errors = [child.communicate(timeout=300)[1].decode() for child in children]
    for child, error in zip(children, errors, strict=True):
        assert child.returncode == 0, error[-3000:]
    return [dict(np.load(output / f"host{host}.npz")) for host in range(count)]


def test_two_processes_read_halves_of_one_host_s_batches_and_train_like_it(prepared, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (whole,) = run_hosts(1, prepared, tmp_path / "one")
    halves = run_hosts(2, prepared, tmp_path / "two")
    keys = [key for key in whole if key != "losses"]
    assert len(keys) == 6 * STEPS
    for key in keys:
        np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), whole[key])
        assert len(halves[0][key]) == len(halves[1][key]) == 4
    np.testing.assert_array_equal(halves[0]["losses"], halves[1]["losses"])
    np.testing.assert_allclose(halves[0]["losses"], whole["losses"], rtol=1e-5)
