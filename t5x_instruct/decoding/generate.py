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
from t5x_instruct.decoding import beam
from t5x_instruct.decoding.batches import (
    SequenceBatch,
    mesh_of,
    on_mesh,
    plan_batches,
    rows_shape,
    spread_rows,
    to_host,
)
from t5x_instruct.decoding.prompts import Prompts, reader_of
from t5x_instruct.decoding.sampling import (
    GREEDY,
    Sampling,
    choose_greedy,
    choose_random,
    known_tokens_only,
    token_keys,
)

if TYPE_CHECKING:
    from t5x_instruct.models.api import Model

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

    Prompts are sorted by length and padded to a few bucket lengths; each (rows, bucket, `max_new_tokens`) is
    compiled once for a model. A batch ends as soon as all its rows have. A drawn token depends on (seed, example id,
    how many tokens came before it), not on what else is in the batch.

    Args:
        model: the model (see `models/api.py`).
        params: its parameters; sharded parameters spread the rows over their mesh.
        prompts: token ids of each prompt, int [length]; at least one, unless an encoder reads them.
        max_new_tokens: at most this many tokens are generated for each prompt.
        eos_id: a row ends with this token.
        pad_id: fills what is not there; any id will do, padding is marked by position.
        sampling: how tokens are chosen: greedily by default.
        seed: of the drawn tokens.
        batch_size: rows that are decoded at once (up to 512 prompt tokens; longer prompts take fewer); with beams a
            prompt takes `num_beams` of them.
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
    reader = reader_of(model)
    _check_prompts(prompts, model.config.vocab_size, may_be_empty=not reader.needs_token())
    how = _how(model, params, max_new_tokens, sampling)
    numbers = _numbers(sampling)
    results: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
    done = 0
    for batch in plan_batches([len(prompt) for prompt in prompts], _most_rows(batch_size, sampling)):
        rows = _Rows(reader.prompt_rows(batch, prompts, pad_id), *_names_and_dummies(batch, example_ids))
        rows = jax.tree.map(partial(spread_rows, how.mesh), rows)
        ids = np.asarray([eos_id, pad_id], np.int32)
        tokens_BM = to_host(_decode(how, params, rows, ids, numbers, np.uint32(seed % 2**32)))
        for row, index in enumerate(batch.indices):
            results[index] = _until_eos(tokens_BM[row], eos_id)
        done += len(batch.indices)
        if progress:
            progress(done, len(prompts))
    return results


class TracedDecoding(NamedTuple):
    """One batch of `generate`, traced and not run.

    Attributes:
        traced: the function that `generate` runs, ready to be compiled.
        rows: rows of the batch.
        prompt_length: slots of a prompt: the length asked for, rounded up to a bucket.
        arguments: shapes of what it reads besides the parameters.
        cache: shapes of the cache.
    """

    traced: jax.stages.Traced
    rows: int
    prompt_length: int
    arguments: Any
    cache: Any


def trace_generate(
    model: "Model",
    params: Params,
    *,
    prompt_length: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    batch_size: int = 32,
) -> TracedDecoding:
    """What `generate` runs for one full batch, for parameters and devices that need not be there.

    Args:
        model: the model.
        params: shapes, dtypes and shardings of its parameters.
        prompt_length: tokens of each prompt.
        max_new_tokens: see `generate`, as for all that follow.
        sampling: how tokens are chosen.
        batch_size: rows decoded at once, see `generate`.
    """
    reader, how = reader_of(model), _how(model, params, max_new_tokens, sampling)
    prompts = [np.zeros(prompt_length, np.int32)] * _most_rows(batch_size, sampling)
    batch = plan_batches([prompt_length] * len(prompts), len(prompts))[0]
    rows = _Rows(reader.prompt_rows(batch, prompts, 0), *_names_and_dummies(batch, range(len(prompts))))
    shapes = jax.tree.map(partial(rows_shape, how.mesh), rows)
    cache = jax.eval_shape(lambda p, r: reader.cache(model, p, r, max_new_tokens), params, shapes.prompts)
    traced = _decode.trace(how, params, shapes, np.zeros(2, np.int32), _numbers(sampling), np.uint32(0))
    return TracedDecoding(traced, batch.rows, batch.length, shapes, cache)


def _how(model: "Model", params: Params, max_new_tokens: int, sampling: Sampling) -> "_How":
    return _How(
        model=model,
        mesh=mesh_of(params),
        max_new_tokens=max_new_tokens,
        greedy=sampling.temperature == 0.0,
        top_k=sampling.top_k,
        nucleus=sampling.top_p < 1.0,
        num_beams=sampling.num_beams,
    )


