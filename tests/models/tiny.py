"""Models small enough to compile in a second, with every constant off its usual value.

The kinds are "decoder", "prefix" (a decoder whose inputs see one another), "pattern" (a decoder with all that only some
families have), "t5" and "merged" (an encoder-decoder whose decoder has one attention to the inputs and itself).
"""

from typing import Any

import jax
import numpy as np

from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.layers.rope import RopeScaling
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.models.t5gemma import GemmaStack, T5GemmaConfig

VOCAB = 37

_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "emb_dim": 16,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "mlp_dim": 20,
    "activation": "silu",
    "rope_theta": 300.0,
    "local_rope_theta": 40.0,
    "layer_ropes": ("local", "global"),
    "norm_epsilon": 1e-3,
    "tie_embeddings": False,
    "embedding_init_stddev": 0.7,
    "attention_chunk": 4,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "emb_dim": 16,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "head_dim": 6,
    "mlp_dim": 20,
    "activation": "gelu_tanh",
    "gated_mlp": True,
    "relative_buckets": 8,
    "relative_max_distance": 12,
    "norm_epsilon": 1e-3,
    "tie_embeddings": False,
    "scale_decoder_outputs": False,
    "decoder_start_id": 3,
    "vocab_multiple": 1,
    "embedding_init_stddev": 0.7,
    "attention_chunk": 4,
}
_STACK: dict[str, Any] = {
    "emb_dim": 16,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "mlp_dim": 20,
    "activation": "gelu_tanh",
    "rope_theta": 300.0,
    "local_rope_theta": 40.0,
    "query_pre_attn_scalar": 9.0,
    "attention_soft_cap": None,
    "layer_windows": (3, 0),
    "norm_epsilon": 1e-3,
    "qk_norm": True,
}
_MERGED: dict[str, Any] = {
    "vocab_size": VOCAB,
    "encoder": GemmaStack(**_STACK | {"layer_windows": (4, 0)}),
    "decoder": GemmaStack(**_STACK | {"num_layers": 3}),
    "tie_embeddings": False,
    "logits_soft_cap": 5.0,
    "decoder_start_id": 3,
    "vocab_multiple": 1,
    "embedding_init_stddev": 0.7,
    "attention_chunk": 4,
    "merged_attention": True,
    "share_embeddings": True,
    "encoder_window": "centered",
    "end_of_image_id": 9,
}
#: Layers of different kinds, with windows that the examples go beyond.
PATTERN: dict[str, Any] = {
    "num_layers": 3,
    "layer_windows": (3, 0),
    "layer_ropes": ("local", "none", "global"),
    "rope_scaling": RopeScaling(kind="linear", factor=1.7),
    "query_pre_attn_scalar": 9.0,
    "attention_soft_cap": 0.9,
    "logits_soft_cap": 5.0,
    "logits_multiplier": 1.3,
    "scale_embeddings": True,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "qk_norm": "projection",
    "norm": "layer",
    "norm_around_one": True,
    "norm_placement": "both",
}


def config(kind: str = "decoder", /, **changes: Any) -> Any:
    if kind == "t5":
        return T5Config(**(_T5 | changes))
    if kind == "merged":
        return T5GemmaConfig(**(_MERGED | changes))
    of_kind = {"prefix": {"prefix_lm": True}, "pattern": PATTERN}.get(kind, {})
    return DecoderConfig(**(_DECODER | of_kind | changes))


def model_and_params(kind: str = "decoder", /, seed: int = 0, **changes: Any) -> tuple[Any, dict[str, Any]]:
    model = make_model(config(kind, **changes))
    return model, jax.jit(model.init)(jax.random.key(seed))


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, shape).astype(np.int32)


def packed(examples: list[np.ndarray], length: int, side: str = "decoder") -> dict[str, np.ndarray]:
    """One row [1, length] of several examples, padded with token 0."""
    row = {
        name: np.zeros((1, length), np.int32)
        for name in (f"{side}_input_tokens", f"{side}_segment_ids", f"{side}_positions")
    }
    start = 0
    for segment, example in enumerate(examples, 1):
        here = slice(start, start + len(example))
        row[f"{side}_input_tokens"][0, here] = example
        row[f"{side}_segment_ids"][0, here] = segment
        row[f"{side}_positions"][0, here] = np.arange(len(example))
        start = here.stop
    return row


def packed_pairs(pairs: list[tuple[np.ndarray, np.ndarray]], source: int, length: int) -> dict[str, np.ndarray]:
    """One row of several examples' inputs, [1, source], and targets, [1, length]."""
    inputs, targets = zip(*pairs, strict=True)
    return packed(list(inputs), source, "encoder") | packed(list(targets), length)


def with_inputs(row: dict[str, np.ndarray], sizes: list[int]) -> dict[str, np.ndarray]:
    """Says of a packed row that the first ``sizes[i]`` tokens of example i are inputs."""
    segments, positions = row["decoder_segment_ids"], row["decoder_positions"]
    of_segment = np.array([0, *sizes])[segments]
    return row | {"decoder_causal_attention": ((positions < of_segment) & (segments > 0)).astype(np.int32)}


def some_batch(kind: str, rows: int = 1) -> dict[str, np.ndarray]:
    """Rows of three packed examples, with padding; their tokens differ."""
    examples = [tokens(n, seed=n) for n in (5, 7, 3)]
    if kind in ("t5", "merged"):
        pairs = [(tokens(n, seed=20 + n), example) for n, example in zip((6, 9, 2), examples, strict=True)]
        row = packed_pairs(pairs, 20, 17)
    else:
        row = packed(examples, 17)
        row = with_inputs(row, [3, 5, 1]) if kind == "prefix" else row
    batch = {name: np.repeat(array, rows, axis=0) for name, array in row.items()}
    for name in ("decoder_input_tokens", "encoder_input_tokens"):
        if name in batch:
            batch[name] = (batch[name] + np.arange(rows)[:, None].astype(np.int32)) % VOCAB
    return batch
