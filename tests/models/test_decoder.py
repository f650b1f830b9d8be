from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.decoder import DecoderModel
from tests.models import tiny

EXAMPLES = [tiny.tokens(n, seed=n) for n in (5, 7, 3)]
LENGTH = 19


@pytest.fixture(scope="module")
def tiny_model() -> tuple[DecoderModel, dict[str, Any], Any]:
    model, params = tiny.model_and_params()
    return model, params, jax.jit(model.hidden)


def test_packed_equals_unpacked(tiny_model: Any) -> None:
    _, params, hidden = tiny_model
    row = np.asarray(hidden(params, tiny.packed(EXAMPLES, LENGTH)))[0]
    start = 0
    for example in EXAMPLES:
        # Alone in a row of the same length, so that nothing is compiled anew.
        alone = hidden(params, tiny.packed([example], LENGTH))[0, : len(example)]
        np.testing.assert_allclose(row[start : start + len(example)], alone, atol=3e-6)
        start += len(example)


def test_no_segment_sees_another(tiny_model: Any) -> None:
    _, params, hidden = tiny_model
    row = tiny.packed(EXAMPLES, LENGTH)
    before = np.asarray(hidden(params, row))[0]
    changed = row["decoder_input_tokens"].copy()
    second = row["decoder_segment_ids"][0] == 2
    changed[0, second] = (changed[0, second] + 1) % tiny.VOCAB
    after = np.asarray(hidden(params, row | {"decoder_input_tokens": changed}))[0]
    assert np.array_equal(before[~second], after[~second])
    assert (before[second] != after[second]).any(axis=-1).all()


def test_no_token_sees_a_later_one(tiny_model: Any) -> None:
    _, params, hidden = tiny_model
    tokens = tiny.tokens(1, 11)
    before = np.asarray(hidden(params, {"decoder_input_tokens": tokens}))[0]
    tokens[0, 6] = (tokens[0, 6] + 1) % tiny.VOCAB
    after = np.asarray(hidden(params, {"decoder_input_tokens": tokens}))[0]
    assert np.array_equal(before[:6], after[:6])
    assert (before[6:] != after[6:]).any(axis=-1).all()


def test_nothing_sees_padding_and_nothing_is_nan(tiny_model: Any) -> None:
    model, params, hidden = tiny_model
    row = tiny.packed(EXAMPLES, LENGTH)
    rows = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in row.items()}  # and one empty row
    real = rows["decoder_segment_ids"] > 0
    before = np.asarray(hidden(params, rows))
    tokens = np.where(real, rows["decoder_input_tokens"], 9).astype(np.int32)
    after = np.asarray(hidden(params, rows | {"decoder_input_tokens": tokens}))
    assert np.array_equal(before[real], after[real])
    gradient = jax.jit(jax.grad(lambda p: jnp.square(model.hidden(p, rows)).sum()))(params)
    assert np.isfinite(before).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_absent_segments_and_positions(tiny_model: Any) -> None:
    _, params, hidden = tiny_model
    row = tiny.packed([tiny.tokens(LENGTH)], LENGTH)
    tokens = {"decoder_input_tokens": row["decoder_input_tokens"]}
    np.testing.assert_array_equal(hidden(params, row), hidden(params, tokens))
    packed = tiny.packed(EXAMPLES, LENGTH)
    without = {k: v for k, v in packed.items() if k != "decoder_positions"}
    real = packed["decoder_segment_ids"] > 0
    np.testing.assert_allclose(hidden(params, packed)[real], hidden(params, without)[real], atol=1e-5)
