"""T5Gemma: its configuration, and that each constant of either side is read (values: tests/parity)."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.hf_config import config_from_hf, config_to_hf
from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.common.errors import CheckpointError, ConfigError
from t5x_instruct.models.presets import config_from_dict, make_model
from t5x_instruct.models.t5gemma import T5GemmaConfig
from tests.parity.goldens import Golden, config_of, load, tensors
from tests.parity.test_t5 import batch_of

CASE = "t5gemma_tied"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load(CASE)


def with_side(config: T5GemmaConfig, side: str, **changes: Any) -> T5GemmaConfig:
    return dataclasses.replace(config, **{side: dataclasses.replace(getattr(config, side), **changes)})


def test_json_and_back(golden: Golden) -> None:
    config = config_of(golden)
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    theirs = json.loads(json.dumps(config_to_hf(config, 64)))
    again = config_from_hf(theirs, own_head=False, where="here")
    # A file has all layers, and nothing of the padding of the vocabulary.
    assert dataclasses.replace(again, vocab_multiple=1) == config


@pytest.mark.parametrize(
    ("side", "changes"),
    [
        ("encoder", {"rope_theta": 10_000.0}),
        ("decoder", {"query_pre_attn_scalar": 256.0}),
        ("encoder", {"attention_soft_cap": 50.0}),
        ("decoder", {"layer_windows": (0,)}),
        ("encoder", {"norm_epsilon": 1e-1}),
    ],
)
def test_a_forgotten_constant_would_show(golden: Golden, side: str, changes: dict[str, Any]) -> None:
    config = with_side(config_of(golden), side, **changes)
    model, params = make_model(config), params_from_hf(tensors(golden, "tensor"), config)
    logits = model.logits(params, jax.jit(model.hidden)(params, batch_of(golden)))
    assert np.abs(np.asarray(logits) - golden["logits"]).max() > 1e-3


def test_all_that_is_wrong_is_said(golden: Golden) -> None:
    config = config_of(golden)
    wrong = {"num_kv_heads": 3, "head_dim": 7, "layer_windows": (), "attention_soft_cap": 0.0}
    with pytest.raises(ConfigError) as error:
        with_side(config, "encoder", **wrong)
    for part in ("encoder.num_heads is 4", "encoder.head_dim is 7", "encoder.layer_windows", "encoder.attention_soft"):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="logits_soft_cap is -1"):
        dataclasses.replace(config, logits_soft_cap=-1.0)
    settings = config_to_hf(config, 64)
    settings["encoder"] |= {"attention_bias": True, "layer_types": ["full_attention"]}
    with pytest.raises(CheckpointError) as refused:
        config_from_hf(settings, own_head=False, where="here")
    for part in ("encoder: attention_bias is True", "encoder: layer_types is ['full_attention']"):
        assert part in str(refused.value)
    several = with_side(config, "decoder", layer_windows=(3, 5))
    with pytest.raises(CheckpointError, match="one window in a stack"):
        config_to_hf(several, 64)
