"""Normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class RMSNorm(nn.Module):
    """``scale * x / sqrt(mean(x ** 2) + epsilon)`` over the last axis, in float32.

    Source: Zhang and Sennrich 2019, equation 4.

    Attributes:
        epsilon: added to the mean square.
        dtype: of the result.
    """

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., features]."""
        scale = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",)),
            (x.shape[-1],),
            jnp.float32,
        )
        # The sum of squares of a wide bfloat16 row would lose most of its digits.
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return (x32 * inverse * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)
