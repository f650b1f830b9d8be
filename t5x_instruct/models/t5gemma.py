"""T5Gemma: encoder and decoder are Gemma 2 stacks, which may differ in every size."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.models.encoder_decoder import DecoderInputs, DecoderShape, EncoderDecoderModel
from t5x_instruct.models.heads import HeadKernel
from t5x_instruct.models.layers.attention import Attention, AttentionInputs, KeysValues, KVCache, Tokens
from t5x_instruct.models.layers.embedding import Embed
from t5x_instruct.models.layers.kinds import LayerKind, Window, indexed, repeated
from t5x_instruct.models.layers.mlp import Mlp
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.remat import named
from t5x_instruct.models.layers.rope import Rope, rotations
from t5x_instruct.models.layers.stack import run_layers
from t5x_instruct.models.network import (
    check_config,
    rounded_up,
)
from t5x_instruct.partitioning.rules import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaStack:
    """One side of a T5Gemma.

    Attributes:
        emb_dim: width of the residual stream.
        num_layers: number of layers.
        num_heads: query heads.
        num_kv_heads: key/value heads; divides `num_heads`.
        head_dim: width of a head, even.
        mlp_dim: width of the gated MLP.
        activation: of the MLP's gate.
        rope_theta: base of the rotary wavelengths.
        query_pre_attn_scalar: scores are divided by its square root.
        attention_soft_cap: if given, a score x becomes ``cap * tanh(x / cap)``.
        layer_windows: how far the layers' self-attention reaches; 0: over all of the segment. One for each layer, or a
            pattern that is repeated. In the decoder a window of w is w tokens, the query among them; in the encoder it
            is w tokens to each side.
        norm_epsilon: added to the mean square in RMSNorm.
    """

    emb_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    activation: str
    rope_theta: float
    query_pre_attn_scalar: float
    attention_soft_cap: float | None
    layer_windows: tuple[int, ...]
    norm_epsilon: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5GemmaConfig:
    """An encoder-decoder of two Gemma 2 stacks.

    Attributes:
        vocab_size: number of token ids.
        encoder: the encoder's sizes and constants.
        decoder: the decoder's.
        tie_embeddings: whether the head is the decoder's transposed embedding. The encoder's is always its own.
        logits_soft_cap: if given, a logit x becomes ``cap * tanh(x / cap)``.
        decoder_start_id: the decoder's first token, at position 0.
        vocab_multiple: the embeddings' and the head's rows are rounded up to a multiple of this.
        embedding_init_stddev: standard deviation of freshly drawn embeddings.
        dropout_rate: on embeddings, on attention's values, inside the MLP, on what each sub-layer adds and on each
            stack's result; used only where a dropout key is given.
        dtype: compute dtype, "float32" or "bfloat16"; parameters, softmax and norms are float32.
        remat: what the backward pass computes again per layer, see `models.layers.remat`.
        scan_layers: one compiled layer over stacked parameters, or every layer compiled by itself.
        attention_chunk: queries per piece of attention; scores of one piece at a time are alive.
        attention: "plain" or "auto", which is the same: the kernel for TPUs is only causal.
        family: "t5gemma".

    Source: Zhang et al. 2025, "Encoder-Decoder Gemma" (arXiv:2504.06225); Gemma team 2024, "Gemma 2".
    """

    vocab_size: int
    encoder: GemmaStack
    decoder: GemmaStack
    tie_embeddings: bool
    logits_soft_cap: float | None
    decoder_start_id: int
    vocab_multiple: int = 128
    embedding_init_stddev: float = 0.02
    dropout_rate: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    attention_chunk: int = 64
    attention: str = "auto"
    family: str = "t5gemma"

    def __post_init__(self) -> None:
        problems = []
        for side in ("encoder", "decoder"):
            problems += [f"{side}.{problem}" for problem in _problems_of(getattr(self, side))]
        if self.logits_soft_cap is not None and self.logits_soft_cap <= 0.0:
            problems.append(f"logits_soft_cap is {self.logits_soft_cap}, must be positive")
        if not 0 <= self.decoder_start_id < max(self.vocab_size, 1):
            problems.append(f"decoder_start_id is {self.decoder_start_id}, must be in 0 to {self.vocab_size - 1}")
        if self.attention == "splash":
            problems.append(f"attention is 'splash', must be 'auto' or 'plain': {_NO_SPLASH}")
        check_config(self, "t5gemma", ("vocab_size", "vocab_multiple", "attention_chunk"), problems)

    @property
    def vocab_rows(self) -> int:
        """Rows of each embedding: `vocab_size` rounded up to a multiple of `vocab_multiple`."""
        return rounded_up(self.vocab_size, self.vocab_multiple)

    @property
    def activation(self) -> str:
        """The decoder's; the encoder has the same."""
        return self.decoder.activation

    @property
    def norm_epsilon(self) -> float:
        """The decoder's."""
        return self.decoder.norm_epsilon

    @property
    def head_dim(self) -> int:
        """The decoder's."""
        return self.decoder.head_dim


