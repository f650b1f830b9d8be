"""Prompts in, continuations out: bucketed batches through one compiled prefill-and-decode function."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.common.types import Params
from t5x_instruct.decoding.batches import SequenceBatch, mesh_of, on_mesh, plan_batches, spread_rows, to_host
from t5x_instruct.decoding.sampling import (
    GREEDY,
    Sampling,
    choose_greedy,
    choose_random,
    token_keys,
)

if TYPE_CHECKING:
    from t5x_instruct.models.api import Model

#: A prompt is read in pieces of at most this many tokens, which bounds attention's [rows, heads, piece, length].
PREFILL_PIECE = 256

Progress = Callable[[int, int], None]


def generate(
    model: "Model",
    params: Params,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    batch_size: int = 32,
    example_ids: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Continues every prompt with the model's own tokens.

    Prompts are sorted by length and padded on the left to a few bucket lengths; each (rows, bucket,
    `max_new_tokens`) is compiled once for a model. A batch ends as soon as all its rows have. A drawn token depends
    on (seed, example id, how many tokens came before it), not on what else is in the batch.

    Args:
        model: the model (see `models/api.py`).
        params: its parameters; sharded parameters spread the rows over their mesh.
        prompts: token ids of each prompt, int [length >= 1].
        max_new_tokens: at most this many tokens are generated for each prompt.
        eos_id: a row ends with this token.
        pad_id: fills what is not there; any id will do, padding is marked by position.
        sampling: greedy unless its temperature is above 0.
        seed: of the drawn tokens.
        batch_size: rows that are decoded at once (up to 512 prompt tokens; longer prompts take fewer).
        example_ids: names of the prompts for drawing tokens; their place in `prompts` by default.
        progress: called with (prompts done, all prompts) after each batch.

    Returns:
        For each prompt, in the order given, the new tokens, int32: ending with `eos_id` if the model ended,
        otherwise `max_new_tokens` long.

    Raises:
        ConfigError: `max_new_tokens` or `batch_size` below 1, or another number of `example_ids` than of prompts.
        DataError: a prompt has no token, or ids outside of the vocabulary; says which.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens {max_new_tokens} must be at least 1")
    if example_ids is None:
        example_ids = range(len(prompts))
    if len(example_ids) != len(prompts):
        raise ConfigError(f"{len(example_ids)} example_ids for {len(prompts)} prompts")
    prompts = [np.asarray(prompt, np.int32) for prompt in prompts]
    _check_prompts(prompts, model.config.vocab_size)
    how = _How(
        model=model,
        mesh=mesh_of(params),
        max_new_tokens=max_new_tokens,
        greedy=sampling.temperature == 0.0,
        top_k=sampling.top_k,
        nucleus=sampling.top_p < 1.0,
    )
    numbers = np.asarray([sampling.temperature, sampling.top_p], np.float32)
    results: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
    done = 0
    for batch in plan_batches([len(prompt) for prompt in prompts], batch_size):
        rows = _left_padded(batch, prompts, example_ids, pad_id)
        rows = _Rows(*(spread_rows(how.mesh, array) for array in rows))
        ids = np.asarray([eos_id, pad_id], np.int32)
        tokens_BM = to_host(_decode(how, params, rows, ids, numbers, np.uint32(seed % 2**32)))
        for row, index in enumerate(batch.indices):
            results[index] = _until_eos(tokens_BM[row], eos_id)
        done += len(batch.indices)
        if progress:
            progress(done, len(prompts))
    return results


class _How(NamedTuple):
    """What a compiled decoder is specialised to, besides its array shapes."""

    model: "Model"
    mesh: Mesh | None
    max_new_tokens: int
    greedy: bool
    top_k: int
    nucleus: bool


class _Rows(NamedTuple):
    """The arrays of one batch: tokens and positions [B, T], and [B] example ids and "is a dummy"."""

    tokens_BT: Any
    positions_BT: Any
    example_ids_B: Any
    dummy_B: Any


class _State(NamedTuple):
    """What the decode loop carries; `made` tokens are in `tokens_BM`, the last of them is not yet in the cache."""

    made: jax.Array
    tokens_BM: jax.Array
    last_B: jax.Array
    positions_B: jax.Array
    ended_B: jax.Array
    cache: Any


def _check_prompts(prompts: Sequence[np.ndarray], vocab_size: int) -> None:
    for index, prompt in enumerate(prompts):
        if prompt.ndim != 1 or prompt.size == 0:
            raise DataError(
                f"prompt {index} has shape {prompt.shape}: a prompt is one row of at least one token "
                "(for an empty text, the token that starts a sequence)"
            )
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            bad = prompt[(prompt < 0) | (prompt >= vocab_size)][0]
            raise DataError(f"prompt {index} holds token {bad}; the model knows 0 to {vocab_size - 1}")


def _left_padded(batch: SequenceBatch, prompts: Sequence[np.ndarray], example_ids: Sequence[int], pad_id: int) -> _Rows:
    """The batch's arrays; its dummy rows repeat its last prompt and count as ended."""
    tokens_BT = np.full((batch.rows, batch.length), pad_id, np.int32)
    positions_BT = np.full((batch.rows, batch.length), -1, np.int32)
    ids_B = np.zeros(batch.rows, np.uint32)
    for row in range(batch.rows):
        index = batch.indices[min(row, len(batch.indices) - 1)]
        prompt = prompts[index]
        tokens_BT[row, batch.length - len(prompt) :] = prompt
        positions_BT[row, batch.length - len(prompt) :] = np.arange(len(prompt))
        ids_B[row] = example_ids[index] % 2**32
    return _Rows(tokens_BT, positions_BT, ids_B, np.arange(batch.rows) >= len(batch.indices))


