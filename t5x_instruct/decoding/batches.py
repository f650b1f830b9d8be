"""Sequences of many lengths as few array shapes: buckets of length, batches of a fixed number of rows."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.partitioning.arrays import BATCH_AXES, batch_sharding
from t5x_instruct.partitioning.rules import activation_rules

SMALLEST_BUCKET = 16
#: Up to this many tokens a batch has all its rows; above, rows are halved as often as tokens double.
FULL_BATCH_LENGTH = 512


class SequenceBatch(NamedTuple):
    """Which sequences run together, and in what shape.

    Attributes:
        indices: the sequences, at most `rows` of them.
        rows: rows of the arrays; those beyond the sequences are dummies.
        length: the bucket: no sequence is longer.
    """

    indices: list[int]
    rows: int
    length: int


def bucket(length: int) -> int:
    """The smallest bucket that holds `length` tokens: 16, 24, 32, 48, 64, 96, ... (2^n and 3 x 2^n)."""
    size = SMALLEST_BUCKET
    while size < length:
        if size + size // 2 >= length:
            return size + size // 2
        size *= 2
    return size


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[SequenceBatch]:
    """Groups sequences of like length, the longest first (what would not fit in memory fails at once).

    Fewer sequences than `batch_size` run in the next power of two of rows; the last batch of many is filled with
    dummy rows, since compiling another shape costs more than computing them.

    Args:
        lengths: tokens of each sequence.
        batch_size: rows of a batch of up to 512 tokens; longer buckets have proportionally fewer.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size} must be at least 1")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if order:
        batch_size = min(batch_size, power_of_two(len(order)))
    batches = []
    start = 0
    while start < len(order):
        length = bucket(lengths[order[start]])
        rows = max(1, batch_size // power_of_two(-(-length // FULL_BATCH_LENGTH)))
        batches.append(SequenceBatch(order[start : start + rows], rows, length))
        start += rows
    return batches


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that the parameters are laid out on, if it has the axes that rows are spread over."""
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and set(BATCH_AXES) <= set(sharding.mesh.axis_names):
            return sharding.mesh if isinstance(sharding.mesh, Mesh) else None
    return None


def on_mesh(mesh: Mesh | None) -> AbstractContextManager[None]:
    """Activations traced inside are laid out on `mesh`, if there is one."""
    return nullcontext() if mesh is None else activation_rules(mesh)


def spread_rows(mesh: Mesh | None, array: np.ndarray) -> Any:
    """Spreads rows over the data-parallel devices of `mesh`.

    Without a mesh, or if the devices do not divide the rows, `array` is returned as it is and every device computes
    all of it.

    Args:
        mesh: see `mesh_of`.
        array: [rows, ...], equal on every host.
    """
    sharding = _rows_sharding(mesh, array)
    return array if sharding is None else jax.device_put(array, sharding)


def rows_shape(mesh: Mesh | None, array: np.ndarray) -> jax.ShapeDtypeStruct:
    """What `spread_rows` would give, without the array: `mesh` may be of devices that are not there."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_rows_sharding(mesh, array))


def _rows_sharding(mesh: Mesh | None, array: np.ndarray) -> NamedSharding | None:
    if mesh is None or array.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
        return None
    return batch_sharding(mesh)


def to_host(array: jax.Array) -> np.ndarray:
    """The whole array on every host, wherever its rows are."""
    if not array.is_fully_addressable and not array.is_fully_replicated:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
