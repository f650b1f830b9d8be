"""Encoder-decoder models of the T5 kind (1.0, 1.1 and their descendants): configuration, network, and the model."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.models.encoder_decoder import DecoderInputs, DecoderShape, EncoderDecoderModel
from t5x_instruct.models.heads import HeadKernel
from t5x_instruct.models.layers.attention import Attention, AttentionInputs, KeysValues, KVCache, Tokens
from t5x_instruct.models.layers.embedding import Embed
from t5x_instruct.models.layers.mlp import Mlp
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.relative_bias import RelativeBias
from t5x_instruct.models.layers.remat import named
from t5x_instruct.models.layers.stack import run_layers
from t5x_instruct.models.network import (
    check_config,
    rounded_up,
)
from t5x_instruct.partitioning.rules import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """An encoder-decoder model of the T5 kind.

    What the weights were trained with has no default, what only changes speed or memory has one.

    Attributes:
        vocab_size: number of token ids.
        emb_dim: width of the residual stream.
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder.
        num_heads: heads of every attention.
        head_dim: width of a head; need not be ``emb_dim / num_heads``.
        mlp_dim: width of the MLP.
        activation: of the MLP: "relu" (T5 1.0), "gelu_tanh" (T5 1.1), "gelu" (exact), "silu".
        gated_mlp: whether the activation is that of a gate (T5 1.1).
        relative_buckets: buckets of relative positions; the encoder uses a half for each direction.
        relative_max_distance: from here on all distances share a bucket.
        bias_per_layer: whether every layer has a table of biases of its own (umT5), not every stack one.
        norm_epsilon: added to the mean square in RMSNorm.
        tie_embeddings: whether the head is the transposed embedding (T5 1.0).
        scale_decoder_outputs: whether logits are multiplied by ``emb_dim ** -0.5`` (T5 1.0).
        decoder_start_id: the decoder's first token, at position 0.
        vocab_multiple: the embedding's and the head's rows are rounded up to a multiple of this (so that a mesh axis
            divides them); rows from `vocab_size` on are never predicted.
        embedding_init_stddev: standard deviation of freshly drawn embeddings.
        dropout_rate: on embeddings, on attention's weights, inside the MLP, on what each sub-layer adds and on each
            stack's result; used only where a dropout key is given. One mask serves all positions of a row.
        dtype: compute dtype, "float32" or "bfloat16"; parameters, softmax and norms are float32.
        remat: what the backward pass computes again per layer, a key of `layers.remat.REMAT_POLICIES`.
        scan_layers: one compiled layer over stacked parameters, or every layer compiled by itself.
        attention_chunk: queries per piece of attention; scores of one piece at a time are alive.
        attention: "plain" or "auto", which is the same: the kernel for TPUs has no bias.
        family: "t5".
    """

    vocab_size: int
    emb_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    activation: str
    gated_mlp: bool
    relative_buckets: int
    relative_max_distance: int
    norm_epsilon: float
    tie_embeddings: bool
    scale_decoder_outputs: bool
    bias_per_layer: bool = False
    decoder_start_id: int = 0
    vocab_multiple: int = 128
    embedding_init_stddev: float = 1.0
    dropout_rate: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    attention_chunk: int = 64
    attention: str = "auto"
    family: str = "t5"

    def __post_init__(self) -> None:
        problems = []
        if self.relative_buckets < 4 or self.relative_buckets % 2:
            problems.append(f"relative_buckets is {self.relative_buckets}, must be even and at least 4")
        if self.relative_max_distance <= self.relative_buckets // 2:
            problems.append(
                f"relative_max_distance is {self.relative_max_distance}, must be above {self.relative_buckets // 2}: "
                "half of the relative_buckets hold one distance each"
            )
        if not 0 <= self.decoder_start_id < max(self.vocab_size, 1):
            problems.append(f"decoder_start_id is {self.decoder_start_id}, must be in 0 to {self.vocab_size - 1}")
        if self.attention == "splash":
            problems.append(f"attention is 'splash', must be 'auto' or 'plain': {_NO_SPLASH}")
        check_config(self, "t5", _SIZES, problems)

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up to a multiple of `vocab_multiple`."""
        return rounded_up(self.vocab_size, self.vocab_multiple)


_NO_SPLASH = "relative positions are a bias on the scores, which the kernel does not know"
_SIZES = (
    "vocab_size",
    "emb_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "vocab_multiple",
    "attention_chunk",
)


