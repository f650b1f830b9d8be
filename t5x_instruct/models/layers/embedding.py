"""Token embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.partitioning.rules import constrain


class Embed(nn.Module):
    """Looks tokens up: a gather, whose gradient is a scatter-add. No one-hot product, which would cost as
    much as the head.

    Attributes:
        rows: rows of the table.
        features: width of a row.
        init_stddev: standard deviation of a fresh table.
        dtype: of the result; the table is float32.
    """

    rows: int
    features: int
    init_stddev: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Maps int32 [batch, length] to [batch, length, features]."""
        table_VD = self.param(
            "embedding",
            nn.with_logical_partitioning(nn.initializers.normal(self.init_stddev), ("vocab", "embed")),
            (self.rows, self.features),
            jnp.float32,
        )
        x_BTD = jnp.take(table_VD, tokens_BT, axis=0, mode="clip").astype(self.dtype)
        return constrain(x_BTD, ("batch", "length", "activation_embed"))


class OneEmbedding(nn.Module):
    """The embedding of one token that has its own beside the table.

    Attributes:
        features: its width.
        dtype: of the result; the parameter is float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> jax.Array:
        """The [features] vector."""
        draw_zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("norm",))
        vector_D: jax.Array = self.param("embedding", draw_zeros, (self.features,), jnp.float32)
        return vector_D.astype(self.dtype)
