"""Whether a run fits its mesh: all that the mesh does not divide, in one error."""

import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.partitioning.arrays import batch_problems, nearest_multiples
from t5x_instruct.partitioning.rules import DEFAULT_RULES, Rules, tree_shardings


def check_fit(
    abstract_params: Any,
    param_axes: Any,
    mesh: Mesh,
    *,
    batch_size: int,
    row_lengths: Mapping[str, int],
    num_hosts: int = 1,
    micro_batches: int = 1,
    rules: Rules = DEFAULT_RULES,
) -> None:
    """Refuses a run of which the mesh does not divide a parameter, the batch or the length of a row.

    Args:
        abstract_params: nested tree whose leaves have a `shape`.
        param_axes: the same tree with tuples of logical names as leaves.
        mesh: the mesh.
        batch_size: rows of the global batch.
        row_lengths: slots of a row of each side, by what people call them.
        num_hosts: hosts that share the batch.
        micro_batches: parts the batch is cut into.
        rules: logical axis -> mesh axes.

    Raises:
        ConfigError: everything that does not divide, each with both numbers and the nearest that work.
    """
    problems = batch_problems(batch_size, mesh, num_hosts, micro_batches)
    ways = math.prod(mesh.shape[axis] for axis in rules["length"])
    shown = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in rules["length"])
    problems += [
        f"{name} {length} is not divisible by {ways} ({shown}); nearest: {nearest_multiples(length, ways)}"
        for name, length in row_lengths.items()
        if length % ways
    ]
    try:
        tree_shardings(abstract_params, param_axes, mesh, rules)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