def _numbers(sampling: Sampling) -> np.ndarray:
    return np.asarray([sampling.temperature, sampling.top_p, sampling.length_penalty], np.float32)


def _most_rows(batch_size: int, sampling: Sampling) -> int:
    """Prompts of a batch; each takes a row a beam."""
    return min(batch_size, max(batch_size // sampling.num_beams, 1))


class _How(NamedTuple):
    """What a compiled decoder is specialised to, besides its array shapes."""

    model: "Model"
    mesh: Mesh | None
    max_new_tokens: int
    greedy: bool
    top_k: int
    nucleus: bool
    num_beams: int


class _Rows(NamedTuple):
    """The arrays of one batch: prompts, and [B] example ids and "is a dummy"."""

    prompts: Prompts
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


def _check_prompts(prompts: Sequence[np.ndarray], vocab_size: int, *, may_be_empty: bool) -> None:
    for index, prompt in enumerate(prompts):
        if prompt.ndim != 1 or (prompt.size == 0 and not may_be_empty):
            raise DataError(
                f"prompt {index} has shape {prompt.shape}: a prompt is one row of at least one token "
                "(for an empty text, the token that starts a sequence)"
            )
        bad = prompt[(prompt < 0) | (prompt >= vocab_size)]
        if bad.size:
            raise DataError(f"prompt {index} holds token {bad[0]}; the model knows 0 to {vocab_size - 1}")


def _names_and_dummies(batch: SequenceBatch, example_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each row its example id, uint32 [B], and whether it is a dummy, bool [B]."""
    ids_B = np.zeros(batch.rows, np.uint32)
    ids_B[: len(batch.indices)] = [example_ids[index] % 2**32 for index in batch.indices]
    return ids_B, np.arange(batch.rows) >= len(batch.indices)


def _until_eos(tokens_M: np.ndarray, eos_id: int) -> np.ndarray:
    ends = np.flatnonzero(tokens_M == eos_id)
    return tokens_M[: ends[0] + 1] if ends.size else tokens_M


@partial(jax.jit, static_argnames=("how",))
def _decode(
    how: _How,
    params: Params,
    rows: _Rows,
    eos_and_pad: jax.Array,
    numbers: jax.Array,
    seed: jax.Array,
) -> jax.Array:
    """Prefill and decode of one batch; the cache lives and is updated in place within this one program.

    Args:
        how: static.
        params: the model's parameters.
        rows: the batch.
        eos_and_pad: int32 [2].
        numbers: float32 [3], temperature, top_p and length penalty.
        seed: uint32 scalar.

    Returns:
        int32 [B, max_new_tokens]: the new tokens, `pad_id` after a row's end.
    """
    temperature, top_p, length_penalty = numbers
    with on_mesh(how.mesh):
        if how.num_beams == 1:
            return _one_by_one(how, params, rows, eos_and_pad, (temperature, top_p), seed)
        eos_id, pad_id = eos_and_pad
        settings = beam.BeamSettings(how.num_beams, how.max_new_tokens, eos_id, pad_id, length_penalty)
        return beam.search(how.model, params, rows.prompts, rows.dummy_B, settings).tokens_BM


def _one_by_one(
    how: _How,
    params: Params,
    rows: _Rows,
    eos_and_pad: jax.Array,
    temperature_and_top_p: tuple[jax.Array, jax.Array],
    seed: jax.Array,
) -> jax.Array:
    """Greedy decoding and sampling."""
    model = how.model
    eos_id, pad_id = eos_and_pad

    def choose(hidden_BD: jax.Array, made: jax.Array | int, ended_B: jax.Array) -> jax.Array:
        logits_BV = known_tokens_only(model, params, hidden_BD[:, None])[:, 0]
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

    read = reader_of(model).read(model, params, rows.prompts, how.max_new_tokens)
    first_B = choose(read.hidden_BD, 0, rows.dummy_B)
    tokens_BM = jnp.full((first_B.shape[0], how.max_new_tokens), pad_id, jnp.int32)
    state = _State(
        made=jnp.int32(1),
        tokens_BM=tokens_BM.at[:, 0].set(first_B),
        last_B=first_B,
        positions_B=read.positions_B,
        ended_B=rows.dummy_B | (first_B == eos_id),
        cache=read.cache,
    )
    return jax.lax.while_loop(unfinished, one_token, state).tokens_BM
