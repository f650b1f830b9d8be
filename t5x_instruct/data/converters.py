"""Converters: examples of a row in, the numpy arrays of the model's batch keys out.

What is trained on comes from each example's mask, never from a token's value: id 0 may stand in a text
and the padding id may equal EOS.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError
from t5x_instruct.common.types import (
    DECODER_INPUT_TOKENS,
    DECODER_LOSS_WEIGHTS,
    DECODER_POSITIONS,
    DECODER_SEGMENT_IDS,
    DECODER_TARGET_TOKENS,
    DECODER_TASK_IDS,
)
from t5x_instruct.data.prepared import Example


class RowItem(NamedTuple):
    """One example of a row.

    Attributes:
        task_id: index of its task.
        example: its tokens.
        inputs_tail: how many last tokens of its inputs must survive cutting.
    """

    task_id: int
    example: Example
    inputs_tail: int


class CutCounts(NamedTuple):
    """What cutting to the row's lengths takes away.

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


class Converter(Protocol):
    """What the loader needs from a converter."""

    @property
    def capacity(self) -> tuple[int, ...]:
        """Slots of a row on each side."""
        ...

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the arrays, JSON-able."""
        ...

    def cut(self, raw: NDArray[np.int32]) -> NDArray[np.int32]:
        """Lengths of (inputs, targets) after cutting, int32 [N, 2]."""
        ...

    def lengths(self, raw: NDArray[np.int32], where: Callable[[int], str] = ...) -> NDArray[np.int32]:
        """Slots each example takes on each side, int32 [N, sides]."""
        ...

    def check_tail(self, task: str, inputs_tail: int) -> None:
        """Raises DataError if a task's inputs_tail cannot survive cutting."""
        ...

    def convert(self, examples: Sequence[RowItem]) -> dict[str, NDArray[Any]]:
        """One row; padding alone for no examples."""
        ...


def _nth(index: int) -> str:
    return f"example {index}"


class DecoderConverter:
    """Rows for a decoder-only model.

    The sequence of an example is s = inputs + targets, or [start_id] + targets if its inputs are empty. It
    is fed as s[:-1] and predicts s[1:], so it takes len(s) - 1 slots; the loss weight of a predicted token
    is its mask (0 over inputs).

    Cutting keeps of inputs longer than `inputs_length` the first ``inputs_length - inputs_tail`` tokens
    and the last `inputs_tail`, and of targets longer than `targets_length` the first
    ``targets_length - 1`` and the last one (EOS).

    Args:
        inputs_length: most input tokens of an example; 0 drops all inputs.
        targets_length: most target tokens of an example, at least 1.
        start_id: id that stands before the targets where there are no inputs.
        pad_id: id in unused slots; any id, EOS too.
        overlong: 'cut', or 'refuse' to make an example over a length an error.

    Raises:
        DataError: lengths that leave no room.
    """

    def __init__(
        self,
        inputs_length: int,
        targets_length: int,
        start_id: int,
        pad_id: int,
        overlong: str = "cut",
    ):
        if inputs_length < 0 or targets_length < 1:
            raise DataError(
                f"feature lengths are inputs {inputs_length}, targets {targets_length}; inputs must be at "
                "least 0 and targets at least 1"
            )
        if overlong not in ("cut", "refuse"):
            raise DataError(f"overlong is {overlong!r}; valid: 'cut', 'refuse'")
        self.inputs_length = inputs_length
        self.targets_length = targets_length
        self.start_id = start_id
        self.pad_id = pad_id
        self.overlong = overlong

    @property
    def row_length(self) -> int:
        """Slots of a row."""
        return self.inputs_length + self.targets_length

    @property
    def capacity(self) -> tuple[int, ...]:
        """Slots of a row on its one side."""
        return (self.row_length,)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the arrays, JSON-able."""
        return {
            "converter": "decoder",
            "inputs_length": self.inputs_length,
            "targets_length": self.targets_length,
            "start_id": self.start_id,
            "pad_id": self.pad_id,
        }

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

    def lengths(self, raw: NDArray[np.int32], where: Callable[[int], str] = _nth) -> NDArray[np.int32]:
        """Slots that examples take in a row, after cutting.

        Args:
            raw: int32 [N, 2], tokens of inputs and targets.
            where: names example i in a message.

        Returns:
            int32 [N, 1].

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
        # A sequence of n tokens has n - 1 slots; without inputs the start id is one token more.
        return (cut[:, 0] + cut[:, 1] - (cut[:, 0] > 0)).astype(np.int32)[:, np.newaxis]

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

    def convert(self, examples: Sequence[RowItem]) -> dict[str, NDArray[Any]]:
        """Puts examples into one row, in the order given.

        Args:
            examples: (task_id, example, inputs_tail); none gives a row of padding.

        Returns:
            `decoder_input_tokens`, `decoder_target_tokens`, `decoder_segment_ids` (1, 2, ...; 0 on
            padding), `decoder_positions` (from 0 in each segment), `decoder_task_ids` (-1 on padding):
            int32 [T]; `decoder_loss_weights`: float32 [T]; T = inputs_length + targets_length.

        Raises:
            DataError: examples that do not fit into one row, or one that cannot be converted.
        """
        size = self.row_length
        tokens_in = np.full(size, self.pad_id, np.int32)
        tokens_out = np.full(size, self.pad_id, np.int32)
        weights = np.zeros(size, np.float32)
        segments = np.zeros(size, np.int32)
        positions = np.zeros(size, np.int32)
        tasks = np.full(size, -1, np.int32)
        start = 0
        for segment, (task_id, example, inputs_tail) in enumerate(examples, 1):
            sequence, mask = self._sequence(f"task {task_id}", example, inputs_tail)
            end = start + len(sequence) - 1
            if end > size:
                raise DataError(
                    f"{len(examples)} examples do not fit into one row of {size} slots: number {segment} "
                    f"would end at slot {end}"
                )
            tokens_in[start:end] = sequence[:-1]
            tokens_out[start:end] = sequence[1:]
            weights[start:end] = mask[1:]
            segments[start:end] = segment
            positions[start:end] = np.arange(end - start)
            tasks[start:end] = task_id
            start = end
        return {
            DECODER_INPUT_TOKENS: tokens_in,
            DECODER_TARGET_TOKENS: tokens_out,
            DECODER_LOSS_WEIGHTS: weights,
            DECODER_SEGMENT_IDS: segments,
            DECODER_POSITIONS: positions,
            DECODER_TASK_IDS: tasks,
        }

    def _sequence(self, task: str, example: Example, inputs_tail: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The tokens of an example after cutting, and which of them are trained on."""
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
            head = self.inputs_length - inputs_tail
            inputs = np.concatenate([inputs[:head], inputs[len(inputs) - inputs_tail :]])
        if over_targets:
            targets = np.append(targets[: self.targets_length - 1], targets[-1])
            mask = np.append(mask[: self.targets_length - 1], mask[-1])
        prefix = inputs if len(inputs) else np.array([self.start_id], np.int32)
        return (
            np.concatenate([prefix, targets]).astype(np.int32),
            np.concatenate([np.zeros(len(prefix), np.bool_), mask]),
        )

    def _overlong(self, where: str, inputs: int, targets: int, count: int) -> DataError:
        return DataError(
            f"{where} has {inputs} input and {targets} target tokens; the limits are {self.inputs_length} "
            f"and {self.targets_length} ({count} example{'s' if count > 1 else ''} over them); raise the "
            "feature lengths, or set overlong='cut'"
        )
