"""Beam search: the likeliest answer that can be found by going on from several partial answers at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_instruct.common.types import Params
from t5x_instruct.decoding.prompts import Prompts, Reader, reader_of
from t5x_instruct.decoding.sampling import known_tokens_only

if TYPE_CHECKING:
    from t5x_instruct.models.api import Model


class BeamSettings(NamedTuple):
    """What beam search is asked to do.

    Attributes:
        num_beams: partial answers that are continued at each step.
        max_new_tokens: longest answer.
        eos_id: int32 scalar, the token that ends an answer.
        pad_id: int32 scalar, stands behind an answer's end.
        length_penalty: float32 scalar alpha, at least 0, see `search`.
    """

    num_beams: int
    max_new_tokens: int
    eos_id: jax.Array
    pad_id: jax.Array
    length_penalty: jax.Array


class Found(NamedTuple):
    """The best hypothesis of each prompt.

    Attributes:
        tokens_BM: int32 [batch, max_new_tokens]; `pad_id` behind the end token.
        scores_B: float32 [batch], see `search`.
    """

    tokens_BM: jax.Array
    scores_B: jax.Array


class _State(NamedTuple):
    """What the loop carries: all live hypotheses have `made` tokens, the last of them not yet in the cache."""

    made: jax.Array
    tokens_BKM: jax.Array
    sums_BK: jax.Array  # of the live hypotheses, the largest first; -inf where there is none
    best: Found  # among the finished; -inf where there is none
    ended_B: jax.Array
    cache: Any


def search(model: "Model", params: Params, prompts: Prompts, dummy_B: jax.Array, settings: BeamSettings) -> Found:
    """The best answer to each prompt, by sum of log-probabilities over a penalty for its length.

    An answer of n tokens, its end token included, scores ``sum of log p / ((5 + n) / 6) ** alpha``. Larger alpha
    favours longer answers; 0 is the plain sum. Alpha must not be negative: the rule that ends a search rests on it.

    A prompt has K = `num_beams` live hypotheses, all of equal length. In each step the best 2 K of their extensions
    by one token are taken (so many, because at most K of them end). Those that end are finished; the best K of the
    others live on. The search of a prompt ends when none of its live hypotheses can become better than its best
    finished one (a sum only falls, so none scores more than it has over the penalty of the longest answer), or at
    `max_new_tokens`. The best finished hypothesis is the answer, the best live one where none finished. Only the
    best finished one is kept, since only it is returned: it is the one that keeping K of them would give.

    Prompts are read once and then stand K times in the cache, which takes the memory of K prompts. A step computes
    as much as one of K x B rows of greedy decoding. Beside that it copies those parts of the cache that new tokens
    are in (for a decoder 2 x layers x K B x max_new_tokens x kv heads x head_dim numbers, read once and written
    twice), since a hypothesis goes on from another one's past.

    Nothing depends on the other prompts of the batch, except for how long its loop runs.

    Args:
        model: the model.
        params: its parameters.
        prompts: [B, T], see `prompts.Reader.prompt_rows`.
        dummy_B: bool [B], rows that nobody reads; they end at once.
        settings: see `BeamSettings`.

    Returns:
        The answers and their scores.

    Source: Wu et al. 2016, arXiv:1609.08144, equation 14 (its length penalty; no coverage penalty). Candidates and
    stopping as in Tensor2Tensor (Vaswani et al. 2018, arXiv:1803.07416), which T5 was evaluated with.
    """
    K, M = settings.num_beams, settings.max_new_tokens
    reader = reader_of(model)
    read = reader.read(model, params, prompts, M)
    rows = read.positions_B.shape[0]
    layout = cache_layout(model, params, reader, prompts, M)

    def repeat(leaf: jax.Array, axes: Axes) -> jax.Array:
        return leaf if axes.rows is None else jnp.repeat(leaf, K, axis=axes.rows)

    def unfinished(state: _State) -> jax.Array:
        return (state.made < M) & ~jnp.all(state.ended_B)

    def one_token(state: _State) -> _State:
        last_BK = jax.lax.dynamic_index_in_dim(state.tokens_BKM, state.made - 1, axis=2, keepdims=False)
        positions_B = jnp.where(state.ended_B, -1, read.positions_B + state.made - 1)
        hidden_R1D, cache = model.step(params, state.cache, last_BK.reshape(-1, 1), jnp.repeat(positions_B, K)[:, None])
        hidden_BKD = hidden_R1D.reshape(rows, K, -1)
        state, parents_BK = _extend(state, known_tokens_only(model, params, hidden_BKD), settings)
        follow = _following(parents_BK, M)
        return state._replace(cache=_map_cache(follow, layout, state.cache, cache))

    # Before the first token there is one hypothesis, the empty one.
    state = _State(
        made=jnp.int32(0),
        tokens_BKM=jnp.full((rows, K, M), settings.pad_id, jnp.int32),
        sums_BK=jnp.full((rows, K), -jnp.inf).at[:, 0].set(0.0),
        best=Found(jnp.full((rows, M), settings.pad_id, jnp.int32), jnp.full(rows, -jnp.inf)),
        ended_B=dummy_B,
        cache=_map_cache(repeat, layout, read.cache),
    )
    hidden_BKD = jnp.broadcast_to(read.hidden_BD[:, None], (rows, K, read.hidden_BD.shape[-1]))
    state, _ = _extend(state, known_tokens_only(model, params, hidden_BKD), settings)
    state = jax.lax.while_loop(unfinished, one_token, state)
    finished_B = state.best.scores_B > -jnp.inf
    live_scores_B = state.sums_BK[:, 0] / _penalty(state.made, settings.length_penalty)
    return Found(
        jnp.where(finished_B[:, None], state.best.tokens_BM, state.tokens_BKM[:, 0]),
        jnp.where(finished_B, state.best.scores_B, live_scores_B),
    )


def _penalty(length: jax.Array | int, alpha: jax.Array) -> jax.Array:
    return ((5.0 + length) / 6.0) ** alpha


def _extend(state: _State, logits_BKV: jax.Array, settings: BeamSettings) -> tuple[_State, jax.Array]:
    """Makes every live hypothesis one token longer.

    Returns:
        The state with the old cache, and int32 [B, K], which old live hypothesis each new one goes on from.
    """
    K, made = settings.num_beams, state.made + 1
    sums_BC, parents_BC, chosen_BC = _candidates(state.sums_BK, logits_BKV)
    ends_BC = chosen_BC == settings.eos_id
    tokens_BCM = _take(state.tokens_BKM, parents_BC)
    tokens_BCM = jax.lax.dynamic_update_index_in_dim(tokens_BCM, chosen_BC, state.made, axis=2)

    scores_BC = jnp.where(ends_BC, sums_BC, -jnp.inf) / _penalty(made, settings.length_penalty)
    first_B1 = jnp.argmax(scores_BC, axis=-1)[:, None]
    score_B = _take(scores_BC, first_B1)[:, 0]
    better_B = (score_B > state.best.scores_B) & ~state.ended_B
    best = Found(
        jnp.where(better_B[:, None], _take(tokens_BCM, first_B1)[:, 0], state.best.tokens_BM),
        jnp.where(better_B, score_B, state.best.scores_B),
    )

    sums_BK, kept_BK = jax.lax.top_k(jnp.where(ends_BC, -jnp.inf, sums_BC), K)
    most_B = sums_BK[:, 0] / _penalty(settings.max_new_tokens, settings.length_penalty)
    state = _State(
        made=made,
        tokens_BKM=_take(tokens_BCM, kept_BK),
        sums_BK=sums_BK,
        best=best,
        ended_B=state.ended_B | (best.scores_B >= most_B),
        cache=state.cache,
    )
    return state, _take(parents_BC, kept_BK)


def _candidates(sums_BK: jax.Array, logits_BKV: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best 2 K extensions of K hypotheses.

    Returns:
        [B, 2 K] each, the best first: sums of log-probabilities, the hypotheses they extend, and their tokens.
    """
    rows, K, vocab = logits_BKV.shape
    # The best of all are among the best of each: so the vocabulary is gone through once, and nothing of its size
    # is stored again.
    each = min(2 * K, vocab)
    logits_BKE, tokens_BKE = jax.lax.top_k(logits_BKV, each)
    log_probs_BKE = logits_BKE - jax.nn.logsumexp(logits_BKV, axis=-1, keepdims=True)
    sums_BKE = sums_BK[:, :, None] + log_probs_BKE
    sums_BC, indices_BC = jax.lax.top_k(sums_BKE.reshape(rows, K * each), 2 * K)
    return sums_BC, indices_BC // each, _take(tokens_BKE.reshape(rows, K * each), indices_BC)


