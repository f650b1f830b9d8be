"""The decoder against transformers' Llama, from stored files: no torch is needed (see make.py)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.models.decoder import DecoderModel
from tests.parity.goldens import GOLDEN, cases, config_of, load, tensors

CASES = cases("llama")


def batch_of(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"decoder_input_tokens": golden["tokens"], "decoder_positions": golden["positions"]}


def test_golden_files_exist_and_are_small() -> None:
    assert len(CASES) >= 3
    assert all((GOLDEN / f"{case}.npz").stat().st_size < 300_000 for case in CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("changes", [{}, {"scan_layers": False, "attention_chunk": 4}])
def test_logits(case: str, changes: dict[str, Any]) -> None:
    golden = load(case)
    assert golden["positions"].max() == 4_000
    model = DecoderModel(config_of(golden, **changes))
    params = params_from_hf(tensors(golden, "tensor"), model.config)
    logits = model.logits(params, jax.jit(model.hidden)(params, batch_of(golden)))
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str) -> None:
    golden = load(case)
    model = DecoderModel(config_of(golden, attention_chunk=5, remat="full"))
    params = params_from_hf(tensors(golden, "tensor"), model.config)

    def loss(params: Any) -> jax.Array:
        hidden = model.hidden(params, batch_of(golden))
        head = model.unembedding(params)
        return cross_entropy(hidden, head, golden["targets"], golden["weights"], chunk_size=4).loss_sum

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
    model = DecoderModel(config_of(golden))
    params = params_from_hf(tensors(golden, "tensor"), model.config)
    lengths, expected, margins = (golden[k] for k in ("prompt_lengths", "generated", "margins"))
    rows, steps = expected.shape
    longest = int(lengths.max())
    positions = np.arange(longest)[None] - (longest - lengths)[:, None]
    tokens = np.zeros((rows, longest), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, longest - length :] = golden["tokens"][row, :length]
    step = jax.jit(model.step)
    cache = model.init_cache(rows, longest + steps)
    hidden, cache = step(params, cache, tokens, np.maximum(positions, -1).astype(np.int32))
    generated = []
    for i in range(steps):
        best = jnp.argmax(model.logits(params, hidden[:, -1:])[:, 0], axis=-1)
        generated.append(np.asarray(best))
        # The next token is transformers', so that one tie does not end the comparison.
        hidden, cache = step(params, cache, expected[:, i : i + 1], (lengths + i)[:, None])
    clear = margins > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.stack(generated, 1)[clear], expected[clear])


def test_a_forgotten_constant_would_show() -> None:
    golden = load(CASES[0])
    for changes in ({"rope_theta": 10_000.0}, {"norm_epsilon": 1e-6}, {"activation": "relu"}):
        model = DecoderModel(config_of(golden, **changes))
        params = params_from_hf(tensors(golden, "tensor"), model.config)
        logits = model.logits(params, jax.jit(model.hidden)(params, batch_of(golden)))
        assert np.abs(logits - golden["logits"]).max() > 1e-3, changes


def test_vocabulary_padding_changes_no_logit() -> None:
    golden = load("llama_untied")
    model = DecoderModel(config_of(golden, vocab_multiple=32))
    params = params_from_hf(tensors(golden, "tensor"), model.config)
    logits = model.logits(params, jax.jit(model.hidden)(params, batch_of(golden)))
    assert logits.shape[-1] == 64
    np.testing.assert_allclose(logits[..., :61], golden["logits"], rtol=0, atol=1e-4)
    assert (logits[..., 61:] < -1e29).all()


def test_tensors_that_do_not_fit_are_all_named() -> None:
    golden = load("llama_tied")
    config = config_of(golden)
    given = tensors(golden, "tensor")
    given["model.layers.1.mlp.up_proj.weigth"] = given.pop("model.layers.1.mlp.up_proj.weight")
    given["model.norm.weight"] = given["model.norm.weight"][:-1]
    with pytest.raises(CheckpointError) as error:
        params_from_hf(given, config)
    for part in ("3 tensors", "up_proj.weight' is missing", "up_proj.weigth", "(23,)", "(24,)"):
        assert part in str(error.value)


def test_second_head_beside_a_tied_one() -> None:
    golden = load("llama_tied")
    config = config_of(golden)
    given = tensors(golden, "tensor")
    same = given | {"lm_head.weight": given["model.embed_tokens.weight"]}
    jax.tree.map(np.testing.assert_array_equal, params_from_hf(same, config), params_from_hf(given, config))
    with pytest.raises(CheckpointError, match="tie_embeddings=False"):
        params_from_hf(given | {"lm_head.weight": given["model.embed_tokens.weight"] + 1}, config)
