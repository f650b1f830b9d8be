"""Slices by Cloud TPU's names, and what the compiler says of them."""

import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.plan.topologies import CHIPS, Slices, devices_of, hbm_limit, parse_slices


@pytest.mark.parametrize(
    ("text", "generation", "shape", "chips"),
    [
        ("v5e-1", "v5e", "1x1", 1),
        ("v5e-256", "v5e", "16x16", 256),
        ("V6E-32", "v6e", "4x8", 32),
        ("v4-8", "v4", "2x2x1", 4),  # v4 and v5p are named by TensorCores, two a chip
        ("v5p-128", "v5p", "4x4x4", 64),
        ("v5p-256", "v5p", "4x4x8", 128),
        ("v4-1024", "v4", "8x8x8", 512),
        ("v5p-2048", "v5p", "8x8x16", 1024),
        ("v5p:2x2x4", "v5p", "2x2x4", 16),
        ("v5e-2x4", "v5e", "2x4", 8),
        ("tpu7x:4x4x4", "tpu7x", "4x4x4", 64),
    ],
)
def test_names(text, generation, shape, chips):
    slices = parse_slices(text)
    assert (slices.generation, slices.shape, slices.num_chips) == (generation, shape, chips)
    assert parse_slices(text, 3).num_chips == 3 * chips


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5", "write a generation and a size or shape, such as 'v5e-16'"),
        ("v7e-16", "unknown generation 'v7e'"),
        ("v5e-12", "no slice of that size; nearest: v5e-4, v5e-8, v5e-16"),
        ("v5p-127", "no slice of that size; nearest: v5p-32, v5p-64, v5p-128"),
        ("v5e:4x4x4", "slices of v5e have 2 axes"),
        ("v5e:0x4", "slices of v5e have 2 axes"),
    ],
)
def test_names_that_are_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_slices(text)
    with pytest.raises(ConfigError, match="0 slices: there has to be at least one"):
        parse_slices("v5e-8", 0)


def test_devices_as_the_compiler_describes_them():
    devices = devices_of(parse_slices("v5e-8", 2))
    assert len(devices) == 16
    assert {one.slice_index for one in devices} == {0, 1}
    assert max(tuple(one.coords) for one in devices) == (1, 3, 0)
    assert len(devices_of(parse_slices("v4-8"))) == 4  # megacore: a chip is one device
    seven = parse_slices("tpu7x:2x2x1")
    assert len(devices_of(seven)) == seven.num_devices == 8
    with pytest.raises(ConfigError, match="cannot describe v5e:3x5"):
        devices_of(Slices("v5e", "3x5"))


def test_memory_by_the_compilers_own_word():
    limits = {generation: hbm_limit(generation) / (1 << 30) for generation in CHIPS}
    published = {"v4": 32, "v5e": 16, "v5p": 95.75, "v6e": 32, "tpu7x": 96}
    for generation, limit in limits.items():
        assert published[generation] - 2 < limit < published[generation]
