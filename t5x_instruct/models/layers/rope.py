"""Rotary position embedding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, float32 [batch, length, head_dim / 2]."""

    cos_BTh: jax.Array
    sin_BTh: jax.Array


def rotation(positions_BT: jax.Array, head_dim: int, theta: float) -> Rotation:
    """The angles ``position * theta ** (-2 i / head_dim)``, computed once for all layers.

    In float32 whatever the compute dtype: bfloat16 cannot tell position 1,000 from 1,003.

    Args:
        positions_BT: int32 [batch, length].
        head_dim: width of a head.
        theta: base of the wavelengths.

    Source: Su et al. 2021, section 3.2.2.
    """
    # At position 4,000 a frequency's last bit is 2e-4 radians, and shows in the logits. So each step is
    # rounded as in the float32 formula that the weights were trained with; the power is taken in
    # float64, since float32 powers differ from library to library.
    exponent_h = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    wavelength_h = np.power(theta, exponent_h.astype(np.float64)).astype(np.float32)
    frequency_h = np.float32(1.0) / wavelength_h
    angle_BTh = positions_BT[..., None].astype(jnp.float32) * frequency_h[None, None, :]
    return Rotation(jnp.cos(angle_BTh), jnp.sin(angle_BTh))


def rotate(x_BTNH: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns each head's pairs (i, i + head_dim / 2) by their angles.

    The pairing is that of halves, as Hugging Face stores Llama's weights; interleaved pairs (as in GGUF
    files) are another order of the same channels, which an importer has to undo.

    Args:
        x_BTNH: queries or keys [batch, length, heads, head_dim].
        rotation: of the same positions.
    """
    cos = rotation.cos_BTh[:, :, None, :]
    sin = rotation.sin_BTh[:, :, None, :]
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)
