"""How likely a model finds given responses: sums of token log-probabilities."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_instruct.common import types
from t5x_instruct.common.errors import DataError
from t5x_instruct.common.types import Params
from t5x_instruct.decoding.batches import (
    SequenceBatch,
    mesh_of,
    on_mesh,
    plan_batches,
    power_of_two,
    spread_rows,
    to_host,
)
from t5x_instruct.losses.cross_entropy import cross_entropy

if TYPE_CHECKING:
    from t5x_instruct.models.api import Model

Pair = tuple[np.ndarray, np.ndarray]


class Scores(NamedTuple):
    """One entry for each pair that was scored.

    Attributes:
        log_likelihoods: float32 [N], sum over the target's tokens of their natural log-probabilities; 0 for an
            empty target.
        num_tokens: int32 [N], tokens of the target.
    """

    log_likelihoods: np.ndarray
    num_tokens: np.ndarray

    @property
    def per_token(self) -> np.ndarray:
        """float32 [N]: mean log-probability of a token; 0 for an empty target."""
        return self.log_likelihoods / np.maximum(self.num_tokens, 1).astype(np.float32)


def score(
    model: "Model",
    params: Params,
    pairs: Sequence[Pair],
    *,
    start_id: int,
    pad_id: int,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Log-likelihood of each target given its inputs.

    The logits of a batch are computed in chunks of target positions; [batch, length, vocab] never exists.

    Args:
        model: the model (see `models/api.py`).
        params: its parameters; sharded parameters spread the rows over their mesh.
        pairs: (inputs, targets) token ids, int [any length]; targets are scored exactly as given, so end them with
            the end token if ending counts.
        start_id: stands before the targets where the inputs are empty.
        pad_id: fills rows; has no influence on the scores.
        batch_size: rows that are scored at once (up to 512 tokens; longer sequences take fewer).
        progress: called with (pairs done, all pairs) after each batch.

    Returns:
        Sums and token counts in the order of `pairs`.

    Raises:
        DataError: a token id is outside of the vocabulary; says where.
    """
    sequences = [_sequence(inputs, targets, start_id) for inputs, targets in pairs]
    _check_tokens(sequences, model.config.vocab_size)
    num_tokens = np.asarray([np.size(targets) for _, targets in pairs], np.int32)
    mesh = mesh_of(params)
    sums = np.zeros(len(pairs), np.float32)
    done = 0
    for batch in plan_batches([max(len(s) - 1, 1) for s in sequences], batch_size):
        arrays = _right_padded(batch, sequences, num_tokens, pad_id)
        arrays = {key: spread_rows(mesh, array) for key, array in arrays.items()}
        sums_B = to_host(_log_likelihoods(model, mesh, params, arrays))
        sums[batch.indices] = sums_B[: len(batch.indices)]
        done += len(batch.indices)
        if progress:
            progress(done, len(pairs))
    return Scores(sums, num_tokens)


def score_options(
    model: "Model",
    params: Params,
    questions: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]],
    *,
    start_id: int,
    pad_id: int,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scores]:
    """`score` for several targets of the same inputs, which are read only once.

    Args:
        model: the model; decoder-only.
        params: its parameters.
        questions: inputs and the targets to compare, token ids.
        start_id: stands before the targets where the inputs are empty.
        pad_id: fills rows; has no influence on the scores.
        batch_size: questions at once (up to 512 tokens; longer ones take fewer).
        progress: called with (questions done, all questions) after each batch.

    Returns:
        One `Scores` for each question, with an entry for each of its targets.

    Raises:
        DataError: a token id is outside of the vocabulary; says where.
    """
    pairs = [(inputs, targets) for inputs, options in questions for targets in options]
    _check_tokens([_sequence(inputs, targets, start_id) for inputs, targets in pairs], model.config.vocab_size)
    prompts = [_sequence(inputs, np.zeros(0, np.int32), start_id) for inputs, _ in questions]
    mesh = mesh_of(params)
    results: list[Scores] = [Scores(np.zeros(0, np.float32), np.zeros(0, np.int32))] * len(questions)
    done = 0
    for batch in plan_batches([len(prompt) for prompt in prompts], batch_size):
        arrays = _option_arrays(batch, prompts, [options for _, options in questions], pad_id)
        spread = {key: spread_rows(mesh, array) for key, array in arrays.items()}
        sums_BO = to_host(_option_log_likelihoods(model, mesh, params, spread))
        for row, index in enumerate(batch.indices):
            sizes = np.asarray([np.size(targets) for targets in questions[index][1]], np.int32)
            results[index] = Scores(sums_BO[row, : len(sizes)], sizes)
        done += len(batch.indices)
        if progress:
            progress(done, len(questions))
    return results


