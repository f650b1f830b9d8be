"""T5Gemma and the text part of T5Gemma 2: encoder and decoder are stacks as Gemma 2 or Gemma 3 has them."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.common.errors import unknown
from t5x_instruct.models.encoder_decoder import DecoderInputs, DecoderShape, EncoderDecoderModel
from t5x_instruct.models.heads import HeadKernel
from t5x_instruct.models.layers.attention import Attention, AttentionInputs, KeysValues, KVCache, Tokens
from t5x_instruct.models.layers.embedding import Embed, OneEmbedding
from t5x_instruct.models.layers.kinds import LayerKind, Window, indexed, repeated, sliding
from t5x_instruct.models.layers.mlp import Mlp
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.remat import named
from t5x_instruct.models.layers.rope import Rope, RopeScaling, rotations
from t5x_instruct.models.layers.stack import run_layers
from t5x_instruct.models.network import check_config, rounded_up
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
            pattern that is repeated. In the decoder a window of w is w tokens, the query among them; in the encoder
            what `T5GemmaConfig.encoder_window` says.
        norm_epsilon: added to the mean square in RMSNorm.
        rope_scaling: of the angles of `rope_theta`, for a longer context; None: they are as they are.
        local_rope_theta: base of the layers that have a window, which nothing scales; None: all layers turn alike.
        qk_norm: whether queries and keys are normalised, head by head.
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
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    qk_norm: bool = False

    @property
    def ropes(self) -> list[Rope]:
        """Of every layer."""
        everywhere = Rope(self.rope_theta, self.rope_scaling)
        local = everywhere if self.local_rope_theta is None else Rope(self.local_rope_theta)
        return [local if size else everywhere for size in repeated(self.layer_windows, self.num_layers)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5GemmaConfig:
    """An encoder-decoder of two Gemma stacks; the defaults are T5Gemma's, the other choices T5Gemma 2's.

    Attributes:
        vocab_size: number of token ids.
        encoder: the encoder's sizes and constants.
        decoder: the decoder's.
        tie_embeddings: whether the head is the decoder's transposed embedding.
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
        merged_attention: whether a decoder layer has one attention to the encoder's tokens and its own, with the same
            matrices and one softmax; or one to each.
        share_embeddings: whether the encoder reads the decoder's embeddings; or its own.
        encoder_window: what a window of w is in the encoder: "each_side" (w tokens before the query and w after it) or
            "centered" (w tokens in all, the query among them; of an even w there is one more after it than before).
        end_of_image_id: a token whose embedding is a parameter of its own, beside the table and not scaled; None: none
            is. What ends an image in inputs has one, and texts may name the token.
        family: "t5gemma".

    Source: Zhang et al. 2025, "Encoder-Decoder Gemma" (arXiv:2504.06225); Gemma team 2024, "Gemma 2"; Zhang et al.
    2025, "T5Gemma 2" (arXiv:2512.14856; merged attention, tied embeddings); Gemma team 2025, "Gemma 3".
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
    merged_attention: bool = False
    share_embeddings: bool = False
    encoder_window: str = "each_side"
    end_of_image_id: int | None = None
    family: str = "t5gemma"

    def __post_init__(self) -> None:
        problems = []
        for side in ("encoder", "decoder"):
            problems += [f"{side}.{problem}" for problem in _problems_of(getattr(self, side))]
        for name in ("merged_attention", "share_embeddings"):
            if getattr(self, name) and self.encoder.emb_dim != self.decoder.emb_dim:
                problems.append(
                    f"{name} is True, but encoder.emb_dim is {self.encoder.emb_dim} and decoder.emb_dim "
                    f"{self.decoder.emb_dim}: they must be equal"
                )
        if self.encoder_window not in ENCODER_WINDOWS:
            problems.append(unknown("encoder_window", self.encoder_window, ENCODER_WINDOWS))
        if self.end_of_image_id is not None and self.end_of_image_id < 0:
            problems.append(f"end_of_image_id is {self.end_of_image_id}, must be at least 0")
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

    @property
    def num_encoder_layers(self) -> int:
        """Layers of the encoder."""
        return self.encoder.num_layers

    @property
    def num_decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.decoder.num_layers

    @property
    def emb_dim(self) -> int:
        """Width of the wider side."""
        return max(self.encoder.emb_dim, self.decoder.emb_dim)


ENCODER_WINDOWS = ("each_side", "centered")
_NO_SPLASH = "the encoder sees both ways, and the kernel is only causal"


