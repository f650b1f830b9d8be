"""The loader: rows of a plan → the host's share of each global batch, as numpy arrays.

The way of an example: task (text, spans) → prepare (ids, mask, lengths) → **loader** (row plan, read,
assemble) → arrays (one global array on all devices).

Batch k of an undisturbed run is rows ``[k * B, (k + 1) * B)`` of the plan. Host h of n reads the
contiguous rows ``[h * B / n, (h + 1) * B / n)`` of each batch, so the batch of all hosts together is the
same for any number of hosts. The whole state is the number of rows consumed.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError, unknown
from t5x_instruct.common.types import DECODER_LOSS_WEIGHTS, DECODER_SEGMENT_IDS, ENCODER_SEGMENT_IDS
from t5x_instruct.data.converters import Converter, RowItem
from t5x_instruct.data.mixtures import Order, OrderedExamples
from t5x_instruct.data.packing import RowPlan
from t5x_instruct.data.prepared import PreparedMixture, PreparedSplit, PreparedTask
from t5x_instruct.data.realised import DrawCounts, task_figures

_PREFETCHED_BATCHES = 4
_ENDLESS = sys.maxsize // 2  # Grain rounds lengths up to whole batches within a machine word
# Bump when the same settings would give other rows than before: a checkpoint then says so.
_PLAN_VERSION = 1


class LoaderStats(NamedTuple):
    """What this host's batches have held since the loader was made.

    Attributes:
        batches: batches handed out.
        rows: rows in them, empty ones of a last batch included.
        examples: examples in them.
        trained_tokens: targets with a loss weight above 0.
        used_slots: slots that belong to an example, of the encoder too where there is one.
        slots: slots in all.
    """

    batches: int = 0
    rows: int = 0
    examples: int = 0
    trained_tokens: int = 0
    used_slots: int = 0
    slots: int = 0

    @property
    def fill(self) -> float:
        """Used slots over all slots; 0 before the first batch."""
        return self.used_slots / self.slots if self.slots else 0.0

    def plus(self, batch: Mapping[str, NDArray[Any]]) -> "LoaderStats":
        """These figures with one more batch."""
        segments = batch[DECODER_SEGMENT_IDS]
        sides = [batch[key] for key in (ENCODER_SEGMENT_IDS, DECODER_SEGMENT_IDS) if key in batch]
        return LoaderStats(
            self.batches + 1,
            self.rows + len(segments),
            self.examples + int(segments.max(axis=1).sum()),
            self.trained_tokens + int(np.count_nonzero(batch[DECODER_LOSS_WEIGHTS])),
            self.used_slots + sum(int(np.count_nonzero(side)) for side in sides),
            self.slots + sum(side.size for side in sides),
        )


class _Source:
    """The prepared splits of the tasks, addressed by (task, epoch, example)."""

    def __init__(self, tasks: Sequence[PreparedTask], split: str):
        self.tasks = tasks
        self.splits: list[PreparedSplit] = [task.splits[split] for task in tasks]
        self.num_examples = [int(part.num_examples) for part in self.splits]
        self._variants = np.array([part.variants for part in self.splits], np.int64)
        self._sizes = np.array(self.num_examples, np.int64)
        ends = np.cumsum(self._variants * self._sizes)
        self.starts = ends - self._variants * self._sizes
        self.trained_shares = np.array([p.tokens["trained"] / max(1, p.tokens["targets"]) for p in self.splits])
        # One table for all tasks: a window of the order touches most tasks of a large mixture.
        self.raw_lengths = np.concatenate([np.asarray(part.lengths, np.int32).reshape(-1, 2) for part in self.splits])
        if len(self.raw_lengths) != int(ends[-1]):
            raise DataError(
                f"the length indices have {len(self.raw_lengths)} entries for {int(ends[-1])} rendered "
                f"examples of split {split!r}; prepare the mixture again"
            )

    def index(self, examples: OrderedExamples) -> NDArray[np.int64]:
        """Rows of the length table, int64 [N]. Task epoch e reads variant e mod variants."""
        task = examples.task
        variant = examples.epoch % self._variants[task]
        return self.starts[task] + variant * self._sizes[task] + examples.example

    def where(self, index: int) -> str:
        """Names the example at a row of the length table."""
        task = int(np.searchsorted(self.starts, index, side="right")) - 1
        variant, example = divmod(index - int(self.starts[task]), int(self._sizes[task]))
        return f"example {example} (variant {variant}) of task {self.tasks[task].name!r}"

    def read(self, examples: OrderedExamples) -> list[RowItem]:
        """Reads examples, in their order."""
        items = []
        for task, epoch, number in zip(
            examples.task.tolist(), examples.epoch.tolist(), examples.example.tolist(), strict=True
        ):
            split = self.splits[task]
            example = split.read(number, epoch % split.variants)
            items.append(RowItem(task, example, self.tasks[task].inputs_tail))
        return items


class _HostRows:
    """This host's rows from a global row on, as a random-access source for Grain."""

    def __init__(self, loader: "Loader", first_row: int):
        self._loader = loader
        self._first_row = first_row
        batches = loader.batches_from(first_row)
        rows = loader.host_batch_size
        self._length = _ENDLESS if batches is None else batches * rows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> dict[str, NDArray[Any]]:
        loader = self._loader
        batch, offset = divmod(int(index), loader.host_batch_size)
        start = self._first_row + batch * loader.batch_size
        return loader.row(start + loader.host_index * loader.host_batch_size + offset)


