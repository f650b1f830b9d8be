"""The device mesh: always the same five axes, size 1 where unused."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from t5x_instruct.common import hosts
from t5x_instruct.common.errors import ConfigError

MESH_AXES = ("replica", "data", "fsdp", "sequence", "model")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; at most one may be -1: "all devices that are left".

    Attributes:
        replica: copies of the whole mesh, and the only axis that goes across slices, over the data-centre network: a
            multiple of their number.
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


def slice_count(devices: Sequence[Any]) -> int:
    """How many TPU slices the devices are on; 1 where there are none.

    Args:
        devices: real ones, or descriptions of them.
    """
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", None) or 0 for device in devices})


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Lays the devices out as the five-axis mesh, neighbours on the ICI torus kept close.

    Several slices are parts of the replica axis: only it crosses the data-centre network, all other axes stay on a
    slice's torus. Axes are `AxisType.Auto`: the compiler places what the constraints leave open. (`jax.make_mesh`
    makes Explicit axes, under which Flax's logical constraints raise.)

    Args:
        config: sizes of the axes.
        devices: the devices to use; all of `jax.devices()` by default.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices, or slices do not share the replicas evenly.
    """
    of_this_run = devices is None
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    if devices[0].platform != "tpu":
        grid = np.asarray(devices).reshape(sizes)
    elif (slices := slice_count(devices)) == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        _check_slices(sizes[0], slices, devices)
        within, between = (sizes[0] // slices, *sizes[1:]), (slices, *(1 for _ in sizes[1:]))
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    mesh = Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    if of_this_run and devices[0].platform == "cpu" and hosts.process_count() > 1:
        _connect(mesh)
    return mesh


def _connect(mesh: Mesh) -> None:
    """Connects the processes of a run on CPUs, for every group of devices that its collectives may be among.

    Gloo connects a group when it is first used, and then the slowest host may be 30 s late; ever after it may be as
    slow as it likes. Here none is late.
    """
    used = [axis for axis in MESH_AXES if mesh.shape[axis] > 1]
    groups = [group for size in range(1, len(used) + 1) for group in itertools.combinations(used, size)]

    def sums(ones: jax.Array) -> list[jax.Array]:
        return [jax.lax.psum(ones, group) for group in groups]

    one_each = jax.sharding.PartitionSpec(tuple(used))
    of_others = [jax.sharding.PartitionSpec(tuple(axis for axis in used if axis not in group)) for group in groups]
    ones = jax.jit(lambda: jnp.ones(mesh.size), out_shardings=jax.sharding.NamedSharding(mesh, one_each))()
    connect = jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=one_each, out_specs=of_others))
    hosts.barrier("mesh")
    jax.block_until_ready(connect(ones))


def _check_slices(replica: int, slices: int, devices: Sequence[Any]) -> None:
    """Refuses what slices cannot share evenly."""
    if replica % slices:
        works = [size for size in range(slices, len(devices) + 1, slices) if len(devices) % size == 0]
        raise ConfigError(
            f"mesh replica={replica}: the devices are on {slices} slices, and only the replica axis goes across "
            f"slices, so that it has to be a multiple of {slices}; "
            f"nearest that works: {{'replica': {min(works, key=lambda size: abs(size - replica))}}}"
        )
    counts = Counter(device.slice_index for device in devices)
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"slice {index}: {count}" for index, count in sorted(counts.items()))
        raise ConfigError(f"the slices do not have equally many devices ({shown}); a mesh needs equal slices")
