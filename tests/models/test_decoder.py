from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.decoder import DecoderModel
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import activation_rules, tree_shardings
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


def gradients(model: DecoderModel, params: Any) -> tuple[jax.Array, Any]:
    batch = tiny.packed(EXAMPLES, LENGTH)

    def loss(params: Any) -> jax.Array:
        return jnp.sin(model.hidden(params, batch).astype(jnp.float32)).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    def check(a: Any, b: Any) -> None:
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1e-3)

    jax.tree.map(check, got, expected)


@pytest.mark.parametrize("changes", [{"remat": "dots"}, {"remat": "full"}, {"attention_chunk": 64}])
def test_memory_options_change_no_value(changes: dict[str, Any]) -> None:
    model, params = tiny.model_and_params()
    assert_close(gradients(DecoderModel(tiny.config(**changes)), params), gradients(model, params), 1e-5)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_equals_unrolled(remat: str) -> None:
    scanned, params = tiny.model_and_params(remat=remat)
    unrolled = DecoderModel(tiny.config(scan_layers=False, remat=remat))
    decoder = dict(params["decoder"])
    layers = decoder.pop("layers")
    for i in range(scanned.config.num_layers):
        decoder[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], layers)
    value, gradient = gradients(unrolled, params | {"decoder": decoder})
    each = [gradient["decoder"].pop(f"layers_{i}") for i in range(scanned.config.num_layers)]
    gradient["decoder"]["layers"] = jax.tree.map(lambda *x: jnp.stack(x), *each)
    assert_close((value, gradient), gradients(scanned, params), 1e-5)


def test_layers_start_different() -> None:
    _, params = tiny.model_and_params()
    kernel = params["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    # Variance 1 / fan-in.
    np.testing.assert_allclose(np.std(kernel), kernel.shape[1] ** -0.5, rtol=0.15)


def test_bfloat16_is_close() -> None:
    model, params = tiny.model_and_params()
    half = DecoderModel(tiny.config(dtype="bfloat16"))
    batch = tiny.packed(EXAMPLES, LENGTH)
    exact = np.asarray(jax.jit(model.hidden)(params, batch))
    rounded = jax.jit(half.hidden)(params, batch)
    assert rounded.dtype == jnp.bfloat16
    assert half.logits(params, rounded).dtype == jnp.float32
    error = np.linalg.norm(np.asarray(rounded, np.float32) - exact) / np.linalg.norm(exact)
    assert error < 0.03
    _, gradient = gradients(half, params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}


def test_dropout_needs_a_key_and_follows_it() -> None:
    model, params = tiny.model_and_params(dropout_rate=0.2)
    batch = {"decoder_input_tokens": tiny.tokens(1, 6)}
    keys = [None, jax.random.key(0), jax.random.key(0), jax.random.key(1)]
    hidden = jax.jit(model.hidden)
    a, c, d, e = (np.asarray(hidden(params, batch, dropout_rng=key)) for key in keys)
    without, _ = tiny.model_and_params()
    np.testing.assert_allclose(a, jax.jit(without.hidden)(params, batch), atol=1e-6)
    assert np.array_equal(c, d)
    assert not np.allclose(a, c)
    assert not np.allclose(c, e)


def test_sharded_equals_single_device() -> None:
    # Two kv heads and 8 examples over data 2, fsdp 2, model 2: every kind of axis is really cut.
    model, params = tiny.model_and_params(vocab_multiple=8)
    rows = tiny.packed(EXAMPLES, LENGTH)
    batch = {k: np.repeat(v, 8, axis=0) for k, v in rows.items()}
    batch["decoder_input_tokens"] = tiny.tokens(8, LENGTH)

    def run(params: Any) -> tuple[jax.Array, Any]:
        return jax.value_and_grad(lambda p: jnp.sin(model.hidden(p, batch)).sum())(params)

    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    shardings = tree_shardings(params, model.param_axes(), mesh)
    sharded = jax.device_put(params, shardings)
    assert len({s.data.shape for s in sharded["decoder"]["logits_dense"]["kernel"].addressable_shards}) == 1
    assert sharded["decoder"]["logits_dense"]["kernel"].addressable_shards[0].data.shape == (8, 20)
    with activation_rules(mesh):
        got = jax.jit(run, out_shardings=(None, shardings))(sharded)
    assert_close(got, jax.jit(run)(params), 1e-5)
