"""Decoders whose inputs see one another: tests on the whole row and with a cache."""

from typing import Any

import jax
import numpy as np
import pytest

from tests.models import tiny

EXAMPLES = [tiny.tokens(n, seed=n) for n in (6, 9, 3)]
SIZES = [4, 5, 1]  # tokens of each example that are inputs
LENGTH = 20
ROW = tiny.with_inputs(tiny.packed(EXAMPLES, LENGTH), SIZES)


@pytest.fixture(scope="module")
def prefix_lm() -> tuple[Any, Any, Any]:
    model, params = tiny.model_and_params("prefix")
    return model, params, jax.jit(model.hidden)


def changed_at(row: dict[str, np.ndarray], slot: int) -> dict[str, np.ndarray]:
    tokens = row["decoder_input_tokens"].copy()
    tokens[0, slot] = (tokens[0, slot] + 1) % tiny.VOCAB
    return row | {"decoder_input_tokens": tokens}


def moved(run: Any, params: Any, slot: int) -> set[int]:
    """The slots whose hidden states another token at `slot` moves."""
    before, after = (np.asarray(run(params, row))[0] for row in (ROW, changed_at(ROW, slot)))
    return set(np.flatnonzero((before != after).any(axis=-1)).tolist())


def test_inputs_see_one_another_and_targets_those_before(prefix_lm: Any) -> None:
    _, params, hidden = prefix_lm
    # The second example stands in slots 6 to 14, its inputs in 6 to 10.
    assert moved(hidden, params, 10) == set(range(6, 15))
    assert moved(hidden, params, 6) == set(range(6, 15))
    assert moved(hidden, params, 11) == set(range(11, 15))
    assert moved(hidden, params, 14) == {14}


def test_a_causal_model_does_not_read_what_is_an_input() -> None:
    model, params = tiny.model_and_params()
    assert moved(jax.jit(model.hidden), params, 10) == set(range(10, 15))


def test_packed_equals_unpacked(prefix_lm: Any) -> None:
    _, params, hidden = prefix_lm
    together = np.asarray(hidden(params, ROW))[0]
    start = 0
    for example, size in zip(EXAMPLES, SIZES, strict=True):
        alone = tiny.with_inputs(tiny.packed([example], LENGTH), [size])
        expected = hidden(params, alone)[0, : len(example)]
        np.testing.assert_allclose(together[start : start + len(example)], expected, atol=3e-6)
        start += len(example)


def test_without_inputs_it_is_a_causal_model(prefix_lm: Any) -> None:
    model, params, hidden = prefix_lm
    causal, _ = tiny.model_and_params()
    assert (model.reads_inputs, causal.reads_inputs) == ("prefix", "causal")
    row = {name: array for name, array in ROW.items() if name != "decoder_causal_attention"}
    expected = jax.jit(causal.hidden)(params, row)
    np.testing.assert_allclose(hidden(params, row), expected, atol=1e-6)
    assert not np.allclose(hidden(params, ROW), expected, atol=1e-3)


def cached(model: Any, params: Any, prefix: bool) -> list[np.ndarray]:
    """The examples with their inputs read at once, padded on the left, and the targets one by one."""
    longest, most = max(SIZES), max(len(e) - n for e, n in zip(EXAMPLES, SIZES, strict=True))
    # What stands under padding is garbage on purpose.
    tokens = tiny.tokens(len(EXAMPLES), longest + most, seed=9)
    for row, (example, size) in enumerate(zip(EXAMPLES, SIZES, strict=True)):
        tokens[row, longest - size :][: len(example)] = example
    positions = np.maximum(np.arange(longest + most) - (longest - np.array(SIZES))[:, None], -1)
    step = jax.jit(model.step, static_argnames="prefix")
    cache = model.init_cache(len(EXAMPLES), longest + most)
    hidden, cache = step(params, cache, tokens[:, :longest], positions[:, :longest], prefix=prefix)
    outputs = [np.asarray(hidden)]
    for i in range(longest, longest + most):
        hidden, cache = step(params, cache, tokens[:, i : i + 1], positions[:, i : i + 1])
        outputs.append(np.asarray(hidden))
    every = np.concatenate(outputs, axis=1)
    return [every[row, longest - n :][: len(e)] for row, (e, n) in enumerate(zip(EXAMPLES, SIZES, strict=True))]


def whole(model: Any, params: Any) -> list[np.ndarray]:
    row = np.asarray(jax.jit(model.hidden)(params, ROW))[0]
    return [row[ROW["decoder_segment_ids"][0] == i + 1] for i in range(len(EXAMPLES))]


def test_cached_decode_equals_the_whole_row(prefix_lm: Any) -> None:
    model, params, _ = prefix_lm
    for got, expected in zip(cached(model, params, prefix=True), whole(model, params), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_causal_model_ignores_the_mark() -> None:
    model, params = tiny.model_and_params()
    for got, expected in zip(cached(model, params, prefix=True), whole(model, params), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert "inputs" not in model.init_cache(1, 4)
