"""The linear map every other layer is made of."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class Linear(nn.Module):
    """Contracts the last axes of its input with a kernel, without a bias.

    Attributes:
        features: sizes of the output axes.
        in_axes: logical names of the contracted axes.
        out_axes: logical names of the output axes.
        dtype: compute dtype; the kernel is stored in float32.
    """

    features: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., *in] to [..., *features]."""
        n = len(self.in_axes)
        in_shape = x.shape[-n:]

        def draw(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            # Variance 1 / fan-in keeps the scale of what flows through; 0.8796 is the standard deviation
            # of a normal truncated at two.
            stddev = math.prod(in_shape) ** -0.5 / 0.87962566103423978
            return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(draw, self.in_axes + self.out_axes),
            in_shape + self.features,
            jnp.float32,
        )
        return jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), axes=n)
