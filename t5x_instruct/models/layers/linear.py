"""The linear map every other layer is made of."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.models.api import ADAPTERS, QUANTIZED
from t5x_instruct.models.layers.remat import named
from t5x_instruct.models.quantization import QVALUE, SCALE, dequantize
from t5x_instruct.partitioning.rules import shard_count

#: Names of what the collection `ADAPTERS` holds for a layer: the two factors, and where they are trained with dropout
#: the share of their inputs that is kept.
LORA_A, LORA_B, LORA_KEEP = "lora_a", "lora_b", "lora_keep"


class Linear(nn.Module):
    """Contracts the last axes of its input with a kernel.

    Where the collection `ADAPTERS` has factors for it, ``x A B`` is added (see `models.lora`); where `QUANTIZED` has
    its kernel in few bits, that is taken.

    Attributes:
        features: sizes of the output axes.
        in_axes: logical names of the contracted axes.
        out_axes: logical names of the output axes.
        dtype: compute dtype; the kernel is stored in float32.
        init_scale: factor on a fresh kernel, whose variance otherwise is 1 / fan-in.
        use_bias: whether a bias is added.
    """

    features: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    dtype: jnp.dtype
    init_scale: float = 1.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., *in] to [..., *features]."""
        n = len(self.in_axes)
        x, kernel = x.astype(self.dtype), self._kernel(x.shape[-n:]).astype(self.dtype)
        y = _contract(x, kernel, n)
        if self.has_variable(ADAPTERS, LORA_A):
            y += self._adapted(x, n)
        if self.use_bias:
            draw_zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.out_axes)
            y += self.param("bias", draw_zeros, self.features, jnp.float32).astype(self.dtype)
        return named(y, "projection")

    def _adapted(self, x: jax.Array, n: int) -> jax.Array:
        a, b = (self.get_variable(ADAPTERS, name).astype(self.dtype) for name in (LORA_A, LORA_B))
        if self.has_variable(ADAPTERS, LORA_KEEP):
            keep = self.get_variable(ADAPTERS, LORA_KEEP).astype(self.dtype)
            x = jnp.where(jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape), x / keep, 0)
        return _contract(_contract(x, a, n), b, 1)

    def _kernel(self, in_shape: tuple[int, ...]) -> jax.Array:
        if self.has_variable(QUANTIZED, QVALUE):
            qvalue, scale = (self.get_variable(QUANTIZED, name) for name in (QVALUE, SCALE))
            return dequantize(qvalue, scale, self.dtype)

        def draw(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            # Variance 1 / fan-in keeps the scale of what flows through; 0.8796 is the standard deviation
            # of a normal truncated at two.
            stddev = self.init_scale * math.prod(in_shape) ** -0.5 / 0.87962566103423978
            return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

        kernel: jax.Array = self.param(
            "kernel",
            nn.with_logical_partitioning(draw, self.in_axes + self.out_axes),
            in_shape + self.features,
            jnp.float32,
        )
        return kernel


def _contract(x: jax.Array, kernel: jax.Array, n: int) -> jax.Array:
    """The last n axes of x with the first n of the kernel."""
    if shard_count("length") > 1:
        # Merging batch and length would gather what the sequence axis spreads.
        return jnp.tensordot(x, kernel, axes=n)
    # As one matrix product: XLA's CPU backend computes the kernel's gradient 1.6 x as fast from [rows, embed] as
    # from [batch, length, embed] (193 against 118 GFLOP/s); elsewhere it is the same.
    size = math.prod(kernel.shape[:n])
    return (x.reshape(-1, size) @ kernel.reshape(size, -1)).reshape(*x.shape[:-n], *kernel.shape[n:])
