"""How Hugging Face names and lays out the tensors of each family, and where they go in ours. NumPy only.

Hugging Face stores every matrix as [out, in], we store [in, out].
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.t5 import T5Config


class HfTensor(NamedTuple):
    """One of their tensors.

    Attributes:
        ours: its name in our tree; for a layer's tensor, below the layer.
        shape: their shape.
        convert: their array to ours.
    """

    ours: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


class HfStack(NamedTuple):
    """A stack of equal layers.

    Attributes:
        theirs: what their names begin with, with ``{i}`` for the layer.
        ours: the stack in our tree; layers are ``OURS/layers`` or ``OURS/layers_{i}``.
        num_layers: number of layers.
        tensors: rest of their name -> tensor.
    """

    theirs: str
    ours: str
    num_layers: int
    tensors: Mapping[str, HfTensor]


class HfLayout(NamedTuple):
    """All tensors of a model.

    Attributes:
        top: tensors outside the layers, by their names.
        stacks: the layers.
        copies: tensors that a file may hold besides, equal to another: name -> the other's name.
        unused: tensors that a file may hold besides and that no computation reads.
    """

    top: Mapping[str, HfTensor]
    stacks: tuple[HfStack, ...]
    copies: Mapping[str, str]
    unused: tuple[str, ...] = ()


def llama_layout(c: DecoderConfig) -> HfLayout:
    """The tensors of `LlamaForCausalLM`; a tied head has none."""
    D, N, K, H, F = c.emb_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
    padding = c.vocab_rows - c.vocab_size
    embedding, norm = "model.embed_tokens.weight", HfTensor("decoder/decoder_norm/scale", (D,), _same)
    top = {
        embedding: HfTensor("token_embedder/embedding", (c.vocab_size, D), partial(_more_rows, padding)),
        "model.norm.weight": norm,
    }
    if not c.tie_embeddings:
        top["lm_head.weight"] = HfTensor("decoder/logits_dense/kernel", (c.vocab_size, D), partial(_head, padding))
    layer = _attention("self_attn.{}_proj.weight", "self_attention", D, N, K, H) | {
        "mlp.gate_proj.weight": HfTensor("mlp/wi_0/kernel", (F, D), np.transpose),
        "mlp.up_proj.weight": HfTensor("mlp/wi_1/kernel", (F, D), np.transpose),
        "mlp.down_proj.weight": HfTensor("mlp/wo/kernel", (D, F), np.transpose),
        "input_layernorm.weight": HfTensor("pre_self_attention_layer_norm/scale", (D,), _same),
        "post_attention_layernorm.weight": HfTensor("pre_mlp_layer_norm/scale", (D,), _same),
    }
    stack = HfStack("model.layers.{i}.", "decoder", c.num_layers, layer)
    return HfLayout(top, (stack,), {"lm_head.weight": embedding} if c.tie_embeddings else {})


def t5_layout(c: T5Config) -> HfLayout:
    """The tensors of `T5ForConditionalGeneration`; a tied head has none."""
    D, padding = c.emb_dim, c.vocab_rows - c.vocab_size
    top = {"shared.weight": HfTensor("token_embedder/embedding", (c.vocab_size, D), partial(_more_rows, padding))}
    if not c.tie_embeddings:
        top["lm_head.weight"] = HfTensor("decoder/logits_dense/kernel", (c.vocab_size, D), partial(_head, padding))
    copies = {f"{side}.embed_tokens.weight": "shared.weight" for side in ("encoder", "decoder")}
    if c.tie_embeddings:
        copies["lm_head.weight"] = "shared.weight"
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for side in ("encoder", "decoder"):
        top[f"{side}.final_layer_norm.weight"] = HfTensor(f"{side}/{side}_norm/scale", (D,), _same)
        shape = (c.relative_buckets, c.num_heads)
        top[f"{side}.{bias}"] = HfTensor(f"{side}/relpos_bias/rel_embedding", shape, np.transpose)
    encoder = _t5_sublayers(c, ("attention", "mlp"))
    decoder = _t5_sublayers(c, ("self_attention", "encoder_decoder_attention", "mlp"))
    stacks = (
        HfStack("encoder.block.{i}.", "encoder", c.num_encoder_layers, encoder),
        HfStack("decoder.block.{i}.", "decoder", c.num_decoder_layers, decoder),
    )
    # The first conversions had a bias for attention to the encoder too, which nothing ever read.
    return HfLayout(top, stacks, copies, ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",))


_T5_SUBLAYERS = {
    "attention": ("SelfAttention", "pre_attention_layer_norm"),
    "self_attention": ("SelfAttention", "pre_self_attention_layer_norm"),
    "encoder_decoder_attention": ("EncDecAttention", "pre_cross_attention_layer_norm"),
    "mlp": ("DenseReluDense", "pre_mlp_layer_norm"),
}


def _t5_sublayers(c: T5Config, names: tuple[str, ...]) -> dict[str, HfTensor]:
    """One layer's tensors; `names` are our sub-layers in their order."""
    D, F = c.emb_dim, c.mlp_dim
    tensors: dict[str, HfTensor] = {}
    for i, name in enumerate(names):
        theirs, norm = _T5_SUBLAYERS[name]
        tensors[f"layer.{i}.layer_norm.weight"] = HfTensor(f"{norm}/scale", (D,), _same)
        if name != "mlp":
            pattern = f"layer.{i}.{theirs}.{{}}.weight"
            tensors |= _attention(pattern, name, D, c.num_heads, c.num_heads, c.head_dim)
            continue
        for inner in ("wi_0", "wi_1") if c.gated_mlp else ("wi",):
            tensors[f"layer.{i}.{theirs}.{inner}.weight"] = HfTensor(f"mlp/{inner}/kernel", (F, D), np.transpose)
        tensors[f"layer.{i}.{theirs}.wo.weight"] = HfTensor("mlp/wo/kernel", (D, F), np.transpose)
    return tensors


def _attention(pattern: str, ours: str, D: int, N: int, K: int, H: int) -> dict[str, HfTensor]:
    """The four matrices of an attention with N query and K key/value heads; `pattern` gets q, k, v, o."""
    tensors = {
        pattern.format(name[0]): HfTensor(f"{ours}/{name}/kernel", (heads * H, D), partial(_heads, heads))
        for name, heads in (("query", N), ("key", K), ("value", K))
    }
    return tensors | {pattern.format("o"): HfTensor(f"{ours}/out/kernel", (D, N * H), partial(_out_heads, N))}


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _more_rows(padding: int, array: np.ndarray) -> np.ndarray:
    return np.pad(array, ((0, padding), (0, 0)))


def _head(padding: int, array: np.ndarray) -> np.ndarray:
    return _more_rows(padding, array).T


def _heads(heads: int, array: np.ndarray) -> np.ndarray:
    """[heads * head_dim, embed] to [embed, heads, head_dim]."""
    return array.T.reshape(array.shape[1], heads, -1)


def _out_heads(heads: int, array: np.ndarray) -> np.ndarray:
    """[embed, heads * head_dim] to [heads, head_dim, embed]."""
    return array.T.reshape(heads, -1, array.shape[0])
