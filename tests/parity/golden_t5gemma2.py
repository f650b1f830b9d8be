"""T5Gemma 2's golden files: the text part of a whole model. Needs torch and transformers."""

from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

from tests.parity.golden_parts import PAD_ID, Arrays, draw, encoder_decoder

# Both sides are equally wide, and differ in all else. Windows are shorter than the inputs and the targets; an even one
# of the encoder reaches further ahead than back. Of the end of an image there is an id that texts hold.
CASES: dict[str, dict[str, Any]] = {
    "t5gemma2_tied": {
        "tie_word_embeddings": True,
        "eoi_token_index": 38,
        "encoder": {
            "vocab_size": 59,
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 3e-3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 700.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
            },
            "query_pre_attn_scalar": 9,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "decoder": {
            "vocab_size": 59,
            "hidden_size": 16,
            "intermediate_size": 22,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 7e-3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
            "query_pre_attn_scalar": 5,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 4.0,
            "bos_token_id": 3,
        },
    },
    "t5gemma2_untied": {
        "tie_word_embeddings": False,
        "eoi_token_index": 37,
        "encoder": {
            "vocab_size": 53,
            "hidden_size": 18,
            "intermediate_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 4,
            "hidden_activation": "gelu",
            "rms_norm_eps": 2e-3,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": 3.0,
                    "original_max_position_embeddings": 8,
                    "rope_theta": 500.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
            },
            "query_pre_attn_scalar": 7,
            "sliding_window": 7,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        "decoder": {
            "vocab_size": 53,
            "hidden_size": 18,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "hidden_activation": "gelu",
            "rms_norm_eps": 5e-3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 200.0},
            },
            "query_pre_attn_scalar": 3,
            "sliding_window": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "bos_token_id": 2,
        },
    },
}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 4,
    "patch_size": 2,
}
_OF_IMAGES = ("model.encoder.vision_tower.", "model.encoder.multi_modal_projector.")


def build(case: str) -> Any:
    """A transformers model with weights drawn by NumPy, large enough that logits differ clearly."""
    settings = CASES[case]
    common = {"pad_token_id": PAD_ID, "max_position_embeddings": 24}
    encoder = {
        "text_config": settings["encoder"] | common,
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
        "eoi_token_index": settings["eoi_token_index"],
    }
    decoder = settings["decoder"] | common
    config = T5Gemma2Config(encoder=encoder, decoder=decoder, tie_word_embeddings=settings["tie_word_embeddings"])
    model = T5Gemma2ForConditionalGeneration._from_config(config, attn_implementation="eager").float().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(_OF_IMAGES))
    draw(model, 400 + list(CASES).index(case), partial(_stddev, settings))
    with torch.no_grad():  # norms are stored as what is added to one
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter -= 1.0
    return model


def _stddev(settings: dict[str, Any], name: str, shape: tuple[int, ...]) -> float | None:
    if name == "lm_head.out_proj.weight":
        return 1.5 * shape[-1] ** -0.5
    if name.endswith("embed_tokens.weight"):
        return 0.12 if settings["tie_word_embeddings"] else 1.0  # a tied head would repeat the last token otherwise
    return None


def compute(case: str) -> Arrays:
    """Everything one golden file holds."""
    model, decoder = build(case), CASES[case]["decoder"]
    rng = np.random.default_rng(1_400 + list(CASES).index(case))
    held = encoder_decoder(model, rng, vocab_size=decoder["vocab_size"], start_id=decoder["bos_token_id"], lowest_id=1)
    return {"config": np.array(model.config.to_json_string())} | held
