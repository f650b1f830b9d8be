import dataclasses
import json
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.decoding.generate import generate
from t5x_instruct.models.layers.rope import RopeScaling
from t5x_instruct.models.presets import config_from_dict, make_model
from tests.models import tiny


class Changes(NamedTuple):
    """What each field of a configuration must show in, and another value for it."""

    tree: dict[str, Any]
    logits: dict[str, Any]
    elsewhere: dict[str, Any]
    init: dict[str, Any]
    program: dict[str, Any]
    refused: dict[str, Any]


SAME: dict[str, dict[str, Any]] = {
    "init": {"embedding_init_stddev": 1.4},
    "program": {"remat": "full", "attention_chunk": 3},
    "refused": {"family": "encoder"},
}
CHANGES = {
    "decoder": Changes(
        tree={
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
            "qkv_bias": True,
            "out_bias": True,
            "mlp_bias": True,
            "qk_norm": "head",
            "norm_placement": "both",
            "parallel_block": True,
        },
        logits={
            "activation": "gelu",
            "rope_theta": 10_000.0,
            "rope_scaling": RopeScaling(kind="linear", factor=3.0),
            "local_rope_theta": 5.0,
            "layer_ropes": ("global", "local"),
            "layer_windows": (0, 2),
            "query_pre_attn_scalar": 2.0,
            "attention_soft_cap": 0.5,
            "logits_soft_cap": 0.5,
            "logits_multiplier": 2.0,
            "scale_embeddings": True,
            "norm": "layer",
            "norm_around_one": True,
            "norm_epsilon": 1e-1,
            "dtype": "bfloat16",
            "dropout_rate": 0.3,
            "prefix_lm": True,
        },
        # In how long rows are read, see `test_splash`.
        elsewhere={"attention": "splash"},
        **SAME,
    ),
    "t5": Changes(
        tree={
            "vocab_size": 41,
            "emb_dim": 12,
            "num_encoder_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 6,
            "head_dim": 8,
            "mlp_dim": 24,
            "gated_mlp": False,
            "relative_buckets": 10,
            "tie_embeddings": True,
            "vocab_multiple": 8,
            "bias_per_layer": True,
            "scan_layers": False,
        },
        logits={
            "activation": "gelu",
            "relative_max_distance": 6,
            "norm_epsilon": 1e-1,
            "scale_decoder_outputs": True,
            "dtype": "bfloat16",
            "dropout_rate": 0.3,
        },
        # In what the decoder is fed; in nothing.
        elsewhere={"decoder_start_id": 5, "attention": "plain"},
        **SAME,
    ),
}


def fields(kind: str, group: str) -> list[tuple[str, str]]:
    return [(kind, name) for name in getattr(CHANGES[kind], group)]


def every(group: str) -> list[tuple[str, str]]:
    return [pair for kind in CHANGES for pair in fields(kind, group)]


def changed(kind: str, name: str) -> Any:
    values = {k: v for group in CHANGES[kind] for k, v in group.items()}
    return tiny.config(kind, **{name: values[name]})


def abstract(config: Any) -> Any:
    return jax.eval_shape(make_model(config).init, jax.random.key(0))


def batch_of(kind: str) -> dict[str, np.ndarray]:
    return tiny.some_batch("prefix" if kind == "decoder" else kind)


def logits(model: Any, kind: str, params: Any, key: jax.Array | None = None) -> np.ndarray:
    hidden = jax.jit(model.hidden)(params, batch_of(kind), dropout_rng=key)
    return np.asarray(model.logits(params, hidden))


@pytest.mark.parametrize("kind", CHANGES)
def test_every_field_is_named_here(kind: str) -> None:
    named = [name for group in CHANGES[kind] for name in group]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(tiny.config(kind)))


@pytest.mark.parametrize(("kind", "name"), every("tree"))
def test_field_shows_in_the_parameters(kind: str, name: str) -> None:
    assert abstract(changed(kind, name)) != abstract(tiny.config(kind))


@pytest.fixture(scope="module")
def before() -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    """Parameters of each kind and their logits."""
    models = {kind: tiny.model_and_params(kind) for kind in CHANGES}
    return {kind: (params, logits(model, kind, params)) for kind, (model, params) in models.items()}


@pytest.mark.parametrize(("kind", "name"), every("logits"))
def test_field_shows_in_the_logits(kind: str, name: str, before: dict[str, Any]) -> None:
    params, expected = before[kind]
    key = jax.random.key(1) if name == "dropout_rate" else None
    assert np.abs(logits(make_model(changed(kind, name)), kind, params, key) - expected).max() > 1e-3


@pytest.mark.parametrize(("kind", "name"), every("init"))
def test_field_shows_in_fresh_parameters(kind: str, name: str) -> None:
    values = {}, {name: CHANGES[kind].init[name]}
    before, after = (tiny.model_and_params(kind, **v)[1]["token_embedder"]["embedding"] for v in values)
    np.testing.assert_allclose(np.std(after) / np.std(before), 2.0, rtol=1e-4)


@pytest.mark.parametrize(("kind", "name"), every("program"))
def test_field_shows_in_the_program(kind: str, name: str) -> None:
    def program(config: Any) -> str:
        model = make_model(config)
        loss = jax.grad(lambda params: model.hidden(params, batch_of(kind)).sum())
        return str(jax.make_jaxpr(loss)(abstract(config)))

    assert program(tiny.config(kind)) != program(changed(kind, name))