def _take(array_BK: jax.Array, indices_BC: jax.Array) -> jax.Array:
    """For each row, the entries of its second axis that `indices_BC` names."""
    indices = indices_BC.reshape(*indices_BC.shape, *(1,) * (array_BK.ndim - 2))
    return jnp.take_along_axis(array_BK, indices, axis=1, mode="clip")


class Axes(NamedTuple):
    """Which axes of an array of the cache are the rows and the slots; None: it has none."""

    rows: int | None
    slots: int | None


def cache_layout(model: "Model", params: Params, reader: Reader, prompts: Prompts, new_tokens: int) -> list[Axes]:
    """The axes of the cache's arrays, in the order of `jax.tree.leaves`: those that grow with rows and with slots."""

    def shapes(more_rows: int, more_slots: int) -> list[tuple[int, ...]]:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] + more_rows, *x.shape[1:]), x.dtype), prompts)
        cache = jax.eval_shape(lambda p, q: reader.cache(model, p, q, new_tokens + more_slots), params, like)
        return [leaf.shape for leaf in jax.tree.leaves(cache)]

    def grown(before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
        return next((axis for axis, size in enumerate(before) if after[axis] != size), None)

    pairs = zip(shapes(0, 0), shapes(1, 0), shapes(0, 1), strict=True)
    return [Axes(grown(shape, of_rows), grown(shape, of_slots)) for shape, of_rows, of_slots in pairs]


def _map_cache(change: Callable[..., jax.Array], layout: list[Axes], *caches: Any) -> Any:
    """Applies ``change(leaf of each cache, axes)`` to all arrays."""
    leaves = zip(*(jax.tree.leaves(cache) for cache in caches), strict=True)
    changed = [change(*arrays, axes) for arrays, axes in zip(leaves, layout, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(caches[-1]), changed)


def _following(parents_BK: jax.Array, new_tokens: int) -> Callable[[jax.Array, jax.Array, Axes], jax.Array]:
    """How an array of the cache follows the hypotheses: row b K + k becomes what row b K + parents[b, k] is."""
    B, K = parents_BK.shape

    def follow(before: jax.Array, after: jax.Array, axes: Axes) -> jax.Array:
        # What a step hands on untouched belongs to the prompt, like all slots but the last: equal in all K rows.
        if axes.rows is None or after is before:
            return after
        new = after
        if axes.slots is not None:
            first = after.shape[axes.slots] - new_tokens
            new = jax.lax.slice_in_dim(after, first, after.shape[axes.slots], axis=axes.slots)
        shape = new.shape
        new = new.reshape(*shape[: axes.rows], B, K, *shape[axes.rows + 1 :])
        indices = parents_BK.reshape(*(1,) * axes.rows, B, K, *(1,) * (len(shape) - axes.rows - 1))
        new = jnp.take_along_axis(new, indices, axis=axes.rows + 1, mode="clip").reshape(shape)
        if axes.slots is None:
            return new
        return jax.lax.dynamic_update_slice_in_dim(after, new, first, axis=axes.slots)

    return follow
