"""The hosts of a run: JAX's own multi-controller runtime, one process a host."""

import json
import os
from typing import Any


def initialize() -> None:
    """Joins this process to the others of its run, if the environment says there are others.

    On a Cloud TPU slice with several hosts JAX finds the coordinator by itself. Elsewhere the three variables
    ``T5X_INSTRUCT_COORDINATOR`` (``host:port``), ``T5X_INSTRUCT_NUM_HOSTS`` and ``T5X_INSTRUCT_HOST`` say it.
    Call before anything touches a device.
    """
    import jax

    if coordinator := os.environ.get("T5X_INSTRUCT_COORDINATOR"):
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=int(os.environ["T5X_INSTRUCT_NUM_HOSTS"]),
            process_id=int(os.environ["T5X_INSTRUCT_HOST"]),
        )
    elif len([name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]) > 1:
        jax.distributed.initialize()


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
