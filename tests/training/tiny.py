"""A tiny decoder and batches with ragged masks, for the tests of this folder."""

import jax
import numpy as np

from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.presets import make_model

NUM_TASKS = 3
VOCAB = 64


def tiny_model(**changes):
    config = {
        "vocab_size": VOCAB,
        "emb_dim": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 4,
        "mlp_dim": 32,
        "activation": "silu",
        "rope_theta": 1e3,
        "norm_epsilon": 1e-5,
        "tie_embeddings": True,
    }
    return make_model(DecoderConfig(**(config | changes)))


def ragged_batch(seed=0, rows=8, length=12, trained=0.4):
    """Rows with two segments, padding at the end, and trained tokens spread unevenly over rows."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(length // 2, length + 1, rows)
    cuts = rng.integers(1, length // 2, rows)
    index = np.arange(length)
    segments = np.where(index < cuts[:, None], 1, 2) * (index < ends[:, None])
    positions = np.where(segments == 2, index - cuts[:, None], index) * (segments > 0)
    share = np.linspace(0.0, 2 * trained, rows)[:, None]
    weights = (rng.random((rows, length)) < share) & (segments > 0)
    return {
        "decoder_input_tokens": rng.integers(0, VOCAB, (rows, length)).astype(np.int32),
        "decoder_target_tokens": rng.integers(0, VOCAB, (rows, length)).astype(np.int32),
        "decoder_loss_weights": weights.astype(np.float32),
        "decoder_segment_ids": segments.astype(np.int32),
        "decoder_positions": positions.astype(np.int32),
        "decoder_task_ids": np.where(segments > 0, rng.integers(0, NUM_TASKS, (rows, 1)), -1).astype(np.int32),
    }


def tiny_params(model, seed=1):
    return jax.jit(model.init)(jax.random.key(seed))
