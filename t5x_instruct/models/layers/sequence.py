"""Attention where rows are spread over the devices of the sequence axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_instruct.partitioning.rules import constrain, shard_count


def over_sequence(
    attend: Callable[..., jax.Array],
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    queries: Any,
    keys: Any,
    *,
    bias_NL: jax.Array | None = None,
) -> jax.Array:
    """`attend`, each device over its own part of the queries; keys and values are gathered once.

    An attention that cuts its queries into pieces goes from one device's queries to the next one's, and every device
    would need them all. So the parts become an axis of their own, which is sharded, and each is cut by itself.

    Args:
        attend: takes the arguments that follow, see `attention.attend`.
        q_BTNH: queries [batch, T, heads, head_dim].
        k_BSKH: keys [batch, S, kv heads, head_dim].
        v_BSKH: values, the same shape.
        queries: a tree of arrays [batch, T].
        keys: of the S keys.
        bias_NL: [heads, T + S - 1], see `attention.attend`.

    Returns:
        [batch, T, heads, head_dim].
    """
    parts, (B, T), S = shard_count("length"), q_BTNH.shape[:2], k_BSKH.shape[1]
    if parts == 1 or T % parts:
        return attend(q_BTNH, k_BSKH, v_BSKH, queries, keys, bias_NL=bias_NL)
    own = T // parts
    k_BSKH, v_BSKH = (constrain(x, ("batch", None, "kv_heads", "kv")) for x in (k_BSKH, v_BSKH))

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(B, parts, own, *x.shape[2:]), 1, 0)

    def one(q_BTNH: jax.Array, queries: Any, bias_NL: jax.Array | None) -> jax.Array:
        return attend(q_BTNH, k_BSKH, v_BSKH, queries, keys, bias_NL=bias_NL)

    # The bias begins with the last query's: a later part's stands before an earlier one's.
    starts = range(T - own, -1, -own)
    biases = None if bias_NL is None else jnp.stack([bias_NL[:, start : start + own + S - 1] for start in starts])
    q_PBTNH = constrain(split(q_BTNH), ("length", "batch", None, "heads", "kv"))
    out_PBTNH = jax.vmap(one)(q_PBTNH, jax.tree.map(split, queries), biases)
    out_PBTNH = constrain(out_PBTNH, ("length", "batch", None, "heads", "kv"))
    return jnp.moveaxis(out_PBTNH, 0, 1).reshape(q_BTNH.shape)
