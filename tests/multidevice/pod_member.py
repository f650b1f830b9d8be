"""One host of a small pod that sums numbers over all hosts, step by step, and of which one host does something else.

python -m tests.multidevice.pod_member WHAT HOST STEP SECONDS: at STEP the HOST does WHAT ('nothing' among it).
"""

import os
import signal
import sys
import time

from t5x_instruct.cli.main import print_error
from t5x_instruct.common import hosts
from t5x_instruct.common.errors import DataError, InstructError, StoppedOnRequest

STEPS = 200


def misbehave(what):
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "fault":
        raise DataError("a shard is damaged")
    elif what == "sleep":
        time.sleep(40)
    elif what == "stop":
        hosts.ask_to_stop("SIGTERM")


def steps(what, who, when):
    import jax
    import numpy as np

    from t5x_instruct.partitioning.arrays import to_global
    from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh

    mesh = make_mesh(MeshConfig(data=hosts.process_count()))
    total = jax.jit(lambda batch: batch["rows"].sum())
    for step in range(1, STEPS + 1):
        if step == when and who == hosts.process_index():
            misbehave(what)
        rows = np.full(jax.local_device_count(), hosts.process_index() + 1, np.float32)
        print("sum", int(total(to_global({"rows": rows}, mesh))), flush=True)
        if why := hosts.stop_after(step, None):
            raise StoppedOnRequest(f"stopped by {why} after step {step}")
        time.sleep(0.05)


def main(what, who, when, seconds):
    try:
        with hosts.joined(hosts.HostSettings(heartbeat_timeout=seconds)):
            steps(what, who, when)
    except InstructError as error:
        print_error(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
