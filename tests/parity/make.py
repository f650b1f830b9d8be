"""Makes the golden files of tests/parity from transformers' LlamaForCausalLM.

    pip install t5x_instruct[parity]      # transformers and torch
    python tests/parity/make.py --out tests/golden

Each file holds tiny random weights, inputs, and what transformers makes of them in float32: logits, gradients of a
masked loss, and greedily generated tokens with the margin between the two best logits. Every constant is off its
default, and positions reach 4,000, so that a constant that is not read shows.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

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


def build(case: str) -> Any:
    """A transformers model with weights drawn by NumPy, large enough that logits differ clearly."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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
    rng = np.random.default_rng(sorted(CASES).index(case))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = rng.normal(size=tuple(parameter.shape))
            fan_in = parameter.shape[-1]
            drawn = 1.0 + 0.3 * noise if parameter.ndim == 1 else 1.5 * noise * fan_in**-0.5
            if name == "model.embed_tokens.weight":
                drawn = 0.4 * noise
            parameter.copy_(torch.tensor(drawn, dtype=torch.float32))
    return model


def compute(case: str) -> dict[str, np.ndarray]:
    """Everything one golden file holds."""
    import torch

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
    log_p = torch.log_softmax(logits, -1)
    chosen = log_p.gather(-1, torch.tensor(targets)[..., None])[..., 0]
    loss = -(chosen * torch.tensor(weights)).sum()
    loss.backward()

    out = {
        "settings": np.array(json.dumps(CASES[case])),
        "tokens": tokens.astype(np.int32),
        "positions": positions.astype(np.int32),
        "targets": targets.astype(np.int32),
        "weights": weights.astype(np.float32),
        "logits": logits.detach().numpy(),
        "loss": np.float32(loss.item()),
    }
    for name, parameter in model.named_parameters():
        out[f"tensor/{name}"] = parameter.detach().numpy()
        out[f"grad/{name}"] = parameter.grad.numpy()
    return out | _generate(model, tokens)


def _generate(model: Any, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Greedy continuations of the rows' first 5, 9 and 14 tokens, each by itself and without a cache."""
    import torch

    generated = np.zeros((BATCH, GENERATED), np.int32)
    margins = np.zeros((BATCH, GENERATED), np.float32)
    lengths = np.array([5, 9, LENGTH], np.int32)
    for row in range(BATCH):
        sequence = torch.tensor(tokens[row : row + 1, : lengths[row]])
        for i in range(GENERATED):
            with torch.no_grad():
                best = model(sequence).logits[0, -1].topk(2)
            generated[row, i] = best.indices[0]
            margins[row, i] = best.values[0] - best.values[1]
            sequence = torch.cat([sequence, best.indices[:1][None]], dim=1)
    return {"prompt_lengths": lengths, "generated": generated, "margins": margins}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="default: all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in arguments.case or sorted(CASES):
        path = arguments.out / f"{case}.npz"
        np.savez_compressed(path, **compute(case))
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
