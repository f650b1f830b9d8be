"""Meshes over several TPU slices that are not there: what crosses the network between them."""

import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh, slice_count
from t5x_instruct.plan.topologies import Slices, devices_of

TWO = Slices("v5e", "2x4", 2)


@pytest.fixture(scope="module")
def devices():
    return devices_of(TWO)


@pytest.mark.parametrize("replica", [2, 4])
def test_every_replica_lies_on_one_slice(devices, replica):
    assert slice_count(devices) == 2
    # In whatever order the runtime names them.
    grid = make_mesh(MeshConfig(replica=replica, fsdp=-1, model=2), devices[::-1]).devices
    assert grid.shape == (replica, 1, 8 // replica, 1, 2)
    slices = [{device.slice_index for device in copy.flat} for copy in grid]
    assert slices == [{0}] * (replica // 2) + [{1}] * (replica // 2)
    assert len({device.id for device in grid.flat}) == 16


def test_devices_of_the_model_axis_are_neighbours(devices):
    grid = make_mesh(MeshConfig(replica=2, fsdp=4, model=2), devices).devices
    for pair in grid.reshape(-1, 2):
        assert np.abs(np.subtract(*(np.array(device.coords) for device in pair))).sum() == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(), r"replica=1: the devices are on 2 slices.*multiple of 2; nearest that works: \{'replica': 2\}"),
        (MeshConfig(replica=1, fsdp=8, data=2), "nearest that works: {'replica': 2}"),
    ],
)
def test_replicas_that_slices_cannot_share_are_refused(devices, config, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(config, devices)


def test_the_nearest_replica_size_divides_the_devices_too():
    three = devices_of(Slices("v5e", "2x2", 3))
    with pytest.raises(ConfigError, match=r"replica=4.*on 3 slices.*multiple of 3.*\{'replica': 3\}"):
        make_mesh(MeshConfig(replica=4), three)


def test_unequal_slices_are_refused(devices):
    with pytest.raises(ConfigError, match="slice 0: 8, slice 1: 6"):
        make_mesh(MeshConfig(replica=2), sorted(devices, key=lambda one: one.slice_index)[:14])
