"""The order of a mixture: which example of which task stands at position p of the endless stream.

The definition, exact and independent of hosts, batch size and packing:

1. An epoch of the mixture has ``epoch_size`` slots: the sum of `num_examples`, or, where that would
   leave a task without any, ``ceil(sum(rates) / min(rates))``.
2. Task t gets ``counts[t]`` slots of every epoch: the largest-remainder apportionment of
   ``rates[t] / sum(rates) * epoch_size``, computed in exact integers (ties: the lower task index).
   Task t owns the slots ``[counts[:t].sum(), counts[:t + 1].sum())``.
3. Position p lies in mixture epoch ``m = p // epoch_size`` and falls on slot
   ``permutation(seed, m)(p % epoch_size)``, a keyed permutation of the epoch's slots.
4. Slot s of task t in mixture epoch m is draw ``d = m * counts[t] + (s - counts[:t].sum())`` of the
   task. The task is then in its own epoch ``e = d // N`` (N its number of examples) and the example is
   ``permutation(seed, t, e)(d % N)``.

So after any number of whole mixture epochs each example of a task was drawn equally often, give or
take one, and with rates proportional to `num_examples` an epoch has every example exactly once.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError

MAX_EPOCH_SIZE = 1 << 56
_ROUNDS = 8
_U64 = np.uint64
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class OrderedExamples:
    """Examples of a mixture, in order.

    Attributes:
        task: int32 [N], index of the task.
        epoch: int64 [N], how often the task's examples had been gone through before this draw.
        example: int64 [N], index within the task.
    """

    task: NDArray[np.int32]
    epoch: NDArray[np.int64]
    example: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.task)

    def take(self, index: Any) -> "OrderedExamples":
        """The examples at `index` (an int array, a bool array or a slice)."""
        return OrderedExamples(self.task[index], self.epoch[index], self.example[index])


def seed_key(seed: int, *parts: int | str) -> int:
    """A 64-bit key from a seed of any size and what it is used for (blake2b, the same everywhere)."""
    text = "\x1f".join([str(int(seed)), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijective 64-bit hash of each element, uint64 [...] (the finaliser of splitmix64).

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def _sides(size: int) -> tuple[int, int]:
    """The smallest grid a x b that is nearly square and holds `size` cells."""
    a = math.isqrt(size - 1) + 1
    return a, -(-size // a)


def _feistel(
    x: NDArray[np.uint64], a: NDArray[np.uint64], b: NDArray[np.uint64], key: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """One pass of an alternating Feistel network on the grid a x b; a bijection for each key."""
    left = x // b
    right = x - left * b
    for round_index in range(_ROUNDS):
        # The hash scaled to [0, a) by its upper half: cheaper than a remainder, and a < 2**32.
        h = (right ^ (key + _U64(round_index * _GOLDEN & _MASK64))) * _U64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> _U64(32))) * _U64(0x94D049BB133111EB)
        left += ((h >> _U64(32)) * a) >> _U64(32)
        np.subtract(left, a, out=left, where=left >= a)
        left, right, a, b = right, left, b, a
    return left * b + right


def permute(
    index: NDArray[np.int64],
    size: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    key: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Keyed permutations of ranges, one element each.

    Values that leave the range are sent through again until they are back in it (cycle walking), which
    is rare because the grid a x b has fewer than a cells more than `size`.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002 (generalised Feistel).

    Args:
        index: int64 [N], each in [0, size).
        size: int64 [N], the range that is permuted.
        a: int64 [N], rows of the grid, below 2**32.
        b: int64 [N], columns of the grid.
        key: uint64 [N]; elements with equal size and key share one permutation.

    Returns:
        int64 [N], each in [0, size).
    """
    size_u, a_u, b_u = size.astype(_U64), a.astype(_U64), b.astype(_U64)
    x = _feistel(index.astype(_U64), a_u, b_u, key)
    outside = np.flatnonzero(x >= size_u)
    while outside.size:
        x[outside] = _feistel(x[outside], a_u[outside], b_u[outside], key[outside])
        outside = outside[x[outside] >= size_u[outside]]
    return x.astype(np.int64)


