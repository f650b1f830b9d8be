"""Processes that end in the middle of things, and disks that are full."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5x_instruct.checkpoints.lock import lock_model_dir
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.common.errors import CheckpointError

from .states import abstract, assert_restores, bits, state_of

SIZE = 1 << 16  # 2 MB a step: a save takes long enough to be hit

SAVE_FOREVER = """
import sys
from t5x_instruct.checkpoints.manager import Checkpoints
from tests.checkpoints.states import assert_restores, state_of
folder, size = sys.argv[1], int(sys.argv[2])
checkpoints = Checkpoints(folder)
step = checkpoints.latest() or 0
if step:
    assert_restores(checkpoints, step, size)
while True:
    step += 1
    checkpoints.save(step, state_of(step, size), {"rows": step})
    print(step, flush=True)
"""

HOLD_LOCK = """
import sys, time
from t5x_instruct.checkpoints.lock import lock_model_dir
with lock_model_dir(sys.argv[1]):
    print("held", flush=True)
    time.sleep(300)
"""

FILL_DISK = """
import json, resource, sys
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.common.errors import CheckpointError
from tests.checkpoints.states import assert_restores, state_of
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, state_of(1), {"rows": 1})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, state_of(2, 1 << 16), {"rows": 2})
    checkpoints.wait()
except CheckpointError as error:
    print(error)
assert checkpoints.steps() == [1], checkpoints.steps()
assert_restores(checkpoints, 1)
checkpoints.save(3, state_of(3), {"rows": 3})
assert_restores(checkpoints, 3)
print("steps", checkpoints.steps())
checkpoints.close()
"""


def start(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def test_sigkill_during_saves_loses_no_complete_step(tmp_path):
    folder = tmp_path / "checkpoints"
    chance = random.Random(0)
    newest = 0
    for _ in range(4):
        process = start(SAVE_FOREVER, folder, SIZE)
        try:
            # Starting the save of step n + 1 means that n is complete.
            begun = [int(process.stdout.readline()) for _ in range(2)]
            time.sleep(chance.uniform(0, 0.3))
            assert process.poll() is None
        finally:
            end(process)
        assert begun[0] == newest + 1, "the process did not go on from the newest complete step"
        with Checkpoints(folder) as checkpoints:
            newest = checkpoints.latest()
            assert newest >= begun[0]
            assert_restores(checkpoints, newest, SIZE)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(newest + 1, state_of(newest + 1, SIZE), {"rows": newest + 1})
        checkpoints.wait()
        assert sorted(path.name for path in folder.iterdir()) == sorted(map(str, checkpoints.steps()))
        assert checkpoints.steps() == [newest, newest + 1]
        for step in checkpoints.steps():
            assert_restores(checkpoints, step, SIZE)


def test_parts_of_a_save_that_was_cut_off_are_replaced(tmp_path):
    """A kill leaves some of the files and no checksums."""
    with Checkpoints(tmp_path / "whole") as checkpoints:
        checkpoints.save(2, state_of(2), {"rows": 2})
    names = [path for path in sorted((tmp_path / "whole" / "2").rglob("*")) if path.is_file()]
    for count in range(0, len(names), 3):
        folder = tmp_path / str(count)
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(1, state_of(1), {"rows": 1})
            checkpoints.wait()
            for path in names[:count]:
                if path.name != "CHECKSUMS.json":
                    copy = folder / path.relative_to(tmp_path / "whole")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
            assert checkpoints.latest() == 1
            checkpoints.save(2, state_of(2), {"rows": 2})
            assert_restores(checkpoints, 2)
            assert_restores(checkpoints, 1)


def test_a_full_disk_is_one_clear_error_and_costs_no_earlier_step(tmp_path):
    folder = tmp_path / "checkpoints"
    process = start(FILL_DISK, folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    message, steps = output.splitlines()
    assert message.startswith(f"step 2 could not be saved in {folder}: the disk is full (")
    assert message.endswith("Earlier steps are intact.")
    assert steps == "steps [1, 3]"
    with Checkpoints(folder) as checkpoints:
        restored, _ = checkpoints.restore(1, abstract(state_of(1)))
        assert bits(restored) == bits(state_of(1))


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    process = start(HOLD_LOCK, tmp_path / "run")
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(CheckpointError, match=f"in use by process {process.pid} on host "),
            lock_model_dir(tmp_path / "run"),
        ):
            pytest.fail("two processes hold the lock")
    finally:
        end(process)
    with lock_model_dir(tmp_path / "run"), pytest.raises(CheckpointError), lock_model_dir(tmp_path / "run"):
        pytest.fail("one process holds the lock twice")
    with lock_model_dir(tmp_path / "run"):
        pass