_NO_SPLASH = "the encoder sees both ways, and the kernel is only causal"


def _problems_of(s: GemmaStack) -> list[str]:
    sizes = ("emb_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
    problems = [f"{name} is {getattr(s, name)}, must be at least 1" for name in sizes if getattr(s, name) < 1]
    if s.num_kv_heads >= 1 and s.num_heads % s.num_kv_heads:
        problems.append(f"num_heads is {s.num_heads}, must be a multiple of num_kv_heads, {s.num_kv_heads}")
    if s.head_dim % 2:
        problems.append(f"head_dim is {s.head_dim}, must be even: rotary positions turn pairs")
    for name in ("rope_theta", "query_pre_attn_scalar", "attention_soft_cap", "norm_epsilon"):
        value = getattr(s, name)
        if value is not None and value <= 0.0:
            problems.append(f"{name} is {value}, must be positive")
    if not s.layer_windows or min(s.layer_windows) < 0 or len(s.layer_windows) > max(s.num_layers, 1):
        problems.append(
            f"layer_windows is {s.layer_windows}, must have 1 to {s.num_layers} entries, none of them below 0"
        )
    return problems


def _windows(stack: GemmaStack, causal: bool) -> list[Window | None]:
    """Of every layer; an encoder's window counts the tokens to each side, a decoder's the query too."""
    reach = [size - 1 if causal else size for size in repeated(stack.layer_windows, stack.num_layers)]
    return [Window(r, r) if r >= (0 if causal else 1) else None for r in reach]


def _kinds(stack: GemmaStack, causal: bool) -> LayerKind:
    numbers = indexed(_windows(stack, causal))[1]
    return LayerKind(numbers, 0 * numbers)


class _Parts(NamedTuple):
    """What a side's layers are made of; each takes a name."""

    norm: Callable[..., RMSNorm]
    attention: Callable[..., Attention]
    mlp: Callable[..., Mlp]
    dropout: nn.Dropout


def _parts(config: T5GemmaConfig, stack: GemmaStack, deterministic: bool) -> _Parts:
    c, s, dtype = config, stack, jnp.dtype(config.dtype)
    drop: dict[str, Any] = {"dropout_rate": c.dropout_rate, "deterministic": deterministic}
    attention = partial(
        Attention,
        s.num_heads,
        s.num_kv_heads,
        s.head_dim,
        c.attention_chunk,
        dtype,
        scaled_by=s.query_pre_attn_scalar,
        soft_cap=s.attention_soft_cap,
        **drop,
    )
    mlp = partial(Mlp, s.mlp_dim, s.activation, dtype, name="mlp", **drop)
    return _Parts(_norm(c, s), attention, mlp, _dropout(c, deterministic))


def _norm(config: T5GemmaConfig, stack: GemmaStack) -> Callable[..., RMSNorm]:
    return partial(RMSNorm, stack.norm_epsilon, jnp.dtype(config.dtype), around_one=True)


def _dropout(config: T5GemmaConfig, deterministic: bool) -> nn.Dropout:
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)


