"""How a model reads what it is to continue: all that differs between decoders, prefix-LMs and encoder-decoders."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_instruct.common import types
from t5x_instruct.common.types import Params
from t5x_instruct.decoding.batches import SequenceBatch, bucket

if TYPE_CHECKING:
    from t5x_instruct.models.api import Cache, Model

#: A causal prompt is read in pieces of at most this many tokens, which bounds attention's [rows, heads, piece, length].
PREFILL_PIECE = 256

Pair = tuple[np.ndarray, np.ndarray]


class Prompts(NamedTuple):
    """The prompts of one batch.

    Attributes:
        tokens_BT: int32 [B, T].
        positions_BT: int32 [B, T], 0, 1, 2, ... along a prompt; -1 on padding.
    """

    tokens_BT: Any
    positions_BT: Any


class Read(NamedTuple):
    """Prompts that a model has read.

    Attributes:
        hidden_BD: [B, D], the hidden state that predicts the first new token.
        cache: holds the prompts and has free slots for new tokens.
        positions_B: int32 [B], the position of the first new token.
    """

    hidden_BD: jax.Array
    cache: "Cache"
    positions_B: jax.Array


class Reader(Protocol):
    """A way to read inputs; `reader_of` gives a model's."""

    def prompt(self, inputs: np.ndarray | Sequence[int], start_id: int) -> np.ndarray:
        """The inputs as this kind of model is given them, int32 [length].

        Args:
            inputs: int [any length].
            start_id: stands for empty inputs where a model cannot do without any token.
        """
        ...

    def needs_token(self) -> bool:
        """Whether a prompt has at least one token."""
        ...

    def prompt_rows(self, batch: SequenceBatch, prompts: Sequence[np.ndarray], pad_id: int) -> Prompts:
        """The batch's prompts as numpy arrays; its dummy rows repeat its last prompt."""
        ...

    def cache(self, model: "Model", params: Params, prompts: Prompts, new_tokens: int) -> "Cache":
        """A cache with room for the prompts and `new_tokens` more, in which nothing is read yet.

        The last `new_tokens` slots are the ones that new tokens go to.
        """
        ...

    def read(self, model: "Model", params: Params, prompts: Prompts, new_tokens: int) -> Read:
        """Reads the prompts into a new cache that has room for `new_tokens` more."""
        ...

    def pair_length(self, pair: Pair) -> int:
        """Slots that the longer side of (prompt, targets) takes in `pair_rows`."""
        ...

    def pair_rows(self, model: "Model", batch: SequenceBatch, pairs: Sequence[Pair], pad_id: int) -> dict[str, Any]:
        """(prompt, targets) of a batch under their training keys, weighing each token of the targets 1.

        Dummy rows are padding that weighs nothing.
        """
        ...


