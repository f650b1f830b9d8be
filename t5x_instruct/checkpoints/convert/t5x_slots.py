"""T5X's Adafactor slots to the statistics of ours and back: averages of squared gradients over some axes.

T5X keeps `v`, or `v_row` and `v_col`, and `m` for each of its parameters; those that it does not use have one number.

| a parameter | `v_row` is averaged over | `v_col` over |
|---|---|---|
| of two axes, of one layer | the larger axis (of equal ones the second) | the smaller one |
| of stacked layers, or with heads apart | all but embed and layers | embed |

Ours are a matrix of embed rows whatever the sizes, so that `v_row` may be what we have of the columns; the estimate
that both make, their product over their mean, is the same either way round.

Source: Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4; the layout of T5X's `adafactor.py`
(github.com/google-research/t5x).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from t5x_instruct.checkpoints.convert.t5x_folder import SLOTS, T5xFolder
from t5x_instruct.checkpoints.convert.t5x_names import T5xParam, config_from_t5x, t5x_params
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.checkpoints.restore import Source
from t5x_instruct.checkpoints.step_tensors import step_tensors
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.paths import AnyPath, as_path
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.models.t5 import T5Config, T5Model

MIN_DIM_SIZE_TO_FACTOR = 128  # of T5X's Adafactor
ROW, COLUMN = "row", "column"
_SHOWN = 40
_NO_FIRST_MOMENT = "first moments do not map: T5X's average updates with their learning rate in them, ours are without"

#: Dimensions of a parameter of ours that a statistic of it has.
Kept = tuple[int, ...]


class Statistics(NamedTuple):
    """What an Adafactor goes on from.

    Attributes:
        updates: how many it has done.
        tensors: of each parameter what was asked for, in that order; of a run by name, see `run_statistics`.
    """

    updates: int
    tensors: Mapping[str, tuple[LazyTensor, ...]]


def read_statistics(path: AnyPath, wanted: Mapping[str, Sequence[Kept]]) -> Statistics:
    """The slots of a T5X checkpoint as statistics of our parameters; their numbers are not read yet.

    Args:
        path: the checkpoint, see `T5xFolder`.
        wanted: name of a parameter of ours, layers stacked -> the dimensions that each of its statistics has.

    Raises:
        CheckpointError: it has no slots, or not for these statistics; all that do not map are listed.
    """
    folder = T5xFolder(path)
    config, layout = config_from_t5x(folder.params(), str(folder.folder))
    if folder.step is None or not any(name.startswith(f"{SLOTS}/") for name in folder.arrays):
        raise CheckpointError(f"{folder.folder} has no optimizer slots ({SLOTS}/...), or does not say its step")
    rows = _rows_of(config)
    tensors, problems = {}, []
    for param in t5x_params(config, layout):
        found = [_found(folder, param, rows[param.ours], kept) for kept in wanted.get(param.ours, ())]
        problems += [one for one in found if isinstance(one, str)]
        if _shape(folder, param, "m") == param.their_shape:
            problems.append(f"{param.ours}: slot m; {_NO_FIRST_MOMENT}")
        tensors[param.ours] = tuple(one for one in found if isinstance(one, LazyTensor))
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise CheckpointError(
            f"{folder.folder}: {len(problems)} optimizer slots do not map (adafactor.min_dim_size_to_factor has to be "
            "what T5X trained with):\n  " + "\n  ".join(problems[:_SHOWN] + more)
        )
    return Statistics(folder.step, tensors)


def run_statistics(source: Source) -> Statistics:
    """The statistics of an Adafactor in a run's checkpoint, by names like `decoder/layers/mlp/wi/kernel/row`.

    Args:
        source: the opened run.

    Raises:
        CheckpointError: it is no run, its parameters were trained with another optimizer, or only adapters were.
    """
    if source.kind != "model_dir" or source.adapters is not None:
        raise CheckpointError(f"{source.description} has no optimizer state of a whole model; name a run's folder")
    folder = as_path(source.reference)
    step = int(folder.name)
    with Checkpoints(folder.parent) as checkpoints:
        saved = checkpoints.saved_tree(step)
        ours = {found[2]: found[0] for name in saved if (found := re.fullmatch(r"opt_state/(\d+/)*(.+)", name))}
        if "updates" not in ours or not any(name.startswith("statistics/") for name in ours):
            raise CheckpointError(f"{source.description} was not trained with adafactor, as T5X's slots are")
        if any(name.startswith("ema/") for name in ours):
            raise CheckpointError(f"{source.description}: {_NO_FIRST_MOMENT} (adafactor.b1)")
        updates = int(checkpoints.read_arrays(step, [ours["updates"]])[ours["updates"]])
    prefix = "statistics/"
    paths = {name.removeprefix(prefix): path for name, path in ours.items() if name.startswith(prefix)}
    # Whoever reads the parameters compares all files of the step.
    tensors = step_tensors(folder.parent, step, {path: saved[path] for path in paths.values()}, verify=False)
    return Statistics(updates, {name: (tensors[path],) for name, path in paths.items()})


def stored_slots(
    params: Sequence[T5xParam],
    config: T5Config,
    statistics: Statistics,
    places: Mapping[str, Sequence[tuple[str, int | None]]],
) -> Mapping[str, dict[str, np.ndarray]]:
    """T5X's slots of parameters that are stored layer by layer with heads joined.

    Args:
        params: all parameters.
        config: the model's.
        statistics: of the run.
        places: of each parameter the name and layer in our tree of each of their tensors.

    Returns:
        Name of their tensor -> slot -> array.

    Raises:
        CheckpointError: T5X factors parameters that ours has whole, or the other way; all are listed.
    """
    rows = _rows_of(config)
    slots: dict[str, dict[str, np.ndarray]] = {}
    problems = []
    for param in params:
        parts = (ROW, COLUMN) if _is_factored(param.their_shape) else ("",)
        read: dict[str, np.ndarray] = {}
        for theirs, (ours, layer) in zip(param.theirs, places[param.ours], strict=True):
            names = [f"{ours}/{part}" if part else ours for part in parts]
            if not all(name in statistics.tensors for name in names):
                problems.append(f"{ours} {param.our_shape}: T5X wants {' and '.join(names)}")
                break
            for name in names:  # all layers at a time: they are vectors, or as small as a scale
                if name not in read:
                    read[name] = statistics.tensors[name][0].read()
            arrays = [read[name] if layer is None else read[name][layer] for name in names]
            slots[theirs] = _as_theirs(param, rows[param.ours], arrays)
    if problems:
        raise CheckpointError(
            f"T5X's Adafactor factors matrices of at least {MIN_DIM_SIZE_TO_FACTOR} rows and columns, the run's "
            "(adafactor.min_dim_size_to_factor) did otherwise:\n  " + "\n  ".join(problems[:_SHOWN])
        )
    return slots


def _as_theirs(param: T5xParam, rows: Kept, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    unused = np.zeros(1, np.float32)
    slots = dict.fromkeys(("v_row", "v_col", "v", "m"), unused)
    if len(arrays) == 1:
        return slots | {"v": arrays[0].reshape(param.their_shape)}
    (embed,) = _their_dims(param, rows)
    row, column = (array.reshape(-1) for array in arrays)
    by_axis = {embed: row, 1 - embed: column}
    smaller, larger = _matrix_slots(param.their_shape)
    return slots | {"v_row": by_axis[smaller], "v_col": by_axis[larger]}


def _rows_of(config: T5Config) -> dict[str, Kept]:
    """Of each parameter of a model, layers stacked, the dimensions that are rows of its matrix: embed."""
    stacked = T5Model(dataclasses.replace(config, scan_layers=True))
    axes = flatten_with_names(stacked.param_axes())
    return {name: tuple(dim for dim, axis in enumerate(names) if axis == "embed") for name, names in axes.items()}


def _matrix_slots(shape: tuple[int, ...]) -> tuple[int, int]:
    """Which axes of a matrix `v_row` and `v_col` belong to: the smaller and the larger."""
    smaller, larger = np.argsort(shape, kind="stable")
    return int(smaller), int(larger)


def _is_factored(shape: tuple[int, ...]) -> bool:
    """Whether T5X factors the second moment of a parameter that is no stack of layers."""
    return len(shape) == 2 and min(shape) >= MIN_DIM_SIZE_TO_FACTOR


def _found(folder: T5xFolder, param: T5xParam, rows: Kept, kept: Kept) -> LazyTensor | str:
    """The statistic in T5X's slots, or what is there instead."""
    theirs, ours = _their_dims(param, kept), tuple(param.our_shape[dim] for dim in kept)
    slots = _slots(param, rows)
    for slot, dims in slots.items():
        if dims == theirs and _shape(folder, param, slot) == tuple(param.their_shape[dim] for dim in dims):
            return LazyTensor(ours, [partial(_read, folder, param, slot, theirs, ours)], stacked=False)
    shown = ", ".join(f"{slot} {_shape(folder, param, slot)}" for slot in slots)
    return f"{param.ours} {param.our_shape}: ours is {ours}, T5X has {shown}"


