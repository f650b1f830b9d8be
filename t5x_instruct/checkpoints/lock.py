"""One process at a time trains into a `MODEL_DIR`."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from t5x_instruct.common import hosts
from t5x_instruct.common.errors import CheckpointError

LOCK_NAME = "run.lock"


@contextlib.contextmanager
def lock_model_dir(path: Path | str) -> Iterator[None]:
    """Holds `path` for this run; the kernel releases it when the process ends, however it ends.

    Host 0 takes the lock for all hosts of the run, so every host must enter. Object stores (`gs://...`) have no
    locks: there the caller alone sees to it that one run writes.

    Args:
        path: the `MODEL_DIR`; made if it is not there.

    Raises:
        CheckpointError: another process holds it; the message has its process id and host. Raised on all hosts.
    """
    problem, descriptor = None, None
    if "://" not in str(path) and hosts.process_index() == 0:
        Path(path).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(Path(path) / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = f"{path} is in use by {_holder(descriptor)}; stop it, or choose another MODEL_DIR"
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    try:
        problem = hosts.broadcast_from_host0(problem)
        if problem is not None:
            raise CheckpointError(problem)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process (it has not written its id yet)"
