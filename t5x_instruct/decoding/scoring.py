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
    rows_shape,
    spread_rows,
    to_host,
)
from t5x_instruct.decoding.prompts import Pair, Prompts, reader_of
from t5x_instruct.losses.cross_entropy import cross_entropy

if TYPE_CHECKING:
    from t5x_instruct.models.api import Model


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
        start_id: stands for empty inputs (an encoder needs no token: it reads nothing then).
        pad_id: fills rows; has no influence on the scores.
        batch_size: rows that are scored at once (up to 512 tokens; longer sequences take fewer).
        progress: called with (pairs done, all pairs) after each batch.

    Returns:
        Sums and token counts in the order of `pairs`.

    Raises:
        DataError: a token id is outside of the vocabulary; says where.
    """
    reader = reader_of(model)
    pairs = [(reader.prompt(inputs, start_id), np.asarray(targets, np.int32)) for inputs, targets in pairs]
    _check_tokens(pairs, model.config.vocab_size)
    num_tokens = np.asarray([len(targets) for _, targets in pairs], np.int32)
    mesh = mesh_of(params)
    sums = np.zeros(len(pairs), np.float32)
    done = 0
    for batch in plan_batches([reader.pair_length(pair) for pair in pairs], batch_size):
        arrays = reader.pair_rows(model, batch, pairs, pad_id)
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
        model: the model.
        params: its parameters.
        questions: inputs and the targets to compare, token ids.
        start_id: stands for empty inputs (an encoder needs no token: it reads nothing then).
        pad_id: fills rows; has no influence on the scores.
        batch_size: questions at once (up to 512 tokens; longer ones take fewer).
        progress: called with (questions done, all questions) after each batch.

    Returns:
        One `Scores` for each question, with an entry for each of its targets.

    Raises:
        DataError: a token id is outside of the vocabulary; says where.
    """
    reader = reader_of(model)
    prompts = [reader.prompt(inputs, start_id) for inputs, _ in questions]
    options = [[np.asarray(targets, np.int32) for targets in own] for _, own in questions]
    _check_tokens(
        [(prompt, targets) for prompt, own in zip(prompts, options, strict=True) for targets in own],
        model.config.vocab_size,
    )
    mesh = mesh_of(params)
    results: list[Scores] = [Scores(np.zeros(0, np.float32), np.zeros(0, np.int32))] * len(questions)
    done = 0
    for batch in plan_batches([len(prompt) for prompt in prompts], batch_size):
        arrays = _Options(reader.prompt_rows(batch, prompts, pad_id), *_option_rows(batch, options, pad_id))
        spread = jax.tree.map(partial(spread_rows, mesh), arrays)
        sums_BO = to_host(_option_log_likelihoods(model, mesh, params, spread))
        for row, index in enumerate(batch.indices):
            sizes = np.asarray([len(targets) for targets in options[index]], np.int32)
            results[index] = Scores(sums_BO[row, : len(sizes)], sizes)
        done += len(batch.indices)
        if progress:
            progress(done, len(questions))
    return results


class TracedScoring(NamedTuple):
    """One batch of `score_options`, traced and not run.

    Attributes:
        traced: the function that `score_options` runs, ready to be compiled.
        arguments: shapes of what it reads besides the parameters: prompts [rows, length], and tokens and weights
            [rows, options, length] of the targets, all rounded up as they are in a run.
    """

    traced: jax.stages.Traced
    arguments: Any


def trace_score_options(
    model: "Model",
    params: Params,
    *,
    prompt_length: int,
    num_options: int,
    option_length: int,
    batch_size: int = 32,
) -> TracedScoring:
    """What `score_options` runs for one full batch, for parameters and devices that need not be there.

    Args:
        model: the model.
        params: shapes, dtypes and shardings of its parameters.
        prompt_length: tokens of each prompt.
        num_options: targets of each prompt.
        option_length: tokens of each target.
        batch_size: questions at once, see `score_options`.
    """
    mesh = mesh_of(params)
    prompts = [np.zeros(prompt_length, np.int32)] * batch_size
    options = [[np.zeros(option_length, np.int32)] * num_options] * batch_size
    batch = plan_batches([prompt_length] * batch_size, batch_size)[0]
    arrays = _Options(reader_of(model).prompt_rows(batch, prompts, 0), *_option_rows(batch, options, 0))
    shapes = jax.tree.map(partial(rows_shape, mesh), arrays)
    return TracedScoring(_option_log_likelihoods.trace(model, mesh, params, shapes), shapes)


class _Options(NamedTuple):
    """A batch of questions: prompts, and [B, options, T] int32 tokens and float32 weights of the targets."""

    prompts: Prompts
    tokens_BOT: Any
    weights_BOT: Any


def _option_rows(
    batch: SequenceBatch, options: Sequence[Sequence[np.ndarray]], pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and weights of `_Options`; what fills them up weighs nothing."""
    most = max(len(options[index]) for index in batch.indices)
    longest = max((len(targets) for index in batch.indices for targets in options[index]), default=0)
    # Few shapes: numbers of options and lengths of targets are rounded up to powers of two.
    shape = (batch.rows, power_of_two(max(most, 1)), power_of_two(max(longest, 1)))
    tokens_BOT, weights_BOT = np.full(shape, pad_id, np.int32), np.zeros(shape, np.float32)
    for row, index in enumerate(batch.indices):
        for number, targets in enumerate(options[index]):
            tokens_BOT[row, number, : len(targets)] = targets
            weights_BOT[row, number, : len(targets)] = 1.0
    return tokens_BOT, weights_BOT


@partial(jax.jit, static_argnames=("model", "mesh"))
def _option_log_likelihoods(model: "Model", mesh: Mesh | None, params: Params, arrays: _Options) -> jax.Array:
    """float32 [B, options]."""
    fed = arrays.tokens_BOT.shape[-1] - 1
    with on_mesh(mesh):
        read = reader_of(model).read(model, params, arrays.prompts, fed)
        positions_BT = read.positions_B[:, None] + jnp.arange(fed)

        def one_option(option: tuple[jax.Array, jax.Array]) -> jax.Array:
            tokens_BT, weights_BT = option
            # The cache after the prompt is the same for every option: what a step writes behind it is dropped.
            hidden_BTD = read.hidden_BD[:, None]
            if fed:
                following_BTD, _ = model.step(params, read.cache, tokens_BT[:, :-1], positions_BT)
                hidden_BTD = jnp.concatenate([hidden_BTD, following_BTD], axis=1)
            output = cross_entropy(hidden_BTD, model.unembedding(params), tokens_BT, weights_BT)
            return -jnp.sum(output.token_losses_BT, axis=-1)

        per_option = (jnp.swapaxes(arrays.tokens_BOT, 0, 1), jnp.swapaxes(arrays.weights_BOT, 0, 1))
        return jnp.swapaxes(jax.lax.map(one_option, per_option), 0, 1)


def _check_tokens(pairs: Sequence[Pair], vocab_size: int) -> None:
    for index, pair in enumerate(pairs):
        tokens = np.concatenate(pair)
        bad = tokens[(tokens < 0) | (tokens >= vocab_size)]
        if bad.size:
            raise DataError(f"pair {index} holds token {bad[0]}; the model knows 0 to {vocab_size - 1}")


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
