"""Decoder-only models of the Llama kind: configuration, network, and the model as pure functions."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.common import types
from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.types import Batch, Params, Unembedding
from t5x_instruct.models.api import Cache
from t5x_instruct.models.heads import HeadKernel, logits_of
from t5x_instruct.models.layers.attention import Attention, AttentionInputs, KVCache, Tokens
from t5x_instruct.models.layers.embedding import Embed
from t5x_instruct.models.layers.mlp import ACTIVATIONS, GatedMlp
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.rope import rotation
from t5x_instruct.partitioning.rules import constrain

DTYPES = ("float32", "bfloat16")
#: What the backward pass may keep of a layer; "none" keeps everything and is no policy.
REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only model of the Llama kind.

    What the weights were trained with has no default: a constant that is forgotten is an error and not a
    slightly wrong model. What only changes speed or memory has one.

    Attributes:
        vocab_size: number of token ids.
        emb_dim: width of the residual stream.
        num_layers: number of layers.
        num_heads: query heads.
        num_kv_heads: key/value heads; divides `num_heads`, each serves a group of query heads.
        head_dim: width of a head, even; need not be ``emb_dim / num_heads``.
        mlp_dim: width of the gated MLP.
        activation: of the MLP's gate: "silu", "gelu" (exact), "gelu_tanh", "relu".
        rope_theta: base of the rotary wavelengths.
        norm_epsilon: added to the mean square in RMSNorm.
        tie_embeddings: whether the head is the transposed embedding.
        vocab_multiple: the embedding's and the head's rows are rounded up to a multiple of this (so that a
            mesh axis divides them); rows from `vocab_size` on are never predicted.
        embedding_init_stddev: standard deviation of freshly drawn embeddings.
        dropout_rate: on embeddings and on what each sub-layer adds; used only where a dropout key is given.
        dtype: compute dtype, "float32" or "bfloat16"; parameters, softmax and norms are float32.
        remat: what the backward pass computes again per layer: "none", "dots" (all but the projections'
            outputs), "full" (all but the layer's input).
        scan_layers: one compiled layer over stacked parameters, or every layer compiled by itself.
        attention_chunk: queries per piece of attention; scores of one piece at a time are alive.
        family: "decoder".
    """

    vocab_size: int
    emb_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    activation: str
    rope_theta: float
    norm_epsilon: float
    tie_embeddings: bool
    vocab_multiple: int = 1
    embedding_init_stddev: float = 0.02
    dropout_rate: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    attention_chunk: int = 64
    family: str = "decoder"

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, must be at least 1" for name in _SIZES if getattr(self, name) < 1
        ]
        for name, value, valid in (
            ("activation", self.activation, ACTIVATIONS),
            ("dtype", self.dtype, DTYPES),
            ("remat policy", self.remat, REMAT_POLICIES),
            ("decoder family", self.family, ("decoder",)),
        ):
            if value not in valid:
                problems.append(unknown(name, value, valid))
        if self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads:
            problems.append(f"num_heads is {self.num_heads}, must be a multiple of num_kv_heads, {self.num_kv_heads}")
        if self.head_dim % 2:
            problems.append(f"head_dim is {self.head_dim}, must be even: rotary positions turn pairs")
        if not 0.0 <= self.dropout_rate < 1.0:
            problems.append(f"dropout_rate is {self.dropout_rate}, must be in [0, 1)")
        if self.rope_theta <= 0.0:
            problems.append(f"rope_theta is {self.rope_theta}, must be positive")
        if self.norm_epsilon <= 0.0:
            problems.append(f"norm_epsilon is {self.norm_epsilon}, must be positive")
        if problems:
            raise ConfigError([f"DecoderConfig: {problem}" for problem in problems])

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up to a multiple of `vocab_multiple`."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


