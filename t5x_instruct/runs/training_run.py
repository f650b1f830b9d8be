"""A training run as data, and all that can be said of it without its arrays: the shapes and shardings of its step."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_instruct.data.audit import AuditLimits
from t5x_instruct.models.api import Model
from t5x_instruct.partitioning.arrays import batch_sharding
from t5x_instruct.runs.opening import converter_of
from t5x_instruct.runs.settings import DataSettings, EvaluationSettings, ModelSettings
from t5x_instruct.training.loop import LoopConfig
from t5x_instruct.training.optimizers import Optimizer
from t5x_instruct.training.state import TrainState, abstract_state, state_shardings
from t5x_instruct.training.step import LossFn, supervised_loss


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """A training run, as data.

    Attributes:
        model_dir: the run's folder; everything about the run is in it.
        model: what to start from.
        data: what to train on and what to hold out.
        optimizer: see `training.optimizers`.
        loop: steps and periods.
        mesh: sizes of the mesh's axes (see `MeshConfig`); the rest is `fsdp`.
        evaluation: how the held-out tasks are scored before and after.
        keep_last: newest checkpoints to keep.
        z_loss: factor of the squared log-partition penalty.
        label_smoothing: mass spread over the vocabulary.
        audit: what may be wrong with the data before the run is stopped.
        initial_optimizer_state: whether the optimizer goes on with the state that the checkpoint has it in (T5X's
            Adafactor).
    """

    model_dir: str
    model: ModelSettings
    data: DataSettings
    optimizer: Optimizer
    loop: LoopConfig
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    evaluation: EvaluationSettings = EvaluationSettings()
    keep_last: int = 2
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    audit: AuditLimits = AuditLimits()
    initial_optimizer_state: bool = False


class RunParts(NamedTuple):
    """What a run's settings, its model and its mesh decide: the same for training, planning and looking.

    Attributes:
        optimizer: bound to the model's axes.
        loss_fn: the loss.
        state: shapes, dtypes and shardings of the state.
        shardings: the same, shardings alone.
    """

    optimizer: Optimizer
    loss_fn: LossFn
    state: TrainState
    shardings: TrainState


def run_parts(run: TrainRun, model: Model, mesh: Mesh) -> RunParts:
    """The parts of a run on a mesh; no array is made and no data is read.

    Args:
        run: the run.
        model: its model.
        mesh: of devices that need not be there.

    Raises:
        ConfigError: the mesh does not divide something.
    """
    axes = model.param_axes()
    optimizer = run.optimizer.for_axes(axes)
    abstract = abstract_state(model.init, optimizer)
    shardings = state_shardings(abstract, axes, optimizer, mesh)
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings
    )
    return RunParts(optimizer, supervised_loss(model, run.z_loss, run.label_smoothing), state, shardings)


def abstract_batch(data: DataSettings, model: Model, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a run's batch: those of a row without examples, so many times."""
    row = converter_of(data, model, start_id=0, pad_id=0).convert([])
    sharding = batch_sharding(mesh)
    return {
        key: jax.ShapeDtypeStruct((data.batch_size, *values.shape), values.dtype, sharding=sharding)
        for key, values in row.items()
    }


def device_bytes(placed: Any) -> int:
    """Bytes of a tree on each device.

    Args:
        placed: its leaves have `shape`, `dtype` and `sharding`; one whose sharding is None is whole everywhere.
    """

    def own(leaf: Any) -> Any:
        return leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)

    return sum(math.prod(own(leaf)) * _bits(leaf.dtype) // 8 for leaf in jax.tree.leaves(placed))


def _bits(dtype: Any) -> int:
    """Four-bit numbers lie two to a byte on devices, though NumPy gives each a byte of its own."""
    return 4 if dtype in (jnp.int4, jnp.uint4) else 8 * dtype.itemsize