def test_the_start_id_is_what_the_decoder_begins_with() -> None:
    model, params = tiny.model_and_params("t5")
    other = make_model(changed("t5", "decoder_start_id"))
    prompts = [tiny.tokens(5, seed=seed) for seed in range(4)]
    answers = [generate(m, params, prompts, max_new_tokens=3, eos_id=1, pad_id=0) for m in (model, other)]
    assert [a.tolist() for a in answers[0]] != [a.tolist() for a in answers[1]]


@pytest.mark.parametrize("kind", CHANGES)
def test_vocab_size_hides_the_padding_rows(kind: str) -> None:
    model, params = tiny.model_and_params(kind, vocab_multiple=8)
    found = logits(model, kind, params)
    assert found.shape[-1] == model.config.vocab_rows == 40
    assert model.unembedding(params).vocab_size == tiny.VOCAB
    assert (found[..., tiny.VOCAB :] < -1e29).all()
    assert (found[..., : tiny.VOCAB] > -1e3).all()


def test_t5_pads_its_vocabulary_by_default() -> None:
    values = dataclasses.asdict(tiny.config("t5"))
    del values["vocab_multiple"]
    assert config_from_dict(values).vocab_rows == 128


@pytest.mark.parametrize("kind", [*CHANGES, "pattern"])
def test_json_round_trip(kind: str) -> None:
    config = tiny.config(kind, remat="minimal", dropout_rate=0.1)
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_all_problems_of_a_dict_at_once() -> None:
    values = dataclasses.asdict(tiny.config()) | {
        "rope_teta": 1.0,
        "emb_dim": "16",
        "num_layers": True,
        "layer_windows": [3, 0.5],
        "rope_scaling": {"kind": "linear", "factr": 2.0},
    }
    del values["norm_epsilon"]
    with pytest.raises(ConfigError) as error:
        config_from_dict(values)
    assert len(error.value.problems) == 7
    for part in (
        "'rope_theta'",
        "'norm_epsilon' is missing",
        "'emb_dim' is '16'",
        "must be int",
        "'layer_windows' is 0.5",
        "'rope_scaling' field 'factr'; nearest: 'factor'",
        "'rope_scaling' field 'factor' is missing",
    ):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="nearest: 'decoder'"):
        config_from_dict(values | {"family": "decodr"})
    wrong = dataclasses.asdict(tiny.config("t5")) | {"gated_mlp": 1, "relative_bucket": 32}
    with pytest.raises(ConfigError) as error:
        config_from_dict(wrong)
    for part in ("'gated_mlp' is 1, must be bool", "nearest: 'relative_buckets'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("decoder", {"num_heads": 5}, "multiple of num_kv_heads, 2"),
        ("decoder", {"head_dim": 7}, "head_dim is 7, must be even"),
        ("decoder", {"activation": "sliu"}, "nearest: 'silu'"),
        ("decoder", {"dtype": "float16"}, "dtype 'float16'"),
        ("decoder", {"remat": "ful"}, "nearest: 'full'"),
        ("decoder", {"attention": "slash"}, "nearest: 'splash'"),
        ("t5", {"attention": "splash"}, "a bias on the scores"),
        ("decoder", {"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ("decoder", {"num_layers": 0}, "num_layers is 0"),
        ("decoder", {"rope_theta": 0.0}, "rope_theta is 0.0"),
        ("decoder", {"norm_epsilon": 0.0}, "norm_epsilon is 0.0"),
        ("decoder", {"layer_windows": (3, -1)}, "no window may be below 0"),
        ("decoder", {"layer_windows": (3, 3, 3)}, "layer_windows has 3 entries, more than num_layers, 2"),
        ("decoder", {"layer_ropes": ("global", "locl")}, "nearest: 'local'"),
        ("decoder", {"layer_ropes": ("global",)}, "local_rope_theta is 40.0 and layer_ropes is"),
        ("decoder", {"attention_soft_cap": 0.0}, "attention_soft_cap is 0.0, must be positive"),
        ("decoder", {"qk_norm": "heads"}, "nearest: 'head'"),
        ("decoder", {"norm_placement": "post", "parallel_block": True}, "must be 'pre' in a parallel_block"),
        ("decoder", CHANGES["decoder"].refused, "decoder family 'encoder'"),
        ("t5", {"num_encoder_layers": 0}, "num_encoder_layers is 0"),
        ("t5", {"activation": "gated-gelu"}, "activation 'gated-gelu'"),
        ("t5", {"relative_buckets": 9}, "relative_buckets is 9, must be even"),
        ("t5", {"relative_buckets": 2}, "must be even and at least 4"),
        ("t5", {"relative_max_distance": 4}, "relative_max_distance is 4, must be above 4"),
        ("t5", {"decoder_start_id": 37}, "decoder_start_id is 37, must be in 0 to 36"),
        ("t5", {"norm_epsilon": 0.0}, "T5Config: norm_epsilon is 0.0"),
        ("t5", CHANGES["t5"].refused, "t5 family 'encoder'"),
    ],
)
def test_wrong_values(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.config(kind, **changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "lama3"}, "nearest: 'llama3'"),
        ({"kind": "linear", "beta_fast": 2.0}, "beta_fast is 2.0, not part of the kind 'linear'"),
        ({"kind": "llama3", "low_frequency_factor": 1.0}, "original_length is None, needed .* 'llama3'"),
        ({"kind": "linear", "factor": -2.0}, "factor is -2.0, must be positive"),
    ],
)
def test_wrong_scalings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RopeScaling(**({"factor": 2.0} | values))


def test_no_model_for_something_else() -> None:
    with pytest.raises(ConfigError, match="DecoderConfig, T5Config"):
        make_model({"family": "decoder"})
