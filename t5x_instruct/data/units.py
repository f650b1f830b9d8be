"""Units of work: ranges of shards of one split, planned, rendered anywhere, and put together to the split."""

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import seqio

from t5x_instruct.common.errors import ConfigError, DataError, InstructError, SourceUnavailable
from t5x_instruct.common.io import sha256_of_file
from t5x_instruct.data.binding import BoundTask, bind_named
from t5x_instruct.data.prepare_spec import EXEMPLARS, PrepareSpec, Role
from t5x_instruct.data.prepared import PreparedSplit, split_folder
from t5x_instruct.data.records import Example
from t5x_instruct.data.render_splits import RowCount, count_rows, has_ranges, renderings_of, rows_of, to_example
from t5x_instruct.data.shards import COUNTER, ShardReport, ShardWriter, SplitFolder, is_reported
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary

PROGRESS_SECONDS = 5.0

Progress = Callable[[str], None]


class Unit(NamedTuple):
    """A range of shards of one split: what one worker renders at a time.

    Attributes:
        task: the task's name.
        split: the split's name.
        role: the task's role.
        fingerprint: the task's.
        first: the first shard.
        shards: how many; None: up to the last one.
    """

    task: str
    split: str
    role: Role
    fingerprint: str
    first: int = 0
    shards: int | None = None


def split_folder_of(unit: Unit, spec: PrepareSpec, shard_rows: int) -> SplitFolder:
    """The folder in which the shards of a unit's split gather."""
    folder = split_folder(spec.root, unit.task, unit.fingerprint, unit.split)
    return SplitFolder(folder, {"fingerprint": unit.fingerprint, "shard_rows": shard_rows})