def _problems_of(s: GemmaStack) -> list[str]:
    sizes = ("emb_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
    problems = [f"{name} is {getattr(s, name)}, must be at least 1" for name in sizes if getattr(s, name) < 1]
    if s.num_kv_heads >= 1 and s.num_heads % s.num_kv_heads:
        problems.append(f"num_heads is {s.num_heads}, must be a multiple of num_kv_heads, {s.num_kv_heads}")
    if s.head_dim % 2:
        problems.append(f"head_dim is {s.head_dim}, must be even: rotary positions turn pairs")
    for name in ("rope_theta", "local_rope_theta", "query_pre_attn_scalar", "attention_soft_cap", "norm_epsilon"):
        value = getattr(s, name)
        if value is not None and value <= 0.0:
            problems.append(f"{name} is {value}, must be positive")
    if s.rope_scaling is not None and s.rope_scaling.kind == "yarn" and s.rope_theta <= 1.0:
        problems.append(f"rope_theta is {s.rope_theta}, must be above 1 where rope_scaling is 'yarn'")
    if not s.layer_windows or min(s.layer_windows) < 0 or len(s.layer_windows) > max(s.num_layers, 1):
        problems.append(
            f"layer_windows is {s.layer_windows}, must have 1 to {s.num_layers} entries, none of them below 0"
        )
    return problems


def _windows(config: T5GemmaConfig, side: str) -> list[Window | None]:
    """Of every layer of one side."""
    meaning: Callable[[int], Window | None] = sliding
    if side == "encoder":
        meaning = _each_side if config.encoder_window == "each_side" else _centered
    stack = getattr(config, side)
    return [meaning(size) for size in repeated(stack.layer_windows, stack.num_layers)]


def _each_side(size: int) -> Window | None:
    return Window(size, size) if size else None


def _centered(size: int) -> Window | None:
    return Window((size - 1) // 2, size // 2) if size else None


def _kinds(config: T5GemmaConfig, side: str) -> LayerKind:
    return LayerKind(indexed(_windows(config, side))[1], indexed(getattr(config, side).ropes)[1])


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
        qk_norm=_norm(c, s) if s.qk_norm else None,
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
        windows = indexed(_windows(self.config, "encoder"))[0]
        attention = parts.attention(causal=False, windows=windows, name="attention")
        h_BSD, _ = attention(parts.norm(name="pre_attention_layer_norm")(x_BSD), inputs, kind=numbered[1])
        x_BSD += parts.dropout(parts.norm(name="post_attention_layer_norm")(h_BSD))
        h_BSD = parts.mlp()(parts.norm(name="pre_mlp_layer_norm")(x_BSD))
        x_BSD += parts.dropout(parts.norm(name="post_mlp_layer_norm")(h_BSD))
        return constrain(x_BSD, ("batch", "length", "activation_embed")), None


class T5GemmaDecoderLayer(nn.Module):
    """Causal attention, attention to the encoder and MLP, each normalised before and after and added.

    With merged attention the first two are one: a query, turned by its position, meets the own keys, turned by theirs,
    and the encoder's keys, which are not.

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
        c = self.config
        parts = _parts(c, c.decoder, self.deterministic)
        x_BTD, cache = carry
        x_BTD = named(x_BTD, "layer_input")
        layer, (kind, projected) = numbered
        attention = parts.attention(windows=indexed(_windows(c, "decoder"))[0], name="self_attention")
        before_BSD = inputs.encoded_BSD if c.merged_attention else None
        h_BTD = parts.norm(name="pre_self_attention_layer_norm")(x_BTD)
        h_BTD, cache = attention(h_BTD, inputs.own, cache, layer, kind=kind, before_BSD=before_BSD)
        x_BTD += parts.dropout(parts.norm(name="post_self_attention_layer_norm")(h_BTD))
        if not c.merged_attention:
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
        turn = rotations(where.positions, stack.head_dim, indexed(stack.ropes)[0])
        inputs = AttentionInputs(where, where, turn)
        kinds = _kinds(c, "encoder")
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
        source: jax.Array | KeysValues | None,
        source_segments_BS: jax.Array | None,
        cache: KVCache | None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps embeddings [batch, length, embed] to final hidden states.

        The arguments are `T5Decoder`'s; with merged attention `source` and its segments are None where `keys` and the
        cache hold the encoder's tokens already.
        """
        c, stack = self.config, self.config.decoder
        projected, encoded_BSD = (source, None) if isinstance(source, KeysValues) else (None, source)
        if c.merged_attention and source_segments_BS is not None:
            keys = keys.after(source_segments_BS)
        own = AttentionInputs(queries, keys, rotations(queries.positions, stack.head_dim, indexed(stack.ropes)[0]))
        cross = own
        if not c.merged_attention:
            assert source_segments_BS is not None
            # Positions say nothing between two texts.
            cross = AttentionInputs(queries, Tokens(source_segments_BS, source_segments_BS))
        inputs = DecoderInputs(own, cross, encoded_BSD)
        per_layer = (_kinds(c, "decoder"), projected)
        x_BTD, cache = run_layers(
            T5GemmaDecoderLayer, c, stack.num_layers, self.deterministic, (x_BTD, cache), inputs, per_layer
        )
        if not c.tie_embeddings:
            # Only makes the parameter: its product with hidden states is the loss's business.
            HeadKernel(stack.emb_dim, c.vocab_rows, name="logits_dense")()
        return _dropout(c, self.deterministic)(_norm(c, stack)(name="decoder_norm")(x_BTD)), cache


_EMBEDDERS = {"encoder": ("encoder_embedder", "encoder_end_of_image"), "decoder": ("token_embedder", "end_of_image")}


class T5GemmaNetwork(nn.Module):
    """One or two tables of embeddings, encoder and decoder.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: T5GemmaConfig
    deterministic: bool

    def setup(self) -> None:
        """Names the parts."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.token_embedder = Embed(c.vocab_rows, c.decoder.emb_dim, c.embedding_init_stddev, dtype)
        if not c.share_embeddings:
            self.encoder_embedder = Embed(c.vocab_rows, c.encoder.emb_dim, c.embedding_init_stddev, dtype)
        if c.end_of_image_id is not None:
            self.end_of_image = OneEmbedding(c.decoder.emb_dim, dtype)
            if not c.share_embeddings:
                self.encoder_end_of_image = OneEmbedding(c.encoder.emb_dim, dtype)
        self.encoder = T5GemmaEncoder(c, self.deterministic)
        self.decoder = T5GemmaDecoder(c, self.deterministic)
        self.dropout = _dropout(c, self.deterministic)

    def encode(self, tokens_BS: jax.Array, where: Tokens) -> jax.Array:
        """Maps int32 tokens [batch, source] to the encoder's result [batch, source, embed]."""
        x_BSD = self._embedded("decoder" if self.config.share_embeddings else "encoder", tokens_BS)
        encoded_BSD: jax.Array = self.encoder(x_BSD, where)
        return encoded_BSD

    def decode(self, tokens_BT: jax.Array, *args: Any) -> tuple[jax.Array, KVCache | None]:
        """Maps int32 tokens [batch, length] to final hidden states; for the other arguments see `T5GemmaDecoder`."""
        x_BTD = self._embedded("decoder", tokens_BT)
        result: tuple[jax.Array, KVCache | None] = self.decoder(x_BTD, *args)
        return result

    def __call__(self, tokens_BS: jax.Array, source: Tokens, tokens_BT: jax.Array, target: Tokens) -> jax.Array:
        """Encodes, and decodes all targets at once: final hidden states [batch, length, embed]."""
        encoded_BSD = self.encode(tokens_BS, source)
        hidden_BTD, _ = self.decode(tokens_BT, target, target, encoded_BSD, source.segments, None)
        return hidden_BTD

    def _embedded(self, side: str, tokens: jax.Array) -> jax.Array:
        embedder, end_of_image = _EMBEDDERS[side]
        x = getattr(self, embedder)(tokens)
        x *= jnp.asarray(x.shape[-1] ** 0.5, x.dtype)
        if self.config.end_of_image_id is not None:
            x = jnp.where((tokens == self.config.end_of_image_id)[..., None], getattr(self, end_of_image)(), x)
        embedded: jax.Array = self.dropout(x)
        return embedded


class T5GemmaModel(EncoderDecoderModel):
    """A T5Gemma or T5Gemma 2; implements `models.api.Model`.

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
        c, stack = self.config, self.config.decoder
        key_norm = _norm(c, stack)() if stack.qk_norm else None
        return DecoderShape(stack.num_layers, stack.num_kv_heads, stack.head_dim, c.merged_attention, key_norm)