def _parts(config: T5Config, deterministic: bool) -> tuple[Any, Any, Any, Any]:
    """What both kinds of layers are made of: norm, attention, MLP (each takes a name), and dropout."""
    c, dtype = config, jnp.dtype(config.dtype)
    drop = {"dropout_rate": c.dropout_rate, "deterministic": deterministic}
    # No attention divides its scores: the factor is in how queries are initialised.
    attention = partial(Attention, c.num_heads, c.num_heads, c.head_dim, c.attention_chunk, dtype, scaled=False, **drop)
    mlp = partial(Mlp, c.mlp_dim, c.activation, dtype, c.gated_mlp, **drop)
    return partial(RMSNorm, c.norm_epsilon, dtype), attention, mlp, _dropout(c, deterministic)


def _bias(config: T5Config, bidirectional: bool) -> RelativeBias:
    c = config
    return RelativeBias(c.num_heads, c.relative_buckets, c.relative_max_distance, bidirectional, name="relpos_bias")


def _dropout(config: T5Config, deterministic: bool) -> nn.Dropout:
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)


class T5EncoderLayer(nn.Module):
    """Pre-norm attention in both directions and MLP, each added to the residual stream.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(self, x_BSD: jax.Array, numbered: Any, inputs: AttentionInputs) -> tuple[jax.Array, None]:
        """One layer as `run_layers` runs it; the carry is [batch, source, embed]."""
        norm, attention, mlp, dropout = _parts(self.config, self.deterministic)
        x_BSD = named(x_BSD, "layer_input")
        if self.config.bias_per_layer:
            S = x_BSD.shape[1]
            inputs = inputs._replace(bias_NL=_bias(self.config, True)(S, S))
        h_BSD, _ = attention(causal=False, name="attention")(norm(name="pre_attention_layer_norm")(x_BSD), inputs)
        x_BSD += dropout(h_BSD)
        x_BSD += dropout(mlp(name="mlp")(norm(name="pre_mlp_layer_norm")(x_BSD)))
        return constrain(x_BSD, ("batch", "length", "activation_embed")), None


class T5DecoderLayer(nn.Module):
    """Pre-norm causal attention, attention to the encoder and MLP, each added to the residual stream.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, KVCache | None],
        numbered: tuple[jax.Array, KeysValues | None],
        inputs: DecoderInputs,
    ) -> tuple[tuple[jax.Array, KVCache | None], None]:
        """One layer as `run_layers` runs it; the carry is ([batch, length, embed], cache)."""
        norm, attention, mlp, dropout = _parts(self.config, self.deterministic)
        x_BTD, cache = carry
        x_BTD = named(x_BTD, "layer_input")
        layer, projected = numbered
        own = inputs.own
        if self.config.bias_per_layer:
            first = 0 if cache is None else cache.slot
            bias_NL = _bias(self.config, False)(x_BTD.shape[1], own.keys.positions.shape[1], first)
            own = own._replace(bias_NL=bias_NL)
        h_BTD = norm(name="pre_self_attention_layer_norm")(x_BTD)
        h_BTD, cache = attention(name="self_attention")(h_BTD, own, cache, layer)
        x_BTD += dropout(h_BTD)
        h_BTD = norm(name="pre_cross_attention_layer_norm")(x_BTD)
        cross = attention(causal=False, name="encoder_decoder_attention")
        source = inputs.encoded_BSD if projected is None else projected
        h_BTD, _ = cross(h_BTD, inputs.cross, source=source)
        x_BTD += dropout(h_BTD)
        x_BTD += dropout(mlp(name="mlp")(norm(name="pre_mlp_layer_norm")(x_BTD)))
        return (constrain(x_BTD, ("batch", "length", "activation_embed")), cache), None


