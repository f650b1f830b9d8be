"""Llama's golden files. Needs torch and transformers."""

import json
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.parity.golden_parts import Arrays, beams, draw, greedy, loss_and_gradients

CASES: dict[str, dict[str, Any]] = {
    "llama_untied": {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "intermediate_size": 36,
        "rope_theta": 50_000.0,
        "rms_norm_eps": 3e-3,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    "llama_tied": {
        "vocab_size": 53,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "intermediate_size": 28,
        "rope_theta": 700.0,
        "rms_norm_eps": 2e-2,
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
    },
    "llama_one_kv_head": {
        "vocab_size": 47,
        "hidden_size": 18,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "intermediate_size": 40,
        "rope_theta": 2_000_000.0,
        "rms_norm_eps": 1e-4,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,
    },
}
BATCH, LENGTH, GENERATED = 3, 14, 16
BEAM_CASES = ("llama_untied",)
BEAM_PROMPTS = [4, 11, 7, 1, 14, 9, 2, 6]


def build(case: str) -> Any:
    """A transformers model with weights drawn by NumPy, large enough that logits differ clearly."""
    settings = dict(CASES[case])
    theta = settings.pop("rope_theta")
    config = LlamaConfig(
        **settings,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        max_position_embeddings=8_192,
        attention_bias=False,
        mlp_bias=False,
    )
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float().eval()
    draw(model, sorted(CASES).index(case), lambda name, _: 0.4 if name == "model.embed_tokens.weight" else None)
    return model


def compute(case: str) -> Arrays:
    """Everything one golden file holds."""
    model = build(case)
    rng = np.random.default_rng(1_000 + sorted(CASES).index(case))
    vocab = CASES[case]["vocab_size"]
    tokens = rng.integers(0, vocab, (BATCH, LENGTH))
    # Row 0 starts at 0, the others jump, up to 4,000.
    positions = np.stack(
        [
            np.arange(LENGTH),
            np.sort(rng.choice(300, LENGTH, replace=False)),
            4_000 - np.sort(rng.choice(4_001, LENGTH, replace=False))[::-1],
        ]
    )
    positions[2, -1] = 4_000
    targets = rng.integers(0, vocab, (BATCH, LENGTH))
    weights = (rng.random((BATCH, LENGTH)) < 0.6) * rng.choice([0.5, 1.0, 2.0], (BATCH, LENGTH))
    logits = model(torch.tensor(tokens), position_ids=torch.tensor(positions)).logits
    out = {
        "settings": np.array(json.dumps(CASES[case])),
        "tokens": tokens.astype(np.int32),
        "positions": positions.astype(np.int32),
        "targets": targets.astype(np.int32),
        "weights": weights.astype(np.float32),
    }
    out |= loss_and_gradients(model, logits, targets, weights)

    lengths = np.array([5, 9, LENGTH], np.int32)

    def next_logits(prompt: np.ndarray, new: list[int]) -> Any:
        return model(torch.tensor([[*prompt, *new]])).logits[0, -1]

    prompts = [tokens[row, :length] for row, length in enumerate(lengths)]
    out |= {"prompt_lengths": lengths} | greedy(next_logits, prompts, GENERATED)
    if case in BEAM_CASES:
        out |= beams(model, next_logits, [rng.integers(0, vocab, n) for n in BEAM_PROMPTS], eos_id=45)
    return out
