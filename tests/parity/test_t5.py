"""T5, T5Gemma and T5Gemma 2 against transformers', from stored files: no torch is needed (see make.py)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.models.api import Model
from t5x_instruct.models.presets import make_model
from tests.parity.encoder_decoder_families import batch_of, packed
from tests.parity.goldens import GOLDEN, Golden, cases, config_of, load, tensors

T5 = cases("t5")
CASES = [*T5, *cases("t5gemma"), *cases("t5gemma2")]


def model_and_params(golden: Golden, **changes: Any) -> tuple[Model, dict[str, Any]]:
    model = make_model(config_of(golden, **changes))
    return model, params_from_hf(tensors(golden, "tensor"), model.config)


def logits_of(golden: Golden, batch: dict[str, np.ndarray] | None = None, **changes: Any) -> np.ndarray:
    model, params = model_and_params(golden, **changes)
    hidden = jax.jit(model.hidden)(params, batch_of(golden) if batch is None else batch)
    return np.asarray(model.logits(params, hidden))


def test_golden_files_exist_and_are_small() -> None:
    assert len(CASES) >= 3
    assert all((GOLDEN / f"{case}.npz").stat().st_size < 300_000 for case in CASES)


def test_goldens_go_beyond_the_largest_distance() -> None:
    for case in CASES:
        golden = load(case)
        config = config_of(golden)
        if case in T5:
            far = config.relative_max_distance
        else:
            far = max(*config.encoder.layer_windows, *config.decoder.layer_windows)
        assert golden["input_lengths"].max() > far + 2
        assert golden["targets"].shape[1] > far + 1
        assert golden["input_lengths"].min() < golden["inputs"].shape[1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("changes", [{}, {"scan_layers": False, "attention_chunk": 7}])
def test_logits(case: str, changes: dict[str, Any]) -> None:
    golden = load(case)
    np.testing.assert_allclose(logits_of(golden, **changes), golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_packed_into_one_row(case: str) -> None:
    golden = load(case)
    logits = logits_of(golden, packed(golden), attention_chunk=16)
    np.testing.assert_allclose(logits.reshape(golden["logits"].shape), golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str) -> None:
    golden = load(case)
    model, params = model_and_params(golden, attention_chunk=6, remat="full")
    batch = batch_of(golden)

    def loss(params: Any) -> jax.Array:
        hidden = model.hidden(params, batch)
        head = model.unembedding(params)
        return cross_entropy(hidden, head, golden["targets"], golden["weights"], chunk_size=8).loss_sum

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    expected = flatten_with_names(params_from_hf(tensors(golden, "grad"), model.config))
    got = flatten_with_names(gradient)
    assert set(got) == set(expected)
    for name, theirs in expected.items():
        difference = np.linalg.norm(got[name] - theirs) / np.linalg.norm(theirs)
        assert difference < 1e-4, (name, difference)


@pytest.mark.parametrize("case", CASES)
def test_greedy_with_cache(case: str) -> None:
    golden = load(case)
    model, params = model_and_params(golden, vocab_multiple=32)
    expected, margins = golden["generated"], golden["margins"]
    rows, steps = expected.shape
    encoded = jax.jit(model.encode)(params, batch_of(golden))
    cache = jax.jit(partial(model.init_cache, rows, steps))(encoded=encoded, params=params)
    step = jax.jit(model.step)
    last = np.full((rows, 1), model.config.decoder_start_id, np.int32)
    generated = []
    for i in range(steps):
        hidden, cache = step(params, cache, last, np.full((rows, 1), i))
        generated.append(np.asarray(jnp.argmax(model.logits(params, hidden)[:, 0], axis=-1)))
        # The next token is transformers', so that one tie does not end the comparison.
        last = expected[:, i : i + 1]
    clear = margins > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.stack(generated, 1)[clear], expected[clear])


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_buckets": 10},
        {"relative_max_distance": 14},
        {"norm_epsilon": 1e-6},
        {"activation": "gelu"},
        {"scale_decoder_outputs": True},
    ],
)
def test_a_forgotten_constant_would_show(changes: dict[str, Any]) -> None:
    golden = load("t5_1_1")
    if "relative_buckets" in changes:
        # The table has to fit the configuration.
        for name in [name for name in golden if name.endswith("relative_attention_bias.weight")]:
            golden[name] = np.pad(golden[name], ((0, 2), (0, 0)), mode="edge")
    assert np.abs(logits_of(golden, **changes) - golden["logits"]).max() > 1e-3


def test_copies_and_what_was_never_read() -> None:
    golden = load("t5_1_0")
    config = config_of(golden)
    given = tensors(golden, "tensor")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    more = dict.fromkeys(names, given["shared.weight"])
    more["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((12, 4), np.float32)
    jax.tree.map(np.testing.assert_array_equal, params_from_hf(given | more, config), params_from_hf(given, config))
    with pytest.raises(CheckpointError, match="tie_embeddings=False"):
        params_from_hf(given | {"lm_head.weight": given["shared.weight"] + 1}, config)
    with pytest.raises(CheckpointError, match="encoder.embed_tokens.weight is shared.weight, but the two differ"):
        params_from_hf(given | {"encoder.embed_tokens.weight": given["shared.weight"] + 1}, config)


def test_tensors_that_do_not_fit_are_all_named() -> None:
    golden = load("t5_1_1")
    given = tensors(golden, "tensor")
    del given["lm_head.weight"]
    given["decoder.block.1.layer.2.DenseReluDense.wi.weight"] = given.pop(
        "decoder.block.1.layer.2.DenseReluDense.wi_0.weight"
    )
    with pytest.raises(CheckpointError) as error:
        params_from_hf(given, config_of(golden))
    for part in ("3 tensors", "'lm_head.weight' is missing", "wi_0.weight' is missing", "DenseReluDense.wi.weight"):
        assert part in str(error.value)
