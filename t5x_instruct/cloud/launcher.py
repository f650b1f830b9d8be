"""Launches: made, watched until they end, made again when the cloud takes them away, looked at, ended."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from t5x_instruct.cloud.archive import Archive
from t5x_instruct.cloud.backend import ALL, Phase, Scripts, View, make_backend
from t5x_instruct.cloud.gcloud import CloudError, Gcloud, command
from t5x_instruct.cloud.scripts import archive_url, shutdown_script, startup_script
from t5x_instruct.cloud.settings import LaunchSettings
from t5x_instruct.common.errors import EXIT_DONE, EXIT_FAULT, EXIT_RESUME, EXIT_USAGE, ConfigError
from t5x_instruct.common.paths import cache_folder

STATE_FOLDER = "/var/lib/t5x_instruct"  # on the hosts, as in startup.sh
# How a host's own word for its end becomes the launch's exit code.
ENDS = {"done": EXIT_DONE, "refused": EXIT_USAGE, "gave_up": EXIT_FAULT, "stopped": EXIT_RESUME}
_PAID = (Phase.STARTING, Phase.RUNNING, Phase.ENDING)
_LONGEST_WAIT = 900.0
_LOOKS = 10


@dataclass(frozen=True)
class HostStatus:
    """What a host last wrote about itself.

    Args:
        place: 'slice0-host3'.
        state: starting, running, waiting (before another try), interrupted, or one of `ENDS`.
        code: the program's last exit code, '-' before the first.
        machine: its name.
        time: when.
    """

    place: str
    state: str
    code: str
    machine: str
    time: str


@dataclass
class _Progress:
    """What `run` remembers: when it last looked, for how long there were hosts, how many requests have failed in a row,
    whether this request has had hosts, whether the code is in the bucket, and what was said last."""

    looked: float
    used: float = 0.0
    failed: int = 0
    had_hosts: bool = False
    uploaded: bool = False
    shown: str = ""


def files_folder(name: str) -> Path:
    """Where a launch's scripts are written on this machine."""
    return cache_folder().absolute() / "launch" / name


