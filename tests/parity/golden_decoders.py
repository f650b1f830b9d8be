"""Golden files of the decoder families. Needs torch and transformers."""

import json
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.parity.golden_parts import Arrays, draw, greedy, loss_and_gradients

# Every constant is off its default; texts go beyond every window and every original context.
SIZES: dict[str, Any] = {
    "vocab_size": 43,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
}
SLIDING, FULL = "sliding_attention", "full_attention"
YARN = {
    "rope_type": "yarn",
    "factor": 3.0,
    "original_max_position_embeddings": 20,
    "beta_fast": 5.0,
    "beta_slow": 0.3,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_act": "gelu",
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 200.0,
            "factor": 5.0,
            "low_freq_factor": 1.2,
            "high_freq_factor": 4.5,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 2e-2,
        "tie_word_embeddings": True,
        "sliding_window": 7,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 90.0, "factor": 2.5},
    },
    "qwen2": {
        "hidden_act": "relu",
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "rope_parameters": YARN | {"rope_theta": 300.0, "mscale": 1.4, "mscale_all_dim": 0.6, "truncate": False},
    },
    "qwen3": {
        "hidden_act": "gelu",
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": [FULL, SLIDING, FULL],
        "rope_parameters": YARN | {"rope_theta": 500.0},
    },
    "smollm3": {
        "hidden_act": "gelu",
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "use_sliding_window": True,
        "sliding_window": 9,
        "no_rope_layers": [1, 0, 1],
        "layer_types": [FULL, FULL, SLIDING],
        "rope_parameters": {"rope_type": "linear", "rope_theta": 120.0, "factor": 1.5},
        "pad_token_id": 0,  # the default is beyond the vocabulary
    },
    "gemma2": {
        "hidden_activation": "silu",
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "query_pre_attn_scalar": 5,
        "sliding_window": 6,
        "num_hidden_layers": 4,
        "layer_types": [SLIDING, FULL, FULL, SLIDING],
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 1.5,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 150.0, "factor": 2.0},
    },
    "gemma3_text": {
        "hidden_activation": "gelu",
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "query_pre_attn_scalar": 11,
        "sliding_window": 5,
        "num_hidden_layers": 4,
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
        "final_logit_softcapping": 4.0,
        "rope_parameters": {
            FULL: {"rope_type": "linear", "rope_theta": 400.0, "factor": 3.0},
            SLIDING: {"rope_type": "default", "rope_theta": 30.0},
        },
    },
    "olmo2": {
        "hidden_act": "gelu",
        "rms_norm_eps": 3e-3,
        "tie_word_embeddings": True,
        "pad_token_id": 0,  # whose embedding torch gives no gradient: none of the tokens
        "attention_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 70.0, "factor": 1.7},
    },
    "olmo3": {
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 2e-2,
        "tie_word_embeddings": True,
        "pad_token_id": 0,  # whose embedding torch gives no gradient: none of the tokens
        "attention_bias": True,
        "sliding_window": 6,
        "layer_types": [FULL, SLIDING, SLIDING],
        "rope_parameters": {
            FULL: YARN | {"rope_theta": 350.0, "attention_factor": 1.3},
            SLIDING: {"rope_type": "default", "rope_theta": 350.0},
        },
    },
    # PaLM's block: attention and MLP side by side, one key/value head.
    "cohere": {
        "hidden_act": "gelu",
        "layer_norm_eps": 3e-3,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "num_key_value_heads": 1,
        "logit_scale": 0.4,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 70.0, "factor": 1.7},
    },
    "cohere2": {
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 2e-2,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "hidden_size": 24,
        "head_dim": 6,
        "logit_scale": 0.7,
        "sliding_window": 6,
        "layer_types": [FULL, SLIDING, SLIDING],
        "rope_parameters": {"rope_type": "linear", "rope_theta": 110.0, "factor": 1.3},
    },
}
LENGTHS = np.array([40, 23, 31], np.int32)
PROMPTS = np.array([9, 23, 31], np.int32)
GENERATED = 10


def build(family: str) -> Any:
    """A transformers model with weights drawn by NumPy, large enough that logits differ clearly."""
    config = AutoConfig.for_model(family, **(SIZES | CASES[family]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    around_one = family.startswith("gemma")

    def centre(name: str) -> float:
        return 0.0 if name.endswith(".bias") or around_one else 1.0

    tables = ("model.embed_tokens.weight",)
    seed = 200 + sorted(CASES).index(family)
    draw(model, seed, lambda name, _: 0.4 if name in tables else None, centre)
    return model


def settings(model: Any) -> dict[str, Any]:
    """`config.json` as transformers writes it, without what differs from version to version."""
    values: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {k: v for k, v in values.items() if k != "transformers_version"}


def compute(case: str) -> Arrays:
    """Everything one golden file holds."""
    family = case.removeprefix("decoder_")
    model = build(family)
    rng = np.random.default_rng(2_000 + sorted(CASES).index(family))
    vocab, shape = SIZES["vocab_size"], (len(LENGTHS), int(LENGTHS.max()))
    tokens, targets = rng.integers(1, vocab, shape), rng.integers(0, vocab, shape)
    real = np.arange(shape[1]) < LENGTHS[:, None]
    weights = real * (rng.random(shape) < 0.6) * rng.choice([0.5, 1.0, 2.0], shape)
    logits = model(torch.tensor(tokens), attention_mask=torch.tensor(real).long(), use_cache=False).logits
    out = {
        "config": np.array(json.dumps(settings(model), sort_keys=True)),
        "tokens": tokens.astype(np.int32),
        "lengths": LENGTHS,
        "targets": targets.astype(np.int32),
        "weights": weights.astype(np.float32),
    }
    out |= loss_and_gradients(model, logits, targets, weights)
    out["logits"] = np.where(real[..., None], out["logits"], 0.0).astype(np.float32)

    def next_logits(prompt: np.ndarray, new: list[int]) -> Any:
        return model(torch.tensor([[*prompt, *new]]), use_cache=False).logits[0, -1]

    prompts = [tokens[row, :length] for row, length in enumerate(PROMPTS)]
    return out | {"prompt_lengths": PROMPTS} | greedy(next_logits, prompts, GENERATED)
