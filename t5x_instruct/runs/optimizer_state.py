"""The optimizer's state that a checkpoint of another framework has, for a run that starts from it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from t5x_instruct.checkpoints.convert.t5x_slots import Statistics, read_statistics
from t5x_instruct.checkpoints.placement import LazyTensor, place_params
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.trees import flatten_with_names, unflatten
from t5x_instruct.runs.opening import OpenedModel
from t5x_instruct.runs.training_run import RunParts, TrainRun
from t5x_instruct.training.adafactor import AdafactorState, Factored, factored_dims
from t5x_instruct.training.state import TrainState


def initial_optimizer_state(
    run: TrainRun, opened: OpenedModel, parts: RunParts
) -> Callable[[TrainState], TrainState] | None:
    """What puts the checkpoint's optimizer state into that of a run before its first step.

    Args:
        run: says whether it is wanted.
        opened: the model and its checkpoint.
        parts: shapes and shardings of the run's state.

    Returns:
        State -> state; the numbers are read when it is called. None: the run did not ask for it.

    Raises:
        ConfigError: the run's optimizer or the checkpoint has no such state.
        CheckpointError: the checkpoint's does not map; lists all that does not.
    """
    if not run.initial_optimizer_state:
        return None
    if problem := _problem(run, opened, parts):
        raise ConfigError(f"INITIAL_OPTIMIZER_STATE: {problem}; leave it out to begin with a fresh optimizer")
    (abstract,) = _adafactors(parts.state.opt_state)
    named: dict[str, Any] = flatten_with_names(abstract.statistics)
    axes = flatten_with_names(opened.model.param_axes())
    wanted = {
        name: tuple(factored_dims(axes[name])) if isinstance(leaf, Factored) else (tuple(range(len(leaf.shape))),)
        for name, leaf in named.items()
    }
    assert opened.source is not None
    assert opened.source.location is not None
    found = read_statistics(opened.source.location, wanted)

    def put(state: TrainState) -> TrainState:
        placed = AdafactorState(_updates(found, abstract), _placed(found, named))
        opt_state = jax.tree.map(
            lambda node: placed if _is_adafactor(node) else node, state.opt_state, is_leaf=_is_adafactor
        )
        return dataclasses.replace(state, opt_state=opt_state)

    return put


def _problem(run: TrainRun, opened: OpenedModel, parts: RunParts) -> str | None:
    if opened.source is None or opened.source.kind != "t5x":
        return f"{opened.description} has no optimizer state that can be read, T5X checkpoints have"
    if run.model.lora is not None or run.model.new_tokens:
        return "LORA_RANK and NEW_TOKENS train other parameters than the checkpoint has"
    if len(_adafactors(parts.state.opt_state)) != 1:
        return "T5X's slots are Adafactor's; set TrainRun.optimizer = @adafactor()"
    if any(map(_is_average, jax.tree.leaves(parts.state.opt_state, is_leaf=_is_average))):
        return "adafactor.b1 averages updates, of which T5X's have the learning rate in them; set it to None"
    return None


def _is_adafactor(node: Any) -> bool:
    return isinstance(node, AdafactorState)


def _is_average(node: Any) -> bool:
    return isinstance(node, optax.EmaState)


def _adafactors(opt_state: Any) -> list[AdafactorState]:
    return [node for node in jax.tree.leaves(opt_state, is_leaf=_is_adafactor) if _is_adafactor(node)]


def _updates(found: Statistics, abstract: AdafactorState) -> jax.Array:
    like: Any = abstract.updates
    return jax.device_put(np.asarray(found.updates, like.dtype), like.sharding)


def _placed(found: Statistics, named: dict[str, Any]) -> dict[str, Any]:
    """The statistics on the mesh, one array after the other."""
    tensors: dict[str, LazyTensor] = {}
    shardings: dict[str, Any] = {}
    for name, leaf in named.items():
        for i, part in enumerate(leaf if isinstance(leaf, Factored) else (leaf,)):
            tensors[f"{name}/{i}"], shardings[f"{name}/{i}"] = found.tensors[name][i], part.sharding
    placed = flatten_with_names(place_params(tensors, unflatten(shardings)))
    statistics = {}
    for name, leaf in named.items():
        first = placed[f"{name}/0"]
        statistics[name] = Factored(first, placed[f"{name}/1"]) if isinstance(leaf, Factored) else first
    return unflatten(statistics)