def _until_eos(tokens_M: np.ndarray, eos_id: int) -> np.ndarray:
    ends = np.flatnonzero(tokens_M == eos_id)
    return tokens_M[: ends[0] + 1] if ends.size else tokens_M


@partial(jax.jit, static_argnames=("how",))
def _decode(
    how: _How,
    params: Params,
    rows: _Rows,
    eos_and_pad: jax.Array,
    temperature_and_top_p: jax.Array,
    seed: jax.Array,
) -> jax.Array:
    """Prefill and decode of one batch; the cache lives and is updated in place within this one program.

    Returns:
        int32 [B, max_new_tokens]: the new tokens, `pad_id` after a row's end.
    """
    with on_mesh(how.mesh):
        return _decode_rows(how, params, rows, eos_and_pad, temperature_and_top_p, seed)


def _decode_rows(
    how: _How,
    params: Params,
    rows: _Rows,
    eos_and_pad: jax.Array,
    temperature_and_top_p: jax.Array,
    seed: jax.Array,
) -> jax.Array:
    model = how.model
    eos_id, pad_id = eos_and_pad

    def choose(hidden_BD: jax.Array, made: jax.Array | int, ended_B: jax.Array) -> jax.Array:
        logits_BV = _known_tokens_only(model, params, hidden_BD)
        if how.greedy:
            chosen_B = choose_greedy(logits_BV)
        else:
            keys_B = token_keys(seed, rows.example_ids_B, made)
            temperature, top_p = temperature_and_top_p
            chosen_B = choose_random(logits_BV, keys_B, temperature, top_p, top_k=how.top_k, nucleus=how.nucleus)
        return jnp.where(ended_B, pad_id, chosen_B)

    def unfinished(state: _State) -> jax.Array:
        return (state.made < how.max_new_tokens) & ~jnp.all(state.ended_B)

    def one_token(state: _State) -> _State:
        positions_B = jnp.where(state.ended_B, -1, state.positions_B)
        hidden_B1D, cache = model.step(params, state.cache, state.last_B[:, None], positions_B[:, None])
        chosen_B = choose(hidden_B1D[:, 0], state.made, state.ended_B)
        return _State(
            made=state.made + 1,
            tokens_BM=jax.lax.dynamic_update_index_in_dim(state.tokens_BM, chosen_B, state.made, axis=1),
            last_B=chosen_B,
            positions_B=state.positions_B + 1,
            ended_B=state.ended_B | (chosen_B == eos_id),
            cache=cache,
        )

    batch_rows, prompt_length = rows.tokens_BT.shape
    cache = model.init_cache(batch_rows, prompt_length + how.max_new_tokens)
    hidden_BD, cache = _prefill(model, params, cache, rows)
    first_B = choose(hidden_BD, 0, rows.dummy_B)
    tokens_BM = jnp.full((batch_rows, how.max_new_tokens), pad_id, jnp.int32)
    state = _State(
        made=jnp.int32(1),
        tokens_BM=tokens_BM.at[:, 0].set(first_B),
        last_B=first_B,
        positions_B=rows.positions_BT[:, -1] + 1,
        ended_B=rows.dummy_B | (first_B == eos_id),
        cache=cache,
    )
    return jax.lax.while_loop(unfinished, one_token, state).tokens_BM


def _prefill(model: "Model", params: Params, cache: Any, rows: _Rows) -> tuple[jax.Array, Any]:
    """Reads the prompts into the cache, in equal pieces; returns the last position's hidden [B, D]."""
    batch_rows, length = rows.tokens_BT.shape
    pieces = -(-length // PREFILL_PIECE)

    def split(array_BT: jax.Array) -> jax.Array:
        return array_BT.reshape(batch_rows, pieces, length // pieces).swapaxes(0, 1)

    def read(cache: Any, piece: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        hidden_BTD, cache = model.step(params, cache, *piece)
        return cache, hidden_BTD[:, -1]

    if pieces == 1:
        cache, hidden_BD = read(cache, (rows.tokens_BT, rows.positions_BT))
        return hidden_BD, cache
    cache, hidden_PBD = jax.lax.scan(read, cache, (split(rows.tokens_BT), split(rows.positions_BT)))
    return hidden_PBD[-1], cache


def _known_tokens_only(model: "Model", params: Params, hidden_BD: jax.Array) -> jax.Array:
    """Logits [B, V] with -inf on the rows that only pad the vocabulary's matrix."""
    logits_BV = model.logits(params, hidden_BD[:, None])[:, 0].astype(jnp.float32)
    vocab_size = model.unembedding(params).vocab_size
    if vocab_size is None or vocab_size >= logits_BV.shape[-1]:
        return logits_BV
    return jnp.where(jnp.arange(logits_BV.shape[-1]) < vocab_size, logits_BV, -jnp.inf)
