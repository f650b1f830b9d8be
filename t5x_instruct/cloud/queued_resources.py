"""Slices by the queued resources of the Cloud TPU API: v4 to v6e, one or several.

Source: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources and
https://cloud.google.com/tpu/docs/queued-resources.
"""

import json

from t5x_instruct.cloud.backend import ALL, SCOPES, Backend, Phase, Scripts, View
from t5x_instruct.cloud.gcloud import CloudError, Command, command

_GROUP = ("compute", "tpus", "queued-resources")
PHASES = {
    "CREATING": Phase.WAITING,
    "ACCEPTED": Phase.WAITING,
    "WAITING_FOR_RESOURCES": Phase.WAITING,
    "PROVISIONING": Phase.STARTING,
    "ACTIVE": Phase.RUNNING,
    "SUSPENDING": Phase.ENDING,
    "DELETING": Phase.ENDING,
    "SUSPENDED": Phase.LOST,
    "FAILED": Phase.FAILED,
}


class QueuedResources(Backend):
    """A request that waits in a queue until the service has the slices."""

    def create(self, scripts: Scripts, seconds: int) -> None:
        """See `Backend.create`; the service cannot limit a slice's life, its hosts and `launch run` do."""
        settings = self.settings
        several = settings.slices > 1
        self.gcloud.run(
            command(
                *(*_GROUP, "create", settings.name),
                **self.where(),
                accelerator_type=settings.slice.api_name,
                runtime_version=settings.runtime_version or settings.slice.generation.runtime_version,
                node_id=None if several else settings.name,
                node_count=settings.slices if several else None,
                node_prefix=settings.name if several else None,
                spot=settings.capacity == "spot",
                reserved=settings.capacity == "reserved",
                valid_until_duration=settings.valid_until_duration,
                network=settings.network,
                subnetwork=settings.subnetwork,
                internal_ips=settings.internal_ips,
                service_account=settings.service_account,
                scopes=SCOPES,
                tags=settings.tags,
                labels=settings.label_words,
                metadata_from_file=scripts.metadata,
            )
        )

    def view(self) -> View:
        """See `Backend.view`."""
        answer = self.gcloud.run(
            command(*_GROUP, "describe", self.settings.name, **self.where(), format="json"), tolerate=True
        )
        if answer.missing or self.gcloud.dry_run:
            return View(Phase.ABSENT)
        if answer.code:
            raise CloudError(f"the state of {self.settings.name} cannot be read: {answer.errors.strip()}")
        try:
            state = json.loads(answer.output)["state"]
            name = state["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise CloudError(
                f"gcloud describes {self.settings.name} in an unknown way: {answer.output[:300]!r}"
            ) from error
        if name not in PHASES:
            return View(Phase.WAITING, f"{name} (a state this version does not know)")
        cause = state.get("failedData", {}).get("error", {}).get("message", "")
        return View(PHASES[name], f"{name}: {cause}" if cause else name, tuple(self._nodes()))

    def delete(self) -> None:
        """See `Backend.delete`."""
        answer = self.gcloud.run(self._delete(), tolerate=True)
        if answer.code and not answer.missing:
            raise CloudError(f"{self.settings.name} cannot be deleted and goes on costing: {answer.errors.strip()}")

    def delete_from_host(self) -> Command:
        """See `Backend.delete_from_host`; without waiting, for the host is part of what is deleted."""
        return [*self._delete(), "--async"]

    def _delete(self) -> Command:
        return command(*_GROUP, "delete", self.settings.name, **self.where(), force=True, quiet=True)

    def ssh(self, host: int | str, remote: str) -> list[Command]:
        """See `Backend.ssh`."""
        nodes, worker = self._nodes(), ALL
        if isinstance(host, int):
            nodes, worker = [nodes[host // self.settings.hosts]], str(host % self.settings.hosts)
        reach = {**self.where(), "worker": worker, "internal_ip": self.settings.internal_ips}
        return [command("compute", "tpus", "tpu-vm", "ssh", node, **reach, command=remote) for node in nodes]

    def _nodes(self) -> list[str]:
        """The slices' names."""
        name = self.settings.name
        return [name] if self.settings.slices == 1 else [f"{name}-{number}" for number in range(self.settings.slices)]
