import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.models.decoder import DecoderConfig, DecoderModel
from t5x_instruct.models.presets import config_from_dict, make_model
from tests.models import tiny

BATCH = {"decoder_input_tokens": tiny.tokens(2, 9)}

# What a field must show in, and another value for it.
CHANGES_TREE = {
    "vocab_size": 41,
    "emb_dim": 12,
    "num_layers": 3,
    "num_heads": 6,
    "num_kv_heads": 1,
    "head_dim": 8,
    "mlp_dim": 24,
    "tie_embeddings": True,
    "vocab_multiple": 8,
    "scan_layers": False,
}
CHANGES_LOGITS = {
    "activation": "gelu",
    "rope_theta": 10_000.0,
    "norm_epsilon": 1e-1,
    "dtype": "bfloat16",
    "dropout_rate": 0.3,
}
CHANGES_INIT = {"embedding_init_stddev": 1.4}
CHANGES_PROGRAM = {"remat": "full", "attention_chunk": 3}
REFUSED = {"family": "encoder"}


def abstract(config: DecoderConfig) -> Any:
    return jax.eval_shape(DecoderModel(config).init, jax.random.key(0))


def logits(model: DecoderModel, params: Any, key: jax.Array | None = None) -> np.ndarray:
    hidden = jax.jit(model.hidden)(params, BATCH, dropout_rng=key)
    return np.asarray(model.logits(params, hidden))


def test_every_field_is_named_here() -> None:
    named = CHANGES_TREE | CHANGES_LOGITS | CHANGES_INIT | CHANGES_PROGRAM | REFUSED
    assert set(named) == {field.name for field in dataclasses.fields(DecoderConfig)}


@pytest.mark.parametrize("name", CHANGES_TREE)
def test_field_shows_in_the_parameters(name: str) -> None:
    changed = tiny.config(**{name: CHANGES_TREE[name]})
    assert abstract(changed) != abstract(tiny.config())


@pytest.mark.parametrize("name", CHANGES_LOGITS)
def test_field_shows_in_the_logits(name: str) -> None:
    model, params = tiny.model_and_params()
    changed = DecoderModel(tiny.config(**{name: CHANGES_LOGITS[name]}))
    key = jax.random.key(1)
    before, after = (logits(m, params, key) for m in (model, changed))
    assert np.abs(before - after).max() > 1e-3


def test_field_shows_in_fresh_parameters() -> None:
    _, before = tiny.model_and_params()
    _, after = tiny.model_and_params(**CHANGES_INIT)
    table = "token_embedder", "embedding"
    ratio = np.std(after[table[0]][table[1]]) / np.std(before[table[0]][table[1]])
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-4)


@pytest.mark.parametrize("name", CHANGES_PROGRAM)
def test_field_shows_in_the_program(name: str) -> None:
    def program(config: DecoderConfig) -> str:
        model = DecoderModel(config)
        loss = jax.grad(lambda params: model.hidden(params, BATCH).sum())
        return str(jax.make_jaxpr(loss)(abstract(config)))

    assert program(tiny.config()) != program(tiny.config(**{name: CHANGES_PROGRAM[name]}))


def test_vocab_size_hides_the_padding_rows() -> None:
    model, params = tiny.model_and_params(vocab_multiple=8)
    found = logits(model, params)
    assert found.shape == (2, 9, 40)
    assert model.unembedding(params).vocab_size == tiny.VOCAB
    assert (found[..., tiny.VOCAB :] < -1e29).all()
    assert (found[..., : tiny.VOCAB] > -1e3).all()


def test_axes_fit_the_parameters() -> None:
    for changes in ({}, {"scan_layers": False, "tie_embeddings": True}):
        model = make_model(tiny.config(**changes))
        axes = model.param_axes()

        def fits(leaf: Any, names: tuple[str, ...]) -> None:
            assert len(leaf.shape) == len(names)
            assert all(isinstance(name, str) for name in names)

        jax.tree.map(fits, abstract(model.config), axes)
    scanned = make_model(tiny.config()).param_axes()["decoder"]["layers"]
    assert scanned["self_attention"]["key"]["kernel"] == ("layers", "embed", "kv_heads", "kv")
    assert scanned["mlp"]["wo"]["kernel"] == ("layers", "mlp", "embed")


def test_parameters_are_plain_float32() -> None:
    _, params = tiny.model_and_params(dtype="bfloat16")
    assert type(params) is dict
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


def test_json_round_trip() -> None:
    config = tiny.config(remat="dots", dropout_rate=0.1)
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_all_problems_of_a_dict_at_once() -> None:
    values = dataclasses.asdict(tiny.config()) | {
        "rope_teta": 1.0,
        "emb_dim": "16",
        "num_layers": True,
    }
    del values["norm_epsilon"]
    with pytest.raises(ConfigError) as error:
        config_from_dict(values)
    assert len(error.value.problems) == 4
    for part in ("'rope_theta'", "'norm_epsilon' is missing", "'emb_dim' is '16'", "must be int"):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="nearest: 'decoder'"):
        config_from_dict(values | {"family": "decodr"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "multiple of num_kv_heads, 2"),
        ({"head_dim": 7}, "head_dim is 7, must be even"),
        ({"activation": "sliu"}, "nearest: 'silu'"),
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"remat": "ful"}, "nearest: 'full'"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0"),
        (REFUSED, "family 'encoder'"),
    ],
)
def test_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.config(**changes)


def test_no_model_for_something_else() -> None:
    with pytest.raises(ConfigError, match="DecoderConfig"):
        make_model({"family": "decoder"})
