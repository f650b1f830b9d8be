"""Grouped-query attention: one implementation for training, prefill and decoding."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.models.layers.linear import Linear
from t5x_instruct.models.layers.rope import Rotation, rotate
from t5x_instruct.partitioning.rules import constrain

# Far below any score and far above the end of float32, so that adding a score to it stays finite.
_HIDDEN = -1e30


class Tokens(NamedTuple):
    """Where tokens stand: what masks are made of.

    Attributes:
        segments: int32 [batch, length], 0 is padding.
        positions: int32 [batch, length], order within a segment.
    """

    segments: jax.Array
    positions: jax.Array


class KVCache(NamedTuple):
    """Keys and values of all layers, and where the step writes.

    Attributes:
        key_LBSKH: [layers, batch, slots, kv heads, head_dim].
        value_LBSKH: the same.
        slot: int32 scalar, where the step's first token goes.
    """

    key_LBSKH: jax.Array
    value_LBSKH: jax.Array
    slot: jax.Array

    def updated(self, layer: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, jax.Array, "KVCache"]:
        """Writes one layer's new slots; gives all slots of the layer and the new cache."""

        def write(all_LBSKH: jax.Array, new_BTKH: jax.Array) -> jax.Array:
            new = new_BTKH[None].astype(all_LBSKH.dtype)
            zero = jnp.zeros((), jnp.int32)
            return jax.lax.dynamic_update_slice(all_LBSKH, new, (layer, zero, self.slot, zero, zero))

        keys, values = write(self.key_LBSKH, k_BTKH), write(self.value_LBSKH, v_BTKH)
        at_layer = partial(jax.lax.dynamic_index_in_dim, index=layer, axis=0, keepdims=False)
        return at_layer(keys), at_layer(values), KVCache(keys, values, self.slot)


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    queries: Tokens,
    keys: Tokens,
    chunk: int,
) -> jax.Array:
    """Causal softmax attention within segments.

    A query sees the keys of its own segment that stand at its position or before. Padding is seen by nothing
    and sees nothing: its result is zero.

    Why in pieces of queries, with the keys transposed: XLA's CPU backend runs the textbook einsum over
    [batch, heads, T, S] at 50 GFLOP/s, because it is bound by passes over the scores. A piece's scores stay in
    the caches and are computed again in the backward pass, instead of being stored. Batch and heads stay
    whole axes, so that a mesh can shard them: a loop over (batch, head) is as fast on one CPU, but would
    gather everything on a pod. Measured forward and backward in float32 on two cores, 4 rows, 9 heads of 64,
    3 kv heads: at 512 tokens 85 ms and 24 MB of temporaries (textbook 190-230 ms and 194 MB, loop over batch
    and head 84 ms and 23 MB); at 256 tokens 22 ms (textbook 38-68 ms, loop 19-24 ms).

    Args:
        q_BTNH: queries [batch, T, heads, head_dim], already scaled.
        k_BSKH: keys [batch, S, kv heads, head_dim].
        v_BSKH: values, the same shape.
        queries: of the T queries.
        keys: of the S keys.
        chunk: queries per piece.

    Returns:
        [batch, T, heads, head_dim].

    Source: Ainslie et al. 2023 (grouped queries); Rabe and Staats 2021 (pieces with recomputation).
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    k_BKHS = k_BSKH.transpose(0, 2, 3, 1)
    v_BKSH = v_BSKH.transpose(0, 2, 1, 3)

    def piece(q_BCNH: jax.Array, piece_of: Tokens) -> jax.Array:
        C = q_BCNH.shape[1]
        # The queries that share a key head are rows of one matrix.
        q_BKMH = q_BCNH.reshape(B, C, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
        seen_BCS = _seen(piece_of, keys)
        scores = jnp.einsum("bkmh,bkhs->bkms", q_BKMH, k_BKHS, preferred_element_type=jnp.float32)
        scores = scores.reshape(B, K, N // K, C, -1)
        scores += jnp.where(seen_BCS, 0.0, _HIDDEN)[:, None, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(v_BKSH.dtype).reshape(*q_BKMH.shape[:3], -1)
        out_BKMH = jnp.einsum("bkms,bksh->bkmh", weights, v_BKSH)
        out_BCNH = out_BKMH.reshape(B, K, N // K, C, H).transpose(0, 3, 1, 2, 4).reshape(B, C, N, H)
        return out_BCNH * seen_BCS.any(axis=-1)[:, :, None, None]

    if chunk >= T:
        return piece(q_BTNH, queries)
    count = -(-T // chunk)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * chunk - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, count, chunk, *x.shape[2:]), 1, 0)

    pieces = (split(q_BTNH), Tokens(*map(split, queries)))
    # prevent_cse=False: inside a loop XLA cannot merge the recomputation with the first computation.
    body = jax.checkpoint(lambda args: piece(*args), prevent_cse=False)
    out = jnp.moveaxis(jax.lax.map(body, pieces), 0, 1)
    return out.reshape(B, count * chunk, N, H)[:, :T]


def _seen(queries: Tokens, keys: Tokens) -> jax.Array:
    """Which key each query sees, bool [batch, T, S]."""
    same = queries.segments[:, :, None] == keys.segments[:, None, :]
    before = queries.positions[:, :, None] >= keys.positions[:, None, :]
    return same & before & (keys.segments > 0)[:, None, :]


class AttentionInputs(NamedTuple):
    """What all layers' attention shares, computed once a forward pass.

    Attributes:
        queries: of the tokens of this call.
        keys: of all that can be attended to: the same tokens, or the cache's slots.
        rotation: of the queries' positions.
    """

    queries: Tokens
    keys: Tokens
    rotation: Rotation


class Attention(nn.Module):
    """Self-attention with rotary positions and, optionally, fewer key/value heads than query heads.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key/value heads.
        head_dim: width of a head.
        chunk: queries per piece, see `attend`.
        dtype: compute dtype.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    chunk: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, inputs: AttentionInputs, cache: KVCache | None, layer: Any
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps [batch, length, embed] to the same shape; with a cache, reads and writes `layer` of it."""

        def project(name: str, heads: int, axis: str) -> jax.Array:
            linear = Linear((heads, self.head_dim), ("embed",), (axis, "kv"), self.dtype, name=name)
            return constrain(linear(x_BTD), ("batch", "length", axis, "kv"))

        q_BTNH = rotate(project("query", self.num_heads, "heads"), inputs.rotation)
        k_BSKH = rotate(project("key", self.num_kv_heads, "kv_heads"), inputs.rotation)
        v_BSKH = project("value", self.num_kv_heads, "kv_heads")
        if cache is not None:
            k_BSKH, v_BSKH, cache = cache.updated(layer, k_BSKH, v_BSKH)
        scaled_BTNH = q_BTNH * jnp.asarray(self.head_dim**-0.5, self.dtype)
        out_BTNH = attend(scaled_BTNH, k_BSKH, v_BSKH, inputs.queries, inputs.keys, self.chunk)
        out_BTNH = constrain(out_BTNH, ("batch", "length", "heads", "kv"))
        out = Linear((x_BTD.shape[-1],), ("heads", "kv"), ("embed",), self.dtype, name="out")
        return out(out_BTNH), cache
