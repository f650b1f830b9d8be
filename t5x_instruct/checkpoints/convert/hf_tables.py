"""How Hugging Face names and lays out the tensors of each family, and where they go in ours. NumPy only.

Hugging Face stores every matrix as [out, in], we store [in, out].
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.models.t5gemma import GemmaStack, T5GemmaConfig

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
SHARED = "shared.weight"
GEMMA_HEAD = "lm_head.out_proj.weight"


class HfTensor(NamedTuple):
    """One of their tensors.

    Attributes:
        ours: its name in our tree; for a layer's tensor, below the layer.
        shape: their shape.
        our_shape: ours; for a layer's tensor, of one layer.
        to_ours: their array to ours.
        to_theirs: the inverse.
    """

    ours: str
    shape: tuple[int, ...]
    our_shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


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
        left_out: beginnings of the names of tensors that are not read on purpose: those of parts that we do not have.
        fillers: tensors of such parts that a file has to hold all the same: name -> shape; written as zeros.
        in_files: beginnings of names that are others in files: the model's -> the files'. Both are read.
    """

    top: Mapping[str, HfTensor]
    stacks: tuple[HfStack, ...]
    copies: Mapping[str, str]
    unused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    fillers: Mapping[str, tuple[int, ...]] = {}
    in_files: Mapping[str, str] = {}

    def to_file(self, name: str) -> str:
        """The name that a tensor has in files."""
        for ours, theirs in self.in_files.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name

    def from_file(self, name: str) -> str:
        """The inverse of `to_file`; the model's own names stay."""
        for ours, theirs in self.in_files.items():
            if name.startswith(theirs) and not name.startswith((ours, *self.left_out)):
                return ours + name.removeprefix(theirs)
        return name


ModelConfig = DecoderConfig | T5Config | T5GemmaConfig


def layout_of(config: ModelConfig) -> HfLayout:
    """All tensors of the model that a configuration describes."""
    if isinstance(config, T5GemmaConfig):
        return t5gemma_layout(config)
    return decoder_layout(config) if isinstance(config, DecoderConfig) else t5_layout(config)


def decoder_layout(c: DecoderConfig) -> HfLayout:
    """The tensors of the decoders' ``ForCausalLM`` classes; a tied head has none."""
    D, F = c.emb_dim, c.mlp_dim
    top = {EMBEDDING: _table(c), "model.norm.weight": _vector("decoder/decoder_norm/scale", D)}
    if not c.tie_embeddings:
        top[HEAD] = _head(c)
    layer = _decoder_attention(c)
    for theirs, ours, rows, columns in (("gate", "wi_0", F, D), ("up", "wi_1", F, D), ("down", "wo", D, F)):
        layer[f"mlp.{theirs}_proj.weight"] = _matrix(f"mlp/{ours}/kernel", rows, columns)
        if c.mlp_bias:
            layer[f"mlp.{theirs}_proj.bias"] = _vector(f"mlp/{ours}/bias", rows)
    norms = _PARALLEL_NORM if c.parallel_block else _NORMS[c.norm_placement]
    layer |= {f"{theirs}.weight": _vector(f"{ours}/scale", D) for theirs, ours in norms.items()}
    stack = HfStack("model.layers.{i}.", "decoder", c.num_layers, layer)
    return HfLayout(top, (stack,), {HEAD: EMBEDDING} if c.tie_embeddings else {})


# "post_attention" is before the MLP in Llama and after attention in Gemma and OLMo.
_NORMS = {
    "pre": {
        "input_layernorm": "pre_self_attention_layer_norm",
        "post_attention_layernorm": "pre_mlp_layer_norm",
    },
    "post": {
        "post_attention_layernorm": "post_self_attention_layer_norm",
        "post_feedforward_layernorm": "post_mlp_layer_norm",
    },
    "both": {
        "input_layernorm": "pre_self_attention_layer_norm",
        "post_attention_layernorm": "post_self_attention_layer_norm",
        "pre_feedforward_layernorm": "pre_mlp_layer_norm",
        "post_feedforward_layernorm": "post_mlp_layer_norm",
    },
}
_PARALLEL_NORM = {"input_layernorm": "pre_layer_norm"}


