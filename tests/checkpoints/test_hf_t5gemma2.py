"""T5Gemma 2's folders: the text part of a checkpoint that has more, in and out."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t5x_instruct.checkpoints.convert.hf_config import config_from_hf, config_to_hf
from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.models.t5gemma import T5GemmaConfig
from tests.parity.goldens import config_of, load, tensors

from . import tiny_hf as tiny
from .states import bits

TIED, UNTIED = tiny.T5GEMMA2
OF_IMAGES = {
    "model.encoder.vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.weight": np.ones((4, 4), np.float32),
    "model.encoder.vision_tower.vision_model.post_layernorm.bias": np.ones(4, np.float32),
    "model.encoder.multi_modal_projector.mm_input_projection_weight": np.ones((4, 16), np.float32),
}


def released(name: str) -> str:
    """The name that the released checkpoints have for a tensor of the model."""
    return name.replace("model.encoder.text_model.", "model.encoder.")


@pytest.mark.parametrize("case", tiny.T5GEMMA2)
def test_what_was_read_is_written_bit_for_bit(tmp_path: Path, case: str) -> None:
    golden = tiny.write_folder(tmp_path / "in", case)
    source = open_source(str(tmp_path / "in"))
    export_hf(source.tensors, source.model_config, source.vocabulary, tmp_path / "out", context_length=24)
    written = load_file(tmp_path / "out" / "model.safetensors")
    expected = {released(name): array for name, array in tensors(golden, "tensor").items()}
    assert bits({name: written[name] for name in expected}) == bits(expected)
    # A tower of no layers goes along, so that transformers misses nothing.
    beside = {name: array for name, array in written.items() if name not in expected}
    assert all(name.startswith(("model.encoder.vision_tower.", "model.encoder.multi_modal")) for name in beside)
    assert sum(array.size for array in beside.values()) < 30
    assert not any(array.any() for array in beside.values())
    again = open_source(str(tmp_path / "out"))
    assert again.model_config == source.model_config
    assert bits(again.params_fn(None)) == bits(source.params_fn(None))
    values, given = json.loads((tmp_path / "out" / "config.json").read_text()), json.loads(str(golden["config"]))
    for side, wanted in (("decoder", given["decoder"]), ("text_config", given["encoder"]["text_config"])):
        found = values[side] if side in values else values["encoder"][side]
        differing = {name for name in found.keys() & wanted.keys() if found[name] != wanted[name]}
        # Ropes are said in two ways; an encoder has neither a start nor logits.
        said_otherwise = {"rope_parameters"}
        if side == "text_config":
            said_otherwise |= {"bos_token_id", "final_logit_softcapping"}
        assert not differing - said_otherwise, (side, differing)


def test_the_released_names_and_what_reads_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    golden = tiny.write_folder(tmp_path, TIED)
    expected = bits(open_source(str(tmp_path)).params_fn(None))
    held = {released(name): array for name, array in tensors(golden, "tensor").items()}
    # Files may hold the tied ones, too.
    held["model.decoder.embed_tokens.weight"] = held["model.encoder.embed_tokens.weight"]
    save_file(held | OF_IMAGES, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        source = open_source(str(tmp_path))
    assert bits(source.params_fn(None)) == expected
    (warning,) = (record.getMessage() for record in caplog.records if "left out" in record.getMessage())
    for part in ("3 tensors are left out on purpose", "vision_tower.* (2)", "multi_modal_projector.* (1)"):
        assert part in warning


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    golden = tiny.write_folder(tmp_path, TIED)
    held = {released(name): array for name, array in tensors(golden, "tensor").items()}
    held["model.encoder.visoin_tower.weight"] = np.ones(3, np.float32)
    del held["model.decoder.layers.1.self_attn.q_norm.weight"]
    held["model.decoder.embed_tokens.eoi_embedding"] = held["model.encoder.embed_tokens.eoi_embedding"] + 1
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        open_source(str(tmp_path))
    for part in ("2 tensors", "layers.1.self_attn.q_norm.weight' is missing", "visoin_tower.weight', shape (3,)"):
        assert part in str(error.value)
    held["model.decoder.layers.1.self_attn.q_norm.weight"] = np.ones(8, np.float32)
    del held["model.encoder.visoin_tower.weight"]
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="eoi_embedding, but the two differ"):
        open_source(str(tmp_path))


def read(values: Any) -> T5GemmaConfig:
    config = config_from_hf(values, own_head=False, where="here")
    assert isinstance(config, T5GemmaConfig)
    return config


def test_what_a_file_leaves_out_is_as_in_transformers() -> None:
    config = read({"model_type": "t5gemma2", "encoder": {"text_config": {}}, "decoder": {}})
    stack = config.decoder
    assert config.encoder == stack
    assert (config.vocab_size, config.end_of_image_id, config.decoder_start_id) == (262_208, 256_000, 2)
    assert (config.logits_soft_cap, config.tie_embeddings, config.share_embeddings) == (None, True, True)
    assert (stack.emb_dim, stack.num_layers, stack.num_heads, stack.num_kv_heads) == (2304, 26, 8, 4)
    assert (stack.rope_theta, stack.local_rope_theta, stack.rope_scaling) == (1e6, 1e4, None)
    assert stack.layer_windows == ((4096,) * 5 + (0,)) * 4 + (4096,) * 2
    assert stack.qk_norm


def test_what_is_not_supported_is_all_said() -> None:
    values = json.loads(str(load(TIED)["config"]))
    values["decoder"] |= {"attn_logit_softcapping": 50.0, "attention_bias": True, "unheard_of": 3}
    values["encoder"]["text_config"]["layer_types"] = ["full_attention"]
    with pytest.raises(CheckpointError) as error:
        read(values)
    for part in (
        "decoder: attn_logit_softcapping is 50.0",
        "decoder: attention_bias is True",
        "decoder: unknown setting 'unheard_of'",
        "text_config: layer_types is ['full_attention']",
    ):
        assert part in str(error.value)


def test_models_that_transformers_does_not_have_are_refused() -> None:
    config = config_of(load(TIED))
    of_decoder = {"attention_soft_cap": 3.0, "layer_windows": (3, 5), "num_heads": 3, "num_kv_heads": 3}
    changed = dataclasses.replace(
        config,
        share_embeddings=False,
        end_of_image_id=None,
        encoder_window="each_side",
        decoder=dataclasses.replace(config.decoder, **of_decoder),
    )
    with pytest.raises(CheckpointError) as error:
        config_to_hf(changed, 64)
    for part in (
        "T5Gemma 2 cannot have",
        "share_embeddings=False",
        "end_of_image_id=None",
        "encoder_window='each_side'",
        "decoder.attention_soft_cap=3.0",
        "decoder.layer_windows=[3, 5]",
        "decoder.emb_dim=16, which is no multiple of num_heads=3",
    ):
        assert part in str(error.value)
    # One rope for all layers is two that are equal.
    plain = dataclasses.replace(config.decoder, rope_scaling=None, local_rope_theta=None)
    again = read(config_to_hf(dataclasses.replace(config, decoder=plain), 64))
    assert (again.decoder.rope_theta, again.decoder.local_rope_theta) == (300.0, 300.0)
