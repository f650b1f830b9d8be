"""What all encoder-decoders have in common: reading batches, and decoding step by step."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_instruct.common import types
from t5x_instruct.common.types import Batch, Params
from t5x_instruct.models.api import Cache, Encoded, ReadsInputs
from t5x_instruct.models.layers.attention import AttentionInputs, KeysValues, KVCache
from t5x_instruct.models.layers.linear import Linear
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.splash import Choice, choose
from t5x_instruct.models.network import LinenModel, collections_of, empty_cache, slots, tokens_of, write_slots
from t5x_instruct.partitioning.rules import constrain

_CACHE_AXES = ("layers", "batch", "length", "kv_heads", "kv")


class DecoderInputs(NamedTuple):
    """What all layers of the decoder share.

    Attributes:
        own: where the decoder's tokens stand, and the bias between them.
        cross: where the decoder's and the encoder's tokens stand; `own` if layers have one attention to both.
        encoded_BSD: the encoder's result; None if the layers get their keys and values ready made.
    """

    own: AttentionInputs
    cross: AttentionInputs
    encoded_BSD: jax.Array | None


class DecoderShape(NamedTuple):
    """The sizes of a decoder's caches.

    Attributes:
        num_layers: layers of the decoder.
        num_kv_heads: key/value heads of its attentions.
        head_dim: width of a head.
        merged: whether layers have one attention, ``self_attention``, to the encoder's tokens and their own; if not,
            that to the encoder's is called ``encoder_decoder_attention``.
        key_norm: what normalises its keys; None: nothing.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    merged: bool = False
    key_norm: RMSNorm | None = None


