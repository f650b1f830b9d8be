"""TPU slices by name, their chips' published figures, and their devices as the compiler describes them."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from t5x_instruct.common.errors import ConfigError, unknown

_SLICE = re.compile(r"(?P<generation>v\d+[ep]?|tpu\d+x)[-:](?P<size>\d+(x\d+)*)")
_AVAILABLE = re.compile(r"exceeds available HBM \(([0-9.]+)G\)")
_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one device (a chip; half a chip of tpu7x), and how slices of it are named.

    Attributes:
        flops: peak dense bfloat16 [FLOP/s].
        hbm_bandwidth: [byte/s].
        ici_bandwidth: of one link, one way [byte/s]; a torus axis has a link in each direction.
        dcn_bandwidth: of one device's share of its host's network card [byte/s].
        torus_axes: 2 or 3.
        counts_cores: whether 'v5p-128' counts TensorCores, two a chip, as Cloud TPU does for this generation.
        devices_per_chip: as JAX sees them.
        settings: what the topology needs besides its name.

    Source: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x); jax-ml.github.io/scaling-book, chapter "TPUs".
    """

    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    torus_axes: int
    counts_cores: bool = False
    devices_per_chip: int = 1
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, 1.2e12, 4.5e10, 6.25e9, 3, counts_cores=True, settings={"chip_config_name": "megacore"}),
    "v5e": Chip(197e12, 8.1e11, 4.5e10, 3.125e9, 2),
    "v5p": Chip(459e12, 2.765e12, 9e10, 6.25e9, 3, counts_cores=True),
    "v6e": Chip(918e12, 1.64e12, 9e10, 1.25e10, 2),
    "tpu7x": Chip(1153e12, 3.69e12, 9e10, 6.25e9, 3, counts_cores=True, devices_per_chip=2),
}

# Chips along each axis of the 2-D generations; three-dimensional slices have the most cubic shape of whole cubes.
_FLAT_SHAPES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}


@dataclasses.dataclass(frozen=True)
class Slices:
    """One or several equal TPU slices.

    Attributes:
        generation: a name in `CHIPS`.
        shape: chips along each axis of the torus, such as "4x4x8".
        count: how many slices, joined by the data-centre network.
    """

    generation: str
    shape: str
    count: int = 1

    @property
    def chip(self) -> Chip:
        """The figures of its devices."""
        return CHIPS[self.generation]

    @property
    def num_chips(self) -> int:
        """Chips of all slices."""
        return self.count * math.prod(map(int, self.shape.split("x")))

    @property
    def num_devices(self) -> int:
        """Devices of all slices, as JAX counts them."""
        return self.num_chips * self.chip.devices_per_chip

    @property
    def name(self) -> str:
        """For people: 'v5p:4x4x8', '2 x v5e:16x16'."""
        one = f"{self.generation}:{self.shape}"
        return one if self.count == 1 else f"{self.count} x {one}"


def parse_slices(text: str, count: int = 1) -> Slices:
    """Slices from Cloud TPU's name or from a shape.

    Args:
        text: 'v5e-256', 'v5p-128' (TensorCores, as Cloud TPU counts v4 and v5p), or a shape, 'v5p:4x4x4'.
        count: how many of them.

    Raises:
        ConfigError: an unknown generation, or no slice of that size; with the nearest.
    """
    match = _SLICE.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"topology {text!r}: write a generation and a size or shape, such as 'v5e-16' or 'v5p:4x4x4'")
    generation, size = match["generation"], match["size"]
    if generation not in CHIPS:
        raise ConfigError(f"topology {text!r}: {unknown('generation', generation, CHIPS)}")
    if count < 1:
        raise ConfigError(f"{count} slices: there has to be at least one")
    chip = CHIPS[generation]
    if "x" in size:
        if len(size.split("x")) != chip.torus_axes or "0" in size.split("x"):
            raise ConfigError(f"topology {text!r}: slices of {generation} have {chip.torus_axes} axes")
        return Slices(generation, size, count)
    chips = int(size) // 2 if chip.counts_cores else int(size)
    shape = _cubic_shape(chips) if chip.torus_axes == 3 else _FLAT_SHAPES.get(chips)
    if shape is None or (chip.counts_cores and int(size) % 2):
        sizes = _sizes_of(chip)
        near = sorted(sizes, key=lambda one: abs(one - int(size)))[:3]
        names = ", ".join(f"{generation}-{one}" for one in sorted(near))
        raise ConfigError(f"topology {text!r}: there is no slice of that size; nearest: {names}")
    return Slices(generation, shape, count)


def _cubic_shape(chips: int) -> str | None:
    """The most cubic a x b x c of a slice: 2 x 2 x 1 hosts, then whole cubes of 4 x 4 x 4."""
    small = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
    if chips in small:
        return small[chips]
    if chips % 64:
        return None
    cubes = chips // 64
    options = [
        (a, b, cubes // (a * b))
        for a in range(1, round(cubes ** (1 / 3)) + 1)
        if cubes % a == 0
        for b in range(a, math.isqrt(cubes // a) + 1)
        if (cubes // a) % b == 0
    ]
    a, b, c = min(options, key=lambda sides: sides[2] - sides[0])
    return f"{4 * a}x{4 * b}x{4 * c}"


def _sizes_of(chip: Chip) -> list[int]:
    """Sizes by which Cloud TPU names slices of a generation."""
    if chip.torus_axes == 2:
        return list(_FLAT_SHAPES)
    chips = [4, 8, 16, 32, *range(64, 8961, 64)]
    return [2 * one if chip.counts_cores else one for one in chips]


def devices_of(slices: Slices) -> list[Any]:
    """The devices of slices that are not there, for a mesh to compile on.

    Needs libtpu (`pip install 't5x_instruct[plan]'`), which brings the TPU compiler to any x86 Linux machine.

    Args:
        slices: which.

    Returns:
        One description a device.

    Raises:
        ConfigError: libtpu is not installed, or does not know the slice; with its own words.
    """
    # Set before libtpu is loaded: no look-up of a metadata server, and two plans may be made at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    settings = dict(slices.chip.settings)
    if slices.count > 1:
        settings["num_slices"] = slices.count
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{slices.generation}:{slices.shape}", **settings
        )
    except Exception as error:  # of many kinds, from several layers
        fix = "pip install 't5x_instruct[plan]'" if "libtpu" in str(error).lower() else "choose another shape"
        raise ConfigError(f"the TPU compiler cannot describe {slices.name}: {error}; {fix}") from error
    return list(described.devices)


@functools.cache
def hbm_limit(generation: str) -> int:
    """What a program may use of a device's memory [bytes], by the compiler's own word.

    The compiler is asked for a program that cannot fit and names what it has; a part of the chip's memory is its own.

    Args:
        generation: a name in `CHIPS`.

    Raises:
        ConfigError: as `devices_of`; or the compiler does not say.
    """
    smallest = "1x1" if CHIPS[generation].torus_axes == 2 else "2x2x1"
    device = devices_of(Slices(generation, smallest))[0]
    too_large = jax.ShapeDtypeStruct((1 << 15, 1 << 22), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(too_large).compile()
    except Exception as error:
        if found := _AVAILABLE.search(str(error)):
            return int(float(found[1]) * _GIB)
        raise ConfigError(f"the TPU compiler does not say how much memory {generation} has: {error}") from error
    raise ConfigError(f"the TPU compiler finds room for {math.prod(too_large.shape) * 4:,} bytes on {generation}")
