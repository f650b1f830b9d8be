"""Converters: examples of a row in, the numpy arrays of the model's batch keys out.

What is trained on comes from each example's mask, never from a token's value: id 0 may stand in a text
and the padding id may equal EOS. Segments are numbered by the examples of a row, not by what is found in
its arrays, so that the two sides of an encoder-decoder stay together when an example has no inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import DataError, unknown
from t5x_instruct.common.types import (
    DECODER_CAUSAL_ATTENTION,
    DECODER_INPUT_TOKENS,
    DECODER_LOSS_WEIGHTS,
    DECODER_POSITIONS,
    DECODER_SEGMENT_IDS,
    DECODER_TARGET_TOKENS,
    DECODER_TASK_IDS,
    ENCODER_INPUT_TOKENS,
    ENCODER_POSITIONS,
    ENCODER_SEGMENT_IDS,
)
from t5x_instruct.data.cutting import FeatureLengths
from t5x_instruct.data.records import Example

_CUT = "middle"  # the rule of `cutting`, in fingerprints: another rule would give other rows


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


class _Side:
    """The arrays of one side of a row, filled from the front, a segment at a time.

    Args:
        size: slots of the side.
        segment_ids: key of the segment ids (0 on padding).
        positions: key of the positions, from 0 in each segment.
        fills: for each other key what stands on padding; int32, or float32 for a float.
    """

    def __init__(self, size: int, segment_ids: str, positions: str, fills: Mapping[str, int | float]):
        self._name, _, _ = segment_ids.partition("_")
        self._size, self._segment_ids, self._positions = size, segment_ids, positions
        self._used = 0
        self.arrays: dict[str, NDArray[Any]] = {
            key: np.full(size, fill, np.float32 if isinstance(fill, float) else np.int32)
            for key, fill in ({segment_ids: 0, positions: 0} | dict(fills)).items()
        }

    def add(self, segment: int, length: int, **columns: Any) -> None:
        """Puts the next segment: for each key [length] values, or one for all its slots."""
        start, end = self._used, self._used + length
        if end > self._size:
            raise DataError(
                f"the examples do not fit into one row of {self._size} {self._name} slots: number {segment} would "
                f"end at slot {end}"
            )
        self.arrays[self._segment_ids][start:end] = segment
        self.arrays[self._positions][start:end] = np.arange(length)
        for key, values in columns.items():
            self.arrays[key][start:end] = values
        self._used = end


def _decoder_side(size: int, pad_id: int, fills: Mapping[str, int | float] | None = None) -> _Side:
    own = {DECODER_INPUT_TOKENS: pad_id, DECODER_TARGET_TOKENS: pad_id, DECODER_LOSS_WEIGHTS: 0.0, DECODER_TASK_IDS: -1}
    return _Side(size, DECODER_SEGMENT_IDS, DECODER_POSITIONS, own | dict(fills or {}))


class DecoderConverter(FeatureLengths):
    """Rows for a decoder-only model.

    The sequence of an example is s = inputs + targets, or [start_id] + targets if its inputs are empty. It
    is fed as s[:-1] and predicts s[1:], so it takes len(s) - 1 slots; the loss weight of a predicted token
    is its mask (0 over inputs).

    Args:
        inputs_length: most input tokens of an example (see `cutting`); 0 drops all inputs.
        targets_length: most target tokens of an example, at least 1.
        start_id: id that stands before the targets where there are no inputs.
        pad_id: id in unused slots; any id, EOS too.
        overlong: 'cut', or 'refuse' to make an example over a length an error.
        prefix: whether rows say which slots hold inputs, for a model whose inputs see one another.

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
        prefix: bool = False,
    ):
        super().__init__(inputs_length, targets_length, overlong)
        self.start_id = start_id
        self.pad_id = pad_id
        self.prefix = prefix

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
            "converter": "prefix" if self.prefix else "decoder",
            "inputs_length": self.inputs_length,
            "targets_length": self.targets_length,
            "start_id": self.start_id,
            "pad_id": self.pad_id,
            "cut": _CUT,
        }

    def slots(self, cut: NDArray[np.int32]) -> NDArray[np.int32]:
        """Slots that examples of these lengths take in a row, int32 [N, 1]."""
        # A sequence of n tokens has n - 1 slots; without inputs the start id is one token more.
        return (cut[:, 0] + cut[:, 1] - (cut[:, 0] > 0)).astype(np.int32)[:, np.newaxis]

    def convert(self, examples: Sequence[RowItem]) -> dict[str, NDArray[Any]]:
        """Puts examples into one row, in the order given.

        Args:
            examples: (task_id, example, inputs_tail); none gives a row of padding.

        Returns:
            `decoder_input_tokens`, `decoder_target_tokens`, `decoder_segment_ids` (1, 2, ...; 0 on
            padding), `decoder_positions` (from 0 in each segment), `decoder_task_ids` (-1 on padding), with
            `prefix` also `decoder_causal_attention` (1 on tokens of the inputs and on the start id):
            int32 [T]; `decoder_loss_weights`: float32 [T]; T = inputs_length + targets_length.

        Raises:
            DataError: examples that do not fit into one row, or one that cannot be converted.
        """
        side = _decoder_side(self.row_length, self.pad_id, {DECODER_CAUSAL_ATTENTION: 0} if self.prefix else None)
        for segment, (task_id, example, inputs_tail) in enumerate(examples, 1):
            inputs, targets, mask = self.cut_example(f"task {task_id}", example, inputs_tail)
            first = inputs if len(inputs) else np.array([self.start_id], np.int32)
            tokens = np.concatenate([first, targets])
            slots = len(tokens) - 1
            columns: dict[str, Any] = {
                DECODER_INPUT_TOKENS: tokens[:-1],
                DECODER_TARGET_TOKENS: tokens[1:],
                DECODER_LOSS_WEIGHTS: np.concatenate([np.zeros(len(first) - 1, np.bool_), mask]),
                DECODER_TASK_IDS: task_id,
            }
            if self.prefix:
                columns[DECODER_CAUSAL_ATTENTION] = np.arange(slots) < len(first)
            side.add(segment, slots, **columns)
        return side.arrays