class Launcher:
    """One launch.

    Args:
        settings: what is launched where.
        gcloud: runs or shows the commands.
        say: takes each line of what happens.
        clock: seconds, for the cost guard.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        settings: LaunchSettings,
        gcloud: Gcloud,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.settings = settings
        self.gcloud = gcloud
        self.backend = make_backend(settings, gcloud)
        self._say, self._clock, self._sleep = say, clock, sleep

    # One step each.

    def create(self, archive: Archive) -> None:
        """Uploads the code and asks for the slice.

        Raises:
            CloudError: there is a launch of this name already, or a command failed.
        """
        view = self.backend.view()
        if view.phase is not Phase.ABSENT:
            raise CloudError(
                f"{self.settings.name} is there already ({view.detail}): 'launch run' watches it, 'launch delete' ends "
                "it; for another one set LaunchSettings.name"
            )
        self._upload(archive)
        self._request(archive.sha256, self.settings.max_hours * 3600)

    def _upload(self, archive: Archive) -> None:
        folder = files_folder(self.settings.name)
        folder.mkdir(parents=True, exist_ok=True)
        local = folder / "code.tar.gz"
        local.write_bytes(archive.data)
        url = archive_url(self.settings, archive.sha256)
        self._say(f"# {len(archive.names)} files, {len(archive.data) / 2**20:.1f} MB; {self.settings.cost()}")
        self.gcloud.run(command("storage", "cp", str(local), url))
        self._forget_ends()

    def _forget_ends(self) -> None:
        """Removes what hosts said of their end: else it would be taken for that of what starts now."""
        answer = self.gcloud.run(command("storage", "rm", f"{self.settings.root}/status/**"), tolerate=True)
        if answer.code and not answer.missing:
            raise CloudError(f"{self.settings.root}/status cannot be emptied: {answer.errors.strip()}")

    def _request(self, sha256: str, seconds: float) -> None:
        folder = files_folder(self.settings.name)
        if "," in str(folder) or "=" in str(folder):
            raise CloudError(f"gcloud takes no path with ',' or '=' for a script: {folder}; set T5X_INSTRUCT_CACHE")
        folder.mkdir(parents=True, exist_ok=True)
        scripts = Scripts(folder / "startup.sh", folder / "shutdown.sh")
        delete = self.backend.delete_from_host()
        scripts.startup.write_text(startup_script(self.settings, sha256, delete, round(seconds)), encoding="utf-8")
        scripts.shutdown.write_text(shutdown_script(), encoding="utf-8")
        self.backend.create(scripts, round(seconds))

    def hosts(self) -> list[HostStatus]:
        """What the hosts last wrote, in the order of their places."""
        answer = self.gcloud.run(command("storage", "cat", f"{self.settings.root}/status/*"), tolerate=True)
        lines = [line.split() for line in answer.output.splitlines()]
        return sorted((HostStatus(*words) for words in lines if len(words) == 5), key=lambda host: host.place)

    def delete(self) -> None:
        """Gives the slice back; the run's folder and its logs stay in the bucket."""
        self.backend.delete()
        self._say(f"# {self.settings.name} is deleted; the run and its logs stay in {self.settings.root}")

    def stop(self) -> None:
        """Lets the program save a checkpoint and end; the slice stays (and costs)."""
        remote = f"sudo touch {STATE_FOLDER}/stop; sudo sh -c 'kill -TERM $(cat {STATE_FOLDER}/pid) || true'"
        for line in self.backend.ssh(ALL, remote):
            self.gcloud.run(line)
        self._say("# asked to stop; 'launch run' goes on, 'launch delete' gives the slice back")

    def resume(self) -> None:
        """Starts the program again on hosts that are there: as a boot would, so that it harms nothing that runs."""
        remote = f"sudo rm -f {STATE_FOLDER}/stop; sudo systemctl start --no-block google-startup-scripts.service"
        for line in self.backend.ssh(ALL, remote):
            self.gcloud.run(line)

    def logs(self, host: int | str = 0, lines: int = 100, follow: bool = True) -> None:
        """Prints the logs of a host or of all, until interrupted if they are followed."""
        self._check(host)
        with contextlib.suppress(KeyboardInterrupt):
            for process in self._tail(host, lines, follow):
                process.wait()

    def logs_from_bucket(self, host: int | str = 0) -> None:
        """Prints the copies of the logs in the bucket, which outlive the machines."""
        place = (
            "*" if host == ALL else f"slice{int(host) // self.settings.hosts}-host{int(host) % self.settings.hosts}-*"
        )
        copies = command("storage", "cat", f"{self.settings.root}/logs/{place}", display_url=True)
        print(self.gcloud.run(copies).output, end="")

    def _check(self, host: int | str) -> None:
        hosts = self.settings.hosts * self.settings.slices
        if isinstance(host, int) and host >= hosts:
            raise ConfigError(f"--host={host}: {self.settings.name} has hosts 0 to {hosts - 1}")

    def _tail(self, host: int | str, lines: int, follow: bool) -> "list[subprocess.Popen[bytes]]":
        remote = f"sudo tail -n {int(lines)} {'-F ' if follow else ''}{STATE_FOLDER}/log/run.log"
        return self.gcloud.follow(self.backend.ssh(host, remote))

    # All of it.

    def run(self, archive: Archive) -> int:
        """Launches, or watches what is launched, until the run has ended.

        What the cloud takes away is asked for again, with the same run folder, until `max_hours` are over. Nothing is
        deleted after a fault of the program.

        Args:
            archive: the code, used where there is no launch of this name yet.

        Returns:
            The run's exit code: 0 done, 1 gave up, 2 refused its configuration, 42 stopped.

        Raises:
            CloudError: the launch cannot go on.
        """
        try:
            with self._following() as follow:
                return self._watch(archive, follow)
        except KeyboardInterrupt:
            self._say("# no longer watched, and not made again if it is taken away; 'launch run' watches it again")
            raise

    def rehearse(self, archive: Archive) -> None:
        """Shows the commands of `run`, in the order in which a run that is once taken away would need them."""
        seconds = self.settings.max_hours * 3600
        self._say("# 1. The code goes to the bucket.")
        self._upload(archive)
        self._say("# 2. The slice is asked for.")
        self._request(archive.sha256, seconds)
        self._say(
            f"# 3. Every {self.settings.poll_seconds:g} s its state is read, and when it runs what its hosts say."
        )
        self.backend.view()
        self.hosts()
        self._say("# 4. Meanwhile the log of host 0 is shown.")
        self.logs(0, 20)
        self._say("# 5. What the cloud has taken away is deleted and asked for again, as in 2.")
        self.backend.delete()
        self._say("# 6. When the run is done:")
        if self.settings.delete_on_success:
            self.delete()
        else:
            self._say("# nothing, for LaunchSettings.delete_on_success = False")

    def _watch(self, archive: Archive, follow: Callable[[bool], None]) -> int:
        progress, view = _Progress(self._clock()), self._look()
        if view.phase is Phase.RUNNING and self._ended(quiet=True):
            self._forget_ends()
            self.resume()
        while True:
            left = self._count_time(view, progress)
            follow(view.phase is Phase.RUNNING)
            gone = view.phase is Phase.ABSENT and progress.had_hosts
            if gone or view.phase in (Phase.RUNNING, Phase.ENDING):
                code = self._ended()
                if code is not None:
                    return code
            if view.phase is Phase.RUNNING:
                progress.failed, progress.had_hosts = 0, True
            elif gone:
                raise CloudError(f"{self.settings.name} was deleted by somebody else; 'launch run' makes it again")
            elif view.phase.over:
                self._clear_away(view, progress)
                view = View(Phase.ABSENT)
            if view.phase is Phase.ABSENT:
                if not progress.uploaded:
                    self._upload(archive)
                    progress.uploaded = True
                self._request(archive.sha256, left)
            self._sleep(self.settings.poll_seconds)
            view = self._look()

    def _count_time(self, view: View, progress: "_Progress") -> float:
        """Seconds that the slice may still live; if none, it is deleted. Waiting in a queue costs nothing."""
        if view.detail != progress.shown:
            self._say(f"# {view.phase.value}: {view.detail}" if view.detail else f"# {view.phase.value}")
            progress.shown = view.detail
        now = self._clock()
        if view.phase in _PAID:
            progress.used += now - progress.looked
        progress.looked = now
        left = self.settings.max_hours * 3600 - progress.used
        if left <= 0:
            self.backend.delete()
            raise CloudError(f"max_hours = {self.settings.max_hours:g} are over: {self.settings.name} is deleted")
        return left

    def _look(self) -> View:
        """The slice's state; a network that fails now and then does not end the watching."""
        for _ in range(_LOOKS - 1):
            try:
                return self.backend.view()
            except CloudError as error:
                self._say(f"# {error}; trying again")
                self._sleep(self.settings.poll_seconds)
        return self.backend.view()

    def _clear_away(self, view: View, progress: "_Progress") -> None:
        """Deletes a request that is over; counts the failures in a row, and waits longer after each."""
        progress.had_hosts = False
        progress.failed = progress.failed + 1 if view.phase is Phase.FAILED else 0
        if progress.failed > self.settings.max_recreations:
            times = f"{progress.failed} requests in a row failed"
            raise CloudError(f"{times}, the last with: {view.detail}; it is left for a look")
        self._say(f"# {view.detail}: deleted and asked for again")
        self.backend.delete()
        if progress.failed:
            self._sleep(min(self.settings.poll_seconds * 2**progress.failed, _LONGEST_WAIT))

    def _ended(self, quiet: bool = False) -> int | None:
        """The exit code of a run that has ended on host 0 or given up anywhere; None if it goes on."""
        ends = [host for host in self.hosts() if host.state in ENDS]
        deciding = [host for host in ends if host.state != "done" or host.place == "slice0-host0"]
        if not deciding:
            return None
        worst = max(deciding, key=lambda host: (host.state != "done", host.state == "refused"))
        if quiet:
            return ENDS[worst.state]
        self._say(f"# {worst.place} ({worst.machine}): {worst.state}, exit code {worst.code}, at {worst.time}")
        if worst.state == "done":
            if self.settings.delete_on_success:
                self.delete()
            else:
                self._say("# the slice is still there and costs: 'launch delete' gives it back")
        elif worst.state != "stopped":
            self._say("# nothing is deleted: 'launch logs' and ssh tell why, 'launch delete' gives the slice back")
        return ENDS[worst.state]

    @contextlib.contextmanager
    def _following(self) -> "Iterator[Callable[[bool], None]]":
        """A function that keeps host 0's log running on this terminal while there are hosts."""
        running: list[subprocess.Popen[bytes]] = []

        def end() -> None:
            for process in running:
                process.terminate()
                process.wait()
            running.clear()

        def follow(wanted: bool) -> None:
            if wanted and not any(process.poll() is None for process in running):
                end()
                running.extend(self._tail(0, 0 if running else 20, follow=True))
            elif not wanted:
                end()

        try:
            yield follow
        finally:
            end()
