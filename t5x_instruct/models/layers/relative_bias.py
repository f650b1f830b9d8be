"""T5's relative positions: a bias on the attention scores for each head and bucket of distances."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_instruct.partitioning.rules import constrain


def bucket_starts(buckets: int, max_distance: int) -> np.ndarray:
    """The smallest distance of each bucket but the first.

    The first half of the buckets holds one distance each, the second half ever longer ranges, with logarithmically
    spaced bounds up to `max_distance`; the last bucket holds all beyond. In whole numbers: a logarithm that is
    rounded one way here and another way there would put the bounds' own distances into different buckets.

    Args:
        buckets: number of buckets of one direction, at least 2.
        max_distance: where the logarithmic spacing ends; above ``buckets // 2``.

    Returns:
        int32 [buckets - 1], increasing.
    """
    exact = buckets // 2
    wide = buckets - exact
    starts = list(range(1, exact))
    for j in range(wide):
        # The smallest n with exact * (max_distance / exact) ** (j / wide) <= n.
        n = max(int(exact * (max_distance / exact) ** (j / wide)) - 1, exact)
        while n**wide * exact**j < exact**wide * max_distance**j:
            n += 1
        starts.append(n)
    return np.asarray(starts, np.int32)


class RelativeBias(nn.Module):
    """The bias of every distance between a query and a key, from a table of buckets.

    Distances are those of slots in the row. Packing leaves them right: within a segment, positions are consecutive.

    Source: Raffel et al. 2020, section 2.1.

    Attributes:
        num_heads: heads.
        buckets: rows of the table.
        max_distance: from here on all distances share a bucket.
        bidirectional: half of the buckets for keys after the query; otherwise keys after it share bucket 0.
    """

    num_heads: int
    buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(self, num_queries: int, num_keys: int, first: jax.Array | int = 0) -> jax.Array:
        """The biases for T queries in the slots from `first` on and S keys in the slots from 0 on.

        Returns:
            float32 [heads, T + S - 1]: entry ``s - t + T - 1`` is that of query t of this call and key s.
        """
        table_NR = self.param(
            "rel_embedding",
            nn.with_logical_partitioning(
                nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"), ("heads", "relpos_buckets")
            ),
            (self.num_heads, self.buckets),
            jnp.float32,
        )
        distance_L = jnp.arange(num_queries + num_keys - 1) - (num_queries - 1) - first
        one_way = self.buckets // 2 if self.bidirectional else self.buckets
        starts = bucket_starts(one_way, self.max_distance)
        far_L = jnp.abs(distance_L) if self.bidirectional else jnp.maximum(-distance_L, 0)
        bucket_L = (far_L[:, None] >= starts[None, :]).sum(axis=-1)
        if self.bidirectional:
            bucket_L += jnp.where(distance_L > 0, one_way, 0)
        return constrain(jnp.take(table_NR, bucket_L, axis=1, mode="clip"), ("heads", None))