class T5GemmaEncoderLayer(nn.Module):
    """Attention in both directions and MLP, each normalised before and after and added to the residual stream.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5GemmaConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, x_BSD: jax.Array, numbered: tuple[jax.Array, LayerKind], inputs: AttentionInputs
    ) -> tuple[jax.Array, None]:
        """One layer as `run_layers` runs it; the carry is [batch, source, embed]."""
        stack = self.config.encoder
        parts = _parts(self.config, stack, self.deterministic)
        x_BSD = named(x_BSD, "layer_input")
        windows = indexed(_windows(stack, False))[0]
        attention = parts.attention(causal=False, windows=windows, name="attention")
        h_BSD, _ = attention(parts.norm(name="pre_attention_layer_norm")(x_BSD), inputs, kind=numbered[1])
        x_BSD += parts.dropout(parts.norm(name="post_attention_layer_norm")(h_BSD))
        h_BSD = parts.mlp()(parts.norm(name="pre_mlp_layer_norm")(x_BSD))
        x_BSD += parts.dropout(parts.norm(name="post_mlp_layer_norm")(h_BSD))
        return constrain(x_BSD, ("batch", "length", "activation_embed")), None


class T5GemmaDecoderLayer(nn.Module):
    """Causal attention, attention to the encoder and MLP, each normalised before and after and added.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5GemmaConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, KVCache | None],
        numbered: tuple[jax.Array, tuple[LayerKind, KeysValues | None]],
        inputs: DecoderInputs,
    ) -> tuple[tuple[jax.Array, KVCache | None], None]:
        """One layer as `run_layers` runs it; the carry is ([batch, length, embed], cache)."""
        stack = self.config.decoder
        parts = _parts(self.config, stack, self.deterministic)
        x_BTD, cache = carry
        x_BTD = named(x_BTD, "layer_input")
        layer, (kind, projected) = numbered
        attention = parts.attention(windows=indexed(_windows(stack, True))[0], name="self_attention")
        h_BTD = parts.norm(name="pre_self_attention_layer_norm")(x_BTD)
        h_BTD, cache = attention(h_BTD, inputs.own, cache, layer, kind=kind)
        x_BTD += parts.dropout(parts.norm(name="post_self_attention_layer_norm")(h_BTD))
        cross = parts.attention(causal=False, name="encoder_decoder_attention")
        source = inputs.encoded_BSD if projected is None else projected
        h_BTD, _ = cross(parts.norm(name="pre_cross_attention_layer_norm")(x_BTD), inputs.cross, source=source)
        x_BTD += parts.dropout(parts.norm(name="post_cross_attention_layer_norm")(h_BTD))
        h_BTD = parts.mlp()(parts.norm(name="pre_mlp_layer_norm")(x_BTD))
        x_BTD += parts.dropout(parts.norm(name="post_mlp_layer_norm")(h_BTD))
        return (constrain(x_BTD, ("batch", "length", "activation_embed")), cache), None