def _option_arrays(
    batch: SequenceBatch, prompts: Sequence[np.ndarray], options: Sequence[Sequence[np.ndarray]], pad_id: int
) -> dict[str, Any]:
    """Prompts without their last token, padded on the left, and what follows: that token and the targets.

    The last token of a prompt predicts the first of a target, so it is read together with the targets.
    """
    most = max(len(options[index]) for index in batch.indices)
    longest = max(np.size(targets) for index in batch.indices for targets in options[index])
    # Few shapes: numbers of options and lengths of targets are rounded up to powers of two.
    num_options, width = power_of_two(most), power_of_two(max(longest, 1))
    prompt_BT = np.full((batch.rows, batch.length), pad_id, np.int32)
    positions_BT = np.full((batch.rows, batch.length), -1, np.int32)
    tokens_BOT = np.full((batch.rows, num_options, width + 1), pad_id, np.int32)
    weights_BOT = np.zeros((batch.rows, num_options, width), np.float32)
    starts_B = np.zeros(batch.rows, np.int32)
    for row, index in enumerate(batch.indices):
        before = prompts[index][:-1]
        prompt_BT[row, batch.length - len(before) :] = before
        positions_BT[row, batch.length - len(before) :] = np.arange(len(before))
        starts_B[row] = len(before)
        tokens_BOT[row, :, 0] = prompts[index][-1]
        for number, targets in enumerate(options[index]):
            tokens_BOT[row, number, 1 : 1 + np.size(targets)] = targets
            weights_BOT[row, number, : np.size(targets)] = 1.0
    return {
        "prompt": prompt_BT,
        "prompt_positions": positions_BT,
        "tokens": tokens_BOT,
        "weights": weights_BOT,
        "starts": starts_B,
    }


@partial(jax.jit, static_argnames=("model", "mesh"))
def _option_log_likelihoods(
    model: "Model", mesh: Mesh | None, params: Params, arrays: dict[str, jax.Array]
) -> jax.Array:
    """float32 [B, options]."""
    tokens_OBT = jnp.swapaxes(arrays["tokens"], 0, 1)
    weights_OBT = jnp.swapaxes(arrays["weights"], 0, 1)
    rows, length = arrays["prompt"].shape
    width = weights_OBT.shape[-1]
    with on_mesh(mesh):
        cache = model.init_cache(rows, length + width)
        _, cache = model.step(params, cache, arrays["prompt"], arrays["prompt_positions"])
        positions_BT = arrays["starts"][:, None] + jnp.arange(width)

        def one_option(option: tuple[jax.Array, jax.Array]) -> jax.Array:
            tokens_BT, weights_BT = option
            # The cache after the prompt is the same for every option: what a step writes behind it is dropped.
            hidden_BTD, _ = model.step(params, cache, tokens_BT[:, :-1], positions_BT)
            output = cross_entropy(hidden_BTD, model.unembedding(params), tokens_BT[:, 1:], weights_BT)
            return -jnp.sum(output.token_losses_BT, axis=-1)

        return jnp.swapaxes(jax.lax.map(one_option, (tokens_OBT, weights_OBT)), 0, 1)


def _sequence(inputs: np.ndarray, targets: np.ndarray, start_id: int) -> np.ndarray:
    before = np.asarray(inputs, np.int32)
    if before.size == 0:
        before = np.asarray([start_id], np.int32)
    return np.concatenate([before, np.asarray(targets, np.int32)])


def _check_tokens(sequences: Sequence[np.ndarray], vocab_size: int) -> None:
    for index, sequence in enumerate(sequences):
        if sequence.min() < 0 or sequence.max() >= vocab_size:
            bad = sequence[(sequence < 0) | (sequence >= vocab_size)][0]
            raise DataError(f"pair {index} holds token {bad}; the model knows 0 to {vocab_size - 1}")


def _right_padded(
    batch: SequenceBatch, sequences: Sequence[np.ndarray], num_tokens: np.ndarray, pad_id: int
) -> dict[str, Any]:
    """The batch under its training keys; dummy rows are padding that weighs nothing."""
    shape = (batch.rows, batch.length)
    inputs_BT, targets_BT = np.full(shape, pad_id, np.int32), np.full(shape, pad_id, np.int32)
    weights_BT = np.zeros(shape, np.float32)
    segments_BT, positions_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, index in enumerate(batch.indices):
        sequence = sequences[index]
        slots = len(sequence) - 1
        inputs_BT[row, :slots] = sequence[:-1]
        targets_BT[row, :slots] = sequence[1:]
        weights_BT[row, slots - num_tokens[index] : slots] = 1.0
        segments_BT[row, :slots] = 1
        positions_BT[row, :slots] = np.arange(slots)
    return {
        types.DECODER_INPUT_TOKENS: inputs_BT,
        types.DECODER_TARGET_TOKENS: targets_BT,
        types.DECODER_LOSS_WEIGHTS: weights_BT,
        types.DECODER_SEGMENT_IDS: segments_BT,
        types.DECODER_POSITIONS: positions_BT,
    }


@partial(jax.jit, static_argnames=("model", "mesh"))
def _log_likelihoods(model: "Model", mesh: Mesh | None, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """float32 [B]."""
    with on_mesh(mesh):
        output = cross_entropy(
            model.hidden(params, batch),
            model.unembedding(params),
            batch[types.DECODER_TARGET_TOKENS],
            batch[types.DECODER_LOSS_WEIGHTS],
        )
        return -jnp.sum(output.token_losses_BT, axis=-1)