class InOneRow:
    """Inputs and targets follow one another in the decoder's row; prompts are padded on the left.

    Args:
        prefix: whether inputs see one another (prefix-LM) or only what is before them.
    """

    def __init__(self, *, prefix: bool):
        self._prefix = prefix

    def prompt(self, inputs: np.ndarray | Sequence[int], start_id: int) -> np.ndarray:
        """See `Reader.prompt`; empty inputs become the token that starts a sequence."""
        return _ids(inputs) if np.size(inputs) else _ids([start_id])

    def needs_token(self) -> bool:
        """The first new token is predicted by the last of the prompt."""
        return True

    def prompt_rows(self, batch: SequenceBatch, prompts: Sequence[np.ndarray], pad_id: int) -> Prompts:
        """See `Reader.prompt_rows`."""
        return _padded(batch, prompts, pad_id, left=True)

    def cache(self, model: "Model", params: Params, prompts: Prompts, new_tokens: int) -> "Cache":
        """See `Reader.cache`."""
        rows, length = prompts.tokens_BT.shape
        return model.init_cache(rows, length + new_tokens)

    def read(self, model: "Model", params: Params, prompts: Prompts, new_tokens: int) -> Read:
        """See `Reader.read`: in equal pieces, or at once where inputs see those that come after them."""
        rows, length = prompts.tokens_BT.shape
        pieces = 1 if self._prefix else -(-length // PREFILL_PIECE)

        def split(array_BT: jax.Array) -> jax.Array:
            return array_BT.reshape(rows, pieces, length // pieces).swapaxes(0, 1)

        def read(cache: Any, piece: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            hidden_BTD, cache = model.step(params, cache, *piece, prefix=self._prefix)
            return cache, hidden_BTD[:, -1]

        cache = self.cache(model, params, prompts, new_tokens)
        next_B = prompts.positions_BT[:, -1] + 1
        if pieces == 1:
            cache, hidden_BD = read(cache, (prompts.tokens_BT, prompts.positions_BT))
            return Read(hidden_BD, cache, next_B)
        cache, hidden_PBD = jax.lax.scan(read, cache, (split(prompts.tokens_BT), split(prompts.positions_BT)))
        return Read(hidden_PBD[-1], cache, next_B)

    def pair_length(self, pair: Pair) -> int:
        """All tokens but the last are fed."""
        return max(len(pair[0]) + len(pair[1]) - 1, 1)

    def pair_rows(self, model: "Model", batch: SequenceBatch, pairs: Sequence[Pair], pad_id: int) -> dict[str, Any]:
        """See `Reader.pair_rows`."""
        arrays = _decoder_rows(batch.rows, batch.length, pad_id)
        inputs_BT = np.zeros((batch.rows, batch.length), np.int32)
        for row, index in enumerate(batch.indices):
            prompt, targets = pairs[index]
            _fill(arrays, row, np.concatenate([prompt, targets]), num_targets=len(targets))
            inputs_BT[row, : len(prompt)] = 1
        if self._prefix:
            arrays[types.DECODER_CAUSAL_ATTENTION] = inputs_BT
        return arrays


class ByEncoder:
    """Inputs go through an encoder, padded on the right; the decoder begins with its start token."""

    def prompt(self, inputs: np.ndarray | Sequence[int], start_id: int) -> np.ndarray:
        """See `Reader.prompt`; empty inputs stay empty."""
        return _ids(inputs)

    def needs_token(self) -> bool:
        """The first new token is predicted by the decoder's start token."""
        return False

    def prompt_rows(self, batch: SequenceBatch, prompts: Sequence[np.ndarray], pad_id: int) -> Prompts:
        """See `Reader.prompt_rows`."""
        return _padded(batch, prompts, pad_id, left=False)

    def cache(self, model: "Model", params: Params, prompts: Prompts, new_tokens: int) -> "Cache":
        """See `Reader.cache`; the encoder runs, and its output is projected for all layers."""
        segments_BT = (prompts.positions_BT >= 0).astype(jnp.int32)
        inputs = {types.ENCODER_INPUT_TOKENS: prompts.tokens_BT, types.ENCODER_SEGMENT_IDS: segments_BT}
        encoded = model.encode(params, inputs)
        return model.init_cache(prompts.tokens_BT.shape[0], 1 + new_tokens, encoded=encoded, params=params)

    def read(self, model: "Model", params: Params, prompts: Prompts, new_tokens: int) -> Read:
        """See `Reader.read`; the start token is read too."""
        rows = prompts.tokens_BT.shape[0]
        cache = self.cache(model, params, prompts, new_tokens)
        start_B1 = jnp.full((rows, 1), model.config.decoder_start_id, jnp.int32)
        hidden_B1D, cache = model.step(params, cache, start_B1, jnp.zeros((rows, 1), jnp.int32))
        return Read(hidden_B1D[:, 0], cache, jnp.ones(rows, jnp.int32))

    def pair_length(self, pair: Pair) -> int:
        """The longer side."""
        return max(len(pair[0]), len(pair[1]), 1)

    def pair_rows(self, model: "Model", batch: SequenceBatch, pairs: Sequence[Pair], pad_id: int) -> dict[str, Any]:
        """See `Reader.pair_rows`; each side is as long as its own longest sequence needs."""
        own = [pairs[index] for index in batch.indices]
        inputs_length, targets_length = (bucket(max(len(pair[side]) for pair in own)) for side in (0, 1))
        arrays = _decoder_rows(batch.rows, targets_length, pad_id)
        inputs_BS = np.full((batch.rows, inputs_length), pad_id, np.int32)
        segments_BS = np.zeros((batch.rows, inputs_length), np.int32)
        start = _ids([model.config.decoder_start_id])
        for row, (inputs, targets) in enumerate(own):
            _fill(arrays, row, np.concatenate([start, targets]), num_targets=len(targets))
            inputs_BS[row, : len(inputs)] = inputs
            segments_BS[row, : len(inputs)] = 1
        return arrays | {types.ENCODER_INPUT_TOKENS: inputs_BS, types.ENCODER_SEGMENT_IDS: segments_BS}


_READERS: Mapping[str, Reader] = {
    "causal": InOneRow(prefix=False),
    "prefix": InOneRow(prefix=True),
    "encoder": ByEncoder(),
}


def reader_of(model: "Model") -> Reader:
    """How `model` reads its inputs."""
    return _READERS[model.reads_inputs]


def _ids(tokens: Any) -> np.ndarray:
    return np.asarray(tokens, np.int32)


def _padded(batch: SequenceBatch, prompts: Sequence[np.ndarray], pad_id: int, *, left: bool) -> Prompts:
    tokens_BT = np.full((batch.rows, batch.length), pad_id, np.int32)
    positions_BT = np.full((batch.rows, batch.length), -1, np.int32)
    for row in range(batch.rows):
        prompt = prompts[batch.indices[min(row, len(batch.indices) - 1)]]
        start = batch.length - len(prompt) if left else 0
        tokens_BT[row, start : start + len(prompt)] = prompt
        positions_BT[row, start : start + len(prompt)] = np.arange(len(prompt))
    return Prompts(tokens_BT, positions_BT)


def _decoder_rows(rows: int, length: int, pad_id: int) -> dict[str, Any]:
    """The decoder's training arrays [rows, length], all padding."""
    return {
        types.DECODER_INPUT_TOKENS: np.full((rows, length), pad_id, np.int32),
        types.DECODER_TARGET_TOKENS: np.full((rows, length), pad_id, np.int32),
        types.DECODER_LOSS_WEIGHTS: np.zeros((rows, length), np.float32),
        types.DECODER_SEGMENT_IDS: np.zeros((rows, length), np.int32),
        types.DECODER_POSITIONS: np.zeros((rows, length), np.int32),
    }


def _fill(arrays: Mapping[str, Any], row: int, sequence: np.ndarray, *, num_targets: int) -> None:
    """Writes one sequence: fed without its last token, predicted without its first."""
    slots = len(sequence) - 1
    arrays[types.DECODER_INPUT_TOKENS][row, :slots] = sequence[:-1]
    arrays[types.DECODER_TARGET_TOKENS][row, :slots] = sequence[1:]
    arrays[types.DECODER_LOSS_WEIGHTS][row, slots - num_targets : slots] = 1.0
    arrays[types.DECODER_SEGMENT_IDS][row, :slots] = 1
    arrays[types.DECODER_POSITIONS][row, :slots] = np.arange(slots)
