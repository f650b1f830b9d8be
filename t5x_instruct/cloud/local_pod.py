"""A pod on this machine: several processes as hosts, with devices that the CPU plays, joined over loopback.

What a run does on several hosts is then done for real: each reads its share, all save, one that ends ends them all.
Only the speed is not that of a pod.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from t5x_instruct.common.errors import EXIT_DONE, EXIT_FAULT, EXIT_RESUME, EXIT_USAGE, ConfigError, InstructError
from t5x_instruct.common.hosts import COORDINATOR, HOST, NUM_HOSTS

PROGRAM = [sys.executable, "-m", "t5x_instruct.cli.main"]
_POLL_SECONDS = 0.1
_LONGEST_BACKOFF = 600.0
# From the worst end to the best; whatever else a process ends with, or is killed by, is a fault.
_WORST_FIRST = (EXIT_USAGE, EXIT_FAULT, EXIT_RESUME, EXIT_DONE)


@dataclass(frozen=True)
class LocalPod:
    """A pod on this machine.

    Attributes:
        hosts: processes.
        devices_per_host: devices of each.
        restart: start all hosts again as on a pod: after exit code 42 at once, after 1 a few times, each time later,
            after 2 never.
        max_failures: how many faults in a row are followed by another start.
        backoff_seconds: wait after the first fault, doubled after each up to ten minutes.
        healthy_seconds: a fault after so long a time of running counts as the first one again.
        grace_seconds: when one host has ended badly the others have so long to end by themselves; then they are killed.
    """

    hosts: int
    devices_per_host: int = 1
    restart: bool = False
    max_failures: int = 5
    backoff_seconds: float = 30.0
    healthy_seconds: float = 1800.0
    grace_seconds: float = 130.0

    def __post_init__(self) -> None:
        problems = [
            f"--{name} = {value}: must be at least {least}"
            for name, value, least in (
                ("hosts", self.hosts, 1),
                ("devices-per-host", self.devices_per_host, 1),
                ("max-failures", self.max_failures, 0),
            )
            if value < least
        ]
        if problems:
            raise ConfigError(problems)


class PodRun:
    """Runs one program on all hosts of a pod.

    Args:
        pod: the pod.
        command: the program with its arguments.
        say: takes each line of output, with its host in front.
        environment: of the program, but for what makes it a host.
    """

    def __init__(
        self,
        pod: LocalPod,
        command: Sequence[str],
        say: Callable[[str], None] = print,
        environment: Mapping[str, str] = os.environ,
    ):
        self._pod, self._command, self._say, self._environment = pod, list(command), say, environment
        self._asked_to_stop = threading.Event()
        self.processes: list[subprocess.Popen[str]] = []

    def run(self) -> int:
        """Runs the program to its end, through as many starts as its exit codes and the pod's settings ask for.

        Returns:
            The worst exit code of its last start: 2, 1, 42, 0.
        """
        failures = 0
        while True:
            started = time.monotonic()
            code = self._run_once()
            if not self._pod.restart or code in (EXIT_DONE, EXIT_USAGE) or self._asked_to_stop.is_set():
                return code
            if code == EXIT_RESUME:
                self._say("pod: stopped with a checkpoint saved: again at once")
                continue
            failures = 1 if time.monotonic() - started > self._pod.healthy_seconds else failures + 1
            if failures > self._pod.max_failures:
                self._say(f"pod: {failures} faults in a row: left alone")
                return code
            wait = min(self._pod.backoff_seconds * 2 ** (failures - 1), _LONGEST_BACKOFF)
            self._say(f"pod: fault {failures} of at most {self._pod.max_failures}: again in {wait:g} s")
            if self._asked_to_stop.wait(wait):
                return code

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Passes a signal on to every host; there is no further start."""
        self._asked_to_stop.set()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _run_once(self) -> int:
        with _free_port() as port:
            readers = []
            self.processes = []
            try:
                for host in range(self._pod.hosts):
                    self.processes.append(self._start(host, port))
                    readers.append(threading.Thread(target=self._pass_on, args=(host,), daemon=True))
                    readers[-1].start()
                self._wait()
            finally:
                for process in self.processes:
                    process.kill()  # those that are still there
                    process.wait()
            for reader in readers:
                reader.join(timeout=5)  # what a host has left behind may hold its output open
        ends = [process.returncode for process in self.processes]
        self._say(f"pod: the hosts ended with {', '.join(map(_how, ends))}")
        return min((_code(end) for end in ends), key=_WORST_FIRST.index)

    def _start(self, host: int, port: int) -> "subprocess.Popen[str]":
        devices = f"--xla_force_host_platform_device_count={self._pod.devices_per_host}"
        environment = {
            **self._environment,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{self._environment.get('XLA_FLAGS', '')} {devices}".strip(),
            "PYTHONUNBUFFERED": "1",
            COORDINATOR: f"127.0.0.1:{port}",
            NUM_HOSTS: str(self._pod.hosts),
            HOST: str(host),
        }
        # Away from the terminal, whose Ctrl-C would reach the hosts a second time.
        return subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def _pass_on(self, host: int) -> None:
        for line in self.processes[host].stdout or ():
            self._say(f"[{host}] {line.rstrip()}")

    def _wait(self) -> None:
        """Returns when all have ended, or one has ended badly and the others had their time."""
        deadline = None
        while None in [process.poll() for process in self.processes]:
            bad = [host for host, process in enumerate(self.processes) if process.returncode]
            if bad and deadline is None:
                deadline = time.monotonic() + self._pod.grace_seconds
                self._say(f"pod: host {bad[0]} ended with {_how(self.processes[bad[0]].returncode)}; the others follow")
            if deadline is not None and time.monotonic() > deadline:
                late = [host for host, process in enumerate(self.processes) if process.returncode is None]
                self._say(f"pod: hosts {late} did not end within {self._pod.grace_seconds:g} s and are killed")
                return
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile; the coordination service may share it with this socket."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]