class Loader:
    """Batches of a prepared mixture, the same for any number of hosts, resumable at any batch.

    Args:
        mixture: the prepared mixture.
        split: which split of its tasks.
        converter: makes a row of the model's arrays.
        batch_size: rows of a global batch.
        seed: order, and order of rows; any integer.
        host_index: this host.
        host_count: hosts that share each batch evenly.
        packing: several examples a row, or one.
        num_epochs: mixture epochs; None for an endless stream. A stream with an end is planned whole
            before its first batch (lengths only), and its last batch is filled up with empty rows of
            weight 0, so that every host has the same number of batches.
        role: which tasks: 'train', 'held_out', or 'all'.
        tasks: if given, only these of them, by name.
        every_example_once: ignore the mixing rates: an epoch has each example exactly once. Always so
            for roles other than 'train', since tasks that are held out have no rate.
        window: examples that are packed together.
        num_threads: threads that read rows ahead; 0 reads when asked.

    Attributes:
        tasks: names of the tasks; `decoder_task_ids` index them.
        order: the order of the stream.
        rows_consumed: global rows handed out so far.
        stats: what this host's batches have held.

    Raises:
        DataError: tasks or a split that are not there, a batch that the hosts cannot share, rates or
            lengths that make no stream.
    """

    def __init__(
        self,
        mixture: PreparedMixture,
        split: str,
        converter: Converter,
        batch_size: int,
        seed: int,
        host_index: int = 0,
        host_count: int = 1,
        packing: bool = True,
        num_epochs: int | None = None,
        role: str = "train",
        *,
        tasks: Sequence[str] | None = None,
        every_example_once: bool = False,
        window: int = 2048,
        num_threads: int = 4,
    ):
        _check_hosts(batch_size, host_index, host_count)
        chosen = _choose_tasks(mixture, split, role, tasks)
        for task in chosen:
            converter.check_tail(task.name, task.inputs_tail)
        self.tasks = tuple(task.name for task in chosen)
        self.batch_size = batch_size
        self.host_index = host_index
        self.host_count = host_count
        self.rows_consumed = 0
        self.stats = LoaderStats()
        self._converter = converter
        self._source = _Source(chosen, split)
        self._slots = converter.lengths(self._source.raw_lengths, self._source.where)
        sizes = self._source.num_examples
        once = every_example_once or role != "train"
        self.rates: list[float] = [float(n) for n in sizes] if once else [task.rate for task in chosen]
        self.order = Order(sizes, self.rates, seed, names=self.tasks)
        variants = [split.variants for split in self._source.splits]
        self._draws = DrawCounts(self.order, self._source.index, sizes, variants)
        self._num_threads = num_threads
        self._plan_settings: dict[str, Any] = {
            "window": window,
            "num_epochs": num_epochs,
            "packing": packing,
        }
        self._plan = self._make_plan(None)
        self._fingerprint = self._make_fingerprint(mixture.name, split, chosen)

    def _make_plan(self, cursor: Mapping[str, int] | None) -> RowPlan:
        return RowPlan(
            self.order,
            lambda examples: self._slots[self._source.index(examples)],
            self._converter.capacity,
            self.order.seed,
            cursor=cursor,
            **self._plan_settings,
        )

    def _make_fingerprint(self, name: str, split: str, tasks: Sequence[PreparedTask]) -> dict[str, Any]:
        sizes = self._source.num_examples
        return {
            "mixture": {"name": name, "split": split, "task order": _digest(self.tasks)}
            | {f"task {task.name}": [rate, size] for task, rate, size in zip(tasks, self.rates, sizes, strict=True)},
            "data": {f"task {task.name}": task.fingerprint for task in tasks},
            "packing": self._plan_settings | {"plan_version": _PLAN_VERSION},
            "seed": {"seed": self.order.seed},
            "lengths": self._converter.fingerprint,
        }

    @property
    def host_batch_size(self) -> int:
        """Rows of this host in a batch."""
        return self.batch_size // self.host_count

    @property
    def num_rows(self) -> int | None:
        """Rows of the stream; None without an end."""
        return self._plan.num_rows

    @property
    def num_batches(self) -> int | None:
        """Batches of the stream from its start; None without an end."""
        return self.batches_from(0)

    def batches_from(self, row: int) -> int | None:
        """Batches from a global row to the end; None without an end."""
        rows = self._plan.num_rows
        return None if rows is None else -(-max(rows - row, 0) // self.batch_size)

    def row(self, r: int) -> dict[str, NDArray[Any]]:
        """Global row r, [T] arrays by batch key; an empty row past the end of the stream."""
        rows = self._plan.num_rows
        if rows is not None and r >= rows:
            return self._converter.convert([])
        return self._converter.convert(self._source.read(self._plan.row(r)))

    def batch(self, k: int) -> dict[str, NDArray[Any]]:
        """This host's part of batch k counted from the start of the stream, whatever was consumed.

        Returns:
            [batch_size / host_count, T] arrays by batch key.

        Raises:
            IndexError: there is no batch k.
        """
        batches = self.num_batches
        if k < 0 or (batches is not None and k >= batches):
            raise IndexError(f"batch {k} of a stream of {batches} batches")
        start = k * self.batch_size + self.host_index * self.host_batch_size
        rows = [self.row(r) for r in range(start, start + self.host_batch_size)]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Batches from `rows_consumed` on; each handed out moves `rows_consumed` along."""
        rows = self._plan.num_rows
        ahead = grain.ReadOptions(
            num_threads=self._num_threads,
            prefetch_buffer_size=max(_PREFETCHED_BATCHES, self._num_threads) if self._num_threads else 0,
        )
        batches = iter(
            grain.MapDataset.source(_HostRows(self, self.rows_consumed))
            .batch(self.host_batch_size)
            .to_iter_dataset(ahead)
        )
        try:
            for batch in batches:
                consumed = self.rows_consumed + self.batch_size
                self.rows_consumed = consumed if rows is None else min(consumed, rows)
                self.stats = self.stats.plus(batch)
                yield batch
        finally:
            batches.close()

    def state(self) -> dict[str, Any]:
        """Where the stream stands, JSON-able: goes into a checkpoint, the same on every host."""
        return {
            "rows_consumed": self.rows_consumed,
            "cursor": self._plan.cursor_at(self.rows_consumed),
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken; the batch size and number of hosts may be others.

        Raises:
            DataError: not a state, or one of another stream: the message names what changed.
        """
        rows, cursor = state.get("rows_consumed"), state.get("cursor")
        saved = state.get("fingerprint")
        if not isinstance(rows, int) or not isinstance(cursor, Mapping) or not isinstance(saved, Mapping):
            raise DataError(f"a data state needs rows_consumed, cursor and fingerprint; got {sorted(state)}")
        changes = _changes(saved, self._fingerprint)
        if changes:
            raise DataError(
                "the data is not what it was when the checkpoint was written, so its rows cannot be "
                "continued: "
                + "; ".join(changes)
                + ". Restore the former settings, or start the data from its beginning"
            )
        plan = self._make_plan(cursor)
        if not cursor["first_row"] <= rows:
            raise DataError(
                f"a data state with rows_consumed {rows} before its cursor {dict(cursor)!r}; the state is damaged"
            )
        self._plan = plan
        self.rows_consumed = rows

    def realised_mixture(self, num_epochs: int = 1) -> dict[str, Any]:
        """What the first mixture epochs hold, counted from the order and the lengths alone.

        Args:
            num_epochs: mixture epochs to count.

        Returns:
            JSON-able: `epoch_size`, `num_epochs`, and by task name its `rate`, `num_examples`,
            `examples` drawn, `epochs` (examples / num_examples), `input_tokens` and `target_tokens`
            after cutting, `trained_tokens` (of a task that does not train all its targets, their share of the split),
            `cut_examples`, `cut_tokens`, `share` of all examples and `trained_share` of all trained tokens.
        """
        counted = self._figures(self._draws.of_epochs(num_epochs))
        return {"epoch_size": self.order.epoch_size, "num_epochs": num_epochs, "tasks": counted}

    def consumed_mixture(self) -> dict[str, Any]:
        """What the rows up to `rows_consumed` held, on all hosts: `rows`, and by task what `realised_mixture` tells."""
        position, more = self._plan.examples_before(self.rows_consumed)
        times = self._draws.before(position)
        np.add.at(times, self._source.index(more), 1)
        return {"rows": self.rows_consumed, "tasks": self._figures(times)}

    def _figures(self, times: NDArray[np.int32]) -> dict[str, dict[str, Any]]:
        raw = self._source.raw_lengths
        kept = self._converter.cut(raw)
        lost = (raw - kept).sum(axis=1)
        columns = {
            "input_tokens": kept[:, 0],
            "target_tokens": kept[:, 1],
            "cut_examples": lost > 0,
            "cut_tokens": lost,
        }
        counted = task_figures(times, columns, self.tasks, self._source.starts, self._source.trained_shares)
        sizes = dict(zip(self.tasks, self._source.num_examples, strict=True))
        return {
            name: {"rate": rate, "num_examples": sizes[name], "epochs": counted[name]["examples"] / sizes[name]}
            | counted[name]
            for name, rate in zip(self.tasks, self.rates, strict=True)
        }


def _digest(names: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


def _check_hosts(batch_size: int, host_index: int, host_count: int) -> None:
    if batch_size < 1 or host_count < 1 or batch_size % host_count:
        raise DataError(
            f"a global batch of {batch_size} rows cannot be shared evenly by {host_count} hosts; make the "
            f"batch size a positive multiple of {host_count}"
        )
    if not 0 <= host_index < host_count:
        raise DataError(f"host {host_index} of {host_count}; hosts are 0 to {host_count - 1}")


def _choose_tasks(mixture: PreparedMixture, split: str, role: str, names: Sequence[str] | None) -> list[PreparedTask]:
    by_role = {
        "train": mixture.train_tasks,
        "held_out": mixture.held_out_tasks,
        "all": mixture.tasks,
    }
    if role not in by_role:
        raise DataError(unknown("role", role, by_role))
    chosen = {task.name: task for task in by_role[role]}
    if names is not None:
        missing = [unknown("task", name, chosen) for name in names if name not in chosen]
        if missing:
            raise DataError(f"mixture {mixture.name!r}, role {role!r}: {'; '.join(missing)}")
        wanted = set(names)
        chosen = {name: task for name, task in chosen.items() if name in wanted}
    if not chosen:
        raise DataError(f"mixture {mixture.name!r} has no task of role {role!r}")
    without = [task for task in chosen.values() if split not in task.splits]
    if without:
        shown = ", ".join(f"{task.name!r} has {sorted(task.splits)}" for task in without[:5])
        raise DataError(
            f"{len(without)} of {len(chosen)} tasks of mixture {mixture.name!r} have no split {split!r}: "
            f"{shown}{' ...' if len(without) > 5 else ''}; choose the tasks that have it, or prepare it"
        )
    return list(chosen.values())


def _changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One text for each part of a fingerprint that differs, with its first differing entries."""
    texts = []
    for part, current in now.items():
        before = saved.get(part)
        before = before if isinstance(before, Mapping) else {}
        differing = [
            f"{key} was {before.get(key, 'absent')}, is {current.get(key, 'absent')}"
            for key in dict.fromkeys([*before, *current])
            if before.get(key, None) != current.get(key, None) or (key in before) != (key in current)
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            texts.append(f"{part} changed ({', '.join(differing[:3])}{more})")
    return texts
