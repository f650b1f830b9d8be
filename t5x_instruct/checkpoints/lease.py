"""A lock in a bucket: an object that its holder writes again every few seconds."""

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from t5x_instruct.common.buckets import NEVER_WRITTEN, BucketPath, Generation
from t5x_instruct.common.errors import BucketError, CheckpointError

BEAT_SECONDS = 10.0
LOST_SECONDS = 45.0
"""A holder that has not written for so long is taken for gone."""

log = logging.getLogger(__name__)


class Lease:
    """Holds an object for this process as long as the context lasts.

    All writes are conditional on the generation that was seen, so that of two takers one wins, and a holder that was
    taken for gone (a machine that slept, a network that broke) learns of it. No clock is compared with another one's.

    Args:
        path: the object.
        beat: seconds between two writes of the holder.
        lost: seconds without a write after which the holder is taken for gone.

    Raises:
        CheckpointError: from entering: another process holds it, and lives.
    """

    def __init__(self, path: BucketPath, beat: float = BEAT_SECONDS, lost: float = LOST_SECONDS):
        self._path, self._beat, self._lost = path, beat, lost
        self._content = json.dumps(_identity()).encode()
        self._generation: bytes | None = None
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._generation = self._path.write_if(self._content)
        while self._generation is None:
            seen = self._of_one_gone()
            if seen == NEVER_WRITTEN:
                self._path.parent.check_writable()  # or there would be no end to this
            self._generation = self._path.write_if(self._content, seen)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._generation is not None and self._problem is None:
            try:
                self._path.write_if(None, self._generation)
            except BucketError as error:  # it ends by itself, a little later
                log.warning("%s could not be released: %s", self._path, error)

    def check(self) -> None:
        """Does nothing while the lease is held.

        Raises:
            CheckpointError: another process has taken it.
        """
        if self._problem is not None:
            raise CheckpointError(self._problem)

    def _of_one_gone(self) -> bytes:
        """Waits until it is sure that the holder is gone.

        Returns:
            The generation of its last write; `NEVER_WRITTEN` if it has given the lease back.
        """
        held = self._read()
        if held is None:
            return NEVER_WRITTEN
        holder = _read_identity(held.content)
        if _is_gone(holder):
            return held.number
        who = f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"
        log.warning("%s is held by %s; waiting %.0f s to see whether it is still alive", self._path, who, self._lost)
        end = time.monotonic() + self._lost
        while time.monotonic() < end:
            time.sleep(min(self._beat / 2, max(0.0, end - time.monotonic())))
            number = self._path.generation()
            if number is None:
                return NEVER_WRITTEN
            if number != held.number:
                raise CheckpointError(f"{self._path.parent} is in use by {who}; stop it, or choose another MODEL_DIR")
        return held.number

    def _read(self) -> Generation | None:
        try:
            return self._path.read_generation()
        except FileNotFoundError:
            return None

    def _run(self) -> None:
        while self._problem is None and not self._stop.wait(self._beat):
            try:
                number = self._path.write_if(self._content, self._generation or NEVER_WRITTEN)
                held = self._read() if number is None else None
            except BucketError as error:
                log.warning("%s could not be renewed: %s", self._path, error)
                continue
            if number is not None:
                self._generation = number
                continue
            if held is not None and held.content == self._content:
                self._generation = held.number  # our own write, whose answer was lost on the way
                continue
            who = "another process" if held is None else f"process {_read_identity(held.content).get('pid', '?')}"
            self._problem = (
                f"{self._path} was taken by {who}: this one was silent for more than {self._lost:.0f} s. Nothing more "
                f"is saved; what {self._path.parent} holds is the other one's"
            )


def _identity() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "started": _started(os.getpid()),
    }


def _read_identity(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, of which the machine knows nothing any more."""
    here = holder.get("boot") is not None and (holder["boot"], holder.get("host")) == (_boot(), socket.gethostname())
    pid = holder.get("pid")
    return here and isinstance(pid, int) and _started(pid) != holder.get("started")


def _boot() -> str | None:
    """What tells this machine since its last start from all others; None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process was started, in the system's own units; None if there is none."""
    try:
        # The name, in brackets, may hold anything; the start is the 20th field after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
