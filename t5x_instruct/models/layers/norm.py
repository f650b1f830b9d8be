"""Normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class RMSNorm(nn.Module):
    """``scale * x / sqrt(mean(x ** 2) + epsilon)`` over the last axis, in float32.

    Source: Zhang and Sennrich 2019, equation 4; with `subtract_mean` Ba et al. 2016, equation 4.

    Attributes:
        epsilon: added to the mean square.
        dtype: of the result.
        around_one: whether the parameter is the scale's difference from 1 (Gemma), which starts at 0.
        subtract_mean: whether x is taken from its mean; this makes it a LayerNorm without bias.
    """

    epsilon: float
    dtype: jnp.dtype
    around_one: bool = False
    subtract_mean: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., features]."""
        scale = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.constant(0.0 if self.around_one else 1.0), ("norm",)),
            (x.shape[-1],),
            jnp.float32,
        )
        # The sum of squares of a wide bfloat16 row would lose most of its digits.
        x32 = x.astype(jnp.float32)
        if self.around_one:
            scale = scale + 1.0
        if self.subtract_mean:
            x32 -= jnp.mean(x32, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return (x32 * inverse * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)
