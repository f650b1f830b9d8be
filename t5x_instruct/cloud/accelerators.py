"""TPU generations and slices: what each is called, how many hosts it has, what it needs to start. One table."""

import math
from dataclasses import dataclass

from t5x_instruct.common.errors import ConfigError, unknown

QUEUED_RESOURCES = "queued_resources"
INSTANCE_GROUP = "instance_group"

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
    4096: "16x16x16",
}
# Collectives of the data axis run beside the arithmetic that does not wait for them: also across slices.
_OVERLAP = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true "
    "--xla_tpu_data_parallel_opt_different_sized_ops=true "
    "--xla_tpu_enable_async_collective_fusion=true "
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true "
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true "
    "--xla_tpu_overlap_compute_collective_tc=true "
    "--xla_enable_async_all_gather=true"
)
# These have more on-chip memory than the compiler gives to one fusion by default.
_VMEM = " --xla_tpu_scoped_vmem_limit_kib=98304"


@dataclass(frozen=True)
class Generation:
    """One TPU generation.

    Args:
        name: as users write it: 'v5e'.
        api_name: as the Cloud TPU API writes it: 'v5litepod'; '' if it does not know it.
        topologies: chips -> arrangement of the slices that can be had by number.
        name_counts: how many units of the number in 'v4-32' make one chip (TensorCores are counted up to v5p).
        host_chips: chips of each host of a slice of several hosts.
        single_host_chips: most chips of a slice on one host, with queued resources.
        runtime_version: image of the Cloud TPU API.
        machine_types: chips of a host -> Compute Engine's machine; empty: not to be had in instance groups.
        image_family: Compute Engine's image, in `IMAGE_PROJECT`.
        libtpu_init_args: compiler flags for training.
        boot_disk_type: of its machines; None: Compute Engine's default.
    """

    name: str
    api_name: str
    topologies: dict[int, str]
    name_counts: int
    host_chips: int
    single_host_chips: int
    runtime_version: str
    machine_types: dict[int, str]
    image_family: str
    libtpu_init_args: str
    boot_disk_type: str | None = None

    @property
    def backends(self) -> tuple[str, ...]:
        """The ways to get it, the preferred one first."""
        queued = (QUEUED_RESOURCES,) if self.api_name else ()
        return queued + ((INSTANCE_GROUP,) if self.machine_types else ())


IMAGE_PROJECT = "ubuntu-os-accelerator-images"
_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation("v4", "v4", _CUBES, 2, 4, 4, "tpu-ubuntu2204-base", {}, "", _OVERLAP),
        Generation("v5e", "v5litepod", _FLAT, 1, 4, 8, "v2-alpha-tpuv5-lite", {}, "", _OVERLAP),
        Generation("v5p", "v5p", _CUBES, 2, 4, 4, "v2-alpha-tpuv5", {4: "ct5p-hightpu-4t"}, _IMAGE, _OVERLAP + _VMEM),
        Generation(
            "v6e",
            "v6e",
            _FLAT,
            1,
            4,
            8,
            "v2-alpha-tpuv6e",
            {1: "ct6e-standard-1t", 4: "ct6e-standard-4t"},
            _IMAGE,
            _OVERLAP + _VMEM,
        ),
        Generation(
            "tpu7x",
            "",
            _CUBES,
            1,
            4,
            4,
            "",
            {4: "tpu7x-standard-4t"},
            "ubuntu-accel-2404-amd64-tpu-tpu7x",
            _OVERLAP,
            "hyperdisk-balanced",
        ),
    )
}


@dataclass(frozen=True)
class Slice:
    """A slice of a pod.

    Args:
        generation: its chips.
        chips: how many.
        topology: how they are arranged, e.g. '4x4'.
    """

    generation: Generation
    chips: int
    topology: str

    @property
    def api_name(self) -> str:
        """What the Cloud TPU API calls it: 'v5litepod-16'."""
        return f"{self.generation.api_name}-{self.chips * self.generation.name_counts}"

    def hosts(self, backend: str) -> int:
        """Machines of the slice; instance groups have four chips a machine also where queued resources have eight."""
        if backend == QUEUED_RESOURCES and self.chips <= self.generation.single_host_chips:
            return 1
        return max(1, self.chips // self.generation.host_chips)

    def machine_type(self) -> str:
        """Compute Engine's machine for its hosts."""
        return self.generation.machine_types[min(self.chips, self.generation.host_chips)]


def parse_slice(accelerator: str) -> Slice:
    """Reads the name of a slice.

    Args:
        accelerator: 'v5e-16' (as Google counts: TensorCores for v4 and v5p, chips for v5e and v6e), or the
            arrangement of its chips: 'v5p:4x4x4'.

    Returns:
        The slice.

    Raises:
        ConfigError: no such generation, or no slice of that size or arrangement.
    """
    name, separator, size = accelerator.partition(":") if ":" in accelerator else accelerator.partition("-")
    if name not in GENERATIONS:
        raise ConfigError(unknown("TPU generation", name, GENERATIONS) + f" in accelerator {accelerator!r}")
    generation = GENERATIONS[name]
    if separator == ":":
        sides = size.split("x")
        if not all(side.isdigit() and int(side) for side in sides):
            raise ConfigError(f"accelerator {accelerator!r}: write the arrangement as in '{name}:4x4'")
        chips = math.prod(map(int, sides))
        if len(sides) != len(next(iter(generation.topologies.values())).split("x")):
            valid = ", ".join(generation.topologies.values())
            raise ConfigError(f"accelerator {accelerator!r}: {name} is arranged as {valid}")
        return Slice(generation, chips, size)
    if not generation.api_name:  # what its numbers count differs between Google's own pages
        raise ConfigError(f"accelerator {accelerator!r}: name the arrangement of its chips, e.g. '{name}:4x4x4'")
    sizes = {str(chips * generation.name_counts): chips for chips in generation.topologies}
    if size not in sizes:
        valid = ", ".join(f"{name}-{known}" for known in sizes)
        raise ConfigError(f"accelerator {accelerator!r}: no slice of this size; valid: {valid}")
    return Slice(generation, sizes[size], generation.topologies[sizes[size]])
