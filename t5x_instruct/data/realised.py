"""What a mixture has really come to: how often each example was drawn, and what that is of each task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.data.mixtures import Order, OrderedExamples

_CHUNK = 1 << 18


class DrawCounts:
    """How often each row of a length table is drawn. The table has a task's variants one after the other.

    Args:
        order: the order of the stream.
        index: rows of the table for ordered examples.
        sizes: examples of each task.
        variants: variants of each task.
    """

    def __init__(
        self,
        order: Order,
        index: Callable[[OrderedExamples], NDArray[np.int64]],
        sizes: Sequence[int],
        variants: Sequence[int],
    ):
        self._order, self._index = order, index
        self._sizes, self._variants = sizes, variants
        self._position = 0
        self._before: NDArray[np.int32] | None = None

    def of_epochs(self, num_epochs: int) -> NDArray[np.int32]:
        """Draws of the first mixture epochs, int32 [table rows].

        Whole task epochs draw every example of their variant; only the rest of each task is looked up.
        """
        parts = []
        for task, (size, variants) in enumerate(zip(self._sizes, self._variants, strict=True)):
            epochs, rest = divmod(num_epochs * int(self._order.counts[task]), size)
            times = np.full((variants, size), epochs // variants, np.int32)
            times[: epochs % variants] += 1
            drawn = self._order.of_task(task, epochs * size + np.arange(rest))
            times[epochs % variants, drawn.example] += 1
            parts.append(times.reshape(-1))
        return np.concatenate(parts)

    def before(self, position: int) -> NDArray[np.int32]:
        """Draws of the positions before one, int32 [table rows]; a later call goes on from an earlier one."""
        if self._before is None or position < self._position:
            epochs = position // self._order.epoch_size
            self._before, self._position = self.of_epochs(epochs), epochs * self._order.epoch_size
        while self._position < position:
            end = min(self._position + _CHUNK, position)
            np.add.at(self._before, self._index(self._order.order(np.arange(self._position, end))), 1)
            self._position = end
        return self._before.copy()


def task_figures(
    times: NDArray[np.int32],
    columns: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    starts: NDArray[np.int64],
    trained_shares: NDArray[np.float64],
) -> dict[str, dict[str, Any]]:
    """The figures of each task.

    Args:
        times: how often each row of the length table is drawn, int [R].
        columns: what a row of the table counts for, [R] each; has 'target_tokens'.
        names: the tasks.
        starts: the first row of each task, ascending.
        trained_shares: of each task's target tokens those that are trained on.

    Returns:
        For each task `examples`, the columns' sums over what is drawn, `trained_tokens`, and `share` and
        `trained_share`: its part of all examples and of all trained tokens.
    """
    draws = times.astype(np.int64)
    totals = {"examples": np.add.reduceat(draws, starts)}
    totals |= {name: np.add.reduceat(draws * column, starts) for name, column in columns.items()}
    totals["trained_tokens"] = (totals["target_tokens"] * trained_shares).round().astype(np.int64)
    examples, trained = (max(1, int(totals[name].sum())) for name in ("examples", "trained_tokens"))
    return {
        name: {
            "share": int(totals["examples"][i]) / examples,
            "trained_share": int(totals["trained_tokens"][i]) / trained,
        }
        | {column: int(total[i]) for column, total in totals.items()}
        for i, name in enumerate(names)
    }
