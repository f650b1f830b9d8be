"""Hugging Face's names and layouts of Llama's tensors, and ours. NumPy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.common.trees import unflatten
from t5x_instruct.models.decoder import DecoderConfig

#: Tensors outside the layers. Hugging Face stores every matrix as [out, in], we store [in, out].
_TOP = {
    "model.embed_tokens.weight": "token_embedder/embedding",
    "model.norm.weight": "decoder/decoder_norm/scale",
    "lm_head.weight": "decoder/logits_dense/kernel",
}
#: Tensors of layer i, under ``model.layers.{i}.`` and ``decoder/layers/`` (or ``decoder/layers_{i}/``).
_LAYER = {
    "self_attn.q_proj.weight": "self_attention/query/kernel",
    "self_attn.k_proj.weight": "self_attention/key/kernel",
    "self_attn.v_proj.weight": "self_attention/value/kernel",
    "self_attn.o_proj.weight": "self_attention/out/kernel",
    "mlp.gate_proj.weight": "mlp/wi_0/kernel",
    "mlp.up_proj.weight": "mlp/wi_1/kernel",
    "mlp.down_proj.weight": "mlp/wo/kernel",
    "input_layernorm.weight": "pre_self_attention_layer_norm/scale",
    "post_attention_layernorm.weight": "pre_mlp_layer_norm/scale",
}


def hf_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor Hugging Face's Llama of this size has; a tied head has none."""
    c = config
    queries, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    layer = {
        "self_attn.q_proj.weight": (queries, c.emb_dim),
        "self_attn.k_proj.weight": (keys, c.emb_dim),
        "self_attn.v_proj.weight": (keys, c.emb_dim),
        "self_attn.o_proj.weight": (c.emb_dim, queries),
        "mlp.gate_proj.weight": (c.mlp_dim, c.emb_dim),
        "mlp.up_proj.weight": (c.mlp_dim, c.emb_dim),
        "mlp.down_proj.weight": (c.emb_dim, c.mlp_dim),
        "input_layernorm.weight": (c.emb_dim,),
        "post_attention_layernorm.weight": (c.emb_dim,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{i}.{name}": shape for i in range(c.num_layers) for name, shape in layer.items()
    }
    shapes["model.embed_tokens.weight"] = (c.vocab_size, c.emb_dim)
    shapes["model.norm.weight"] = (c.emb_dim,)
    if not c.tie_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, c.emb_dim)
    return shapes


def params_from_hf(tensors: Mapping[str, np.ndarray], config: DecoderConfig) -> dict[str, Any]:
    """Our parameters from Hugging Face's tensors.

    Args:
        tensors: name -> array of any float dtype, as `LlamaForCausalLM.state_dict` names them. A ``lm_head.weight``
            beside a tied head is ignored where it equals the embedding.
        config: sizes; layers are stacked if its layers are scanned, the vocabulary's padding rows are zero.

    Returns:
        Nested dictionary of float32 arrays, as `DecoderModel.init` gives.

    Raises:
        CheckpointError: tensors are missing, unknown or of the wrong shape (all are listed), or a second, different
            head stands beside a tied one.
    """
    tensors = dict(tensors)
    if config.tie_embeddings and "lm_head.weight" in tensors:
        head, embedding = tensors.pop("lm_head.weight"), tensors.get("model.embed_tokens.weight")
        if embedding is not None and not np.array_equal(head, embedding):
            raise CheckpointError(
                "the head is tied by the configuration, but lm_head.weight differs from "
                "model.embed_tokens.weight; set tie_embeddings=False"
            )
    _check(tensors, config)
    flat: dict[str, np.ndarray] = {
        _TOP[name]: _top(name, array, config) for name, array in tensors.items() if name in _TOP
    }
    for theirs, ours in _LAYER.items():
        layers = [_layer(theirs, tensors[f"model.layers.{i}.{theirs}"], config) for i in range(config.num_layers)]
        if config.scan_layers:
            flat[f"decoder/layers/{ours}"] = np.stack(layers)
        else:
            flat |= {f"decoder/layers_{i}/{ours}": layer for i, layer in enumerate(layers)}
    return unflatten(flat)


def _check(tensors: Mapping[str, np.ndarray], config: DecoderConfig) -> None:
    shapes = hf_shapes(config)
    problems = [f"tensor {name!r} is missing" for name in shapes if name not in tensors]
    for name, array in tensors.items():
        if name not in shapes:
            problems.append(unknown("tensor", name, shapes))
        elif array.shape != shapes[name]:
            problems.append(f"tensor {name!r} has shape {array.shape}, the configuration asks for {shapes[name]}")
    if problems:
        shown = "\n  - ".join(problems[:20])
        raise CheckpointError(f"{len(problems)} tensors do not fit the model:\n  - {shown}")


def _top(name: str, array: np.ndarray, config: DecoderConfig) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if name == "model.norm.weight":
        return array
    padded = np.pad(array, ((0, config.vocab_rows - config.vocab_size), (0, 0)))
    return np.ascontiguousarray(padded.T) if name == "lm_head.weight" else padded


def _layer(name: str, array: np.ndarray, config: DecoderConfig) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if array.ndim == 1:
        return array
    kernel = np.ascontiguousarray(array.T)
    if name == "self_attn.o_proj.weight":
        return kernel.reshape(config.num_heads, config.head_dim, config.emb_dim)
    if name.startswith("self_attn."):
        return kernel.reshape(config.emb_dim, -1, config.head_dim)
    return kernel
