"""The hosts of a run: JAX's own multi-controller runtime, one process a host."""

import atexit
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5x_instruct.common import lost_coordinator
from t5x_instruct.common.errors import EXIT_FAULT, ConfigError, HostEnded, InstructError
from t5x_instruct.common.watch import Watch

COORDINATOR, NUM_HOSTS, HOST = (f"T5X_INSTRUCT_{name}" for name in ("COORDINATOR", "NUM_HOSTS", "HOST"))
_A_WEEK_MS = 7 * 24 * 3600 * 1000
_watch: Watch | None = None


@dataclasses.dataclass(frozen=True)
class HostSettings:
    """How the hosts of a run look after each other.

    Attributes:
        heartbeat_timeout: seconds without a sign of life after which a host counts as lost, and the others end.
    """

    heartbeat_timeout: float = 100.0

    def __post_init__(self) -> None:
        if not self.heartbeat_timeout > 0:
            raise ConfigError(f"HEARTBEAT_TIMEOUT = {self.heartbeat_timeout}: must be above 0 seconds")


@contextlib.contextmanager
def joined(settings: HostSettings) -> Iterator[None]:
    """Joins this process to the others of its run for as long as the context lasts, if there are others.

    Enter it before anything touches a device. It is left together: a host that is done waits for the others; one that
    ends with an error, is stopped or is lost ends them all, each with a message that names it, and with its exit code.

    Raises:
        HostEnded: another host was the first to end.
    """
    global _watch
    if not _initialize(settings):
        yield
        return
    _watch = _start_watch(settings)
    try:
        yield
        _watch.finish()
    except BaseException as error:
        ended = _consequence(error, _watch)
        told = ended or error
        code = told.exit_code if isinstance(told, InstructError) else EXIT_FAULT
        _watch.leave(code, str(told) or type(told).__name__)
        # Registered last, it runs first: JAX's own way out waits minutes for hosts that are gone.
        atexit.register(_exit_now, code)
        if ended is not None:
            raise ended from error
        raise
    _watch = None
    lost_coordinator.as_always()
    import jax

    jax.distributed.shutdown()


def _initialize(settings: HostSettings) -> bool:
    """Whether this process is now one of several."""
    address = os.environ.get(COORDINATOR)
    if not address and not _on_tpu():
        return False
    import jax

    # The watch agrees on where to stop; JAX's own service would take SIGTERM away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    # The watch is to be the first to notice.
    timeout = int(2 * settings.heartbeat_timeout) + 60
    if address:
        count, index = _numbers(NUM_HOSTS, HOST)
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=timeout)
    else:
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=timeout)
        except (ValueError, OSError) as error:  # JAX finds no coordinator: no slice that the service tells of
            if len(_listed_hosts()) > 1:
                raise ConfigError(f"the hosts of this slice cannot be joined: {error}") from error
            return False
    return jax.process_count() > 1


def _numbers(*names: str) -> list[int]:
    values = [os.environ.get(name, "") for name in names]
    problems = [
        f"{name}={value!r}: with {COORDINATOR} it must be a number"
        for name, value in zip(names, values, strict=True)
        if not value.isdecimal()
    ]
    if problems:
        raise ConfigError(problems)
    return [int(value) for value in values]


def _on_tpu() -> bool:
    """Whether JAX will take this machine's TPU chips: then it may be one host of a slice of several."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev").glob("vfio/[0-9]*")]
    return "cpu" not in platforms.split(",")[:1] and (len(_listed_hosts()) > 1 or bool(chips and _has_libtpu()))


def _has_libtpu() -> bool:
    from importlib.util import find_spec

    return find_spec("libtpu") is not None


def _listed_hosts() -> list[str]:
    names = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return [name for name in names.split(",") if name]


def _start_watch(settings: HostSettings) -> Watch:
    from jax._src import distributed  # there is no public way to the service's store

    state = distributed.global_state
    board, index = _ServiceBoard(state.client), process_index()
    watch = Watch(board, index, process_count(), settings.heartbeat_timeout)
    watch.start()
    barrier("joined")  # now that all are here; see `partitioning.mesh`, where the other groups meet
    if index:
        lost_coordinator.when_host_0_is_gone(
            str(state.coordinator_address), lambda: watch.verdict or watch.lost(0, "the connection to it broke")
        )
    return watch


class _ServiceBoard:
    """The store of JAX's coordination service."""

    def __init__(self, client: Any):
        self._client = client

    def write(self, key: str, value: str) -> None:
        self._client.key_value_set(key, value, allow_overwrite=True)

    def read(self, folder: str) -> Mapping[str, str]:
        return {key.removeprefix(folder): value for key, value in self._client.key_value_dir_get(folder)}

    def meet(self, name: str) -> None:
        self._client.wait_at_barrier(f"t5x_instruct/{name}", _A_WEEK_MS)


def _consequence(error: BaseException, watch: Watch) -> HostEnded | None:
    """What became of another host, if `error` looks as if it followed from that."""
    from jax.errors import JaxRuntimeError

    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    # A collective that breaks and a barrier that is not reached say so; memory that is full is this host's own.
    broken = [one for one in chain if isinstance(one, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(one)]
    return watch.wait_for_verdict() if broken else None


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ask_to_stop(why: str) -> None:
    """Asks all hosts of the run to stop after one and the same step; see `stop_after`."""
    if _watch is not None:
        _watch.ask_to_stop(why)


def stop_after(step: int, asked: str | None) -> str | None:
    """Whether to stop after this step, agreed on by all hosts; each asks after each of its steps.

    Args:
        step: the step that this host has done.
        asked: why this host was asked to stop; decides where it is the only one.

    Returns:
        Why to stop, or None.
    """
    return asked if _watch is None else _watch.stop_after(step)


def asked_to_stop() -> str | None:
    """Why one of the other hosts was asked to stop, as far as this one knows."""
    return None if _watch is None else _watch.asked_to_stop


def process_index() -> int:
    """Index of this host, 0 on a single one."""
    import jax

    return jax.process_index()


def process_count() -> int:
    """Number of hosts of the run."""
    import jax

    return jax.process_count()


def barrier(name: str) -> None:
    """Waits until every host has reached the barrier called `name`."""
    if process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def broadcast_from_host0(value: Any) -> Any:
    """Gives every host host 0's JSON-able `value`."""
    if process_count() == 1:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    buffer = np.zeros(size, np.uint8)
    buffer[: min(size, data.size)] = data[:size]
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))))
