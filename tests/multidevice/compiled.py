"""The tiny models' train steps, each compiled once for all tests of this folder."""

import functools

from benchmarks.exactness import Case, compile_training, loss_curve
from t5x_instruct.partitioning.mesh import MeshConfig

# LLVM's optimisations take half of the time and come after everything that is tested here.
QUICK = {"xla_backend_optimization_level": 0}

REPLICA_DATA = Case("decoder", MeshConfig(replica=2, data=4, fsdp=1), micro_batches=3)
FSDP = Case("t5", MeshConfig(fsdp=8))
FSDP_MODEL = Case("decoder", MeshConfig(fsdp=4, model=2))
DATA_FSDP_MODEL = Case("t5", MeshConfig(data=2, fsdp=2, model=2))
DEFAULT = (REPLICA_DATA, FSDP_MODEL, FSDP, DATA_FSDP_MODEL)


@functools.cache
def trained(case):
    return compile_training(case, QUICK)


@functools.cache
def curve_alone(case):
    """The losses on one device; `case` is `Case.alone()` of another."""
    return loss_curve(trained(case))