def plan_units(
    bound: BoundTask, whole: Unit, kept: Mapping[int, ShardReport], shard_rows: int, workers: int
) -> list[Unit]:
    """The units that are left to render of a split.

    Args:
        bound: the task.
        whole: the split as one unit.
        kept: the shards that are complete, by number.
        shard_rows: rows a shard.
        workers: how many processes there are to share the work.

    Returns:
        Units in order; none if no shard is missing. Shards that are complete are not among them, but where a split
        has to be rendered whole.
    """
    last = next((shard for shard, report in kept.items() if report.last), None)
    if last is not None and all(shard in kept for shard in range(last)):
        return []
    if not has_ranges(bound):
        return [whole]
    end = last
    if end is None:
        rows = count_rows(bound.task, whole.split) if workers > 1 else None
        end = max(-(-(rows or 1) // shard_rows), max(kept, default=-1) + 2)
    missing = [shard for shard in range(end) if shard not in kept]
    most = max(1, -(-len(missing) // workers))
    units: list[Unit] = []
    for shard in missing:
        before = units[-1] if units else None
        if before and before.shards is not None and before.first + before.shards == shard and before.shards < most:
            units[-1] = before._replace(shards=before.shards + 1)
        else:
            units.append(whole._replace(first=shard, shards=1))
    if last is None:  # rows may have been counted before some were left out, or not at all
        units[-1] = units[-1]._replace(shards=None)
    return units


def render_unit(
    bound: BoundTask, unit: Unit, spec: PrepareSpec, vocabulary: Vocabulary, shard_rows: int, tick: Progress
) -> None:
    """Writes the shards of a unit that are not there yet.

    Args:
        bound: the task.
        unit: the range.
        spec: what is asked for.
        vocabulary: the run's vocabulary.
        shard_rows: rows a shard.
        tick: takes a line on how far it is, now and then.

    Raises:
        DataError: with the task, the split and the example; `SourceUnavailable` where the source is.
    """
    folder = split_folder_of(unit, spec, shard_rows).partial
    renderings = renderings_of(bound, unit.split, spec)
    start = unit.first * shard_rows
    count = None if has_ranges(bound) else RowCount()
    ticker = _Ticker(tick, bound.task, unit, shard_rows, count)
    index = start
    with _named_errors(bound.task.name, unit.split, lambda: index):
        rows = enumerate(rows_of(bound, unit.split, renderings, start, count), start)
        following = next(rows, None)
        shards = itertools.count(unit.first) if unit.shards is None else range(unit.first, unit.first + unit.shards)
        for shard in shards:
            if following is None and shard:
                break
            writer = None if is_reported(folder, shard) else ShardWriter(folder, shard, len(renderings))
            taken = 0
            try:
                while following is not None and taken < shard_rows:
                    index, variants = following
                    ticker.tick()
                    if writer is not None:
                        _write(writer, index, [to_example(row, bound, vocabulary) for row in variants])
                    taken += 1
                    following = next(rows, None)
                if writer is not None:
                    if following is None:
                        writer.report.counters |= _left_out(bound, unit.split)
                    writer.close(taken, last=following is None)
            except BaseException:
                if writer is not None:
                    writer.abandon()
                raise
            if following is None:
                break


def _left_out(bound: BoundTask, split: str) -> dict[str, int]:
    """How many of its rows a source that was read to its end has left out, where it counts them."""
    counted = getattr(bound.task.source, "left_out", None)
    count = counted("train" if split == EXEMPLARS else split) if counted else 0
    return {f"{COUNTER}left_out": count} if count else {}


def _write(writer: ShardWriter, index: int, variants: Sequence[tuple[Example, str | None]]) -> None:
    fault = next((f"variant {v}: {f}" for v, (_, f) in enumerate(variants) if f), None)
    if fault is None:
        writer.write([example for example, _ in variants])
    else:
        writer.report.refuse(index, fault, str(variants[0][0].meta["inputs_pretokenized"])[:80])


def code_of(spec: PrepareSpec) -> list[str]:
    """Hashes of the files of the task modules that this process finds."""
    return sorted(map(sha256_of_file, import_task_modules(spec.modules, spec.module_options)))


class UnitRenderer:
    """Renders units in a process that is given nothing but JSON values.

    Args:
        spec: what is asked for.
        code: `code_of` in the process that planned the units.
        shard_rows: rows a shard.

    Raises:
        ConfigError: the task modules here are not those.
    """

    def __init__(self, spec: PrepareSpec, code: Sequence[str], shard_rows: int):
        self._spec, self._shard_rows = spec, shard_rows
        if code_of(spec) != list(code):
            raise ConfigError(
                f"the task modules {list(spec.modules)} that this worker finds are not those of the process that"
                " planned the work; give every worker the same version of them"
            )
        self._vocabulary = load_vocabulary(spec.vocabulary)
        self._bound: dict[tuple[str, str], BoundTask] = {}

    def render(self, unit: Unit, tick: Progress) -> None:
        """See `render_unit`."""
        key = (unit.task, unit.role)
        if key not in self._bound:
            self._bound[key] = bind_named(self._spec, self._vocabulary, unit.task, unit.role, unit.fingerprint)
        render_unit(self._bound[key], unit, self._spec, self._vocabulary, self._shard_rows, tick)


def finish_split(bound: BoundTask, folder: SplitFolder, split: str, spec: PrepareSpec) -> PreparedSplit:
    """Makes a split visible whose shards are all there.

    Raises:
        DataError: no example is left, or a shard is missing.
    """
    with _named_errors(bound.task.name, split):
        return folder.finish(
            {
                "task": bound.task.name,
                "split": split,
                "fingerprint": bound.fingerprint,
                "variants": len(renderings_of(bound, split, spec)),
            }
        )


@contextlib.contextmanager
def _named_errors(task: str, split: str, index: Callable[[], int] | None = None) -> Iterator[None]:
    """Errors of a task's code and data get the task, the split and roughly the example."""
    try:
        yield
    except Exception as error:
        # TensorFlow hides an error of ours in the text of a traceback.
        found = re.search(r"\b(?:Data|Config)Error: (.+)", str(error))
        why = str(error) if isinstance(error, InstructError) else f"{type(error).__name__}: {error}"
        why = found[1] if found else why[:2000]
        place = f"task {task!r}, split {split!r}"
        if isinstance(error, SourceUnavailable):
            raise SourceUnavailable(f"{place}: {why.removesuffix('; ' + error.fix)}", error.fix) from error
        near = "" if index is None else f", near example {index()}"
        raise DataError(f"{place}{near}: {why}") from error


class _Ticker:
    """A line now and then: how far, how fast, how long still.

    What is counted and timed are rows of the source, of which alone it is known how many there are: a conversation is
    one row and may become several examples, and a task may leave rows out.

    Args:
        progress: takes the lines.
        task: the task.
        unit: what is rendered of it.
        shard_rows: rows a shard.
        count: the rows that were taken; None: each row is an example.
    """

    def __init__(self, progress: Progress, task: seqio.Task, unit: Unit, shard_rows: int, count: RowCount | None):
        self._progress, self._task, self._split, self._count = progress, task, unit.split, count
        self._first = unit.first * shard_rows
        self._most = None if unit.shards is None else unit.shards * shard_rows
        self._start = self._last = time.monotonic()
        self._examples = 0

    def tick(self) -> None:
        """Called before each example."""
        now = time.monotonic()
        if now - self._last >= PROGRESS_SECONDS:
            self._last = now
            self._progress(self._line(now - self._start))
        self._examples += 1

    def _line(self, seconds: float) -> str:
        rows = self._examples if self._count is None else int(self._count)
        speed = rows / max(seconds, 1e-9)
        part = f"from row {self._first:,}: " if self._first else ""
        given = "" if self._count is None else f", {self._examples:,} examples"
        total = count_rows(self._task, self._split)
        if not total:
            return f"{part}{rows:,} rows{given} ({speed:,.0f} rows/s)"
        total -= self._first
        total = max(rows, total if self._most is None else min(total, self._most))
        left = f", {(total - rows) / speed:,.0f} s left" if rows else ""
        return f"{part}{rows:,} of {total:,} rows{given} ({speed:,.0f} rows/s{left})"