def _slots(param: T5xParam, rows: Kept) -> dict[str, Kept]:
    """The axes of theirs that each slot has where it is used."""
    every = tuple(range(len(param.their_shape)))
    if len(every) == 2 and not param.scanned:
        smaller, larger = _matrix_slots(param.their_shape)
        return {"v": every, "v_row": (smaller,), "v_col": (larger,)}
    layers = {1} if param.scanned else set()
    embed = set(_their_dims(param, rows)) - layers
    columns = tuple(dim for dim in every if dim not in embed)
    return {"v": every, "v_row": tuple(sorted(embed | layers)), "v_col": columns}


def _their_dims(param: T5xParam, ours: Kept) -> Kept:
    """The axes of one of their arrays that hold these dimensions of ours; that of layers too, where it has one."""
    dims = {1} if param.scanned else set()
    for dim in (dim - param.layers for dim in ours if dim or not param.layers):
        joined = dim - 1 if param.heads_at is not None and dim > param.heads_at else dim
        dims.add(joined + 1 if param.scanned and joined else joined)
    return tuple(sorted(dims))


def _shape(folder: T5xFolder, param: T5xParam, slot: str) -> tuple[int, ...] | None:
    """The shape that a slot has for all of a parameter's layers; None if it is missing, or they differ."""
    found = [folder.arrays.get(f"{SLOTS}/{name}/{slot}") for name in param.theirs]
    shapes = {None if array is None else array.shape for array in found}
    return shapes.pop() if len(shapes) == 1 else None


def _read(folder: T5xFolder, param: T5xParam, slot: str, theirs: Kept, shape: tuple[int, ...]) -> np.ndarray:
    stored = folder.read([f"{SLOTS}/{name}/{slot}" for name in param.theirs])
    if param.scanned:
        return np.moveaxis(stored[0], theirs.index(1), 0).reshape(shape)
    return np.stack(stored).reshape(shape)
