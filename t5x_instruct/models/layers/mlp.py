"""The position-wise sub-layer."""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.models.layers.linear import Linear
from t5x_instruct.partitioning.rules import constrain

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class GatedMlp(nn.Module):
    """``wo(activation(wi_0 x) * wi_1 x)``: SwiGLU with "silu", GEGLU with a gelu.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.

    Attributes:
        mlp_dim: width inside.
        activation: of the gate, a key of `ACTIVATIONS`.
        dtype: compute dtype.
    """

    mlp_dim: int
    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [batch, length, embed] to the same shape."""
        inner = partial(Linear, (self.mlp_dim,), ("embed",), ("mlp",), self.dtype)
        gate_BTF = ACTIVATIONS[self.activation](inner(name="wi_0")(x_BTD))
        h_BTF = constrain(gate_BTF * inner(name="wi_1")(x_BTD), ("batch", "length", "mlp"))
        return Linear((x_BTD.shape[-1],), ("mlp",), ("embed",), self.dtype, name="wo")(h_BTF)
