"""From the rows a host holds to arrays that span all hosts."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_instruct.common.errors import ConfigError

BATCH_AXES = ("replica", "data", "fsdp")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over every data-parallel axis, all else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_problems(batch_size: int, mesh: Mesh, num_hosts: int, micro_batches: int = 1) -> list[str]:
    """What keeps mesh and hosts from sharing a global batch evenly: what has to divide it, and the nearest sizes."""
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * micro_batches
    unit = math.lcm(ways, num_hosts)
    if batch_size >= 1 and batch_size % unit == 0:
        return []
    return [
        f"BATCH_SIZE {batch_size} is not divisible by {unit} (data-parallel devices x micro-batches = {ways}, "
        f"hosts = {num_hosts}); nearest: {nearest_multiples(batch_size, unit)}"
    ]


def nearest_multiples(size: int, unit: int) -> str:
    """The multiples of `unit` next to `size`, which is none, e.g. "16 or 24"."""
    lower = size // unit * unit
    return " or ".join(str(choice) for choice in (lower, lower + unit) if choice > 0)


def check_batch_size(batch_size: int, mesh: Mesh, num_hosts: int, micro_batches: int = 1) -> None:
    """Refuses a global batch that the mesh or the hosts cannot share evenly.

    Raises:
        ConfigError: see `batch_problems`.
    """
    if problems := batch_problems(batch_size, mesh, num_hosts, micro_batches):
        raise ConfigError(problems)


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays, sharded over their first axis, from this host's rows.

    Args:
        batch: this host's contiguous block of the global batch, [batch / hosts, ...] each.
        mesh: the mesh; hosts hold their rows in order of their index.

    Returns:
        Arrays of shape [batch, ...]; transferring goes on while the caller does.
    """
    sharding = batch_sharding(mesh)

    def one(value: np.ndarray) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(value, sharding)
        return jax.make_array_from_process_local_data(sharding, value)

    return {key: one(value) for key, value in batch.items()}