class T5Encoder(nn.Module):
    """Bias (unless each layer has its own), layers, and the last norm.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(self, x_BSD: jax.Array, where: Tokens) -> jax.Array:
        """Maps embeddings [batch, source, embed] to what the decoder reads, of the same shape."""
        c, S = self.config, x_BSD.shape[1]
        inputs = AttentionInputs(where, where, bias_NL=None if c.bias_per_layer else _bias(c, True)(S, S))
        x_BSD = run_layers(T5EncoderLayer, c, c.num_encoder_layers, self.deterministic, x_BSD, inputs)
        x_BSD = RMSNorm(c.norm_epsilon, jnp.dtype(c.dtype), name="encoder_norm")(x_BSD)
        return _dropout(c, self.deterministic)(x_BSD)


class T5Decoder(nn.Module):
    """Bias, layers, the last norm, and the head's matrix if it is not tied.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5Config
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
        """Maps embeddings [batch, length, embed] to final hidden states of the same shape.

        Args:
            x_BTD: the embeddings.
            queries: of the tokens of this call.
            keys: of the same tokens, or of the cache's slots.
            source: the encoder's result [batch, source, embed], or keys and values [layers, batch, source, ...] of it.
            source_segments_BS: int32 [batch, source].
            cache: of self-attention.

        Returns:
            The hidden states and the cache.
        """
        c = self.config
        bias_NL = None
        if not c.bias_per_layer:
            bias_NL = _bias(c, False)(x_BTD.shape[1], keys.positions.shape[1], 0 if cache is None else cache.slot)
        projected, encoded_BSD = (source, None) if isinstance(source, KeysValues) else (None, source)
        inputs = DecoderInputs(
            own=AttentionInputs(queries, keys, bias_NL=bias_NL),
            # Positions say nothing between two texts.
            cross=AttentionInputs(queries, Tokens(source_segments_BS, source_segments_BS)),
            encoded_BSD=encoded_BSD,
        )
        carry = (x_BTD, cache)
        x_BTD, cache = run_layers(T5DecoderLayer, c, c.num_decoder_layers, self.deterministic, carry, inputs, projected)
        if not c.tie_embeddings:
            # Only makes the parameter: its product with hidden states is the loss's business.
            HeadKernel(c.emb_dim, c.vocab_rows, name="logits_dense")()
        x_BTD = RMSNorm(c.norm_epsilon, jnp.dtype(c.dtype), name="decoder_norm")(x_BTD)
        return _dropout(c, self.deterministic)(x_BTD), cache


class T5Network(nn.Module):
    """One table of embeddings, encoder and decoder.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5Config
    deterministic: bool

    def setup(self) -> None:
        """Names the parts."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.token_embedder = Embed(c.vocab_rows, c.emb_dim, c.embedding_init_stddev, dtype)
        self.encoder = T5Encoder(c, self.deterministic)
        self.decoder = T5Decoder(c, self.deterministic)
        self.dropout = _dropout(c, self.deterministic)

    def encode(self, tokens_BS: jax.Array, where: Tokens) -> jax.Array:
        """Maps int32 tokens [batch, source] to the encoder's result [batch, source, embed]."""
        encoded_BSD: jax.Array = self.encoder(self.dropout(self.token_embedder(tokens_BS)), where)
        return encoded_BSD

    def decode(self, tokens_BT: jax.Array, *args: Any) -> tuple[jax.Array, KVCache | None]:
        """Maps int32 tokens [batch, length] to final hidden states; for the other arguments see `T5Decoder`."""
        result: tuple[jax.Array, KVCache | None] = self.decoder(self.dropout(self.token_embedder(tokens_BT)), *args)
        return result

    def __call__(self, tokens_BS: jax.Array, source: Tokens, tokens_BT: jax.Array, target: Tokens) -> jax.Array:
        """Encodes, and decodes all targets at once: final hidden states [batch, length, embed]."""
        encoded_BSD = self.encode(tokens_BS, source)
        hidden_BTD, _ = self.decode(tokens_BT, target, target, encoded_BSD, source.segments, None)
        return hidden_BTD


class T5Model(EncoderDecoderModel):
    """A T5; implements `models.api.Model`.

    Relative positions are the distances of slots in the row, as in T5X: the same as those of positions, which within a
    segment are consecutive in consecutive slots. ``decoder_positions`` say what comes before what;
    ``encoder_positions`` are not needed.

    Args:
        config: sizes and constants.
    """

    config: T5Config

    def __init__(self, config: T5Config):
        tokens_BT = jnp.zeros((1, 1), jnp.int32)
        where = Tokens(tokens_BT + 1, tokens_BT)
        multiplier = config.emb_dim**-0.5 if config.scale_decoder_outputs else 1.0
        super().__init__(config, T5Network, (tokens_BT, where, tokens_BT, where), multiplier)

    @property
    def _no_splash(self) -> str:
        return _NO_SPLASH

    @property
    def _decoder_shape(self) -> DecoderShape:
        return DecoderShape(self.config.num_decoder_layers, self.config.num_heads, self.config.head_dim)