class T5GemmaEncoder(nn.Module):
    """Layers, and the last norm.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5GemmaConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x_BSD: jax.Array, where: Tokens) -> jax.Array:
        """Maps embeddings [batch, source, embed] to what the decoder reads, of the same shape."""
        c, stack = self.config, self.config.encoder
        turn = rotations(where.positions, stack.head_dim, [Rope(stack.rope_theta)])
        inputs = AttentionInputs(where, where, turn)
        kinds = _kinds(stack, False)
        x_BSD = run_layers(T5GemmaEncoderLayer, c, stack.num_layers, self.deterministic, x_BSD, inputs, kinds)
        return _dropout(c, self.deterministic)(_norm(c, stack)(name="encoder_norm")(x_BSD))


class T5GemmaDecoder(nn.Module):
    """Layers, the last norm, and the head's matrix if it is not tied.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5GemmaConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        queries: Tokens,
        keys: Tokens,
        source: jax.Array | KeysValues,
        source_segments_BS: jax.Array,
        cache: KVCache | None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps embeddings [batch, length, embed] to final hidden states; the arguments are `T5Decoder`'s."""
        c, stack = self.config, self.config.decoder
        projected, encoded_BSD = (source, None) if isinstance(source, KeysValues) else (None, source)
        inputs = DecoderInputs(
            own=AttentionInputs(queries, keys, rotations(queries.positions, stack.head_dim, [Rope(stack.rope_theta)])),
            # Positions say nothing between two texts.
            cross=AttentionInputs(queries, Tokens(source_segments_BS, source_segments_BS)),
            encoded_BSD=encoded_BSD,
        )
        per_layer = (_kinds(stack, True), projected)
        x_BTD, cache = run_layers(
            T5GemmaDecoderLayer, c, stack.num_layers, self.deterministic, (x_BTD, cache), inputs, per_layer
        )
        if not c.tie_embeddings:
            # Only makes the parameter: its product with hidden states is the loss's business.
            HeadKernel(stack.emb_dim, c.vocab_rows, name="logits_dense")()
        return _dropout(c, self.deterministic)(_norm(c, stack)(name="decoder_norm")(x_BTD)), cache


class T5GemmaNetwork(nn.Module):
    """Two tables of embeddings, encoder and decoder.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5GemmaConfig
    deterministic: bool

    def setup(self) -> None:
        """Names the parts."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder_embedder = Embed(c.vocab_rows, c.encoder.emb_dim, c.embedding_init_stddev, dtype)
        self.token_embedder = Embed(c.vocab_rows, c.decoder.emb_dim, c.embedding_init_stddev, dtype)
        self.encoder = T5GemmaEncoder(c, self.deterministic)
        self.decoder = T5GemmaDecoder(c, self.deterministic)
        self.dropout = _dropout(c, self.deterministic)

    def encode(self, tokens_BS: jax.Array, where: Tokens) -> jax.Array:
        """Maps int32 tokens [batch, source] to the encoder's result [batch, source, embed]."""
        encoded_BSD: jax.Array = self.encoder(self._embedded(self.encoder_embedder, tokens_BS), where)
        return encoded_BSD

    def decode(self, tokens_BT: jax.Array, *args: Any) -> tuple[jax.Array, KVCache | None]:
        """Maps int32 tokens [batch, length] to final hidden states; for the other arguments see `T5GemmaDecoder`."""
        x_BTD = self._embedded(self.token_embedder, tokens_BT)
        result: tuple[jax.Array, KVCache | None] = self.decoder(x_BTD, *args)
        return result

    def __call__(self, tokens_BS: jax.Array, source: Tokens, tokens_BT: jax.Array, target: Tokens) -> jax.Array:
        """Encodes, and decodes all targets at once: final hidden states [batch, length, embed]."""
        encoded_BSD = self.encode(tokens_BS, source)
        hidden_BTD, _ = self.decode(tokens_BT, target, target, encoded_BSD, source.segments, None)
        return hidden_BTD

    def _embedded(self, embedder: Embed, tokens: jax.Array) -> jax.Array:
        x = embedder(tokens)
        embedded: jax.Array = self.dropout(x * jnp.asarray(embedder.features**0.5, x.dtype))
        return embedded


class T5GemmaModel(EncoderDecoderModel):
    """A T5Gemma; implements `models.api.Model`.

    Args:
        config: sizes and constants.
    """

    config: T5GemmaConfig

    def __init__(self, config: T5GemmaConfig):
        tokens_BT = jnp.zeros((1, 1), jnp.int32)
        where = Tokens(tokens_BT + 1, tokens_BT)
        super().__init__(
            config, T5GemmaNetwork, (tokens_BT, where, tokens_BT, where), logits_soft_cap=config.logits_soft_cap
        )

    @property
    def _no_splash(self) -> str:
        return _NO_SPLASH

    @property
    def _decoder_shape(self) -> DecoderShape:
        stack = self.config.decoder
        return DecoderShape(stack.num_layers, stack.num_kv_heads, stack.head_dim)
