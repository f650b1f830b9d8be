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


class Mlp(nn.Module):
    """``wo(activation(wi_0 x) * wi_1 x)``, SwiGLU with "silu" and GEGLU with a gelu; or ``wo(activation(wi x))``.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6; Vaswani et al. 2017, equation 2.

    Attributes:
        mlp_dim: width inside.
        activation: a key of `ACTIVATIONS`.
        dtype: compute dtype.
        gated: whether the activation is that of a gate.
        use_bias: whether every matrix has a bias.
        dropout_rate: share of the inner features dropped, the same ones at all positions of a row.
        deterministic: whether dropout is off.
    """

    mlp_dim: int
    activation: str
    dtype: jnp.dtype
    gated: bool = True
    use_bias: bool = False
    dropout_rate: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [batch, length, embed] to the same shape."""
        inner = partial(Linear, (self.mlp_dim,), ("embed",), ("mlp",), self.dtype, use_bias=self.use_bias)
        h_BTF = ACTIVATIONS[self.activation](inner(name="wi_0" if self.gated else "wi")(x_BTD))
        if self.gated:
            h_BTF *= inner(name="wi_1")(x_BTD)
        h_BTF = constrain(h_BTF, ("batch", "length", "mlp"))
        h_BTF = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,), deterministic=self.deterministic)(h_BTF)
        wo = Linear((x_BTD.shape[-1],), ("mlp",), ("embed",), self.dtype, use_bias=self.use_bias, name="wo")
        return wo(h_BTF)
