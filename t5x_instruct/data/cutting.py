"""Cutting: what is lost of an example that is longer than the feature lengths.

Of inputs the middle goes: the first half of the length and the last half survive. Instructions say first
what to do and last what with (few-shot prompts: exemplars first, the query last), so that both the
definition and the query are still there, and what is lost is the inside of a passage or some of the
exemplars. Cutting the end instead, as T5X and most tokenizers do, would lose the query. Of targets the
tokens before the last one (EOS) go: an answer is read from its beginning.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.records import Example


class CutCounts(NamedTuple):
    """What cutting to the lengths takes away.

    Attributes:
        inputs: examples whose inputs are cut.
        targets: examples whose targets are cut.
        input_tokens: tokens lost from inputs.
        target_tokens: tokens lost from targets.
    """

    inputs: int
    targets: int
    input_tokens: int
    target_tokens: int


def cut_inputs(inputs: NDArray[np.int32], length: int, tail: int = 0) -> NDArray[np.int32]:
    """The first and the last tokens of inputs that are too long.

    Args:
        inputs: token ids [N].
        length: how many may stay, at least `tail`.
        tail: how many last tokens must stay, such as those that open an answer in a chat.

    Returns:
        `inputs` themselves, or ``[length]`` ids: the last ``max(tail, length // 2)``, before them the first.
    """
    if len(inputs) <= length:
        return inputs
    last = max(tail, length // 2)
    return np.concatenate([inputs[: length - last], inputs[len(inputs) - last :]])


def _nth(index: int) -> str:
    return f"example {index}"


class FeatureLengths(abc.ABC):
    """The most tokens that an example may have, and what becomes of the others; see the module.

    Args:
        inputs_length: most input tokens of an example; 0 drops all inputs.
        targets_length: most target tokens of an example, at least 1.
        overlong: 'cut', or 'refuse' to make an example over a length an error.

    Raises:
        DataError: lengths that leave no room.
    """

    def __init__(self, inputs_length: int, targets_length: int, overlong: str = "cut"):
        if inputs_length < 0 or targets_length < 1:
            raise DataError(
                f"feature lengths are inputs {inputs_length}, targets {targets_length}; inputs must be at "
                "least 0 and targets at least 1"
            )
        if overlong not in ("cut", "refuse"):
            raise DataError(f"overlong is {overlong!r}; valid: 'cut', 'refuse'")
        self.inputs_length = inputs_length
        self.targets_length = targets_length
        self.overlong = overlong

    def cut(self, raw: NDArray[np.int32]) -> NDArray[np.int32]:
        """Lengths after cutting.

        Args:
            raw: int32 [N, 2], tokens of inputs and targets.

        Returns:
            int32 [N, 2].
        """
        limits = np.array([self.inputs_length, self.targets_length], np.int32)
        return np.minimum(np.asarray(raw, np.int32), limits)

    def cut_counts(self, raw: NDArray[np.int32]) -> CutCounts:
        """How much cutting takes away from examples of lengths `raw`, int32 [N, 2]."""
        lost = np.asarray(raw, np.int64) - self.cut(raw)
        examples, tokens = (lost > 0).sum(axis=0).tolist(), lost.sum(axis=0).tolist()
        return CutCounts(examples[0], examples[1], tokens[0], tokens[1])

    @abc.abstractmethod
    def slots(self, cut: NDArray[np.int32]) -> NDArray[np.int32]:
        """Slots that examples of the lengths `cut`, int32 [N, 2], take on each side of a row: int32 [N, sides]."""

    def lengths(self, raw: NDArray[np.int32], where: Callable[[int], str] = _nth) -> NDArray[np.int32]:
        """Slots that examples take on each side of a row, after cutting.

        Args:
            raw: int32 [N, 2], tokens of inputs and targets.
            where: names example i in a message.

        Returns:
            int32 [N, sides].

        Raises:
            DataError: an example without targets, or over a length while `overlong` is 'refuse'.
        """
        raw = np.asarray(raw, np.int32)
        empty = np.flatnonzero(raw[:, 1] < 1)
        if empty.size:
            raise DataError(
                f"{where(int(empty[0]))} has no target token ({empty.size} of {len(raw)} examples); "
                "there is nothing to predict in it: leave it out of its task"
            )
        cut = self.cut(raw)
        over = np.flatnonzero((cut != raw).any(axis=1))
        if over.size and self.overlong == "refuse":
            i = int(over[0])
            raise self._overlong(where(i), int(raw[i, 0]), int(raw[i, 1]), int(over.size))
        return self.slots(cut)

    def check_tail(self, task: str, inputs_tail: int) -> None:
        """Checks that the end of a task's prompts survives cutting.

        Raises:
            DataError: `inputs_tail` is over `inputs_length`.
        """
        if inputs_tail > self.inputs_length:
            raise DataError(
                f"the last {inputs_tail} input tokens of task {task!r} must survive cutting, but the inputs "
                f"length is {self.inputs_length}; raise it to more than {inputs_tail}"
            )

    def cut_example(
        self, task: str, example: Example, inputs_tail: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """The tokens of an example that survive.

        Args:
            task: its task, for messages.
            example: its tokens.
            inputs_tail: how many last tokens of its inputs must survive.

        Returns:
            Inputs, targets, and which targets are trained on.

        Raises:
            DataError: no targets, a mask of another length, or what `check_tail` and `overlong` refuse.
        """
        inputs, targets, mask = example.inputs, example.targets, example.targets_mask
        if len(targets) == 0 or len(mask) != len(targets):
            raise DataError(
                f"an example of {task} has {len(targets)} target tokens and a mask of {len(mask)}; there must "
                "be at least one target and a mask entry for each"
            )
        over_inputs = len(inputs) > self.inputs_length
        over_targets = len(targets) > self.targets_length
        if (over_inputs or over_targets) and self.overlong == "refuse":
            raise self._overlong(f"an example of {task}", len(inputs), len(targets), 1)
        if over_inputs:
            self.check_tail(task, inputs_tail)
            inputs = cut_inputs(inputs, self.inputs_length, inputs_tail)
        if over_targets:
            targets = np.append(targets[: self.targets_length - 1], targets[-1])
            mask = np.append(mask[: self.targets_length - 1], mask[-1])
        return inputs, targets, mask

    def _overlong(self, where: str, inputs: int, targets: int, count: int) -> DataError:
        return DataError(
            f"{where} has {inputs} input and {targets} target tokens; the limits are {self.inputs_length} "
            f"and {self.targets_length} ({count} example{'s' if count > 1 else ''} over them); raise the "
            "feature lengths, or set overlong='cut'"
        )
