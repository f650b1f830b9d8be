"""Small states whose every bit is known from the step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from t5x_instruct.checkpoints.manager import Checkpoints


def mesh_of(shape, names):
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return jax.sharding.Mesh(devices, names)


def sharding(mesh, *spec):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


def state_of(step: int, size: int = 16):
    """A state that is a function of the step."""
    random = np.random.default_rng(step)
    return {
        "params": {"w": jnp.asarray(random.standard_normal((size, 8)), jnp.float32)},
        "step": jnp.int32(step),
    }


def abstract(tree):
    """The same tree without values, on one device."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x, tree)


def bits(tree):
    """Every leaf as type, shape and bytes."""

    def of(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return (str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes())
        array = np.asarray(leaf)
        return (type(leaf).__name__, str(array.dtype), array.shape, array.tobytes())

    return jax.tree.map(of, tree)


def assert_restores(checkpoints: Checkpoints, step: int, size: int = 16):
    state, data_state = checkpoints.restore(step, abstract(state_of(step, size)))
    assert bits(state) == bits(state_of(step, size))
    assert data_state == {"rows": step}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