def _largest_remainders(weights: Sequence[int], size: int) -> list[int]:
    """Splits `size` in proportion to whole weights; ties go to the lower index."""
    total = sum(weights)
    counts = [weight * size // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(weights[i] * size % total), i))
    for i in by_remainder[: size - sum(counts)]:
        counts[i] += 1
    return counts


def _apportion(rates: Sequence[float], names: Sequence[str], num_examples: int) -> list[int]:
    """Slots of each task in an epoch, exact: floats are dyadic fractions, so integers carry them."""
    ratios = [rate.as_integer_ratio() for rate in rates]
    denominator = max(d for _, d in ratios)  # each is a power of two
    weights = [n * (denominator // d) for n, d in ratios]
    counts = _largest_remainders(weights, num_examples)
    if min(counts) > 0:
        return counts
    size = -(-sum(weights) // min(weights))
    if size > MAX_EPOCH_SIZE:
        worst = weights.index(min(weights))
        raise DataError(
            f"rate {rates[worst]!r} of task {names[worst]!r} is so small beside the sum of all rates, "
            f"{math.fsum(rates)!r}, that one slot for it needs an epoch of {size} examples; the limit is "
            f"{MAX_EPOCH_SIZE}: raise this rate or leave the task out"
        )
    return _largest_remainders(weights, size)


def _check_tasks(num_examples: Sequence[int], rates: Sequence[float], names: Sequence[str]) -> None:
    if not len(num_examples) == len(rates) == len(names):
        raise DataError(
            f"a mixture needs one number of examples, one rate and one name a task; got "
            f"{len(num_examples)}, {len(rates)} and {len(names)}"
        )
    if not names:
        raise DataError("a mixture needs at least one task; got none")
    empty = [name for name, n in zip(names, num_examples, strict=True) if n <= 0]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(names)} tasks have no example: {', '.join(map(repr, empty[:5]))}"
            f"{' ...' if len(empty) > 5 else ''}; remove them from the mixture or fix their source"
        )
    bad = [(n, r) for n, r in zip(names, rates, strict=True) if not (r > 0 and math.isfinite(r))]
    if bad:
        shown = ", ".join(f"{name!r} has {rate!r}" for name, rate in bad[:5])
        raise DataError(
            f"a mixing rate must be a finite number above 0: {shown}"
            f"{' ...' if len(bad) > 5 else ''}; leave a task out of the mixture instead of giving it 0"
        )


class Order:
    """The order of a mixed, shuffled, endless stream; the module's text has the exact definition.

    Args:
        num_examples: examples of each task, each at least 1.
        rates: mixing rate of each task, positive; only their ratios count.
        seed: any integer.
        names: names of the tasks, for messages; their indices otherwise.

    Raises:
        DataError: no tasks, a task without examples, a rate that is zero, negative or not finite, or one
            so small that an epoch would pass 2**56 slots.
    """

    def __init__(
        self,
        num_examples: Sequence[int],
        rates: Sequence[float],
        seed: int,
        *,
        names: Sequence[str] | None = None,
    ):
        sizes = [int(n) for n in num_examples]
        shares = [float(r) for r in rates]
        named = [str(i) for i in range(len(sizes))] if names is None else list(names)
        _check_tasks(sizes, shares, named)
        counts = _apportion(shares, named, sum(sizes))
        self.counts: NDArray[np.int64] = np.array(counts, np.int64)
        self.epoch_size: int = sum(counts)
        self.seed = int(seed)
        self._sizes = np.array(sizes, np.int64)
        grid = np.array([_sides(n) for n in sizes], np.int64)
        self._a, self._b = grid[:, 0].copy(), grid[:, 1].copy()
        self._ends = np.cumsum(self.counts)
        self._starts = self._ends - self.counts
        self._slot_sides = _sides(self.epoch_size)
        self._slot_key = _U64(seed_key(seed, "slots"))
        tasks = np.arange(len(sizes), dtype=_U64)
        self._task_keys = mix64(_U64(seed_key(seed, "examples")) + tasks * _U64(_GOLDEN))

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self._sizes)

    def order(self, positions: NDArray[np.int64]) -> OrderedExamples:
        """What stands at each position.

        Args:
            positions: int64 [N], any positions >= 0, in any order, up to 2**62.

        Returns:
            N examples.

        Raises:
            DataError: a negative position.
        """
        positions = np.asarray(positions, np.int64)
        if positions.size and int(positions.min()) < 0:
            raise DataError(f"position {int(positions.min())} of a mixture is negative; positions start at 0")
        epoch = positions // self.epoch_size
        slot = self._slots(positions - epoch * self.epoch_size, epoch)
        task = np.searchsorted(self._ends, slot, side="right")
        # At most `positions`, whatever the counts: no overflow.
        return self._drawn(task, epoch * self.counts[task] + (slot - self._starts[task]))

    def of_task(self, task: int, draws: NDArray[np.int64]) -> OrderedExamples:
        """The examples of some draws of one task: of `num_epochs` mixture epochs the first `num_epochs * counts[task]`.

        Args:
            task: its index.
            draws: int64 [N], each at least 0.
        """
        return self._drawn(np.full(len(draws), task), np.asarray(draws, np.int64))

    def _drawn(self, task: NDArray[np.int64], draw: NDArray[np.int64]) -> OrderedExamples:
        size = self._sizes[task]
        task_epoch = draw // size
        key = mix64(self._task_keys[task] + task_epoch.astype(_U64) * _U64(_GOLDEN))
        example = permute(draw - task_epoch * size, size, self._a[task], self._b[task], key)
        return OrderedExamples(task.astype(np.int32), task_epoch, example)

    def _slots(self, index: NDArray[np.int64], epoch: NDArray[np.int64]) -> NDArray[np.int64]:
        a, b = self._slot_sides
        shape = index.shape
        key = mix64(self._slot_key + epoch.astype(_U64) * _U64(_GOLDEN))
        return permute(
            index,
            np.broadcast_to(np.int64(self.epoch_size), shape),
            np.broadcast_to(np.int64(a), shape),
            np.broadcast_to(np.int64(b), shape),
            key,
        )
