"""Shards: the files that a split is written in, each with its length index, its checksums and what was counted.

With n = `Execution.shard_rows`, shard k of a split holds what the source's rows from k * n up to (k + 1) * n gave
(where a split is rendered whole, the examples of these numbers), one file for each variant, so that what is in a shard
depends neither on the order of the work nor on who does it. Its report, a JSON file beside it, is written last,
atomically: a shard without a report does not exist. Shards gather in a folder that no reader sees; when the last one is
there, the split becomes visible by one rename.
"""

import dataclasses
import fcntl
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from t5x_instruct.common.errors import DataError
from t5x_instruct.common.io import crc32c_of_file, read_json, sync_folder, write_json
from t5x_instruct.data.prepared import PreparedSplit, lengths_path
from t5x_instruct.data.records import FORMAT_VERSION, Example, encode_record

REFUSED_SHOWN = 20
PLAN = "plan.json"
COUNTER = "count_"  # fields of an example whose name starts so are added up over a split


@dataclasses.dataclass
class ShardReport:
    """What is in one shard.

    Attributes:
        shard: its number in the split.
        rows: how many of the source's rows it took; of a split that is rendered whole, of the pipeline's examples.
        last: whether no row follows.
        num_examples: examples that were written, in each variant.
        tokens: tokens of inputs and targets, and those trained, over all variants.
        counters: sums of the fields that start with `COUNTER`, over all variants.
        num_refused: examples that were refused.
        refused: the first of them: example, why, beginning of its inputs.
        files: for each variant file, bytes, records and checksums; none where every example was refused.
    """

    shard: int
    rows: int = 0
    last: bool = False
    num_examples: int = 0
    tokens: dict[str, int] = dataclasses.field(default_factory=lambda: {"inputs": 0, "targets": 0, "trained": 0})
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    num_refused: int = 0
    refused: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def refuse(self, index: int, why: str, inputs: str) -> None:
        """Counts a refused example, and keeps the first ones to be shown."""
        self.num_refused += 1
        if len(self.refused) < REFUSED_SHOWN:
            self.refused.append({"example": index, "why": why, "inputs": inputs})

    def count(self, example: Example) -> None:
        """Adds up what one rendering of an example has."""
        self.tokens["inputs"] += len(example.inputs)
        self.tokens["targets"] += len(example.targets)
        self.tokens["trained"] += int(example.targets_mask.sum())
        for name, value in example.meta.items():
            if name.startswith(COUNTER) and isinstance(value, int):
                self.counters[name] = self.counters.get(name, 0) + value


class ShardWriter:
    """Writes one shard, all its variants side by side.

    The files get their names when they are complete; two processes that write the same shard (a pipeline runner may
    start work a second time) write the same bytes and do not meet.

    Args:
        folder: where it goes.
        shard: its number.
        variants: how many renderings each example has.
    """

    def __init__(self, folder: Path, shard: int, variants: int):
        self.report = ShardReport(shard)
        self._folder = folder
        self._names = [f"v{variant:03d}-{shard:05d}.array_record" for variant in range(variants)]
        self._mark = f".{uuid.uuid4().hex}."
        self._writers: list[Any] = []
        self._lengths: list[list[tuple[int, int]]] = [[] for _ in range(variants)]

    def write(self, renderings: Sequence[Example]) -> None:
        """Appends an example, given in each variant."""
        if not self._writers:
            paths = [str(self._folder / (self._mark + name)) for name in self._names]
            self._writers = [array_record_module.ArrayRecordWriter(path, "group_size:1") for path in paths]
        for example, writer, lengths in zip(renderings, self._writers, self._lengths, strict=True):
            writer.write(encode_record(example))
            lengths.append((len(example.inputs), len(example.targets)))
            self.report.count(example)
        self.report.num_examples += 1

    def close(self, rows: int, last: bool) -> ShardReport:
        """Completes the shard and writes its report.

        Args:
            rows: how many of the source's rows it took.
            last: whether no row follows.
        """
        self.report.rows, self.report.last = rows, last
        for variant, (name, lengths) in enumerate(zip(self._names, self._lengths, strict=True)):
            if self._writers:
                self._writers[variant].close()
                self.report.files.append(self._finish_file(name, variant, lengths))
        self._writers = []
        write_json(_report_path(self._folder, self.report.shard), dataclasses.asdict(self.report), durable=False)
        return self.report

    def _finish_file(self, name: str, variant: int, lengths: list[tuple[int, int]]) -> dict[str, Any]:
        written = self._folder / (self._mark + name)
        index = lengths_path(written)
        np.save(index, np.asarray(lengths, dtype=np.int32), allow_pickle=False)
        entry = {
            "file": name,
            "variant": variant,
            "records": len(lengths),
            "bytes": written.stat().st_size,
            "crc32c": crc32c_of_file(written),
            "lengths_bytes": index.stat().st_size,
            "lengths_crc32c": crc32c_of_file(index),
        }
        index.rename(lengths_path(self._folder / name))
        written.rename(self._folder / name)
        return entry

    def abandon(self) -> None:
        """Removes what was written of a shard that will not be complete."""
        for writer in self._writers:
            writer.close()
        self._writers = []
        for leftover in self._folder.glob(f"{self._mark}*"):
            leftover.unlink(missing_ok=True)


def _report_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.shard.json"


def is_reported(folder: Path, shard: int) -> bool:
    """Whether a shard is complete, by its report alone."""
    return _report_path(folder, shard).is_file()