class EncoderDecoderConverter(FeatureLengths):
    """Rows for an encoder-decoder, packed on both sides.

    The encoder reads an example's inputs. The decoder is fed [decoder_start_id] + targets[:-1] and predicts
    the targets; the loss weight of a target is its mask. Segment i of both sides is example i of the row,
    also where another has no inputs and so no slot of the encoder.

    Args:
        inputs_length: most input tokens of an example (see `cutting`), and slots of a row of the encoder, at
            least 1.
        targets_length: most target tokens of an example, and slots of a row of the decoder, at least 1.
        decoder_start_id: id that stands before the targets.
        pad_id: id in unused slots; any id, EOS too.
        overlong: 'cut', or 'refuse' to make an example over a length an error.

    Raises:
        DataError: lengths that leave no room.
    """

    def __init__(
        self,
        inputs_length: int,
        targets_length: int,
        decoder_start_id: int,
        pad_id: int,
        overlong: str = "cut",
    ):
        super().__init__(inputs_length, targets_length, overlong)
        if inputs_length < 1:
            raise DataError(f"an encoder's inputs length is {inputs_length}; it must be at least 1")
        self.decoder_start_id = decoder_start_id
        self.pad_id = pad_id

    @property
    def capacity(self) -> tuple[int, ...]:
        """Slots of a row of the encoder and of the decoder."""
        return (self.inputs_length, self.targets_length)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the arrays, JSON-able."""
        return {
            "converter": "encoder-decoder",
            "inputs_length": self.inputs_length,
            "targets_length": self.targets_length,
            "decoder_start_id": self.decoder_start_id,
            "pad_id": self.pad_id,
            "cut": _CUT,
        }

    def slots(self, cut: NDArray[np.int32]) -> NDArray[np.int32]:
        """Slots that examples of these lengths take in a row of the encoder and of the decoder, int32 [N, 2]."""
        return cut

    def convert(self, examples: Sequence[RowItem]) -> dict[str, NDArray[Any]]:
        """Puts examples into one row, in the order given.

        Args:
            examples: (task_id, example, inputs_tail); none gives a row of padding.

        Returns:
            `encoder_input_tokens`, `encoder_segment_ids`, `encoder_positions`: int32 [S], S = inputs_length;
            `decoder_input_tokens`, `decoder_target_tokens`, `decoder_segment_ids`, `decoder_positions`,
            `decoder_task_ids` (-1 on padding): int32 [T], `decoder_loss_weights`: float32 [T], T =
            targets_length. Segments are 1, 2, ... and 0 on padding, positions go from 0 in each segment.

        Raises:
            DataError: examples that do not fit into one row, or one that cannot be converted.
        """
        encoder = _Side(self.inputs_length, ENCODER_SEGMENT_IDS, ENCODER_POSITIONS, {ENCODER_INPUT_TOKENS: self.pad_id})
        decoder = _decoder_side(self.targets_length, self.pad_id)
        for segment, (task_id, example, inputs_tail) in enumerate(examples, 1):
            inputs, targets, mask = self.cut_example(f"task {task_id}", example, inputs_tail)
            encoder.add(segment, len(inputs), **{ENCODER_INPUT_TOKENS: inputs})
            columns = {
                DECODER_INPUT_TOKENS: np.concatenate([[self.decoder_start_id], targets[:-1]]),
                DECODER_TARGET_TOKENS: targets,
                DECODER_LOSS_WEIGHTS: mask,
                DECODER_TASK_IDS: task_id,
            }
            decoder.add(segment, len(targets), **columns)
        return encoder.arrays | decoder.arrays


def make_converter(
    reads_inputs: str, *, inputs_length: int, targets_length: int, start_id: int, pad_id: int, overlong: str = "cut"
) -> Converter:
    """The converter that makes the rows a model reads.

    Args:
        reads_inputs: 'causal', 'prefix' or 'encoder', see `models.api.Model`.
        inputs_length: most input tokens of an example.
        targets_length: most target tokens of an example.
        start_id: what stands before the targets: of a decoder where there are no inputs, of an
            encoder-decoder always (its `decoder_start_id`).
        pad_id: id in unused slots.
        overlong: 'cut' or 'refuse'.

    Raises:
        DataError: another way to read inputs, or lengths that leave no room.
    """
    if reads_inputs == "encoder":
        return EncoderDecoderConverter(inputs_length, targets_length, start_id, pad_id, overlong)
    if reads_inputs not in ("causal", "prefix"):
        raise DataError(unknown("way to read inputs", reads_inputs, ("causal", "prefix", "encoder")))
    return DecoderConverter(inputs_length, targets_length, start_id, pad_id, overlong, prefix=reads_inputs == "prefix")
