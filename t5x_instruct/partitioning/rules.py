"""The one table from logical axes to mesh axes, and the shardings that follow from it."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_instruct.common.errors import ConfigError, unknown

Rules = Mapping[str, tuple[str, ...]]

#: Logical axis -> the mesh axes that shard it. `embed` of a parameter is sharded over `fsdp`; the same axis of an
#: activation (`activation_embed`) is not, since there `batch` already takes `fsdp`.
DEFAULT_RULES: Rules = {
    "batch": ("replica", "data", "fsdp"),
    "length": ("sequence",),
    "activation_embed": (),
    "embed": ("fsdp",),
    "heads": ("model",),
    "kv_heads": ("model",),
    "kv": (),
    "mlp": ("model",),
    "vocab": ("model",),
    "layers": (),
    "norm": (),
    "relpos_buckets": (),
}


def partition_spec(
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
    name: str = "array",
) -> PartitionSpec:
    """The sharding of one array from the names of its axes.

    Args:
        axes: one logical name (or None: never sharded) per dimension.
        shape: the array's shape.
        mesh: the mesh.
        rules: logical axis -> mesh axes.
        name: what to call the array in errors.

    Raises:
        ConfigError: an unknown logical axis, a mesh axis used by two dimensions, or a dimension that the mesh axes
            do not divide; the message has both numbers and the nearest size that works.
    """
    spec, problems = _spec(axes, shape, mesh, rules)
    if problems:
        raise ConfigError([f"{name}: {problem}" for problem in problems])
    return spec


def _spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules
) -> tuple[PartitionSpec, list[str]]:
    """The sharding, and what is wrong with it."""
    if len(axes) != len(shape):
        return PartitionSpec(), [f"{len(axes)} logical axes {axes} for shape {shape}"]
    problems: list[str] = []
    taken: dict[str, str] = {}
    entries: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            problems.append(unknown("logical axis", axis, rules))
            continue
        mesh_axes = tuple(a for a in (rules[axis] if axis else ()) if mesh.shape[a] > 1)
        for mesh_axis in mesh_axes:
            if mesh_axis in taken:
                problems.append(f"mesh axis {mesh_axis!r} would shard both {taken[mesh_axis]!r} and {axis!r}")
            taken[mesh_axis] = str(axis)
        ways = math.prod(mesh.shape[a] for a in mesh_axes)
        if size % ways:
            near = math.gcd(size, ways)
            problems.append(
                f"axis {axis!r} of size {size} is not divisible by {ways} "
                f"({' x '.join(f'{a}={mesh.shape[a]}' for a in mesh_axes)}); "
                f"{near} would divide it, or make the axis {-(-size // ways) * ways}"
            )
        entries.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
    return PartitionSpec(*entries), problems


def tree_shardings(abstract: Any, axes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Shardings for a tree of arrays and the tree of their logical axes; all errors are reported at once.

    Args:
        abstract: nested tree whose leaves have a `shape`.
        axes: the same tree with tuples of logical names as leaves.
        mesh: the mesh.
        rules: logical axis -> mesh axes.

    Raises:
        ConfigError: every array that cannot be sharded as the rules ask; what is wrong with many is said once.
    """
    arrays_with: dict[str, list[str]] = {}

    def one(path: Any, leaf: Any, leaf_axes: tuple[str | None, ...]) -> NamedSharding:
        spec, problems = _spec(leaf_axes, leaf.shape, mesh, rules)
        for problem in problems:
            arrays_with.setdefault(problem, []).append(jax.tree_util.keystr(path, simple=True, separator="/"))
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(one, abstract, axes)
    if arrays_with:
        raise ConfigError(
            [
                f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {problem}"
                for problem, names in arrays_with.items()
            ]
        )
    return shardings


_ACTIVE: ContextVar[tuple[Mesh, Rules] | None] = ContextVar("activation_rules", default=None)


@contextlib.contextmanager
def activation_rules(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
    """While a function is traced within it, `constrain` shards activations over `mesh` by `rules`.

    Enter it inside the function that is jitted: the compilation cache of `jax.jit` does not know of it.
    """
    token = _ACTIVE.set((mesh, rules))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def active_rules() -> tuple[Mesh, Rules] | None:
    """The mesh and the rules of the `activation_rules` that a function is traced within; None outside."""
    return _ACTIVE.get()


def shard_count(axis: str) -> int:
    """Into how many shards the active rules cut a logical axis of activations; 1 outside `activation_rules`."""
    active = _ACTIVE.get()
    if active is None:
        return 1
    mesh, rules = active
    return math.prod(mesh.shape[a] for a in rules[axis])


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Tells the compiler how an activation is sharded; does nothing outside `activation_rules` or on one device.

    A dimension that the mesh does not divide (the batch of one in a notebook, three key heads over two devices)
    stays whole: for activations, unlike for parameters, that costs time but no correctness.

    Args:
        x: the activation.
        axes: one logical name (or None) per dimension.
    """
    active = _ACTIVE.get()
    if active is None or active[0].size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(active[0], activation_spec(axes, x.shape)))


def activation_spec(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """How `constrain` shards an activation of this shape, within `activation_rules`."""
    active = _ACTIVE.get()
    if active is None:
        return PartitionSpec(*(None for _ in axes))
    mesh, rules = active
    entries: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        mesh_axes = tuple(a for a in (rules[axis] if axis else ()) if mesh.shape[a] > 1)
        whole = size % math.prod(mesh.shape[a] for a in mesh_axes) != 0
        entries.append(None if whole or not mesh_axes else mesh_axes)
    return PartitionSpec(*entries)