def _code(end: int) -> int:
    return end if end in _WORST_FIRST else EXIT_FAULT


def _how(end: int) -> str:
    return signal.Signals(-end).name if end < 0 else f"exit code {end}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="local_pod.sh",
        usage="%(prog)s --hosts N [--devices-per-host N] [--restart] -- VERB [arguments]",
        description="Runs t5x-instruct on several processes of this machine, joined as the hosts of a pod are.",
        epilog="exit code: the worst of the hosts': 2 configuration, 1 a fault, 42 stopped with a checkpoint saved, 0.",
        allow_abbrev=False,
    )
    parser.add_argument("--hosts", type=int, required=True, metavar="N", help="processes")
    parser.add_argument("--devices-per-host", type=int, default=1, metavar="N", help="devices of each (1)")
    parser.add_argument(
        "--restart", action="store_true", help="start again as on a pod: after 42, and a few times after 1"
    )
    parser.add_argument("--max-failures", type=int, default=5, metavar="N", help="faults in a row that are retried (5)")
    parser.add_argument(
        "--backoff-seconds", type=float, default=30.0, metavar="S", help="before the first retry; then doubled (30)"
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=130.0,
        metavar="S",
        help="for the others to end when one has ended badly (130: longer than the default HEARTBEAT_TIMEOUT)",
    )
    parser.add_argument("command", nargs="+", metavar="VERB", help="and the arguments of t5x-instruct, after --")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The program of `launch/local_pod.sh`.

    Args:
        arguments: of the command line; None: this process's.
    """
    settings = vars(_parser().parse_args(arguments))
    command = settings.pop("command")
    try:
        run = PodRun(LocalPod(**settings), [*PROGRAM, *command], lambda line: print(line, flush=True))
    except InstructError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code

    def pass_on(number: int, frame: FrameType | None) -> None:
        run.stop(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return run.run()


if __name__ == "__main__":
    sys.exit(main())