class EncoderDecoderModel(LinenModel, abc.ABC):
    """An encoder-decoder; implements `models.api.Model` but for the network.

    `hidden` reads of a batch ``encoder_input_tokens``, ``decoder_input_tokens`` and, of both sides and where present,
    ``*_segment_ids`` (0 is padding; absent: one segment without padding) and ``*_positions`` (absent: 0, 1, 2, ...
    along the row). A decoder token sees the encoder's tokens of its own segment.

    The network has the methods ``encode`` and ``decode``; its decoder's layers are as `DecoderShape` says.
    """

    @property
    @abc.abstractmethod
    def _decoder_shape(self) -> DecoderShape:
        """The sizes of the decoder's caches."""

    @property
    def reads_inputs(self) -> ReadsInputs:
        """ "encoder"."""
        return "encoder"

    @property
    @abc.abstractmethod
    def _no_splash(self) -> str:
        """What of the layers the kernel for TPUs does not know."""

    def attention_choice(self, length: int, mesh: Mesh | None) -> Choice:
        """Which attention reads whole rows of so many slots on a mesh, and why."""
        heads = self._decoder_shape.num_kv_heads
        return choose(
            self.config.attention, mesh, length=length, num_heads=heads, num_kv_heads=heads, obstacle=self._no_splash
        )

    def hidden(self, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
        """Final hidden states of all targets at once.

        Args:
            params: from `init`.
            batch: int32 [batch, source] and [batch, length] arrays, see the class.
            dropout_rng: PRNG key; None turns dropout off.

        Returns:
            [batch, length, embed] in the compute dtype.
        """
        hidden_BTD: jax.Array = self._run(
            params,
            dropout_rng,
            batch[types.ENCODER_INPUT_TOKENS],
            tokens_of(batch, "encoder"),
            batch[types.DECODER_INPUT_TOKENS],
            tokens_of(batch, "decoder"),
        )
        return hidden_BTD

    def encode(self, params: Params, batch: Batch) -> Encoded:
        """What the decoder reads, from the batch's encoder keys."""
        where = tokens_of(batch, "encoder")
        args = (batch[types.ENCODER_INPUT_TOKENS], where)
        return Encoded(self._run(params, None, *args, method="encode"), where.segments)

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoded: Encoded | None = None,
        params: Params | None = None,
    ) -> Cache:
        """An empty cache of self-attention, and the keys and values of attention to the encoder.

        Args:
            batch_size: rows.
            max_length: slots a row, for the start token and all that is generated.
            encoded: from `encode`, of as many rows.
            params: the parameters.

        Returns:
            What `empty_cache` gives, ``cross_key`` and ``cross_value`` [layers, batch, source, kv heads, head_dim] in
            the compute dtype, and ``encoder_segments`` int32 [batch, source]. Where layers have one attention, what
            `empty_cache` gives for ``source + max_length`` slots, of which the encoder's tokens hold the first, and
            ``elsewhere`` int32 [batch, source + max_length], 1 in these.

        Raises:
            ValueError: `encoded` or `params` is missing, or `encoded` has another number of rows.
        """
        c, shape = self.config, self._decoder_shape
        if encoded is None or params is None:
            raise ValueError("the cache of an encoder-decoder needs `encoded`, from encode(), and `params`")
        rows = encoded.segments_BS.shape[0]
        if rows != batch_size:
            raise ValueError(f"the encoder has read {rows} rows, the cache is for {batch_size}")
        projected = {name: self._projected(params, encoded.hidden_BSD, name) for name in ("key", "value")}
        if shape.merged:
            return self._merged_cache(max_length, encoded.segments_BS, projected)
        cache = empty_cache(c, shape.num_layers, shape.num_kv_heads, batch_size, max_length)
        cross = {f"cross_{name}": array for name, array in projected.items()}
        return cache | cross | {"encoder_segments": encoded.segments_BS}

    def _merged_cache(self, max_length: int, segments_BS: jax.Array, projected: Mapping[str, jax.Array]) -> Cache:
        """A cache whose first slots hold the encoder's tokens."""
        shape, (B, S) = self._decoder_shape, segments_BS.shape
        cache = empty_cache(self.config, shape.num_layers, shape.num_kv_heads, B, S + max_length)
        positions_BX = cache["positions"].at[:, :S].set(jnp.where(segments_BS == 1, 0, -1))
        elsewhere_BX = jnp.zeros_like(positions_BX).at[:, :S].set(1)
        cache |= {"index": jnp.full((), S, jnp.int32), "positions": positions_BX, "elsewhere": elsewhere_BX}
        for name, new_LBSKH in projected.items():
            cache[name] = constrain(cache[name].at[:, :, :S].set(new_LBSKH), _CACHE_AXES)
        return cache

    def _projected(self, params: Params, encoded_BSD: jax.Array, name: str) -> jax.Array:
        """Keys or values of all layers, [layers, batch, source, kv heads, head_dim]."""
        c, shape = self.config, self._decoder_shape
        attention = "self_attention" if shape.merged else "encoder_decoder_attention"

        def variables(part: Params, module: str) -> Any:
            decoder = part.get("decoder", {})
            numbered = ["layers"] if c.scan_layers else [f"layers_{i}" for i in range(shape.num_layers)]
            each = [decoder.get(layer, {}).get(attention, {}).get(module, {}) for layer in numbered]
            return each[0] if c.scan_layers else jax.tree.map(lambda *x: jnp.stack(x), *each)

        def all_layers(module: str) -> dict[str, Any]:
            return {collection: variables(part, module) for collection, part in collections_of(params).items()}

        linear = Linear((shape.num_kv_heads, shape.head_dim), ("embed",), ("kv_heads", "kv"), jnp.dtype(c.dtype))
        projected_LBSKH: jax.Array = jax.vmap(lambda layer: linear.apply(layer, encoded_BSD))(all_layers(name))
        if name == "key" and shape.key_norm is not None:
            projected_LBSKH = jax.vmap(shape.key_norm.apply)(all_layers("key_norm"), projected_LBSKH)
        return constrain(projected_LBSKH, _CACHE_AXES)

    def step(
        self, params: Params, cache: Cache, tokens_BT: jax.Array, positions_BT: jax.Array, *, prefix: bool = False
    ) -> tuple[jax.Array, Cache]:
        """Writes T new slots and attends to all valid ones and to the encoder, see `models.api.Model.step`.

        Raises:
            ValueError: more new tokens than the cache has slots.
        """
        positions_BS = write_slots(cache, "positions", positions_BT)
        keys = slots(positions_BS)._replace(elsewhere=cache.get("elsewhere"))
        projected = None if self._decoder_shape.merged else KeysValues(cache["cross_key"], cache["cross_value"])
        hidden_BTD, kv = self._run(
            params,
            None,
            tokens_BT,
            slots(positions_BT),
            keys,
            projected,
            cache.get("encoder_segments"),
            KVCache(cache["key"], cache["value"], cache["index"]),
            method="decode",
        )
        return hidden_BTD, cache | {
            "index": cache["index"] + tokens_BT.shape[1],
            "positions": positions_BS,
            "key": kv.key_LBSKH,
            "value": kv.value_LBSKH,
        }
