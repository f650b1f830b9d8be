"""A training run without its arrays: the step, and the shapes and shardings of all that it takes."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from t5x_instruct.data.vocabularies import Vocabulary
from t5x_instruct.models.api import Model
from t5x_instruct.partitioning.arrays import batch_sharding
from t5x_instruct.runs.opening import OpenedModel, converter_of
from t5x_instruct.runs.settings import DataSettings
from t5x_instruct.runs.train import TrainRun
from t5x_instruct.training.loop import configured_step
from t5x_instruct.training.optimizers import Optimizer
from t5x_instruct.training.state import TrainState, abstract_state, state_shardings
from t5x_instruct.training.step import LossFn, TrainStep, supervised_loss


class AbstractRun(NamedTuple):
    """All of a training run that compiling its step needs.

    Attributes:
        model: the model.
        optimizer: bound to the model's axes.
        loss_fn: the loss.
        step: the pure step.
        state: shapes, dtypes and shardings of the state.
        shardings: the same, shardings alone.
        batch: shapes, dtypes and shardings of a batch.
    """

    model: Model
    optimizer: Optimizer
    loss_fn: LossFn
    step: TrainStep
    state: TrainState
    shardings: TrainState
    batch: dict[str, Any]


def abstract_run(run: TrainRun, opened: OpenedModel, mesh: Mesh, num_tasks: int) -> AbstractRun:
    """The parts of a run on a mesh; no array is made and no data is read.

    Args:
        run: the run.
        opened: its model.
        mesh: of devices that need not be there.
        num_tasks: tasks of the mixture (the metrics have a number for each).

    Raises:
        ConfigError: the mesh does not divide something.
    """
    model = opened.model
    axes = model.param_axes()
    optimizer = run.optimizer.for_axes(axes)
    state = abstract_state(model.init, optimizer)
    shardings = state_shardings(state, axes, optimizer, mesh)
    loss_fn = supervised_loss(model, run.z_loss, run.label_smoothing)
    return AbstractRun(
        model,
        optimizer,
        loss_fn,
        configured_step(model, loss_fn, optimizer, run.loop, num_tasks=num_tasks),
        jax.tree.map(_placed, state, shardings),
        shardings,
        abstract_batch(run.data, model, opened.vocabulary, mesh),
    )


def abstract_batch(data: DataSettings, model: Model, vocabulary: Vocabulary, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a run's batch: those of a row without examples, so many times."""
    row = converter_of(data, model, vocabulary).convert([])
    sharding = batch_sharding(mesh)
    return {
        key: jax.ShapeDtypeStruct((data.batch_size, *values.shape), values.dtype, sharding=sharding)
        for key, values in row.items()
    }


def _placed(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
