"""A slice as a managed instance group of Compute Engine, whose workload policy names the topology: v5p, v6e, TPU7x.

Source: https://docs.cloud.google.com/compute/docs/tpus/create-tpu-mig-multi-host-slice and
https://docs.cloud.google.com/tpu/docs/spot-compute.
"""

import json
from typing import Any

from t5x_instruct.cloud.accelerators import IMAGE_PROJECT
from t5x_instruct.cloud.backend import ALL, SCOPES, Backend, Phase, Scripts, View
from t5x_instruct.cloud.gcloud import CloudError, Command, command

_GROUPS = ("compute", "instance-groups", "managed")
_TEMPLATES = ("compute", "instance-templates")
_POLICIES = ("compute", "resource-policies")
_GONE = {"STOPPING", "STOPPED", "TERMINATED", "SUSPENDING", "SUSPENDED"}
_UNKNOWN_INSTANCE = "INSTANCE_OF_THE_GROUP"


class InstanceGroup(Backend):
    """A group of machines that are made all at once, or not at all."""

    @property
    def region(self) -> str:
        """The zone's region, where templates and policies live."""
        return self.settings.zone.rpartition("-")[0]

    def _path(self, kind: str) -> str:
        return f"projects/{self.settings.project}/regions/{self.region}/{kind}/{self.settings.name}"

    def create(self, scripts: Scripts, seconds: int) -> None:
        """See `Backend.create`."""
        settings = self.settings
        several = settings.hosts > 1
        if several:
            policy = command(
                *(*_POLICIES, "create", "workload-policy", settings.name),
                type="HIGH_THROUGHPUT",
                accelerator_topology=settings.slice.topology,
                accelerator_topology_mode="AUTO_CONNECT",
                region=self.region,
                project=settings.project,
            )
            self._make(policy, self._delete_policy())
        self._make(self._template(scripts, seconds), self._delete_template())
        self.gcloud.run(
            command(
                *(*_GROUPS, "create", settings.name),
                **self.where(),
                size=settings.hosts,
                template=self._path("instanceTemplates"),
                default_action_on_vm_failure="do-nothing",
                target_size_policy_mode="bulk" if several else None,
                workload_policy=self._path("resourcePolicies") if several else None,
            )
        )

    def _template(self, scripts: Scripts, seconds: int) -> Command:
        settings = self.settings
        bound = settings.capacity == "reserved" and settings.slice.generation.name == "tpu7x"
        model = {"spot": "SPOT", "reserved": "RESERVATION_BOUND" if bound else None, "on_demand": None}
        return command(
            *(*_TEMPLATES, "create", settings.name),
            instance_template_region=self.region,
            project=settings.project,
            machine_type=settings.machine_type or settings.slice.machine_type(),
            image_family=settings.image_family or settings.slice.generation.image_family,
            image_project=IMAGE_PROJECT,
            boot_disk_size=f"{settings.boot_disk_gb}GB",
            boot_disk_type=settings.slice.generation.boot_disk_type,
            maintenance_policy="TERMINATE",
            provisioning_model=model[settings.capacity],
            # A machine bound to a reservation lives as long as that; of the others Compute Engine ends the life.
            max_run_duration=None if bound else f"{seconds}s",
            instance_termination_action=None if bound else "STOP",
            reservation_affinity="specific" if settings.capacity == "reserved" else None,
            reservation=settings.reservation,
            network=settings.network,
            subnet=settings.subnetwork,
            no_address=settings.internal_ips,
            service_account=settings.service_account,
            scopes=SCOPES,
            tags=settings.tags,
            labels=settings.label_words,
            metadata_from_file=scripts.metadata,
        )

    def _make(self, make: Command, remove: Command) -> None:
        """Runs a command that makes something; what an earlier launch left under this name is replaced."""
        answer = self.gcloud.run(make, tolerate=True)
        if answer.exists:
            self.gcloud.run(remove)
            answer = self.gcloud.run(make)
        if answer.code:
            raise CloudError(f"{' '.join(make[:5])} failed: {answer.errors.strip()}")

    def view(self) -> View:
        """See `Backend.view`."""
        instances = self._instances()
        if instances is None:
            return View(Phase.ABSENT)
        states = [
            str(instance.get("instanceStatus") or instance.get("currentAction") or "NONE") for instance in instances
        ]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "no machine yet"
        names = tuple(str(instance.get("instance", "")).rpartition("/")[2] for instance in instances)
        if _GONE.intersection(states):
            return View(Phase.LOST, counts, names)
        if "DELETING" in states:
            return View(Phase.ENDING, counts, names)
        if states.count("RUNNING") == self.settings.hosts:
            return View(Phase.RUNNING, counts, names)
        started = {"RUNNING", "STAGING", "PROVISIONING"}.intersection(states)
        return View(Phase.STARTING if started else Phase.WAITING, counts, names)

    def _instances(self) -> list[dict[str, Any]] | None:
        """The group's machines; None if there is no group."""
        answer = self.gcloud.run(
            command(*_GROUPS, "list-instances", self.settings.name, **self.where(), format="json"), tolerate=True
        )
        if answer.missing or self.gcloud.dry_run:
            return None
        if answer.code:
            raise CloudError(f"the state of {self.settings.name} cannot be read: {answer.errors.strip()}")
        try:
            instances = json.loads(answer.output)
        except ValueError as error:
            raise CloudError(f"gcloud lists {self.settings.name} in an unknown way: {answer.output[:300]!r}") from error
        return list(instances)

    def delete(self) -> None:
        """See `Backend.delete`."""
        parts = [self.delete_from_host(), self._delete_template()]
        if self.settings.hosts > 1:
            parts.append(self._delete_policy())
        for part in parts:
            answer = self.gcloud.run(part, tolerate=True)
            if answer.code and not answer.missing:
                raise CloudError(
                    f"{self.settings.name} cannot be deleted and may go on costing: {answer.errors.strip()}"
                )

    def delete_from_host(self) -> Command:
        """See `Backend.delete_from_host`; the template and the policy cost nothing and are left."""
        return command(*_GROUPS, "delete", self.settings.name, **self.where(), quiet=True)

    def _delete_template(self) -> Command:
        return command(
            *_TEMPLATES, "delete", self.settings.name, region=self.region, project=self.settings.project, quiet=True
        )

    def _delete_policy(self) -> Command:
        return command(
            *_POLICIES, "delete", self.settings.name, region=self.region, project=self.settings.project, quiet=True
        )

    def ssh(self, host: int | str, remote: str) -> list[Command]:
        """See `Backend.ssh`; a number counts the machines by name."""
        names = sorted(
            str(instance.get("instance", "")).rpartition("/")[2] for instance in self._instances() or ()
        ) or [_UNKNOWN_INSTANCE]
        if host != ALL:
            names = [names[min(int(host), len(names) - 1)]]
        reach = {**self.where(), "internal_ip": self.settings.internal_ips}
        return [command("compute", "ssh", name, **reach, command=remote) for name in names]
