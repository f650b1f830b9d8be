"""The decoder families' `config.json`: older spellings, what is refused, and which family an export is of."""

import dataclasses
import json
from typing import Any

import pytest

from t5x_instruct.checkpoints.convert.hf_config import config_from_hf, config_to_hf
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.layers.rope import RopeScaling
from tests.models import tiny

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 131_072,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 8.0, "original_max_position_embeddings": 8192, "beta_fast": 32, "beta_slow": 1}


def read(model_type: str, **values: Any) -> DecoderConfig:
    config = config_from_hf({"model_type": model_type, **SIZES, **values}, own_head=False, where="here")
    assert isinstance(config, DecoderConfig)
    return config


# As version 4 of transformers wrote them.
OLDER: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "llama",
        {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}},
        {
            "rope_theta": 5e5,
            "rope_scaling": RopeScaling(
                kind="llama3", factor=8.0, original_length=8192, low_frequency_factor=1.0, high_frequency_factor=4.0
            ),
        },
    ),
    ("mistral", {"sliding_window": 4096, "head_dim": None}, {"layer_windows": (4096,), "head_dim": 8}),
    ("mistral", {"sliding_window": None}, {"layer_windows": ()}),
    (
        "qwen2",
        {"use_sliding_window": False, "sliding_window": 131_072, "max_window_layers": 28, "use_mrope": False},
        {"layer_windows": (), "qkv_bias": True, "out_bias": False},
    ),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 4},
        {"layer_windows": (0, 0, 0, 0, 32, 32)},
    ),
    ("qwen3", {}, {"head_dim": 128, "qk_norm": "head"}),
    ("smollm3", {}, {"layer_ropes": ("global", "global", "global", "none"), "rope_theta": 2e6}),
    ("smollm3", {"no_rope_layers": [1, 0] * 3}, {"layer_ropes": ("global", "none"), "tie_embeddings": True}),
    (
        "gemma2",
        {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": None},
        {"layer_windows": (4096, 0), "attention_soft_cap": 50.0, "logits_soft_cap": None, "head_dim": 256},
    ),
    ("gemma2", {"sliding_window": 4096}, {"attention_soft_cap": 50.0, "logits_soft_cap": 30.0}),
    ("gemma3_text", {"sliding_window": 512}, {"attention_soft_cap": None, "logits_soft_cap": None}),
    (
        "gemma3_text",
        {
            "sliding_window": 512,
            "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "layer_windows": (512, 512, 0),
            "layer_ropes": ("local", "local", "global"),
            "rope_theta": 1e6,
            "local_rope_theta": 1e4,
            "rope_scaling": RopeScaling(kind="linear", factor=8.0),
        },
    ),
    ("olmo2", {"rope_theta": 5e5}, {"norm_placement": "post", "qk_norm": "projection", "rope_scaling": None}),
    (
        "olmo3",
        {"rope_theta": 5e5, "sliding_window": 4096, "rope_scaling": YARN | {"rope_type": "yarn"}},
        {
            "layer_windows": (4096, 4096, 4096, 0),
            "layer_ropes": ("local", "local", "local", "global"),
            "local_rope_theta": 5e5,
            "rope_scaling": RopeScaling(
                kind="yarn",
                factor=8.0,
                original_length=8192,
                beta_fast=32.0,
                beta_slow=1.0,
                attention_factor=1.2079441541679836,
                truncate=True,
            ),
        },
    ),
    ("olmo3", {"rope_theta": 5e5, "sliding_window": 4096}, {"layer_ropes": (), "local_rope_theta": None}),
    (
        "cohere2",
        {"rope_theta": 5e4, "sliding_window": 64, "sliding_window_pattern": 4, "use_parallel_block": True},
        {
            "layer_windows": (64, 64, 64, 0),
            "layer_ropes": ("global", "global", "global", "none"),
            "logits_multiplier": 0.0625,
            "norm": "layer",
        },
    ),
]


