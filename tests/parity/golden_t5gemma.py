"""T5Gemma's golden files. Needs torch and transformers."""

import json
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration, T5GemmaModuleConfig

from tests.parity.golden_parts import PAD_ID, Arrays, draw, encoder_decoder

# The sides differ in every size. Windows are shorter than the inputs and the targets.
CASES: dict[str, dict[str, Any]] = {
    "t5gemma_tied": {
        "vocab_size": 59,
        "tie_word_embeddings": True,
        "encoder": {
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 3e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
            "query_pre_attn_scalar": 9,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 77.0,
        },
        "decoder": {
            "hidden_size": 20,
            "intermediate_size": 22,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 7e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
            "query_pre_attn_scalar": 5,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "attn_logit_softcapping": 2.5,
            "final_logit_softcapping": 4.0,
            "bos_token_id": 3,
        },
    },
    "t5gemma_untied": {
        "vocab_size": 53,
        "tie_word_embeddings": False,
        "encoder": {
            "hidden_size": 18,
            "intermediate_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 4,
            "hidden_activation": "gelu",
            "rms_norm_eps": 2e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 90.0},
            "query_pre_attn_scalar": 7,
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention"],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        "decoder": {
            "hidden_size": 18,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "hidden_activation": "gelu",
            "rms_norm_eps": 5e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1500.0},
            "query_pre_attn_scalar": 3,
            "sliding_window": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "bos_token_id": 2,
        },
    },
}


def build(case: str) -> Any:
    """A transformers model with weights drawn by NumPy, large enough that logits differ clearly."""
    settings = CASES[case]
    more = {"vocab_size": settings["vocab_size"], "pad_token_id": PAD_ID, "max_position_embeddings": 4096}
    sides = {side: T5GemmaModuleConfig(**settings[side], **more) for side in ("encoder", "decoder")}
    tied = settings["tie_word_embeddings"]
    config = T5GemmaConfig(**sides, vocab_size=more["vocab_size"], tie_word_embeddings=tied)
    config._attn_implementation = "eager"
    model = T5GemmaForConditionalGeneration(config).float().eval()
    draw(model, 300 + sorted(CASES).index(case), partial(_stddev, settings))
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
    settings = CASES[case]
    vocab_size, start_id = settings["vocab_size"], settings["decoder"]["bos_token_id"]
    rng = np.random.default_rng(1_300 + sorted(CASES).index(case))
    held = encoder_decoder(build(case), rng, vocab_size=vocab_size, start_id=start_id, lowest_id=1)
    return {"settings": np.array(json.dumps(settings))} | held
