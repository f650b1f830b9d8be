"""The device mesh: always the same five axes, size 1 where unused."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from t5x_instruct.common.errors import ConfigError

MESH_AXES = ("replica", "data", "fsdp", "sequence", "model")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; at most one may be -1: "all devices that are left".

    Attributes:
        replica: copies of the whole mesh (across slices, over the data-centre network).
        data: data parallelism, parameters replicated.
        fsdp: data parallelism with parameters and optimizer state sharded.
        sequence: shards of the length axis.
        model: tensor parallelism (heads, mlp, vocab).
    """

    replica: int = 1
    data: int = 1
    fsdp: int = -1
    sequence: int = 1
    model: int = 1

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """The five sizes for `num_devices` devices.

        Raises:
            ConfigError: the product does not equal `num_devices`; names both and the nearest choice.
        """
        sizes = [getattr(self, axis) for axis in MESH_AXES]
        shown = " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ConfigError(f"mesh {shown}: sizes are at least 1, and at most one of them is -1")
        fixed = math.prod(size for size in sizes if size != -1)
        if -1 in sizes:
            if num_devices % fixed:
                raise ConfigError(
                    f"mesh {shown}: the fixed axes need a multiple of {fixed} devices, there are {num_devices}; "
                    f"nearest that works: {max(math.gcd(fixed, num_devices), 1)}"
                )
            sizes[sizes.index(-1)] = num_devices // fixed
        elif fixed != num_devices:
            raise ConfigError(
                f"mesh {shown} needs {fixed} devices, there are {num_devices}; "
                "set one axis to -1 to take all that are left"
            )
        return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out as the five-axis mesh, neighbours on the ICI torus kept close.

    Axes are `AxisType.Auto`: the compiler places what the constraints leave open. (`jax.make_mesh` makes Explicit
    axes, under which Flax's logical constraints raise.)

    Args:
        config: sizes of the axes.
        devices: the devices to use; all of `jax.devices()` by default.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    if devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(sizes)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
