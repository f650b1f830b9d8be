"""Copies of objects on this machine's disk, for what can read only files."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from t5x_instruct.common.buckets import BucketPath
from t5x_instruct.common.errors import BucketError, DataError
from t5x_instruct.common.io import write_json
from t5x_instruct.common.paths import staged_place

_AT_A_TIME = 16
_INDEX = ".staged.json"
_SECONDS_BETWEEN = 5.0

Say = Callable[[str], None]


class Wanted(NamedTuple):
    """An object that is to be on the disk.

    Attributes:
        source: the object.
        target: the file.
        num_bytes: its size, if known.
        crc32c: of its content, if known.
    """

    source: BucketPath
    target: Path
    num_bytes: int | None = None
    crc32c: int | None = None


def to_stderr(line: str) -> None:
    """Shows a line at the terminal."""
    print(line, file=sys.stderr, flush=True)


def fetch(wanted: Sequence[Wanted], say: Say = to_stderr) -> None:
    """Copies objects to files, many at a time; each file appears when it is complete and its checksum is right.

    Args:
        wanted: what is copied.
        say: takes lines on how far it is.

    Raises:
        DataError: the disk has no room for it, or the content is not that of the checksum.
        BucketError: an object cannot be read.
    """
    if not wanted:
        return
    _check_room(wanted)
    progress = _Progress(wanted, say)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        copies = [pool.submit(_copy, one, progress) for one in wanted]
        try:
            for copy in copies:
                copy.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress.end()


def stage(source: BucketPath, say: Say = to_stderr) -> Path:
    """A copy on the disk of everything under a name, or of the object that has it; what did not change is not read.

    Args:
        source: a folder or an object.
        say: takes lines on how far it is.

    Returns:
        The copy's folder or file.

    Raises:
        FileNotFoundError: nothing is there.
        DataError, BucketError: as `fetch`.
    """
    place = staged_place(source)
    with _alone(place):
        there = _generations(source)
        if not there:
            raise FileNotFoundError(errno.ENOENT, "nothing lies there", str(source))
        known = _read_index(place)
        wanted = []
        for name, generation in there.items():
            target = place / (name or source.name)
            if known.get(name) != generation or not target.is_file():
                wanted.append(Wanted(source / name if name else source, target))
        for name in known.keys() - there.keys():
            (place / name).unlink(missing_ok=True)
        fetch(wanted, say)
        if wanted or known != there:
            write_json(place / _INDEX, there, durable=False)
    return place / source.name if "" in there else place


def _generations(source: BucketPath) -> dict[str, str]:
    """What is under a name and which content it has; the empty name alone is an object of the name itself."""
    own = source.generation()  # first: a stranger may read an object where it may not list
    if own is not None:
        return {"": own.hex()}
    objects = source.objects()
    names = [str(one).removeprefix(f"{source}/") for one in objects]
    for name in names:
        if os.path.isabs(name) or ".." in name.split("/"):
            raise BucketError(f"{source} holds an object with the name {name!r}, which is no name of a file")
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = list(pool.map(BucketPath.generation, objects))
    return {name: number.hex() for name, number in zip(names, found, strict=True) if number is not None}


def _read_index(place: Path) -> dict[str, str]:
    try:
        index = json.loads((place / _INDEX).read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time fills a place; the others wait for it and find it filled."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f".{place.name[:200]}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_room(wanted: Sequence[Wanted]) -> None:
    needed = sum(one.num_bytes or 0 for one in wanted)
    folder = wanted[0].target.parent
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"no room for {needed / 1e9:.2f} GB from {wanted[0].source.parent} in {folder}, where {free / 1e9:.2f} GB "
            "are free; make room, set T5X_INSTRUCT_CACHE to a folder on a larger disk, or mount the bucket (gcsfuse) "
            "and name the mounted folder"
        )


def _copy(one: Wanted, progress: "_Progress") -> None:
    import google_crc32c

    one.target.parent.mkdir(parents=True, exist_ok=True)
    partial = one.target.with_name(f".{one.target.name}.{os.getpid()}.partial")
    checksum, size = 0, 0
    try:
        with open(partial, "wb") as file:
            for block in one.source.blocks(one.num_bytes):
                file.write(block)
                checksum = google_crc32c.extend(checksum, block)
                size += len(block)
                progress.add(len(block))
        if (one.crc32c, one.num_bytes) not in ((None, None), (checksum, size)):
            raise DataError(
                f"{one.source} is damaged: {size} bytes with the CRC-32C {checksum}, expected {one.num_bytes} with "
                f"{one.crc32c}; prepare it again"
            )
        partial.replace(one.target)
    except BucketError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(one.target.parent).free
        raise DataError(
            f"the disk is full while {one.source} is copied to {one.target} ({free / 1e9:.2f} GB free); make room or "
            "set T5X_INSTRUCT_CACHE to a folder on a larger disk"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


class _Progress:
    """Lines on how far a copy is: at once for nothing that is done quickly."""

    def __init__(self, wanted: Sequence[Wanted], say: Say):
        self._say, self._lock = say, threading.Lock()
        self._what = f"copying {len(wanted):,} files from {wanted[0].source.parent}"
        sizes = [one.num_bytes for one in wanted]
        self._total = sum(size or 0 for size in sizes) if None not in sizes else None
        self._done, self._began = 0, time.monotonic()
        self._last = self._began

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            now = time.monotonic()
            if now - self._last >= _SECONDS_BETWEEN:
                self._last = now
                self._say(self._line(now - self._began))

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        self._say(f"{self._what}: {self._done / 1e6:,.1f} MB in {seconds:.1f} s")

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        if self._total is None:
            return f"{self._what}: {self._done / 1e6:,.0f} MB, {rate / 1e6:,.0f} MB/s"
        left = (self._total - self._done) / max(rate, 1.0)
        return (
            f"{self._what}: {self._done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB, {rate / 1e6:,.0f} MB/s, "
            f"{left:,.0f} s left"
        )
