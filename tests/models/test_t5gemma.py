"""T5Gemma (2): its configuration, and that each constant of either side is read (values: tests/parity)."""

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
from tests.parity.encoder_decoder_families import batch_of
from tests.parity.goldens import Golden, config_of, load, tensors


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load("t5gemma_tied")


def with_side(config: T5GemmaConfig, side: str, **changes: Any) -> T5GemmaConfig:
    return dataclasses.replace(config, **{side: dataclasses.replace(getattr(config, side), **changes)})


@pytest.mark.parametrize("case", ["t5gemma_tied", "t5gemma2_tied", "t5gemma2_untied"])
def test_json_and_back(case: str) -> None:
    config = config_of(load(case))
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
    several = with_side(dataclasses.replace(config, end_of_image_id=4), "decoder", layer_windows=(3, 5), qk_norm=True)
    with pytest.raises(CheckpointError) as lost:
        config_to_hf(several, 64)
    for part in ("end_of_image_id=4", "decoder.layer_windows=[3, 5]", "decoder.qk_norm=True"):
        assert part in str(lost.value)
    wrong_model = {"merged_attention": True, "encoder_window": "both", "end_of_image_id": -1}
    with pytest.raises(ConfigError) as problems:
        dataclasses.replace(config, **wrong_model)
    for part in (
        "merged_attention is True, but encoder.emb_dim is 16",
        "unknown encoder_window",
        "end_of_image_id is -1",
    ):
        assert part in str(problems.value)


@pytest.mark.parametrize(
    ("side", "changes"),
    [
        ("encoder", {"rope_scaling": None}),
        ("decoder", {"local_rope_theta": None}),
        ("", {"encoder_window": "each_side"}),
        ("", {"end_of_image_id": 8}),
    ],
)
def test_a_forgotten_constant_of_t5gemma_2_would_show(side: str, changes: dict[str, Any]) -> None:
    golden = load("t5gemma2_tied")
    config = config_of(golden)
    config = with_side(config, side, **changes) if side else dataclasses.replace(config, **changes)
    model, params = make_model(config), params_from_hf(tensors(golden, "tensor"), config)
    logits = model.logits(params, jax.jit(model.hidden)(params, batch_of(golden)))
    assert np.abs(np.asarray(logits) - golden["logits"]).max() > 1e-3


def test_what_plans_read_of_a_stack(golden: Golden) -> None:
    config = config_of(golden)
    assert (config.num_encoder_layers, config.num_decoder_layers, config.emb_dim) == (3, 2, 20)


def test_texts_hold_the_token_that_has_an_embedding_of_its_own() -> None:
    for case in ("t5gemma2_tied", "t5gemma2_untied"):
        golden = load(case)
        batch, own = batch_of(golden), config_of(golden).end_of_image_id
        assert (batch["encoder_input_tokens"][batch["encoder_segment_ids"] > 0] == own).any()
        assert (batch["decoder_input_tokens"] == own).any()


def test_padding_of_the_inputs_may_stand_anywhere() -> None:
    golden = load("t5gemma2_tied")
    config = config_of(golden)
    model, params = make_model(config), params_from_hf(tensors(golden, "tensor"), config)
    batch = batch_of(golden)
    tokens, segments = (batch[f"encoder_{name}"] for name in ("input_tokens", "segment_ids"))
    # All but the first row, which is full, on the left instead of the right.
    back = [int(size) - tokens.shape[1] for size in golden["input_lengths"]]
    moved = {
        "encoder_input_tokens": np.stack([np.roll(row, -n) for row, n in zip(tokens, back, strict=True)]),
        "encoder_segment_ids": np.stack([np.roll(row, -n) for row, n in zip(segments, back, strict=True)]),
        "encoder_positions": np.maximum(np.arange(tokens.shape[1])[None] + np.array(back)[:, None], 0).astype(np.int32),
    }
    logits = model.logits(params, jax.jit(model.hidden)(params, batch | moved))
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4)