def completed_shards(folder: Path, verify: bool = True) -> dict[int, ShardReport]:
    """The complete shards of a split that is not complete.

    Args:
        folder: where they gather.
        verify: whether to compare their checksums.

    Returns:
        Their reports, by number; a shard whose files are not what its report says is not among them.
    """
    found = {}
    for path in sorted(folder.glob("*.shard.json")):
        try:
            report = ShardReport(**read_json(path))
        except (DataError, TypeError):
            continue
        if not verify or all(_is_whole(folder, entry) for entry in report.files):
            found[report.shard] = report
    return found


def _is_whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    path = folder / entry["file"]
    expected = [(path, entry["crc32c"]), (lengths_path(path), entry["lengths_crc32c"])]
    return all(file.is_file() and crc32c_of_file(file) == checksum for file, checksum in expected)


class SplitFolder:
    """The folder of a split while it is worked on.

    Args:
        folder: where the complete split is to be.
        identity: what its shards must agree in, as JSON values; shards of another identity are removed.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = folder
        self.partial = folder.parent / f".{folder.name}.partial"
        self._identity = dict(identity)
        self._lock = _Lock(folder.parent / f".{folder.name}.lock")

    def acquire(self, wait: bool = True) -> bool:
        """Takes the split's lock, which the operating system drops when the process ends, however it ends.

        Args:
            wait: until another process releases it.

        Returns:
            Whether it was had.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return self._lock.acquire(wait)

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()

    def open_complete(self, fingerprint: str) -> tuple[PreparedSplit | None, str]:
        """Opens the split if it is complete, whole and of this fingerprint.

        Returns:
            The split, or None and why what is there cannot be used (empty: nothing is there).
        """
        if (self.partial / "info.json").is_file():  # killed just before it was to become visible
            self._publish()
        if not (self.folder / "info.json").is_file():
            return None, ""
        try:
            split = PreparedSplit(self.folder)
            split.verify()
        except DataError as error:
            return None, f"it is damaged ({error})"
        return (split, "") if split.fingerprint == fingerprint else (None, "it holds other data")

    def begin(self) -> dict[int, ShardReport]:
        """Makes the folder for the shards, or finds those that an interrupted run has completed there.

        Returns:
            The reports of complete shards, by number.
        """
        plan = self.partial / PLAN
        try:
            same = read_json(plan) == self._identity
        except DataError:
            same = False
        if not same:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            write_json(plan, self._identity, durable=False)
            return {}
        kept = completed_shards(self.partial)
        known = {PLAN} | {_report_path(self.partial, shard).name for shard in kept}
        for report in kept.values():
            for entry in report.files:
                known |= {entry["file"], lengths_path(self.partial / entry["file"]).name}
        for path in self.partial.iterdir():
            if path.name not in known:
                path.unlink()
        return kept

    def finish(self, fields: Mapping[str, Any]) -> PreparedSplit:
        """Makes the split visible.

        Args:
            fields: what `info.json` says beside what its shards report.

        Raises:
            DataError: a shard is missing, or no example is left.
        """
        reports = completed_shards(self.partial, verify=False)
        shards = [reports[k] for k in sorted(reports)]
        if [r.shard for r in shards] != list(range(len(shards))) or not shards or not shards[-1].last:
            raise DataError(f"{self.partial} has the shards {sorted(reports)}, which are not all; prepare it again")
        write_json(self.partial / "info.json", {**fields, **_summed(shards)}, durable=False)
        self._publish()
        return PreparedSplit(self.folder)

    def _publish(self) -> None:
        for path in [*self.partial.glob("*.shard.json"), self.partial / PLAN]:
            path.unlink(missing_ok=True)
        if self.folder.exists():
            self.folder.rename(self.folder.parent / f".{self.folder.name}.{uuid.uuid4().hex}.replaced")
        self.partial.rename(self.folder)
        for replaced in self.folder.parent.glob(f".{self.folder.name}.*.replaced"):
            shutil.rmtree(replaced)

    def abandon(self) -> None:
        """Removes the shards of a split that cannot be completed."""
        shutil.rmtree(self.partial, ignore_errors=True)


def _summed(shards: Sequence[ShardReport]) -> dict[str, Any]:
    """What `info.json` says of the shards of a split.

    Raises:
        DataError: there is no example.
    """
    refused = [entry for shard in shards for entry in shard.refused]
    num_refused = sum(shard.num_refused for shard in shards)
    num_examples = sum(shard.num_examples for shard in shards)
    if not num_examples:
        first = f", the first because {refused[0]['why']}" if refused else ""
        raise DataError(f"no example is left: {num_refused} refused{first}")
    counters: dict[str, int] = {}
    for shard in shards:
        for name, value in shard.counters.items():
            counters[name] = counters.get(name, 0) + value
    files = [entry for shard in shards for entry in shard.files]
    return {
        "format_version": FORMAT_VERSION,
        "num_examples": num_examples,
        "tokens": {name: sum(shard.tokens[name] for shard in shards) for name in shards[0].tokens},
        "counters": dict(sorted(counters.items())),
        "refused": {"count": num_refused, "first": refused[:REFUSED_SHOWN]},
        "shards": sorted(files, key=lambda entry: entry["file"]),
    }


def make_durable(folders: Sequence[Path]) -> None:
    """Syncs folders and the files in them to the disk, many at once: one after the other takes minutes for thousands.

    Args:
        folders: of complete splits.
    """
    from concurrent.futures import ThreadPoolExecutor

    def sync(folder: Path) -> None:
        for path in folder.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(folder)
        sync_folder(folder.parent)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(sync, folders))


class _Lock:
    """A lock file."""

    def __init__(self, path: Path):
        self._path = path
        self._file: Any = None

    def acquire(self, wait: bool) -> bool:
        file = open(self._path, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
