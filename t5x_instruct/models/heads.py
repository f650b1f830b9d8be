"""From hidden states to logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.common.types import Unembedding

# Finite, so that 0 times it in an entropy or a sampling mask is 0 and not NaN.
NEVER = -1e30


class HeadKernel(nn.Module):
    """The head's own matrix, where it is not the transposed embedding.

    Attributes:
        features: width of a hidden state.
        rows: size of the vocabulary, rounded up.
    """

    features: int
    rows: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """The [features, rows] float32 matrix."""
        draw = nn.initializers.normal(self.features**-0.5)
        return self.param(
            "kernel",
            nn.with_logical_partitioning(draw, ("embed", "vocab")),
            (self.features, self.rows),
            jnp.float32,
        )


def logits_of(hidden_BTD: jax.Array, unembedding: Unembedding) -> jax.Array:
    """``soft_cap(multiplier * hidden @ kernel)``, in float32.

    Args:
        hidden_BTD: [batch, length, embed].
        unembedding: the head.

    Returns:
        float32 [batch, length, rows of the head]; rows that are padding hold `NEVER`.
    """
    kernel_DV = unembedding.kernel_DV.astype(hidden_BTD.dtype)
    logits_BTV = jnp.einsum("btd,dv->btv", hidden_BTD, kernel_DV, preferred_element_type=jnp.float32)
    logits_BTV *= unembedding.multiplier
    if unembedding.soft_cap is not None:
        logits_BTV = unembedding.soft_cap * jnp.tanh(logits_BTV / unembedding.soft_cap)
    rows = logits_BTV.shape[-1]
    if unembedding.vocab_size is not None and unembedding.vocab_size < rows:
        real_V = jnp.arange(rows) < unembedding.vocab_size
        logits_BTV = jnp.where(real_V[None, None, :], logits_BTV, NEVER)
    return logits_BTV