@pytest.mark.parametrize(("model_type", "values", "expected"), OLDER)
def test_older_files_are_read(model_type: str, values: dict[str, Any], expected: dict[str, Any]) -> None:
    config = read(model_type, **values)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("model_type", "values", "messages"),
    [
        (
            "gemma3_text",
            {
                "use_bidirectional_attention": True,
                "attn_logit_softcapping": 50.0,
                "hidden_activation": "gelu_tanh",
                "layer_types": ["full_attention"] * 5,
                "rope_parameters": {"full_attention": {"rope_type": "longrope"}, "sliding": {}},
            },
            [
                "use_bidirectional_attention is True; only False",
                "attn_logit_softcapping is 50.0; only leaving it out",
                "hidden_activation: unknown value 'gelu_tanh'",
                "layer_types is ['full_attention'",
                "rope_parameters: full_attention: unknown rope_type 'longrope'",
                "must have 'full_attention' and 'sliding_attention'",
            ],
        ),
        ("smollm3", {"no_rope_layers": [1, 0]}, ["no_rope_layers is [1, 0], must be 0 or 1 for each of 6 layers"]),
        ("qwen3", {"layer_types": ["sliding_attention"] * 6, "sliding_window": 4}, ["use_sliding_window is false"]),
        ("gemma2", {}, ["sliding_window is missing"]),
        ("cohere", {"use_qk_norm": True}, ["use_qk_norm is True", "rope_theta is missing"]),
        ("cohere2", {"rope_theta": 1e4, "sliding_window": 4, "head_dim": 16}, ["head_dim is 16; only 8 is supported"]),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 0.0}}, ["factor is 0.0, must be positive"]),
        ("olmo2", {"clip_qkv": 8.0}, ["unknown setting 'clip_qkv'"]),
        ("mistral", {"rms_norm_eps": 10**400}, ["larger than any float"]),
    ],
)
def test_what_is_not_honoured_is_refused(model_type: str, values: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(CheckpointError) as error:
        read(model_type, **values)
    for message in messages:
        assert message in str(error.value)


def plain(**changes: Any) -> DecoderConfig:
    config: DecoderConfig = tiny.config("decoder", **({"layer_ropes": (), "local_rope_theta": None} | changes))
    return config


GEMMA: dict[str, Any] = {"scale_embeddings": True, "norm_around_one": True, "norm_placement": "both"}


@pytest.mark.parametrize(
    ("changes", "model_type"),
    [
        ({}, "llama"),
        ({"qkv_bias": True, "out_bias": True, "mlp_bias": True}, "llama"),
        ({"layer_windows": (7,)}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": "head"}, "qwen3"),
        ({"layer_ropes": ("global", "none")}, "smollm3"),
        (GEMMA | {"attention_soft_cap": 3.0}, "gemma2"),
        (GEMMA | {"qk_norm": "head", "layer_windows": (4, 0), "logits_soft_cap": 2.0}, "gemma3_text"),
        ({"qk_norm": "projection", "norm_placement": "post"}, "olmo2"),
        ({"qk_norm": "projection", "norm_placement": "post", "layer_windows": (4, 0)}, "olmo3"),
        ({"parallel_block": True, "norm": "layer", "num_kv_heads": 1}, "cohere"),
    ],
)
def test_an_export_is_of_the_family_that_is_all_of_it(changes: dict[str, Any], model_type: str) -> None:
    config = plain(**changes)
    values = json.loads(json.dumps(config_to_hf(config, 64)))
    assert values["model_type"] == model_type
    again = config_from_hf(values, own_head=True, where="here")
    kept = {name: getattr(config, name) for name in ("embedding_init_stddev", "attention_chunk")}
    written = {"query_pre_attn_scalar": float(config.head_dim)} if "norm_around_one" in changes else {}
    assert dataclasses.replace(again, **kept) == dataclasses.replace(config, **written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_windows": (3, 5)}, "the closest is .*, which cannot have .*layer_windows=\\(3, 5\\)"),
        ({"norm": "layer"}, "cannot have norm='layer'"),
        ({"attention_soft_cap": 3.0, "qk_norm": "projection"}, "(attention_soft_cap=3.0|qk_norm=.projection)"),
        ({"prefix_lm": True}, "a prefix-LM cannot be exported"),
    ],
)
def test_what_no_family_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_to_hf(plain(**changes), 64)