_SIZES = (
    "vocab_size",
    "emb_dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "mlp_dim",
    "vocab_multiple",
    "attention_chunk",
)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, KVCache | None], layer: Any, inputs: AttentionInputs
    ) -> tuple[tuple[jax.Array, KVCache | None], None]:
        """One layer in the form of a scan's body; the carry is ([batch, length, embed], cache)."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        x_BTD, cache = carry
        norm = partial(RMSNorm, c.norm_epsilon, dtype)
        dropout = nn.Dropout(c.dropout_rate, deterministic=self.deterministic)
        attention = Attention(
            num_heads=c.num_heads,
            num_kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            chunk=c.attention_chunk,
            dtype=dtype,
            name="self_attention",
        )
        h_BTD = norm(name="pre_self_attention_layer_norm")(x_BTD)
        h_BTD, cache = attention(h_BTD, inputs, cache, layer)
        x_BTD += dropout(h_BTD)
        h_BTD = norm(name="pre_mlp_layer_norm")(x_BTD)
        x_BTD += dropout(GatedMlp(c.mlp_dim, c.activation, dtype, name="mlp")(h_BTD))
        return (constrain(x_BTD, ("batch", "length", "activation_embed")), cache), None


class DecoderStack(nn.Module):
    """All layers, the last norm, and the head's matrix if it is not tied.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, inputs: AttentionInputs, cache: KVCache | None
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps embeddings [batch, length, embed] to final hidden states of the same shape."""
        c = self.config
        layer_class = DecoderLayer
        if c.remat != "none":
            # Within a scan the recomputation cannot be merged away, and the barriers would only cost time.
            layer_class = nn.remat(DecoderLayer, policy=REMAT_POLICIES[c.remat], prevent_cse=not c.scan_layers)
        carry = (x_BTD, cache)
        if c.scan_layers:
            layers = nn.scan(
                layer_class,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                length=c.num_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(c, self.deterministic, name="layers")
            carry, _ = layers(carry, jnp.arange(c.num_layers), inputs)
        else:
            for i in range(c.num_layers):
                layer = layer_class(c, self.deterministic, name=f"layers_{i}")
                carry, _ = layer(carry, jnp.int32(i), inputs)
        x_BTD, cache = carry
        if not c.tie_embeddings:
            # Only makes the parameter: its product with hidden states is the loss's business.
            HeadKernel(c.emb_dim, c.vocab_rows, name="logits_dense")()
        return RMSNorm(c.norm_epsilon, jnp.dtype(c.dtype), name="decoder_norm")(x_BTD), cache


class DecoderNetwork(nn.Module):
    """Embedding and stack.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, queries: Tokens, keys: Tokens, cache: KVCache | None
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps int32 tokens [batch, length] to hidden states [batch, length, embed]."""
        c = self.config
        embed = Embed(
            c.vocab_rows,
            c.emb_dim,
            c.embedding_init_stddev,
            jnp.dtype(c.dtype),
            name="token_embedder",
        )
        x_BTD = nn.Dropout(c.dropout_rate, deterministic=self.deterministic)(embed(tokens_BT))
        turn = rotation(queries.positions, c.head_dim, c.rope_theta)
        stack = DecoderStack(c, self.deterministic, name="decoder")
        return stack(x_BTD, AttentionInputs(queries, keys, turn), cache)


class DecoderModel:
    """A decoder-only model; implements `models.api.Model`.

    `hidden` reads of a batch ``decoder_input_tokens`` and, where present, ``decoder_segment_ids`` (0 is padding;
    absent: one segment without padding) and ``decoder_positions`` (absent: 0, 1, 2, ... along the row).

    Args:
        config: sizes and constants.
    """

    def __init__(self, config: DecoderConfig):
        self.config = config
        self._network = DecoderNetwork(config, deterministic=True)
        self._network_with_dropout = DecoderNetwork(config, deterministic=False)

    def _init_boxed(self, rng: jax.Array) -> Any:
        tokens_BT = jnp.zeros((1, 1), jnp.int32)
        where = Tokens(tokens_BT + 1, tokens_BT)
        return self._network.init(rng, tokens_BT, where, where, None)["params"]

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Random float32 parameters from a PRNG key."""
        params: dict[str, Any] = nn.meta.unbox(self._init_boxed(rng))
        return params

    def param_axes(self) -> dict[str, Any]:
        """The tree of `init` with a tuple of logical axis names for each array."""
        boxed = jax.eval_shape(self._init_boxed, jax.random.key(0))
        axes: dict[str, Any] = jax.tree.map(
            lambda box: tuple(box.names), boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
        )
        return axes

    def hidden(self, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
        """Final hidden states of all tokens at once.

        Args:
            params: from `init`.
            batch: int32 [batch, length] arrays, see the class.
            dropout_rng: PRNG key; None turns dropout off.

        Returns:
            [batch, length, embed] in the compute dtype.
        """
        tokens_BT = batch[types.DECODER_INPUT_TOKENS]
        tokens = _tokens_of(batch)
        if dropout_rng is None:
            hidden, _ = self._network.apply({"params": params}, tokens_BT, tokens, tokens, None)
        else:
            hidden, _ = self._network_with_dropout.apply(
                {"params": params}, tokens_BT, tokens, tokens, None, rngs={"dropout": dropout_rng}
            )
        return hidden

    def unembedding(self, params: Params) -> Unembedding:
        """What turns hidden states into logits: the head's matrix or the transposed embedding, in float32."""
        c = self.config
        if c.tie_embeddings:
            kernel_DV = params["token_embedder"]["embedding"].T
        else:
            kernel_DV = params["decoder"]["logits_dense"]["kernel"]
        return Unembedding(kernel_DV, vocab_size=c.vocab_size)

    def logits(self, params: Params, hidden_BTD: jax.Array) -> jax.Array:
        """float32 logits [batch, length, vocab_rows]; ids from `vocab_size` on hold -1e30."""
        return logits_of(hidden_BTD, self.unembedding(params))

    def encode(self, params: Params, batch: Batch) -> None:
        """Nothing: there is no encoder."""
        return

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoded: Any = None,
        params: Params | None = None,
    ) -> Cache:
        """An empty cache.

        Args:
            batch_size: rows.
            max_length: slots a row, for the longest prompt and all that is generated.
            encoded: unused, there is no encoder.
            params: unused, nothing is projected ahead.

        Returns:
            ``index`` int32 scalar, ``positions`` int32 [batch, slots] (-1: empty or padding), ``key`` and ``value``
            [layers, batch, slots, kv heads, head_dim] in the compute dtype.
        """
        c = self.config
        shape = (c.num_layers, batch_size, max_length, c.num_kv_heads, c.head_dim)
        return {
            "index": jnp.zeros((), jnp.int32),
            "positions": jnp.full((batch_size, max_length), -1, jnp.int32),
            "key": jnp.zeros(shape, jnp.dtype(c.dtype)),
            "value": jnp.zeros(shape, jnp.dtype(c.dtype)),
        }

    def step(
        self, params: Params, cache: Cache, tokens_BT: jax.Array, positions_BT: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Writes T new slots and attends to all valid ones, see `models.api.Model.step`.

        Raises:
            ValueError: more new tokens than the cache has slots.
        """
        T, S = tokens_BT.shape[1], cache["positions"].shape[1]
        if T > S:
            raise ValueError(f"a step of {T} tokens does not fit a cache of {S} slots; init_cache needs at least {T}")
        index = cache["index"]
        positions_BS = jax.lax.dynamic_update_slice(
            cache["positions"], positions_BT.astype(jnp.int32), (jnp.zeros((), jnp.int32), index)
        )
        queries, keys = (
            Tokens((positions >= 0).astype(jnp.int32), positions) for positions in (positions_BT, positions_BS)
        )
        kv = KVCache(cache["key"], cache["value"], index)
        hidden, kv = self._network.apply({"params": params}, tokens_BT, queries, keys, kv)
        return hidden, {
            "index": index + T,
            "positions": positions_BS,
            "key": kv.key_LBSKH,
            "value": kv.value_LBSKH,
        }


def _tokens_of(batch: Mapping[str, Any]) -> Tokens:
    """Segments and positions of a training batch, with what absent keys mean filled in."""
    tokens_BT = batch[types.DECODER_INPUT_TOKENS]
    segments_BT = batch.get(types.DECODER_SEGMENT_IDS)
    if segments_BT is None:
        segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
    positions_BT = batch.get(types.DECODER_POSITIONS)
    if positions_BT is None:
        # Positions along the whole row order every segment and give rotary angles the same differences.
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
    return Tokens(segments_BT, positions_BT)
