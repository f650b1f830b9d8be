"""The work of preparing a mixture: which units are left, what becomes of them, what is skipped."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import seqio

from t5x_instruct.common.errors import DataError, InstructError, SourceUnavailable
from t5x_instruct.data.binding import BoundTask, splits_of
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import PreparedSplit, SkippedTask
from t5x_instruct.data.shards import SplitFolder
from t5x_instruct.data.tfds_source import network_timeouts
from t5x_instruct.data.units import Progress, Unit, finish_split, plan_units, split_folder_of

Splits = dict[str, dict[str, PreparedSplit]]


class _OpenSplit:
    """A split that is worked on; its lock is held."""

    def __init__(self, folder: SplitFolder):
        self.folder = folder
        self.begun = time.monotonic()
        self.left = 0  # units handed out and not done
        self.planned = False  # whether all its units were handed out


class Preparation:
    """Hands out the units that are left to render and puts what was rendered together.

    Units are planned as they are asked for, task by task in the order of their names, so that of the locks of splits
    only those in work are held, and two runs never wait for each other.

    Args:
        spec: what is asked for.
        bound: the mixture's tasks.
        shard_rows: rows a shard.
        workers: how many processes share a split.
        progress: takes lines on how far it is.

    Attributes:
        written: folders of the splits that this run completed.
    """

    def __init__(
        self, spec: PrepareSpec, bound: Sequence[BoundTask], shard_rows: int, workers: int, progress: Progress
    ):
        self.written: list[Path] = []
        self._spec, self._shard_rows, self._workers, self._progress = spec, shard_rows, workers, progress
        self._bound = {one.task.name: one for one in sorted(bound, key=lambda one: one.task.name)}
        self._labels = {name: f"[{i + 1}/{len(bound)}] {name}" for i, name in enumerate(self._bound)}
        self._splits: Splits = {name: {} for name in self._bound}
        self._skipped: dict[str, SkippedTask] = {}
        self._open: dict[tuple[str, str], _OpenSplit] = {}

    def bound(self, unit: Unit) -> BoundTask:
        """The task of a unit."""
        return self._bound[unit.task]

    def say(self, unit: Unit, line: str) -> None:
        """Passes on a line on how far a unit is."""
        self._progress(f"{self._labels[unit.task]}/{unit.split}: {line}")

    def units(self) -> Iterator[Unit]:
        """The units that are left; the locks of their splits are taken as they are given.

        Raises:
            DataError: a task has none of the splits asked for.
            SourceUnavailable: see `failed`.
        """
        for one in self._bound.values():
            if not isinstance(one.task.source, seqio.TfdsDataSource):  # which knows its splits only after a download
                splits_of(one, self._spec)
        for name, one in self._bound.items():
            try:
                if isinstance(one.task.source, seqio.TfdsDataSource):
                    _fetch_plain(one.task)
                for split in sorted(splits_of(one, self._spec)):
                    if name not in self._skipped:
                        yield from self._units_of(one, split)
            except SourceUnavailable as error:
                self._skip(name, error)
                for task, split in [key for key in self._open if key[0] == name]:  # the one that is being opened
                    self._open[task, split].planned = True
                    self._close_if_done(Unit(task, split, one.role, one.fingerprint))

    def _units_of(self, one: BoundTask, split: str) -> Iterator[Unit]:
        whole = Unit(one.task.name, split, one.role, one.fingerprint)
        folder = split_folder_of(whole, self._spec, self._shard_rows)
        if not folder.acquire(wait=False):
            self.say(whole, "another process is preparing it; waiting")
            folder.acquire()
        work = self._open[one.task.name, split] = _OpenSplit(folder)
        complete, why = folder.open_complete(one.fingerprint)
        if complete is not None:
            self._close(whole, complete)
            return
        if why:
            self.say(whole, f"{why}; rendering it again")
        if hasattr(one.task.source, "fetch"):
            one.task.source.fetch(lambda line: self.say(whole, line))
        kept = folder.begin()
        if kept:
            self.say(whole, f"{len(kept):,} shards are there; going on with the others")
        units = plan_units(one, whole, kept, self._shard_rows, self._workers)
        for unit in units:
            if one.task.name not in self._skipped:
                work.left += 1
                yield unit
        work.planned = True
        self._close_if_done(whole)

    def done(self, unit: Unit) -> None:
        """Takes note that a unit was rendered; completes its split if it was the last one.

        Raises:
            DataError: no example is left of the split.
        """
        self._open[unit.task, unit.split].left -= 1
        self._close_if_done(unit)

    def _close_if_done(self, unit: Unit) -> None:
        work = self._open[unit.task, unit.split]
        if work.planned and not work.left:
            if unit.task in self._skipped:
                self._abandon(unit)
            else:
                self._finish(unit)

    def failed(self, unit: Unit, error: Exception) -> None:
        """Takes note that a unit cannot be rendered: its task is skipped, or the error is raised.

        Raises:
            SourceUnavailable: the task may not be skipped.
            Exception: the error, if it is another one.
        """
        if isinstance(error, SourceUnavailable):
            self._skip(unit.task, error)
            self.done(unit)
            return
        if isinstance(error, InstructError):  # what it is about will be other data; a full disk is no such error
            self._abandon(unit)
        raise error

    def _finish(self, unit: Unit) -> None:
        work = self._open[unit.task, unit.split]
        try:
            complete = finish_split(self._bound[unit.task], work.folder, unit.split, self._spec)
        except DataError:
            self._abandon(unit)
            raise
        refused = complete.refused["count"]
        note = f", {refused:,} refused" if refused else ""
        self.say(unit, f"{complete.num_examples:,} examples in {time.monotonic() - work.begun:.1f} s{note}")
        self.written.append(complete.folder)
        self._close(unit, complete)

    def _close(self, unit: Unit, complete: PreparedSplit) -> None:
        self._splits[unit.task][unit.split] = complete
        self._open.pop((unit.task, unit.split)).folder.release()

    def _abandon(self, unit: Unit) -> None:
        work = self._open.pop((unit.task, unit.split))
        work.folder.abandon()
        work.folder.release()

    def _skip(self, name: str, error: SourceUnavailable) -> None:
        if len(self._bound) == 1 or self._bound[name].role == "held_out":
            raise error
        if name in self._skipped:
            return
        self._skipped[name] = SkippedTask(name, str(error).removesuffix(f"; {error.fix}"), error.fix)
        self._progress(f"{self._labels[name]}: SKIPPED: {error}")

    def release(self) -> None:
        """Gives back the locks that are held; shards that were completed stay for the next run."""
        for work in self._open.values():
            work.folder.release()
        self._open.clear()

    def result(self) -> tuple[Splits, list[SkippedTask]]:
        """The splits of the tasks that were prepared, and the tasks that were skipped.

        Raises:
            DataError: tasks were skipped, and either none is left or `spec.strict` allows none.
        """
        skipped = [self._skipped[name] for name in sorted(self._skipped)]
        trained = [name for name, one in self._bound.items() if one.role == "train" and name not in self._skipped]
        if skipped and (self._spec.strict or not trained):
            told = "".join(f"\n  - {one.task}: {one.why}; {one.fix}" for one in skipped)
            why = "strict allows none" if self._spec.strict else "none is left to train on"
            raise DataError(f"{len(skipped)} of {len(self._bound)} tasks cannot be had ({why}):{told}")
        if skipped:
            told = "".join(f"\n  {one.task}: {one.why}; {one.fix}" for one in skipped)
            self._progress(f"{len(skipped)} of {len(self._bound)} tasks were skipped, the others are ready:{told}")
        splits: Splits = {}
        for name in self._bound.keys() - self._skipped.keys():
            order = splits_of(self._bound[name], self._spec)
            splits[name] = {split: self._splits[name][split] for split in order}
        return splits, skipped


def _fetch_plain(task: seqio.Task) -> None:
    """Brings the data of a task that is registered with seqio's own TFDS source onto this machine.

    Raises:
        SourceUnavailable: it cannot be had.
    """
    source: Any = task.source
    try:
        with network_timeouts():
            source.tfds_dataset.builder.download_and_prepare()
    except Exception as error:  # whatever TFDS, its data sets and their servers come up with
        first = str(error).strip().partition("\n")[0][:300]
        raise SourceUnavailable(
            f"TFDS cannot give {source.tfds_dataset.name!r}: {type(error).__name__}: {first}",
            "see whether the name, the version and the network are right, or leave the task out",
        ) from error
