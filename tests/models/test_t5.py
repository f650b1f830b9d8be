from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.api import Encoded
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.t5 import T5Model
from tests.models import tiny

# The second example has no inputs; the third's go beyond the largest distance of 12.
PAIRS = [(tiny.tokens(n, seed=10 + n), tiny.tokens(m, seed=m)) for n, m in ((6, 5), (0, 3), (15, 14), (2, 4))]
SOURCE, LENGTH = 26, 28
ROW = tiny.packed_pairs(PAIRS, SOURCE, LENGTH)


@pytest.fixture(scope="module")
def t5() -> tuple[T5Model, Any, Any]:
    model, params = tiny.model_and_params("t5")
    return model, params, jax.jit(model.hidden)


def changed_at(row: dict[str, np.ndarray], side: str, where: Any) -> dict[str, np.ndarray]:
    name = f"{side}_input_tokens"
    tokens = row[name].copy()
    tokens[0, where] = (tokens[0, where] + 1) % tiny.VOCAB
    return row | {name: tokens}


def moved(run: Any, params: Any, row: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> np.ndarray:
    """Which targets' hidden states differ between two batches."""
    before_TD, after_TD = (np.asarray(run(params, batch))[0] for batch in (row, after))
    return (before_TD != after_TD).any(axis=-1)


def test_packed_equals_unpacked(t5: Any) -> None:
    _, params, hidden = t5
    together = np.asarray(hidden(params, ROW))[0]
    assert np.isfinite(together).all()
    start = 0
    for pair in PAIRS:
        end = start + len(pair[1])
        expected = hidden(params, tiny.packed_pairs([pair], SOURCE, LENGTH))[0, : end - start]
        np.testing.assert_allclose(together[start:end], expected, atol=3e-6)
        start = end


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_no_example_sees_another(t5: Any, side: str) -> None:
    _, params, hidden = t5
    third = ROW["decoder_segment_ids"][0] == 3
    after = changed_at(ROW, side, ROW[f"{side}_segment_ids"][0] == 3)
    np.testing.assert_array_equal(moved(hidden, params, ROW, after), third)


def test_the_encoder_sees_both_ways_and_the_decoder_back(t5: Any) -> None:
    _, params, hidden = t5
    segment, position = ROW["decoder_segment_ids"][0], ROW["decoder_positions"][0]
    third = segment == 3
    for slot in (6, 20):
        # The first and the last token of the third example's inputs.
        np.testing.assert_array_equal(moved(hidden, params, ROW, changed_at(ROW, "encoder", slot)), third)
    after = changed_at(ROW, "decoder", third & (position == 9))
    np.testing.assert_array_equal(moved(hidden, params, ROW, after), third & (position >= 9))


def test_nothing_sees_padding_and_nothing_is_nan(t5: Any) -> None:
    _, params, hidden = t5
    rows = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in ROW.items()}  # and one empty row
    real = rows["decoder_segment_ids"] > 0
    other = {
        f"{side}_input_tokens": np.where(rows[f"{side}_segment_ids"] > 0, rows[f"{side}_input_tokens"], 9)
        for side in ("encoder", "decoder")
    }
    before, after = (np.asarray(hidden(params, batch)) for batch in (rows, rows | other))
    assert np.array_equal(before[real], after[real])
    assert np.isfinite(before).all()
    whole = make_model(tiny.config("t5", attention_chunk=64))
    gradient = jax.jit(jax.grad(lambda p: jnp.square(whole.hidden(p, rows)).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_absent_segments_and_positions(t5: Any) -> None:
    _, params, hidden = t5
    pair = (tiny.tokens(SOURCE), tiny.tokens(LENGTH, seed=1))
    row = tiny.packed_pairs([pair], SOURCE, LENGTH)
    bare = {name: array for name, array in row.items() if name.endswith("input_tokens")}
    np.testing.assert_array_equal(hidden(params, row), hidden(params, bare))


def test_distances_matter(t5: Any) -> None:
    # The same tokens in another order: without relative positions the encoder would give the same set.
    model, params, _ = t5
    tokens = tiny.tokens(1, 8)
    encode = jax.jit(lambda params, tokens: model.encode(params, {"encoder_input_tokens": tokens}).hidden_BSD)
    forward, backward = encode(params, tokens), encode(params, tokens[:, ::-1])
    assert not np.allclose(forward, backward[:, ::-1], atol=1e-2)


def cached(model: T5Model, params: Any, pieces: tuple[int, ...]) -> list[np.ndarray]:
    """Hidden states of PAIRS' targets by steps of `pieces` tokens; rows are padded on the right."""
    rows = [tiny.packed_pairs([pair], SOURCE, LENGTH) for pair in PAIRS]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    encoded = jax.jit(model.encode)(params, batch)
    cache = jax.jit(partial(model.init_cache, len(rows), sum(pieces)))(encoded=encoded, params=params)
    step = jax.jit(model.step)
    outputs, start = [], 0
    for size in pieces:
        tokens = batch["decoder_input_tokens"][:, start : start + size]
        positions = np.tile(np.arange(start, start + size), (len(rows), 1))
        hidden, cache = step(params, cache, tokens, positions)
        outputs.append(np.asarray(hidden))
        start += size
    every = np.concatenate(outputs, axis=1)
    return [every[row, : len(targets)] for row, (_, targets) in enumerate(PAIRS)]


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({}, (1,) * 14),
        ({}, (9, 1, 4)),
        ({"scan_layers": False, "num_encoder_layers": 1, "num_decoder_layers": 2, "attention_chunk": 64}, (5, 9)),
    ],
)
def test_cached_decode_equals_the_whole_row(changes: dict[str, Any], pieces: tuple[int, ...]) -> None:
    model, params = tiny.model_and_params("t5", **changes)
    row = np.asarray(jax.jit(model.hidden)(params, ROW))[0]
    for segment, got in enumerate(cached(model, params, pieces), 1):
        np.testing.assert_allclose(got, row[ROW["decoder_segment_ids"][0] == segment], atol=1e-5)


