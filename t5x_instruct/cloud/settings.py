"""What is launched where: the slice, the bucket, the capacity, and when to stop."""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from t5x_instruct.cloud.accelerators import INSTANCE_GROUP, QUEUED_RESOURCES, Slice, parse_slice
from t5x_instruct.common.errors import ConfigError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
_BUCKET = re.compile(r"gs://[a-z0-9][-_.a-z0-9]+[a-z0-9](/[^\s*?\[\]#][^\n*?\[\]#]*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL = re.compile(r"[-_a-z0-9]{0,63}")
_DURATION = re.compile(r"([0-9]+[smhd])+")
_WORD = re.compile(r"[-\w.:/@]+")


@dataclass(frozen=True)
class LaunchSettings:
    """One launch: a run on a slice, or on several.

    Attributes:
        name: of the request and of what belongs to it; with it `status`, `logs`, `stop` and `delete` find it again.
        accelerator: 'v5e-16' or 'v5p:4x4x4' (see `accelerators.parse_slice`).
        zone: 'us-west4-a'.
        bucket: folder for everything of the launch: 'gs://bucket' or 'gs://bucket/folder'. In the slice's region.
        project: None: gcloud's own.
        backend: 'queued_resources' (v4 to v6e), 'instance_group' (v5p, v6e, tpu7x), None: the first that has it.
        slices: how many, joined by the data centre network; with queued resources only.
        capacity: 'spot' may be taken away at any time, 'reserved' is a reservation of yours, 'on_demand' neither.
        reservation: its name, for 'reserved' with an instance group.
        network: None: 'default'.
        subnetwork: None: the network's own.
        internal_ips: hosts without public addresses; they then need Cloud NAT, and ssh from within the network.
        service_account: email; None: Compute Engine's default one. It must be able to write to the bucket.
        tags: network tags, for firewall rules.
        labels: for the bill.
        runtime_version: image of a queued resource; None: the generation's.
        machine_type: of an instance group; None: the generation's.
        image_family: of an instance group; None: the generation's.
        boot_disk_gb: of an instance group.
        valid_until_duration: how long a queued request may wait, e.g. '6h'; None: for ever.
        max_hours: cost guard: when its hosts have lived so long the slice is deleted, whatever it is doing. `run` adds
            the lives of slices that were taken away; the hosts' own guard counts from their first boot.
        delete_on_success: give the slice back when the run has ended well. It is never deleted after a failure.
        max_failures: how often the program may end with a fault (exit code 1) before it is left alone.
        backoff_seconds: wait after the first fault, doubled after each up to ten minutes.
        healthy_seconds: a fault after so long a time of running counts as the first one again.
        max_recreations: how many requests in a row may fail without ever getting hosts.
        poll_seconds: between looks at the slice's state.
        verb: what runs there: 'train' or 'eval'.
        extras: of the package, installed on the hosts.
        python: version on the hosts, '3.12'; None: this machine's, to which the lock file belongs.
        files: further files that the run reads, relative to the working folder; sent along.
        env: environment variables of the program. They stand in the machines' metadata: no secrets.
        libtpu_init_args: compiler flags; None: the generation's.
        price_per_chip_hour: in your currency, for the estimate of the cost; None: not known.
    """

    name: str
    accelerator: str
    zone: str
    bucket: str
    project: str | None = None
    backend: Literal["queued_resources", "instance_group"] | None = None
    slices: int = 1
    capacity: Literal["spot", "reserved", "on_demand"] = "on_demand"
    reservation: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    internal_ips: bool = False
    service_account: str | None = None
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    runtime_version: str | None = None
    machine_type: str | None = None
    image_family: str | None = None
    boot_disk_gb: int = 200
    valid_until_duration: str | None = None
    max_hours: float = 24.0
    delete_on_success: bool = False
    max_failures: int = 5
    backoff_seconds: float = 30.0
    healthy_seconds: float = 1800.0
    max_recreations: int = 5
    poll_seconds: float = 60.0
    verb: Literal["train", "eval"] = "train"
    extras: tuple[str, ...] = ("tpu",)
    python: str | None = None
    files: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    libtpu_init_args: str | None = None
    price_per_chip_hour: float | None = None

    def __post_init__(self) -> None:
        problems = [*self._shape_problems(), *self._number_problems(), *self._slice_problems()]
        if problems:
            raise ConfigError([f"LaunchSettings.{problem}" for problem in problems])

    def _shape_problems(self) -> Iterator[str]:
        for name, pattern, meaning in (
            ("name", _NAME, "lower-case letters, digits and '-', from a letter on, at most 40"),
            ("zone", _ZONE, "a zone, e.g. 'us-west4-a'"),
            ("bucket", _BUCKET, "gs://BUCKET or gs://BUCKET/FOLDER, without wildcards"),
            ("python", re.compile(r"3\.(1[1-9]|[2-9][0-9])"), "3.11 or newer, e.g. '3.12'"),
            ("valid_until_duration", _DURATION, "a duration, e.g. '6h'"),
        ):
            value = getattr(self, name)
            if value is not None and not pattern.fullmatch(value):
                yield f"{name} = {value!r}: expected {meaning}"
        for name in (
            *("project", "network", "subnetwork", "service_account", "runtime_version", "machine_type"),
            *("image_family", "reservation"),
        ):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(value):
                yield f"{name} = {value!r}: expected a name without spaces"
        for name in ("tags", "extras"):
            for value in getattr(self, name):
                if not _LABEL.fullmatch(value) or not value:
                    yield f"{name}: {value!r}: expected lower-case letters, digits, '-' and '_'"
        for key, value in self.labels.items():
            if not (_LABEL.fullmatch(key) and key and _LABEL.fullmatch(value)):
                yield f"labels: {key!r}: {value!r}: expected lower-case letters, digits, '-' and '_'"
        for key, value in self.env.items():
            if not _VARIABLE.fullmatch(key) or "\0" in value:
                yield f"env: {key!r}: not a name of an environment variable"

    def _number_problems(self) -> Iterator[str]:
        minima = {"slices": 1, "boot_disk_gb": 50, "max_failures": 0, "max_recreations": 0}
        for name, least in (minima | {"backoff_seconds": 0, "healthy_seconds": 0, "poll_seconds": 0}).items():
            if getattr(self, name) < least:
                yield f"{name} = {getattr(self, name)}: expected at least {least}"
        if not 0 < self.max_hours <= 24 * 90:
            yield f"max_hours = {self.max_hours}: expected more than 0 and at most {24 * 90}"
        if self.price_per_chip_hour is not None and self.price_per_chip_hour < 0:
            yield f"price_per_chip_hour = {self.price_per_chip_hour}: expected at least 0"

    def _slice_problems(self) -> Iterator[str]:
        try:
            part = parse_slice(self.accelerator)
        except ConfigError as error:
            yield from (f"accelerator: {problem}" for problem in error.problems)
            return
        backends = part.generation.backends
        if self.backend is not None and self.backend not in backends:
            yield f"backend = {self.backend!r}: {part.generation.name} can be had with {' or '.join(backends)} only"
            return
        if self.chosen_backend == INSTANCE_GROUP:
            if self.slices > 1:
                yield f"slices = {self.slices}: an instance group is one slice; use backend = '{QUEUED_RESOURCES}'"
            if self.project is None:
                yield "project: an instance group needs it, its parts are named by their whole path"
            if self.capacity == "reserved" and self.reservation is None:
                yield "reservation: capacity = 'reserved' needs the reservation's name"
            if self.valid_until_duration is not None:
                yield "valid_until_duration: an instance group waits until it is deleted"
        elif part.topology != part.generation.topologies.get(part.chips):
            valid = ", ".join(f"{part.generation.name}:{known}" for known in part.generation.topologies.values())
            yield f"accelerator = {self.accelerator!r}: queued resources have {valid}"

    @property
    def slice(self) -> Slice:
        """The slice that is asked for."""
        return parse_slice(self.accelerator)

    @property
    def chosen_backend(self) -> str:
        """The back end that is used."""
        return self.backend or self.slice.generation.backends[0]

    @property
    def hosts(self) -> int:
        """Machines of one slice."""
        return self.slice.hosts(self.chosen_backend)

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slice.chips * self.slices

    @property
    def root(self) -> str:
        """The launch's folder in the bucket."""
        return f"{self.bucket.rstrip('/')}/{self.name}"

    @property
    def label_words(self) -> list[str]:
        """The labels as gcloud takes them."""
        return [f"{key}={value}" for key, value in sorted(self.labels.items())]

    @property
    def python_version(self) -> str:
        """Python on the hosts."""
        return self.python or f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def libtpu_flags(self) -> str:
        """`LIBTPU_INIT_ARGS` of the hosts."""
        return self.slice.generation.libtpu_init_args if self.libtpu_init_args is None else self.libtpu_init_args

    def cost(self) -> str:
        """The most that the launch can cost, in words."""
        chip_hours = self.chips * self.max_hours
        text = f"at most {self.chips:,} chips x {self.max_hours:g} h = {chip_hours:,.0f} chip-hours"
        if self.price_per_chip_hour is None:
            return text
        return f"{text} x {self.price_per_chip_hour:g} = {chip_hours * self.price_per_chip_hour:,.2f}"
