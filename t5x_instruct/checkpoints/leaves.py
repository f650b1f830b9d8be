"""Leaves of a state tree by name: what is saved of each, and how it comes back as what it was."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from t5x_instruct.common.errors import CheckpointError, nearest
from t5x_instruct.common.trees import unflatten

_HINTS = 20


class LeafSpec(NamedTuple):
    """Shape and type of a saved leaf; the type of a PRNG key names its implementation, e.g. `key<fry>`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Size in bytes; of a PRNG key that of its words, two of them for threefry."""
        size = 8 if self.dtype.startswith("key<") else jnp.dtype(self.dtype).itemsize
        return math.prod(self.shape) * size

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of any pytree in its own order, by names like `params/decoder/decoder_norm/scale`.

    Raises:
        CheckpointError: two leaves have one name, or the tree has no leaf.
    """
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat) or not leaves:
        problem = "two leaves of the same name ('/' inside a key?)" if leaves else "no leaf"
        raise CheckpointError(f"a tree with {problem} cannot be saved or restored")
    return leaves


def spec_of(leaf: Any) -> LeafSpec:
    """Shape and type of an array, a `jax.ShapeDtypeStruct` or a Python scalar."""
    if not hasattr(leaf, "dtype"):
        leaf = _as_numpy(leaf)
    return LeafSpec(tuple(leaf.shape), str(leaf.dtype))


def to_saved(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested tree that Orbax writes: keys as their data, scalars as arrays, arrays without elements left out."""
    saved: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if 0 in spec_of(leaf).shape:
            continue  # Orbax refuses them; their spec says all there is to know.
        if _is_key(leaf):
            saved[name] = jax.random.key_data(leaf)
        else:
            saved[name] = leaf if isinstance(leaf, jax.Array) else _as_numpy(leaf)
    return unflatten(saved)


def restore_arguments(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Orbax's instructions, a nested tree: each array with the sharding of its abstract leaf."""
    arguments = {}
    for name, leaf in leaves.items():
        if 0 in spec_of(leaf).shape:
            continue
        if _is_host_leaf(leaf):
            arguments[name] = ocp.RestoreArgs(restore_type=np.ndarray)
        else:
            arguments[name] = ocp.ArrayRestoreArgs(sharding=_sharding_of(leaf))
    return unflatten(arguments)


def from_saved(leaf: Any, value: Any) -> Any:
    """A restored value as the kind of its abstract leaf: PRNG key, JAX array, NumPy array or Python scalar."""
    spec = spec_of(leaf)
    if 0 in spec.shape:
        value = np.zeros(spec.shape, leaf.dtype)
        return value if _is_host_leaf(leaf) else jax.device_put(value, _sharding_of(leaf))
    if _is_key(leaf):
        return jax.random.wrap_key_data(value, impl=_key_implementation(leaf))
    if not _is_host_leaf(leaf):
        return value
    value = np.asarray(value)
    if isinstance(leaf, np.ndarray):
        return value
    return value[()] if isinstance(leaf, np.generic) else type(leaf)(value)


def mismatches(saved: Mapping[str, LeafSpec], wanted: Mapping[str, LeafSpec]) -> list[str]:
    """Every difference between a checkpoint and the tree asked of it, one message each."""
    missing = sorted(wanted.keys() - saved.keys())
    extra = sorted(saved.keys() - wanted.keys())
    problems = [
        f"{name} {wanted[name]} is not in the checkpoint{_hint(i, name, extra)}" for i, name in enumerate(missing)
    ]
    problems += [
        f"{name} {saved[name]} is in the checkpoint but not wanted{_hint(i, name, missing)}"
        for i, name in enumerate(extra)
    ]
    for name in sorted(saved.keys() & wanted.keys()):
        if saved[name] != wanted[name]:
            problems.append(f"{name} is {saved[name]} in the checkpoint, {wanted[name]} is wanted")
    return problems


def _hint(position: int, name: str, candidates: list[str]) -> str:
    # Comparing every name with every other takes seconds when a whole tree differs; the first ones show the pattern.
    close = nearest(name, candidates) if position < _HINTS else []
    return f"; nearest: {', '.join(map(repr, close))}" if close else ""


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_implementation(leaf: Any) -> Any:
    # `jax.random.key_impl` takes no ShapeDtypeStruct, but what tracing makes of one.
    implementations: list[Any] = []
    jax.eval_shape(lambda key: implementations.append(jax.random.key_impl(key)), leaf)
    return implementations[0]


def _is_host_leaf(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _sharding_of(leaf: Any) -> jax.sharding.Sharding:
    return leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _as_numpy(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.hasobject or array.dtype.kind in "USmM":
        raise CheckpointError(f"a leaf of type {type(leaf).__name__} cannot be saved; only arrays and numbers can")
    return array
