"""What the two ways to a slice have in common: make it, look at it, reach its hosts, give it back."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from t5x_instruct.cloud.accelerators import QUEUED_RESOURCES
from t5x_instruct.cloud.gcloud import Command, Gcloud
from t5x_instruct.cloud.settings import LaunchSettings

SCOPES = "https://www.googleapis.com/auth/cloud-platform"
ALL = "all"


class Phase(enum.Enum):
    """Where a slice is on its way, whatever its back end calls it."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    LOST = "lost"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether the request has to be made anew."""
        return self in (Phase.LOST, Phase.FAILED)


@dataclass(frozen=True)
class View:
    """What the cloud says of a slice.

    Args:
        phase: where it is.
        detail: the cloud's own words.
        hosts: names of the machines, where they have any.
    """

    phase: Phase
    detail: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scripts:
    """The files that a back end hands to its hosts.

    Args:
        startup: run at each boot.
        shutdown: run before a host goes away.
    """

    startup: Path
    shutdown: Path

    @property
    def metadata(self) -> str:
        """As the value of `--metadata-from-file`."""
        return f"startup-script={self.startup},shutdown-script={self.shutdown}"


class Backend(ABC):
    """One way to a slice.

    Args:
        settings: the launch.
        gcloud: what runs or shows the commands.
    """

    def __init__(self, settings: LaunchSettings, gcloud: Gcloud):
        self.settings = settings
        self.gcloud = gcloud

    def where(self) -> Mapping[str, str | None]:
        """The flags that every command has."""
        return {"zone": self.settings.zone, "project": self.settings.project}

    @abstractmethod
    def create(self, scripts: Scripts, seconds: int) -> None:
        """Asks for the slice.

        Args:
            scripts: what its hosts run.
            seconds: how long it may live, if the cloud can see to that.
        """

    @abstractmethod
    def view(self) -> View:
        """Looks at the slice."""

    @abstractmethod
    def delete(self) -> None:
        """Gives the slice back, and waits until it is gone; what is gone already is no error."""

    @abstractmethod
    def delete_from_host(self) -> Command:
        """The command by which a host gives the slice back that it is part of."""

    @abstractmethod
    def ssh(self, host: int | str, remote: str) -> list[Command]:
        """Commands that run something on a host.

        Args:
            host: its number, over all slices, or 'all'.
            remote: a line for the host's shell; never made of users' values.
        """


def make_backend(settings: LaunchSettings, gcloud: Gcloud) -> Backend:
    """The back end that the settings choose."""
    from t5x_instruct.cloud.instance_group import InstanceGroup
    from t5x_instruct.cloud.queued_resources import QueuedResources

    return (QueuedResources if settings.chosen_backend == QUEUED_RESOURCES else InstanceGroup)(settings, gcloud)