def _decoder_attention(c: DecoderConfig) -> dict[str, HfTensor]:
    D, N, K, H = c.emb_dim, c.num_heads, c.num_kv_heads, c.head_dim
    tensors = _attention("self_attn.{}_proj.weight", "self_attention", D, N, K, H)
    sizes = {"query": N, "key": K, "value": K}
    if c.qkv_bias:
        for name, heads in sizes.items():
            tensors[f"self_attn.{name[0]}_proj.bias"] = _split_vector(f"self_attention/{name}/bias", heads, H)
    if c.out_bias:
        tensors["self_attn.o_proj.bias"] = _vector("self_attention/out/bias", D)
    if c.qk_norm != "none":
        for name in ("query", "key"):
            size = H if c.qk_norm == "head" else sizes[name] * H
            tensors[f"self_attn.{name[0]}_norm.weight"] = _vector(f"self_attention/{name}_norm/scale", size)
    if c.parallel_block:
        # The one family of such blocks turns pairs of neighbouring channels.
        for name in tensors:
            if name.startswith(("self_attn.q_proj", "self_attn.k_proj")):
                tensors[name] = _with_halves(tensors[name], H)
    return tensors


def _with_halves(tensor: HfTensor, head_dim: int) -> HfTensor:
    """A tensor of theirs [heads * head_dim, ...] whose channels 2 i and 2 i + 1 are our i and i + head_dim / 2."""

    def to_halves(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, head_dim // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)

    def to_pairs(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, 2, head_dim // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)

    return tensor._replace(
        to_ours=lambda array: tensor.to_ours(to_halves(array)),
        to_theirs=lambda array: to_pairs(tensor.to_theirs(array)),
    )


def t5_layout(c: T5Config) -> HfLayout:
    """The tensors of `T5ForConditionalGeneration` and `UMT5ForConditionalGeneration`; a tied head has none."""
    top = {SHARED: _table(c)}
    if not c.tie_embeddings:
        top[HEAD] = _head(c)
    copies = {f"{side}.embed_tokens.weight": SHARED for side in ("encoder", "decoder")}
    if c.tie_embeddings:
        copies[HEAD] = SHARED
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    for side in ("encoder", "decoder"):
        top[f"{side}.final_layer_norm.weight"] = _vector(f"{side}/{side}_norm/scale", c.emb_dim)
        if not c.bias_per_layer:
            where = f"{side}/relpos_bias/rel_embedding"
            top[f"{side}.block.0.{bias}"] = _matrix(where, c.relative_buckets, c.num_heads)
    own = {bias: _matrix("relpos_bias/rel_embedding", c.relative_buckets, c.num_heads)} if c.bias_per_layer else {}
    encoder = own | _t5_sublayers(c, ("attention", "mlp"))
    decoder = own | _t5_sublayers(c, ("self_attention", "encoder_decoder_attention", "mlp"))
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
        tensors[f"layer.{i}.layer_norm.weight"] = _vector(f"{norm}/scale", D)
        if name != "mlp":
            pattern = f"layer.{i}.{theirs}.{{}}.weight"
            tensors |= _attention(pattern, name, D, c.num_heads, c.num_heads, c.head_dim)
            continue
        for inner in ("wi_0", "wi_1") if c.gated_mlp else ("wi",):
            tensors[f"layer.{i}.{theirs}.{inner}.weight"] = _matrix(f"mlp/{inner}/kernel", F, D)
        tensors[f"layer.{i}.{theirs}.wo.weight"] = _matrix("mlp/wo/kernel", D, F)
    return tensors


def t5gemma_layout(c: T5GemmaConfig) -> HfLayout:
    """The tensors of `T5GemmaForConditionalGeneration` or, with merged attention, of T5Gemma 2's text part.

    A tied head has none, nor has a decoder whose embeddings the encoder shares.
    """
    at = {"encoder": "model.encoder.text_model" if c.merged_attention else "model.encoder", "decoder": "model.decoder"}
    tables = {side: f"{path}.embed_tokens.weight" for side, path in at.items()}
    ends = {side: f"{path}.embed_tokens.eoi_embedding" for side, path in at.items()}
    ours = {"encoder": ("encoder_embedder", "encoder_end_of_image"), "decoder": ("token_embedder", "end_of_image")}
    top, copies = {}, {}
    if c.share_embeddings:  # the encoder's stand in files
        ours = {"encoder": ours["decoder"]}
        copies = {tables["decoder"]: tables["encoder"]}
        if c.end_of_image_id is not None:
            copies[ends["decoder"]] = ends["encoder"]
    for side, (table, end) in ours.items():
        width = getattr(c, side).emb_dim
        top[tables[side]] = _rows(f"{table}/embedding", c.vocab_size, width, c.vocab_rows)
        if c.end_of_image_id is not None:
            top[ends[side]] = _vector(f"{end}/embedding", width)
    if c.tie_embeddings:
        copies[GEMMA_HEAD] = copies.get(tables["decoder"], tables["decoder"])
    else:
        top[GEMMA_HEAD] = _columns("decoder/logits_dense/kernel", c.vocab_size, c.decoder.emb_dim, c.vocab_rows)
    for side, path in at.items():
        top[f"{path}.norm.weight"] = _vector(f"{side}/{side}_norm/scale", getattr(c, side).emb_dim)
    stacks = (
        HfStack(at["encoder"] + ".layers.{i}.", "encoder", c.encoder.num_layers, _gemma_encoder(c)),
        HfStack(at["decoder"] + ".layers.{i}.", "decoder", c.decoder.num_layers, _gemma_decoder(c)),
    )
    layout = HfLayout(top, stacks, copies)
    return layout._replace(**_beside_the_text(c.encoder.emb_dim)) if c.merged_attention else layout


def _beside_the_text(width: int) -> dict[str, Any]:
    """Of T5Gemma 2's layout what concerns the part that reads images; the fillers are those of `NO_VISION`."""
    tower, projector = "model.encoder.vision_tower.", "model.encoder.multi_modal_projector."
    return {
        "in_files": {"model.encoder.text_model.": "model.encoder."},
        "left_out": (tower, projector),
        "fillers": {
            f"{tower}embeddings.patch_embedding.weight": (1, 3, 1, 1),
            f"{tower}embeddings.patch_embedding.bias": (1,),
            f"{tower}embeddings.position_embedding.weight": (1, 1),
            f"{tower}post_layernorm.weight": (1,),
            f"{tower}post_layernorm.bias": (1,),
            f"{projector}mm_input_projection_weight": (1, width),
            f"{projector}mm_soft_emb_norm.weight": (1,),
        },
    }


def _gemma_encoder(c: T5GemmaConfig) -> dict[str, HfTensor]:
    return _gemma_sublayers(c.encoder, {"self_attn": "attention"})


def _gemma_decoder(c: T5GemmaConfig) -> dict[str, HfTensor]:
    if c.merged_attention:
        return _gemma_sublayers(c.decoder, {"self_attn": "self_attention"})
    both = {"self_attn": "self_attention", "cross_attn": "encoder_decoder_attention"}
    tensors = _gemma_sublayers(c.decoder, both)
    # Keys and values of attention to the encoder are made of what is as wide as the encoder.
    s, width = c.decoder, c.encoder.emb_dim
    pattern = "cross_attn.{}_proj.weight"
    wide = _attention(pattern, both["cross_attn"], width, s.num_heads, s.num_kv_heads, s.head_dim)
    return tensors | {name: wide[name] for name in (pattern.format("k"), pattern.format("v"))}


def _gemma_sublayers(s: GemmaStack, attentions: Mapping[str, str]) -> dict[str, HfTensor]:
    """One layer's tensors; `attentions`: their name -> ours."""
    D, F = s.emb_dim, s.mlp_dim
    tensors = {
        "mlp.gate_proj.weight": _matrix("mlp/wi_0/kernel", F, D),
        "mlp.up_proj.weight": _matrix("mlp/wi_1/kernel", F, D),
        "mlp.down_proj.weight": _matrix("mlp/wo/kernel", D, F),
    }
    for when in ("pre", "post"):
        tensors[f"{when}_feedforward_layernorm.weight"] = _vector(f"{when}_mlp_layer_norm/scale", D)
        for theirs, ours in attentions.items():
            norm = {"encoder_decoder_attention": "cross_attention"}.get(ours, ours)
            tensors[f"{when}_{theirs}_layernorm.weight"] = _vector(f"{when}_{norm}_layer_norm/scale", D)
    for theirs, ours in attentions.items():
        tensors |= _attention(f"{theirs}.{{}}_proj.weight", ours, D, s.num_heads, s.num_kv_heads, s.head_dim)
        for name in ("query", "key") if s.qk_norm else ():
            tensors[f"{theirs}.{name[0]}_norm.weight"] = _vector(f"{ours}/{name}_norm/scale", s.head_dim)
    return tensors


def _attention(pattern: str, ours: str, D: int, N: int, K: int, H: int) -> dict[str, HfTensor]:
    """The four matrices of an attention with N query and K key/value heads; `pattern` gets q, k, v, o."""
    tensors = {
        pattern.format(name[0]): _split(f"{ours}/{name}/kernel", (heads * H, D), (D, heads, H))
        for name, heads in (("query", N), ("key", K), ("value", K))
    }
    return tensors | {pattern.format("o"): _split(f"{ours}/out/kernel", (D, N * H), (N, H, D))}


def _vector(ours: str, size: int) -> HfTensor:
    return HfTensor(ours, (size,), (size,), _same, _same)


def _split_vector(ours: str, heads: int, head_dim: int) -> HfTensor:
    shape = (heads, head_dim)
    return HfTensor(ours, (heads * head_dim,), shape, lambda x: x.reshape(shape), np.ravel)


def _matrix(ours: str, rows: int, columns: int) -> HfTensor:
    return HfTensor(ours, (rows, columns), (columns, rows), np.transpose, np.transpose)


def _split(ours: str, shape: tuple[int, int], our_shape: tuple[int, int, int]) -> HfTensor:
    """A matrix of which one of our axes is two: [heads * head_dim, embed] or [embed, heads * head_dim]."""
    assert math.prod(shape) == math.prod(our_shape)
    return HfTensor(ours, shape, our_shape, lambda x: x.T.reshape(our_shape), lambda x: x.reshape(shape[::-1]).T)


def _table(c: DecoderConfig | T5Config) -> HfTensor:
    return _rows("token_embedder/embedding", c.vocab_size, c.emb_dim, c.vocab_rows)


def _head(c: DecoderConfig | T5Config) -> HfTensor:
    return _columns("decoder/logits_dense/kernel", c.vocab_size, c.emb_dim, c.vocab_rows)


def _rows(ours: str, vocab_size: int, emb_dim: int, rows: int) -> HfTensor:
    """A row for each id; ours has rows that fill the vocabulary up."""
    shape = (vocab_size, emb_dim)
    return HfTensor(ours, shape, (rows, emb_dim), lambda x: _with_rows(rows, x), lambda x: x[:vocab_size])


def _columns(ours: str, vocab_size: int, emb_dim: int, rows: int) -> HfTensor:
    """A row for each id there, a column here."""
    shape = (vocab_size, emb_dim)
    return HfTensor(ours, shape, (emb_dim, rows), lambda x: _with_rows(rows, x).T, lambda x: x.T[:vocab_size])


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _with_rows(rows: int, array: np.ndarray) -> np.ndarray:
    missing = rows - len(array)
    return np.pad(array, ((0, missing), (0, 0))) if missing else array
