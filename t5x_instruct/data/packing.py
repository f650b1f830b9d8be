"""Packing: which examples share a row, planned from lengths alone.

Window w of a plan is the positions ``[w * window, (w + 1) * window)`` of the order. Each window is packed
by itself, all its rows are closed at its end, and they are shuffled by (seed, w). Row r of the plan is row
``r - (rows of all earlier windows)`` of its window, so it depends on the order, the lengths, the
capacity, the window size and the seed, and on nothing else.
"""

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.mixtures import Order, OrderedExamples, mix64, seed_key

_CACHED_WINDOWS = 8
_LIKENESS = 0.75  # about the best of 0 to 1.5 on CoT and log-normal lengths


def lower_bound(lengths: NDArray[np.int32], capacity: Sequence[int]) -> int:
    """The number of rows that no packing can undercut: the fuller side's sum over its capacity.

    Args:
        lengths: int [N, S], slots each item takes on each side.
        capacity: slots of a row on each of the S sides.
    """
    totals = np.asarray(lengths).sum(axis=0, dtype=np.int64)
    return max(-(-int(total) // int(size)) for total, size in zip(totals, capacity, strict=True))


def best_fit_decreasing(lengths: NDArray[np.int32], capacity: Sequence[int]) -> NDArray[np.int32]:
    """Packs items into few rows, the long ones first.

    With one side (a decoder) each item goes into the fullest row that still takes it. With two (an
    encoder-decoder) rows are filled one after the other, each time with the largest item that fits, less
    what it leaves unlike on the two sides: rows that are full on one side waste the other. How large an
    item is counts a side by what is left to be placed on it; the more alike the two are, the more the
    likeness counts.

    Source: for two sides, the bin-centric greedy scheme of Panigrahy et al., "Heuristics for vector bin
    packing", 2011, with another score: its dot product takes 1.104 x the lower bound for chain-of-thought
    data at 1024 + 512 bytes, which load both sides alike, and this one 1.042 x.

    Args:
        lengths: int [N, S], S of 1 or 2: slots each item takes on each side; 0 is allowed.
        capacity: slots of a row on each of the S sides.

    Returns:
        int32 [N]: the row of each item; rows are numbered from 0 without gaps.

    Raises:
        DataError: an item longer than a row, a negative length, or S not 1 or 2.
    """
    lengths = np.asarray(lengths)
    sides = tuple(int(size) for size in capacity)
    if lengths.ndim != 2 or lengths.shape[1] != len(sides) or len(sides) not in (1, 2):
        raise DataError(
            f"lengths of shape {lengths.shape} do not go with capacity {sides}: packing takes [items, sides] "
            "with 1 or 2 sides"
        )
    _check_items(lengths, sides)
    if len(lengths) == 0:
        return np.zeros(0, np.int32)
    if len(sides) == 1:
        return _pack_one_side(lengths[:, 0], sides[0])
    return _pack_two_sides(lengths.astype(np.int64), sides)


def _check_items(lengths: NDArray[np.int32], sides: tuple[int, ...]) -> None:
    wrong = np.argwhere((lengths > np.array(sides)) | (lengths < 0))
    if len(wrong):
        item, side = wrong[0].tolist()
        raise DataError(
            f"item {item} takes {int(lengths[item, side])} slots on side {side}, where a row has "
            f"{sides[side]} ({len(wrong)} such lengths of {lengths.size}); cut examples before packing, or "
            "give rows more slots"
        )


def _pack_one_side(lengths: NDArray[np.int32], capacity: int) -> NDArray[np.int32]:
    """Best fit with open rows in one bucket per free space; the buckets in use are bits of one integer."""
    rows_with_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    in_use = 0
    num_rows = 0
    row_of = [0] * len(lengths)
    by_length = np.argsort(-lengths.astype(np.int64), kind="stable").tolist()
    plain = lengths.tolist()
    for item in by_length:
        length = plain[item]
        fitting = in_use >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            bucket = rows_with_free[free]
            row = bucket.pop()
            if not bucket:
                in_use ^= 1 << free
        else:
            free, row = capacity, num_rows
            num_rows += 1
        row_of[item] = row
        free -= length
        rows_with_free[free].append(row)
        in_use |= 1 << free
    return np.array(row_of, np.int32)


def _pack_two_sides(lengths: NDArray[np.int64], sides: tuple[int, ...]) -> NDArray[np.int32]:
    """Fills one row at a time; arrays hold the items not yet placed, the largest first."""
    fractions = lengths / np.array(sides, np.float64)
    loads = lengths.sum(axis=0).tolist()
    # Only elementwise arithmetic on floats: sums in another order could differ between machines.
    size = fractions[:, 0] * (loads[0] / sides[0]) + fractions[:, 1] * (loads[1] / sides[1])
    left = np.argsort(-size, kind="stable")
    first, second = (lengths[left, side].astype(np.int32) for side in (0, 1))
    first_part, second_part = (fractions[left, side] for side in (0, 1))
    row_of = np.zeros(len(lengths), np.int32)
    row = 0
    while left.size:
        free_first, free_second = sides[0] - int(first[0]), sides[1] - int(second[0])
        taken = [0]
        fits = (first <= free_first) & (second <= free_second)
        fits[0] = False
        open_items = np.flatnonzero(fits)
        weights = loads[0] / sides[0], loads[1] / sides[1]
        pull = _LIKENESS * sum(weights) * min(weights) / max(*weights, 1e-9)
        worth = first_part * weights[0] + second_part * weights[1]
        lean = first_part - second_part
        while open_items.size:
            unlike = np.abs(free_first / sides[0] - free_second / sides[1] - lean[open_items])
            best = int((worth[open_items] - pull * unlike).argmax())
            item = int(open_items[best])
            taken.append(item)
            free_first -= int(first[item])
            free_second -= int(second[item])
            fits = (first[open_items] <= free_first) & (second[open_items] <= free_second)
            fits[best] = False
            open_items = open_items[fits]
        row_of[left[taken]] = row
        row += 1
        loads[0] -= sides[0] - free_first
        loads[1] -= sides[1] - free_second
        keep = np.ones(left.size, np.bool_)
        keep[taken] = False
        left, first, second = left[keep], first[keep], second[keep]
        first_part, second_part = first_part[keep], second_part[keep]
    return row_of


class _Window:
    """The rows of one planned window: its examples sorted by row, and where each row starts."""

    def __init__(self, examples: OrderedExamples, starts: NDArray[np.int64]):
        self.examples = examples
        self.starts = starts

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> OrderedExamples:
        return self.examples.take(slice(int(self.starts[index]), int(self.starts[index + 1])))


class RowPlan:
    """Random access to the rows of an ordered stream. Safe to read from many threads.

    Windows are planned when they are first needed; to reach row r all windows before it, back to the
    cursor, are planned once, and only their numbers of rows are kept.

    Args:
        order: the order of the stream.
        length_of: slots that examples take, int [N, S].
        capacity: slots of a row on each of the S sides.
        seed: shuffles the rows of a window.
        window: positions in a window.
        num_epochs: mixture epochs after which the stream ends; None for an endless one.
        packing: False puts each example in a row of its own, in the order of the stream.
        cursor: what `cursor_at` gave for an equal plan: planning starts there instead of at row 0.

    Raises:
        DataError: a window, number of epochs or cursor that makes no sense.
    """

    def __init__(
        self,
        order: Order,
        length_of: Callable[[OrderedExamples], NDArray[np.int32]],
        capacity: Sequence[int],
        seed: int,
        *,
        window: int = 2048,
        num_epochs: int | None = None,
        packing: bool = True,
        cursor: Mapping[str, int] | None = None,
    ):
        if window < 1:
            raise DataError(f"a packing window of {window} examples; it must be at least 1")
        if num_epochs is not None and num_epochs < 1:
            raise DataError(f"num_epochs is {num_epochs}; it must be at least 1, or None for no end")
        self._order = order
        self._length_of = length_of
        self._capacity = tuple(int(size) for size in capacity)
        self._seed = seed
        self._window = window
        self._packing = packing
        self._end = None if num_epochs is None else num_epochs * order.epoch_size
        self._num_windows = None if self._end is None else -(-self._end // window)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, _Window] = OrderedDict()
        # _first_rows[i] is the first row of window _base + i; the last one is not planned yet.
        self._base = 0
        self._first_rows = array("q", [0])
        if cursor is not None:
            self._start_at(cursor)

    def _start_at(self, cursor: Mapping[str, int]) -> None:
        window, first_row = cursor.get("window"), cursor.get("first_row")
        last = self._num_windows
        if (
            not isinstance(window, int)
            or not isinstance(first_row, int)
            or not 0 <= window <= first_row
            or (window == 0 and first_row > 0)
            or (last is not None and window > last)
        ):
            raise DataError(
                f"row cursor {dict(cursor)!r} is not one of this plan: expected whole numbers 'window' and "
                f"'first_row', 0 <= window <= first_row{'' if last is None else f', window <= {last}'}"
            )
        self._base = window
        self._first_rows = array("q", [first_row])

    @property
    def num_rows(self) -> int | None:
        """Rows of the whole stream; None without an end. The first call plans all remaining windows."""
        if self._num_windows is None:
            return None
        with self._lock:
            while self._base + len(self._first_rows) - 1 < self._num_windows:
                self._plan_next()
            return self._first_rows[-1]

    def row(self, r: int) -> OrderedExamples:
        """The examples of row r, in the order of their segments.

        Raises:
            IndexError: a negative row, or one past the end of the stream.
        """
        with self._lock:
            window, first_row = self._locate(r)
            return self._planned(window).row(r - first_row)

    def cursor_at(self, row: int) -> dict[str, int]:
        """Where a new plan starts to read from `row` on: the window that holds it and its first row.

        At the end of a planned part the answer is the start of the window that comes next, so the call
        never plans windows that were not needed to reach `row`.
        """
        with self._lock:
            if row < self._first_rows[0]:
                self._forget()
            while row > self._first_rows[-1]:
                self._plan_next(row)
            i = bisect_right(self._first_rows, row) - 1
            return {"window": self._base + i, "first_row": self._first_rows[i]}

    def examples_before(self, row: int) -> tuple[int, OrderedExamples]:
        """What the rows before `row` hold: all before a position, and some examples of the window that begins there."""
        cursor = self.cursor_at(row)
        position = cursor["window"] * self._window
        inside = [self.row(r) for r in range(cursor["first_row"], row)] or [self._order.order(np.zeros(0, np.int64))]
        examples = OrderedExamples(
            np.concatenate([one.task for one in inside]),
            np.concatenate([one.epoch for one in inside]),
            np.concatenate([one.example for one in inside]),
        )
        return position if self._end is None else min(position, self._end), examples

    def _forget(self) -> None:
        self._base = 0
        self._first_rows = array("q", [0])

    def _locate(self, row: int) -> tuple[int, int]:
        if row < 0:
            raise IndexError(f"row {row} is negative; rows start at 0")
        if row < self._first_rows[0]:
            self._forget()
        while row >= self._first_rows[-1]:
            self._plan_next(row)
        i = bisect_right(self._first_rows, row) - 1
        return self._base + i, self._first_rows[i]

    def _plan_next(self, wanted: int | None = None) -> None:
        window = self._base + len(self._first_rows) - 1
        if self._num_windows is not None and window >= self._num_windows:
            raise IndexError(f"row {wanted} is past the end of the stream, which has {self._first_rows[-1]} rows")
        self._first_rows.append(self._first_rows[-1] + self._planned(window).num_rows)

    def _planned(self, window: int) -> _Window:
        planned = self._cache.get(window)
        if planned is None:
            planned = self._cache[window] = self._plan(window)
            if len(self._cache) > _CACHED_WINDOWS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(window)
        return planned

    def _plan(self, window: int) -> _Window:
        start = window * self._window
        end = start + self._window if self._end is None else min(start + self._window, self._end)
        examples = self._order.order(np.arange(start, end, dtype=np.int64))
        if not self._packing:
            return _Window(examples, np.arange(end - start + 1, dtype=np.int64))
        row_of = best_fit_decreasing(self._length_of(examples), self._capacity)
        num_rows = int(row_of.max()) + 1
        key = np.uint64(seed_key(self._seed, "rows", window))
        shuffled = np.argsort(mix64(key + np.arange(num_rows, dtype=np.uint64)), kind="stable")
        place = np.empty(num_rows, np.int64)
        place[shuffled] = np.arange(num_rows)
        placed = place[row_of]
        starts = np.zeros(num_rows + 1, np.int64)
        np.cumsum(np.bincount(placed, minlength=num_rows), out=starts[1:])
        return _Window(examples.take(np.argsort(placed, kind="stable")), starts)
