import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.partitioning.arrays import check_batch_size, to_global
from t5x_instruct.partitioning.mesh import MESH_AXES, MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import (
    DEFAULT_RULES,
    activation_rules,
    constrain,
    partition_spec,
    shard_count,
    tree_shardings,
)


def test_mesh_has_all_axes_and_lets_the_compiler_choose():
    mesh = make_mesh(MeshConfig(data=2, fsdp=-1, model=2))
    assert dict(mesh.shape) == {"replica": 1, "data": 2, "fsdp": 2, "sequence": 1, "model": 2}
    assert mesh.axis_names == MESH_AXES
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}


@given(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=4, max_size=4), st.sampled_from([1, 2, 4, 8, 6]))
def test_sizes_multiply_to_the_devices_or_are_refused(fixed, num_devices):
    config = MeshConfig(*fixed[:2], -1, *fixed[2:])
    product = int(np.prod(fixed))
    if num_devices % product:
        with pytest.raises(ConfigError, match=str(num_devices)):
            config.sizes(num_devices)
    else:
        assert np.prod(config.sizes(num_devices)) == num_devices


@pytest.mark.parametrize("config", [MeshConfig(data=-1), MeshConfig(data=0), MeshConfig(fsdp=3)])
def test_impossible_meshes_are_refused(config):
    with pytest.raises(ConfigError, match="mesh"):
        config.sizes(8)


def test_parameter_specs_follow_the_table():
    mesh = make_mesh(MeshConfig(fsdp=4, model=2))
    assert partition_spec(("embed", "mlp"), (8, 6), mesh) == PartitionSpec("fsdp", "model")
    assert partition_spec(("layers", None), (3, 5), mesh) == PartitionSpec(None, None)


def test_all_sharding_faults_are_reported_at_once_with_numbers():
    mesh = make_mesh(MeshConfig(fsdp=4, model=2))
    abstract = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in [("a", (6, 4)), ("b", (4, 3))]}
    with pytest.raises(ConfigError) as error:
        tree_shardings(abstract, {"a": ("embed", "mlp"), "b": ("embed", "mlpp")}, mesh)
    text = str(error.value)
    assert "a: axis 'embed' of size 6 is not divisible by 4" in text
    assert "2 would divide it, or make the axis 8" in text
    assert "unknown logical axis 'mlpp'; nearest: 'mlp'" in text


def test_one_mesh_axis_cannot_shard_two_dimensions():
    mesh = make_mesh(MeshConfig(model=8, fsdp=1))
    with pytest.raises(ConfigError, match="would shard both 'mlp' and 'vocab'"):
        partition_spec(("mlp", "vocab"), (8, 8), mesh)


def test_constrain_shards_what_divides_and_leaves_the_rest():
    mesh = make_mesh(MeshConfig(fsdp=4, model=2))

    def plain(x):
        return constrain(x, ("batch", "heads"))

    def sharded(x):
        with activation_rules(mesh):
            return plain(x)

    divided = jax.jit(sharded)(np.zeros((8, 4)))
    odd = jax.jit(sharded)(np.zeros((3, 4)))
    assert divided.sharding.spec == PartitionSpec("fsdp", "model")
    assert odd.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, PartitionSpec(None, "model")), 2)
    assert isinstance(jax.jit(plain)(np.zeros((8, 4))).sharding, jax.sharding.SingleDeviceSharding)


def test_shard_count_is_that_of_the_active_rules():
    assert shard_count("batch") == 1
    with activation_rules(make_mesh(MeshConfig(data=2, fsdp=2, model=2))):
        assert shard_count("batch") == 4
        assert shard_count("length") == 1


def test_global_batch_keeps_its_rows():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    rows = np.arange(16).reshape(8, 2)
    array = to_global({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(array, rows)
    assert array.sharding.spec[0] == ("replica", "data", "fsdp")


def test_batch_size_error_names_the_nearest_sizes():
    mesh = make_mesh(MeshConfig(fsdp=8))
    check_batch_size(32, mesh, num_hosts=4, micro_batches=2)
    with pytest.raises(ConfigError, match="BATCH_SIZE 20 is not divisible by 8.*nearest: 16 or 24"):
        check_batch_size(20, mesh, num_hosts=2)
    with pytest.raises(ConfigError, match="nearest: 8$"):
        check_batch_size(3, mesh, num_hosts=2)


def test_every_rule_names_real_mesh_axes():
    assert {axis for axes in DEFAULT_RULES.values() for axis in axes} <= set(MESH_AXES)
