"""A decoder small enough to compile in a second, with every constant off its usual value."""

from typing import Any

import jax
import numpy as np

from t5x_instruct.models.decoder import DecoderConfig, DecoderModel

VOCAB = 37


def config(**changes: Any) -> DecoderConfig:
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "emb_dim": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 6,
        "mlp_dim": 20,
        "activation": "silu",
        "rope_theta": 300.0,
        "norm_epsilon": 1e-3,
        "tie_embeddings": False,
        "embedding_init_stddev": 0.7,
        "attention_chunk": 4,
    }
    return DecoderConfig(**(fields | changes))


def model_and_params(seed: int = 0, **changes: Any) -> tuple[DecoderModel, dict[str, Any]]:
    model = DecoderModel(config(**changes))
    return model, jax.jit(model.init)(jax.random.key(seed))


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, shape).astype(np.int32)


def packed(examples: list[np.ndarray], length: int) -> dict[str, np.ndarray]:
    """One row [1, length] of several examples, padded with token 0."""
    row = {
        name: np.zeros((1, length), np.int32)
        for name in ("decoder_input_tokens", "decoder_segment_ids", "decoder_positions")
    }
    start = 0
    for segment, example in enumerate(examples, 1):
        here = slice(start, start + len(example))
        row["decoder_input_tokens"][0, here] = example
        row["decoder_segment_ids"][0, here] = segment
        row["decoder_positions"][0, here] = np.arange(len(example))
        start = here.stop
    return row
