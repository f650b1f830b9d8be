"""T5's golden files. Needs torch and transformers."""

import json
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from tests.parity.golden_parts import PAD_ID, Arrays, beams, draw, encoder_decoder, next_of_encoder_decoder

# `tied_head` and `scale` are ours: transformers ties every T5's head and calls "tied" what scales the decoder's output.
CASES: dict[str, dict[str, Any]] = {
    "t5_1_0": {
        "vocab_size": 59,
        "d_model": 20,
        "d_kv": 6,
        "num_heads": 4,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "d_ff": 28,
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 20,
        "layer_norm_epsilon": 3e-3,
        "decoder_start_token_id": 3,
        "tied_head": True,
        "scale": True,
    },
    "t5_1_1": {
        "vocab_size": 53,
        "d_model": 18,
        "d_kv": 5,
        "num_heads": 3,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "d_ff": 26,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 13,
        "layer_norm_epsilon": 2e-2,
        "decoder_start_token_id": 0,
        "tied_head": False,
        "scale": False,
    },
    "t5_tied_gated": {
        "vocab_size": 61,
        "d_model": 16,
        "d_kv": 8,
        "num_heads": 5,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "d_ff": 24,
        "feed_forward_proj": "gated-silu",
        "relative_attention_num_buckets": 18,
        "relative_attention_max_distance": 23,
        "layer_norm_epsilon": 1e-4,
        "decoder_start_token_id": 60,
        "tied_head": True,
        "scale": False,
    },
    "t5_mt5": {
        "kind": "mt5",
        "vocab_size": 57,
        "d_model": 14,
        "d_kv": 6,
        "num_heads": 3,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "d_ff": 22,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 10,
        "relative_attention_max_distance": 17,
        "layer_norm_epsilon": 5e-3,
        "decoder_start_token_id": 2,
        "tied_head": False,
        "scale": False,
    },
    "t5_umt5": {
        "kind": "umt5",
        "vocab_size": 47,
        "d_model": 18,
        "d_kv": 5,
        "num_heads": 4,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "d_ff": 20,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 14,
        "relative_attention_max_distance": 19,
        "layer_norm_epsilon": 8e-3,
        "decoder_start_token_id": 5,
        "tied_head": False,
        "scale": False,
    },
    "t5_umt5_tied": {
        "kind": "umt5",
        "vocab_size": 51,
        "d_model": 16,
        "d_kv": 6,
        "num_heads": 3,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "d_ff": 24,
        "feed_forward_proj": "gated-relu",
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 21,
        "layer_norm_epsilon": 2e-3,
        "decoder_start_token_id": 7,
        "tied_head": True,
        "scale": True,
    },
    "t5_byt5": {  # 256 bytes, 3 specials, 5 sentinels
        "vocab_size": 264,
        "d_model": 14,
        "d_kv": 6,
        "num_heads": 3,
        "num_layers": 3,
        "num_decoder_layers": 1,
        "d_ff": 18,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 10,
        "relative_attention_max_distance": 15,
        "layer_norm_epsilon": 2e-2,
        "decoder_start_token_id": 4,
        "tied_head": False,
        "scale": False,
    },
}
CLASSES = {
    "t5": (T5Config, T5ForConditionalGeneration),
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration),
}
BEAM_CASES = ("t5_1_1",)
BEAM_PROMPTS = [5, 16, 9, 2, 12, 3, 8, 14, 4, 15, 7, 11, 6, 10]


def build(case: str) -> Any:
    """A transformers model with weights drawn by NumPy, large enough that logits differ clearly."""
    settings = dict(CASES[case])
    tied, scale = settings.pop("tied_head"), settings.pop("scale")
    config_class, model_class = CLASSES[settings.pop("kind", "t5")]
    config = config_class(**settings, dropout_rate=0.0, pad_token_id=PAD_ID)
    config.scale_decoder_outputs = scale
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    if isinstance(config, UMT5Config):
        # Version 5 scales every umT5's output; T5X, which trained them, and version 4 only that of a tied head.
        config.tie_word_embeddings = scale
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))
    draw(model, 100 + list(CASES).index(case), partial(_stddev, CASES[case]))
    return model


def _stddev(settings: dict[str, Any], name: str, shape: tuple[int, ...]) -> float | None:
    if name == "shared.weight":
        return 0.5 if settings["tied_head"] and not settings["scale"] else 1.0
    if name.endswith(".q.weight"):
        # Scores are not divided.
        return 1.5 * (settings["d_model"] * settings["d_kv"]) ** -0.5
    if name.endswith("relative_attention_bias.weight"):
        return 1.5
    if name.endswith((".o.weight", ".wo.weight")) and settings["tied_head"]:
        # Above what the residual stream begins with: a tied head would only repeat the last token otherwise.
        return 4.0 * shape[-1] ** -0.5
    if name == "lm_head.weight":
        return 2.5 * settings["d_model"] ** -0.5
    return None


def compute(case: str) -> Arrays:
    """Everything one golden file holds."""
    settings = CASES[case]
    model, start_id = build(case), settings["decoder_start_token_id"]
    rng = np.random.default_rng(1_100 + list(CASES).index(case))
    out = encoder_decoder(model, rng, vocab_size=settings["vocab_size"], start_id=start_id)
    out |= {"settings": np.array(json.dumps(settings))}
    if case in BEAM_CASES:
        prompts = [rng.integers(0, settings["vocab_size"], n) for n in BEAM_PROMPTS]
        out |= beams(model, next_of_encoder_decoder(model, start_id), prompts, eos_id=4)
    return out
