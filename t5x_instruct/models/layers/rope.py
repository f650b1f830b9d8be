"""Rotary position embedding."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_instruct.common.errors import ConfigError, unknown


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, float32 [batch, length, head_dim / 2]."""

    cos_BTh: jax.Array
    sin_BTh: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the angles of a longer context are made from those of the one that was first trained with.

    Attributes:
        kind: "linear" (all angles are divided), "llama3" (those of long wavelengths are) or "yarn" (those that turn
            seldom within the original context are, and cosines and sines are multiplied).
        factor: what angles are divided by.
        original_length: first context [tokens]; of "llama3" and "yarn".
        low_frequency_factor: of "llama3": angles that turn less often than this within `original_length` are divided.
        high_frequency_factor: of "llama3": those that turn more often than this are not; between the two they mix.
        beta_fast: of "yarn": angles that turn more often than this within `original_length` are kept.
        beta_slow: of "yarn": those that turn less often than this are divided; between the two they mix.
        attention_factor: of "yarn": factor on cosines and sines, so that scores grow by its square.
        truncate: of "yarn": whether the mixing begins and ends at whole pairs of channels.

    Source: Chen et al. 2023 (linear); Llama team 2024, "The Llama 3 Herd of Models", and its released code (llama3);
    Peng et al. 2023, "YaRN", equations 17 to 22.
    """

    kind: str
    factor: float
    original_length: int | None = None
    low_frequency_factor: float | None = None
    high_frequency_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    truncate: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALINGS:
            raise ConfigError(f"RopeScaling: {unknown('kind', self.kind, ROPE_SCALINGS)}")
        problems = [] if self.factor > 0.0 else [f"factor is {self.factor}, must be positive"]
        for field in dataclasses.fields(self)[2:]:
            value, needed = getattr(self, field.name), field.name in ROPE_SCALINGS[self.kind]
            if (value is None) is needed:
                problems.append(
                    f"{field.name} is {value}, {'needed' if needed else 'not part'} of the kind {self.kind!r}"
                )
            elif value is not None and not isinstance(value, bool) and value <= 0:
                problems.append(f"{field.name} is {value}, must be positive")
        for low, high in (("low_frequency_factor", "high_frequency_factor"), ("beta_slow", "beta_fast")):
            least, most = getattr(self, low), getattr(self, high)
            if not problems and least is not None and least >= most:
                problems.append(f"{low} is {least}, must be below {high}, {most}")
        if problems:
            raise ConfigError([f"RopeScaling: {problem}" for problem in problems])


#: What each kind of scaling needs besides its factor.
ROPE_SCALINGS: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "llama3": ("original_length", "low_frequency_factor", "high_frequency_factor"),
    "yarn": ("original_length", "beta_fast", "beta_slow", "attention_factor", "truncate"),
}


class Rope(NamedTuple):
    """One way to turn positions.

    Attributes:
        theta: base of the wavelengths; None: nothing is turned, positions say nothing.
        scaling: for a longer context.
    """

    theta: float | None
    scaling: RopeScaling | None = None


def rotation(positions_BT: jax.Array, head_dim: int, rope: Rope) -> Rotation:
    """The angles ``position * frequency_i``, computed once for all layers; unscaled: ``theta ** (-2 i / head_dim)``.

    In float32 whatever the compute dtype: bfloat16 cannot tell position 1,000 from 1,003.

    Args:
        positions_BT: int32 [batch, length].
        head_dim: width of a head.
        rope: base and scaling.

    Source: Su et al. 2021, section 3.2.2.
    """
    frequency_h = _frequencies(head_dim, rope)
    angle_BTh = positions_BT[..., None].astype(jnp.float32) * frequency_h[None, None, :]
    cos_BTh, sin_BTh = jnp.cos(angle_BTh), jnp.sin(angle_BTh)
    if rope.scaling is None or rope.scaling.attention_factor is None:
        return Rotation(cos_BTh, sin_BTh)
    return Rotation(cos_BTh * rope.scaling.attention_factor, sin_BTh * rope.scaling.attention_factor)


def rotations(positions_BT: jax.Array, head_dim: int, ropes: Sequence[Rope]) -> Rotation:
    """`rotation` of each rope, on a first axis."""
    each = [rotation(positions_BT, head_dim, rope) for rope in ropes]
    return Rotation(jnp.stack([one.cos_BTh for one in each]), jnp.stack([one.sin_BTh for one in each]))


def _frequencies(head_dim: int, rope: Rope) -> np.ndarray:
    """Radians a position, float32 [head_dim / 2]."""
    if rope.theta is None:
        return np.zeros(head_dim // 2, np.float32)
    # At position 4,000 a frequency's last bit is 2e-4 radians, and shows in the logits. So each step is
    # rounded as in the float32 formula that the weights were trained with; the power is taken in
    # float64, since float32 powers differ from library to library.
    exponent_h = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    wavelength_h = np.power(rope.theta, exponent_h.astype(np.float64)).astype(np.float32)
    frequency_h = np.float32(1.0) / wavelength_h
    if rope.scaling is None:
        return frequency_h
    divided_h = frequency_h / np.float32(rope.scaling.factor)
    if rope.scaling.kind == "linear":
        return divided_h
    kept_h = (_kept_by_llama3 if rope.scaling.kind == "llama3" else _kept_by_yarn)(
        frequency_h, rope.theta, rope.scaling
    )
    return kept_h * frequency_h + (np.float32(1.0) - kept_h) * divided_h


def _kept_by_llama3(frequency_h: np.ndarray, theta: float, s: RopeScaling) -> np.ndarray:
    """Which part of each frequency is not divided: linear in how often it turns within the original context."""
    assert s.original_length is not None
    assert s.low_frequency_factor is not None
    assert s.high_frequency_factor is not None
    turns_h = np.float32(s.original_length) * frequency_h / np.float32(2.0 * np.pi)
    share_h = (turns_h - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor)
    return np.clip(share_h, 0.0, 1.0).astype(np.float32)


def _kept_by_yarn(frequency_h: np.ndarray, theta: float, s: RopeScaling) -> np.ndarray:
    """Which part of each frequency is not divided: linear in the pair's number."""
    assert s.original_length is not None
    assert s.beta_fast is not None
    assert s.beta_slow is not None
    pairs = len(frequency_h)
    # The (fractional) pair that turns beta times within the original context.
    first, last = (
        pairs * math.log(s.original_length / (beta * 2.0 * math.pi)) / math.log(theta)
        for beta in (s.beta_fast, s.beta_slow)
    )
    if s.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    if first == last:
        last += 0.001
    return np.clip(1.0 - (np.arange(pairs) - first) / (last - first), 0.0, 1.0).astype(np.float32)


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
