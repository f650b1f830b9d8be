"""What may be launched: every problem at once, and the slices by all their names."""

import pytest

from t5x_instruct.cloud.accelerators import GENERATIONS, INSTANCE_GROUP, QUEUED_RESOURCES, parse_slice
from t5x_instruct.common.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "chips", "topology", "api_name", "queued_hosts"),
    [
        ("v4-8", 4, "2x2x1", "v4-8", 1),
        ("v4-32", 16, "2x2x4", "v4-32", 4),
        ("v5e-8", 8, "2x4", "v5litepod-8", 1),
        ("v5e-16", 16, "4x4", "v5litepod-16", 4),
        ("v5e-256", 256, "16x16", "v5litepod-256", 64),
        ("v5p-128", 64, "4x4x4", "v5p-128", 16),
        ("v5p:4x4x4", 64, "4x4x4", "v5p-128", 16),
        ("v6e-1", 1, "1x1", "v6e-1", 1),
        ("v6e:8x16", 128, "8x16", "v6e-128", 32),
    ],
)
def test_slices_by_name(name, chips, topology, api_name, queued_hosts):
    part = parse_slice(name)
    assert (part.chips, part.topology, part.api_name) == (chips, topology, api_name)
    assert part.hosts(QUEUED_RESOURCES) == queued_hosts


def test_groups_have_four_chips_a_machine():
    assert parse_slice("v6e-8").hosts(QUEUED_RESOURCES) == 1
    assert parse_slice("v6e-8").hosts(INSTANCE_GROUP) == 2
    assert parse_slice("v6e-8").machine_type() == "ct6e-standard-4t"
    assert parse_slice("v6e-1").machine_type() == "ct6e-standard-1t"
    assert parse_slice("tpu7x:4x4x8").hosts(INSTANCE_GROUP) == 32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v7-8", "unknown TPU generation 'v7'"),
        ("v5-e16", "unknown TPU generation 'v5'"),
        ("v5e-17", "no slice of this size; valid: v5e-1, v5e-4, v5e-8"),
        ("v5p-64x", "no slice of this size"),
        ("v5p:4x4", "v5p is arranged as 2x2x1"),
        ("v5p:4x0x4", "write the arrangement"),
        ("tpu7x-128", "name the arrangement of its chips, e.g. 'tpu7x:4x4x4'"),
        ("", "unknown TPU generation"),
    ],
)
def test_slices_that_are_not(name, message):
    with pytest.raises(ConfigError, match=message):
        parse_slice(name)


def test_every_generation_can_be_had():
    for generation in GENERATIONS.values():
        assert generation.backends
        assert generation.libtpu_init_args.count("--xla") >= 3
        assert bool(generation.runtime_version) == (QUEUED_RESOURCES in generation.backends)
        assert bool(generation.image_family) == (INSTANCE_GROUP in generation.backends)


def test_all_problems_at_once(settings):
    with pytest.raises(ConfigError) as raised:
        settings(
            name="XL",
            zone="us-west4",
            bucket="bucket",
            accelerator="v5e-17",
            slices=0,
            max_hours=0,
            env={"A-B": ""},
            labels={"Team": "x"},
            tags=("a b",),
            valid_until_duration="soon",
            service_account="a b",
            python="3.9",
        )
    text = str(raised.value)
    for name in ("name", "zone", "bucket", "slices", "max_hours", "env", "labels", "tags", "valid_until_duration"):
        assert f"LaunchSettings.{name}" in text
    assert "12 problems" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "v5e-16", "backend": "instance_group"}, "v5e can be had with queued_resources only"),
        ({"accelerator": "tpu7x:2x2x2", "backend": "queued_resources"}, "can be had with instance_group only"),
        ({"accelerator": "tpu7x:2x2x2"}, "project: an instance group needs it"),
        ({"accelerator": "tpu7x:2x2x2", "project": "p", "slices": 2}, "an instance group is one slice"),
        ({"accelerator": "tpu7x:2x2x2", "project": "p", "capacity": "reserved"}, "needs the reservation's name"),
        ({"accelerator": "v5p:2x4x8"}, "queued resources have v5p:2x2x1"),
        ({"bucket": "gs://bucket/a*"}, "without wildcards"),
    ],
)
def test_what_does_not_go_together(settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_cost_is_a_product(settings):
    made = settings(slices=2, max_hours=1.5)
    assert made.cost() == "at most 32 chips x 1.5 h = 48 chip-hours"
    assert settings(slices=2, max_hours=1.5, price_per_chip_hour=0.5).cost().endswith("48 chip-hours x 0.5 = 24.00")
