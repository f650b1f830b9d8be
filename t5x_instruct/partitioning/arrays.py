"""From the rows a host holds to arrays that span all hosts."""

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


def check_batch_size(batch_size: int, mesh: Mesh, num_hosts: int, micro_batches: int = 1) -> None:
    """Refuses a global batch that the mesh or the hosts cannot share evenly.

    Raises:
        ConfigError: with the batch size, what has to divide it, and the nearest sizes that work.
    """
    ways = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES])) * micro_batches
    unit = int(np.lcm(ways, num_hosts))
    if batch_size < 1 or batch_size % unit:
        lower, upper = batch_size // unit * unit, (batch_size // unit + 1) * unit
        choices = " or ".join(str(choice) for choice in (lower, upper) if choice > 0)
        raise ConfigError(
            f"BATCH_SIZE {batch_size} is not divisible by {unit} (data-parallel devices x micro-batches = {ways}, "
            f"hosts = {num_hosts}); nearest: {choices}"
        )


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