def test_left_padding_while_decoding(t5: Any) -> None:
    model, params, _ = t5
    tokens = tiny.tokens(1, 7)
    encoded = model.encode(params, {"encoder_input_tokens": tiny.tokens(1, 5, seed=3)})
    step = jax.jit(model.step)
    alone, _ = step(params, model.init_cache(1, 10, encoded, params), tokens, np.arange(7)[None])
    shifted = np.concatenate([tiny.tokens(1, 3, seed=8), tokens], axis=1)
    positions = np.maximum(np.arange(10) - 3, -1)[None]
    padded, _ = step(params, model.init_cache(1, 10, encoded, params), shifted, positions)
    np.testing.assert_allclose(padded[:, 3:], alone, atol=1e-5)


def test_a_step_sees_the_first_segment_of_the_encoder(t5: Any) -> None:
    model, params, _ = t5
    both = tiny.packed([tiny.tokens(5), tiny.tokens(4, seed=1)], 11, "encoder")
    first = tiny.packed([tiny.tokens(5)], 11, "encoder")
    step = jax.jit(model.step)
    hidden = [
        step(
            params,
            model.init_cache(1, 2, model.encode(params, batch), params),
            np.zeros((1, 1), int),
            np.zeros((1, 1), int),
        )
        for batch in (both, first)
    ]
    np.testing.assert_allclose(hidden[0][0], hidden[1][0], atol=1e-6)


def test_the_cache(t5: Any) -> None:
    model, params, _ = t5
    half, _ = tiny.model_and_params("t5", dtype="bfloat16")
    encoded = Encoded(jnp.zeros((3, 7, 16), jnp.bfloat16), jnp.ones((3, 7), jnp.int32))
    cache = half.init_cache(3, 11, encoded, params)
    assert cache["key"].shape == cache["value"].shape == (3, 3, 11, 4, 6)
    assert cache["cross_key"].shape == cache["cross_value"].shape == (3, 3, 7, 4, 6)
    assert cache["key"].dtype == cache["cross_key"].dtype == jnp.bfloat16
    assert (cache["positions"] == -1).all()
    _, after = jax.eval_shape(half.step, params, cache, np.zeros((3, 2), np.int32), np.zeros((3, 2), np.int32))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), cache)
    assert model.reads_inputs == "encoder"
    with pytest.raises(ValueError, match="needs `encoded`, from encode\\(\\), and `params`"):
        model.init_cache(3, 11)
    with pytest.raises(ValueError, match="has read 3 rows, the cache is for 4"):
        model.init_cache(4, 11, encoded, params)
    with pytest.raises(ValueError, match="12 tokens does not fit a cache of 11"):
        model.step(params, cache, np.zeros((3, 12), np.int32), np.zeros((3, 12), np.int32))


def test_queries_start_small_enough(t5: Any) -> None:
    # Scores are not divided by the root of the head's width, 6: fresh queries are smaller by it.
    layers = t5[1]["decoder"]["layers"]
    for attention in ("self_attention", "encoder_decoder_attention"):
        query, key = (np.std(layers[attention][name]["kernel"]) for name in ("query", "key"))
        np.testing.assert_allclose(key, 16**-0.5, rtol=0.1)
        np.testing.assert_allclose(query / key, 6**-0.5, rtol=0.1)
