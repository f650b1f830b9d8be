"""Lengths of a mixture's examples, and the row shape that wastes least.

Everything comes from the length index. A shape, the (inputs, targets) of TASK_FEATURE_LENGTHS, is judged by really
packing a sample of the mixed stream into its rows. What rows cost follows `row_cost`.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.converters import make_converter
from t5x_instruct.data.mixtures import Order
from t5x_instruct.data.packing import best_fit_decreasing, lower_bound
from t5x_instruct.data.prepared import PreparedMixture, PreparedTask

Lengths = NDArray[np.int32]
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
WINDOW = 2048
#: Lengths that are tried: powers of two and one and a half times them.
TRIED = tuple(sorted(size << k for size in (2, 3) for k in range(3, 14)))
_WIDEST = 8  # times the least length that cuts few examples


class TaskLengths(NamedTuple):
    """How long a task's examples are.

    Attributes:
        task: its name.
        examples: how many it has in the split.
        inputs: tokens of inputs at each of `QUANTILES`.
        targets: tokens of targets likewise.
    """

    task: str
    examples: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class Bar(NamedTuple):
    """One bar of a histogram: `examples` with lengths from `low` to `high` tokens, both included."""

    low: int
    high: int
    examples: int


class Shape(NamedTuple):
    """What rows of one shape would be like.

    Attributes:
        inputs: the inputs' length [tokens].
        targets: the targets' length [tokens].
        rows: rows that the sample takes.
        fill: share of all slots that hold a token.
        best_fill: the same if rows were packed without any waste but that of the fuller side.
        fills: share of the slots of each side: encoder and decoder, or the decoder alone.
        cut_inputs: share of examples whose inputs are cut.
        cut_targets: share of examples whose targets are cut.
        cost: of a kept target token, see `row_cost`.
    """

    inputs: int
    targets: int
    rows: int
    fill: float
    best_fill: float
    fills: tuple[float, ...]
    cut_inputs: float
    cut_targets: float
    cost: float


def task_lengths(tasks: Sequence[PreparedTask], split: str) -> list[TaskLengths]:
    """The lengths of each task's split, all its variants together; tasks without the split are left out."""
    found = []
    for task in tasks:
        if split in task.splits:
            raw = np.asarray(task.splits[split].lengths)
            inputs, targets = (tuple(quantiles(raw[:, side])) for side in (0, 1))
            found.append(TaskLengths(task.name, task.splits[split].num_examples, inputs, targets))
    return found


def quantiles(lengths: NDArray[np.int32]) -> list[int]:
    """The lengths at `QUANTILES`, each one that occurs."""
    return [int(q) for q in np.quantile(lengths, QUANTILES, method="higher")]


