"""One process at a time trains into a `MODEL_DIR`."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from t5x_instruct.checkpoints.lease import Lease
from t5x_instruct.common import hosts
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.paths import AnyPath, as_path

LOCK_NAME = "run.lock"


@contextlib.contextmanager
def lock_model_dir(path: AnyPath | str) -> Iterator[Callable[[], None]]:
    """Holds `path` for this run. On a disk the kernel releases it when the process ends, however it ends; for a bucket
    see `Lease`.

    Host 0 takes the lock for all hosts of the run, so every host must enter.

    Args:
        path: the `MODEL_DIR`; made if it is not there.

    Yields:
        A function that raises CheckpointError if the lock was lost meanwhile, on host 0; nothing may be saved then.

    Raises:
        CheckpointError: another process holds it; the message has its process id and host. Raised on all hosts.
    """
    folder = as_path(path)
    with contextlib.ExitStack() as held:
        problem, check = None, _never_lost
        if hosts.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                if isinstance(folder, Path):
                    held.enter_context(_on_disk(folder))
                else:
                    check = held.enter_context(Lease(folder / LOCK_NAME)).check
            except CheckpointError as error:
                problem = str(error)
        problem = hosts.broadcast_from_host0(problem)
        if problem is not None:
            raise CheckpointError(problem)
        yield check


def _never_lost() -> None:
    pass


@contextlib.contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{folder} is in use by {_holder(descriptor)}; stop it, or choose another MODEL_DIR"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process (it has not written its id yet)"