def histogram(lengths: NDArray[np.int32], most_bars: int = 16) -> list[Bar]:
    """A histogram with bars of one round width, the last one for all that is longer than 99 % of the examples.

    Args:
        lengths: int32 [N], N at least 1.
        most_bars: how many bars at most.
    """
    reach = max(1, int(np.quantile(lengths, 0.99, method="higher")))
    width = next(w for w in _round_numbers() if w * (most_bars - 1) >= reach)
    bins = -(-reach // width)
    counts = np.bincount(np.minimum((np.maximum(lengths, 1) - 1) // width, bins), minlength=bins + 1).tolist()
    bars = [Bar(i * width + 1 if i else 0, (i + 1) * width, counts[i]) for i in range(bins)]
    return [*bars, Bar(bins * width + 1, int(lengths.max()), counts[bins])] if counts[bins] else bars


def _round_numbers() -> itertools.chain[int]:
    return itertools.chain.from_iterable((10**k, 2 * 10**k, 5 * 10**k) for k in itertools.count())


def sample_lengths(mixture: PreparedMixture, size: int, seed: int = 0) -> Lengths:
    """Lengths of the first examples of the mixed stream, in its proportions.

    Args:
        mixture: its training tasks are meant.
        size: how many.
        seed: of the order.

    Returns:
        int32 [size, 2]: tokens of inputs and targets, untrimmed.

    Raises:
        DataError: nothing to train on, or rates that make no mixture.
    """
    tasks = mixture.train_tasks
    if not tasks:
        raise DataError(f"mixture {mixture.name!r} has no task to train on")
    splits = [task.splits["train"] for task in tasks]
    sizes = [split.num_examples for split in splits]
    order = Order(sizes, [task.rate for task in tasks], seed, names=[task.name for task in tasks])
    drawn = order.order(np.arange(size))
    found = np.zeros((size, 2), np.int32)
    for i, split in enumerate(splits):
        here = drawn.task == i
        if here.any():
            variant = drawn.epoch[here] % split.variants
            found[here] = split.lengths[variant * split.num_examples + drawn.example[here]]
    return found


def row_cost(inputs: int, targets: int, reads_inputs: str, width: int) -> float:
    """What a row costs a layer, in multiplications of one token's matrices (12 width**2).

    A token takes 4 width**2 multiplications for the projections of attention, 8 width**2 for an MLP four times as
    wide, and 2 width for each key it attends to; all slots of a row are keys, filled or not:

        decoder           R (1 + R / 6w),  R = inputs + targets
        encoder-decoder   I (1 + I / 6w) + T (1 + T / 6w) + (I + T) / 6 + T I / 6w

    The second has cross-attention in its last two terms. Embedding and output matrix are not counted.

    Args:
        inputs: the inputs' length.
        targets: the targets' length.
        reads_inputs: how the model reads inputs, see `models.api.Model`.
        width: the model's width w.
    """

    def attended(queries: int, keys: int) -> float:
        return queries * keys / (6 * width)

    if reads_inputs == "encoder":
        sides = sum(side + attended(side, side) for side in (inputs, targets))
        return sides + (inputs + targets) / 6 + attended(targets, inputs)
    row = inputs + targets
    return row + attended(row, row)


def measure_shape(raw: Lengths, inputs: int, targets: int, reads_inputs: str, width: int) -> Shape:
    """Packs a sample into rows of a shape.

    Args:
        raw: int32 [N, 2], tokens of inputs and targets.
        inputs: the inputs' length.
        targets: the targets' length.
        reads_inputs: how the model reads inputs.
        width: the model's width.
    """
    converter = make_converter(reads_inputs, inputs_length=inputs, targets_length=targets, start_id=0, pad_id=0)
    kept = converter.cut(raw)
    slots, capacity = converter.lengths(raw), np.array(converter.capacity)
    parts = [slots[start : start + WINDOW] for start in range(0, len(slots), WINDOW)]
    rows = sum(int(best_fit_decreasing(part, converter.capacity).max()) + 1 for part in parts)
    used = slots.sum(axis=0, dtype=np.int64)
    return Shape(
        inputs=inputs,
        targets=targets,
        rows=rows,
        fill=float(used.sum() / (rows * capacity.sum())),
        best_fill=float(used.sum() / (lower_bound(slots, converter.capacity) * capacity.sum())),
        fills=tuple((used / (rows * capacity)).tolist()),
        cut_inputs=float((kept[:, 0] < raw[:, 0]).mean()),
        cut_targets=float((kept[:, 1] < raw[:, 1]).mean()),
        cost=rows * row_cost(inputs, targets, reads_inputs, width) / float(kept[:, 1].sum(dtype=np.int64)),
    )


def best_shapes(raw: Lengths, reads_inputs: str, width: int, most_cut: float) -> list[Shape]:
    """Shapes that cut few examples, the cheapest for a target token first.

    Args:
        raw: int32 [N, 2], tokens of inputs and targets of a sample.
        reads_inputs: how the model reads inputs.
        width: the model's width.
        most_cut: the largest share of examples whose inputs are cut, and whose targets are.
    """
    least = [_least_length(raw[:, side], most_cut) for side in (0, 1)]
    tried = [[size for size in (*TRIED, start) if start <= size <= _WIDEST * start] for start in least]
    if reads_inputs != "encoder":
        # Only the sum counts in the rows of a decoder: longer rows with the least lengths cut no more.
        tried[1] = least[1:]
    shapes = [
        measure_shape(raw, inputs, targets, reads_inputs, width)
        for inputs, targets in itertools.product(*(sorted(set(sizes)) for sizes in tried))
    ]
    return sorted(shapes, key=lambda shape: (shape.cost, shape.inputs, shape.targets))


def _least_length(lengths: NDArray[np.int32], most_cut: float) -> int:
    """The shortest length that is tried and cuts at most a share; beyond those, one rounded up to a multiple of 128."""
    needed = max(1, int(np.quantile(lengths, 1 - most_cut, method="higher")))
    return next((size for size in TRIED if size >= needed), -(-needed // 128) * 128)
