"""A T5 as a checkpoint that T5X restores: layer by layer, heads joined, as the released ones are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from t5x_instruct.checkpoints.convert.new_folder import new_folder, refuse_used
from t5x_instruct.checkpoints.convert.t5x_folder import INDEX_FILE, PARAMS, SLOTS, STEP
from t5x_instruct.checkpoints.convert.t5x_names import T5xLayout, T5xParam, t5x_params
from t5x_instruct.checkpoints.convert.t5x_slots import Statistics, stored_slots
from t5x_instruct.checkpoints.placement import LayerReader, LazyTensor, check_names
from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.common.io import write_bytes
from t5x_instruct.common.trees import unflatten
from t5x_instruct.models.t5 import T5Config

TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
VERSION = 3
_CHUNK_BYTES = 64 << 20


def export_t5x(
    tensors: Mapping[str, LazyTensor],
    config: Any,
    folder: Path,
    *,
    dtype: str = "float32",
    step: int = 0,
    statistics: Statistics | None = None,
) -> None:
    """Writes a model's parameters as T5X keeps them: an index, and a zarr folder for each of its arrays.

    Tensors are read and written one at a time. The folder appears when it is complete. Without optimizer slots T5X
    trains on from it with ``RestoreCheckpointConfig.fallback_to_scratch = True``, and evaluates it as it is.

    Args:
        tensors: the parameters (`Source.tensors`).
        config: the model's, a `T5Config`.
        folder: must not exist, or be empty; T5X finds it by itself if it is named ``checkpoint_STEP``.
        dtype: "float32" or "bfloat16" (rounded to the nearest).
        step: what the index says of the steps it was trained for.
        statistics: of the run's Adafactor, see `t5x_slots.run_statistics`; then its updates are the step, on which
            T5X's decay of them depends. None: no slots.

    Raises:
        CheckpointError: another family, the parameters or statistics are not the configuration's, the folder exists,
            or it cannot be written.
    """
    if dtype not in TYPES:
        raise CheckpointError(unknown("dtype", dtype, TYPES))
    if not isinstance(config, T5Config):
        raise CheckpointError(f"T5X's layout is one of encoder-decoders of the T5 kind, not of {config.family!r}")
    refuse_used(folder)
    params = list(t5x_params(config, T5xLayout(scanned=False, joined=True)))
    places = {param.ours: _places(param, config.scan_layers) for param in params}
    check_names(tensors, [name for of_param in places.values() for name, _ in of_param])
    slots = {} if statistics is None else stored_slots(params, config, statistics, places)
    reader = LayerReader(tensors)
    with new_folder(folder) as new:
        index: dict[str, Any] = {}
        for param in params:
            for theirs, (ours, layer) in zip(param.theirs, places[param.ours], strict=True):
                array = param.join(_checked(param, reader.read(ours, layer)))
                index[f"{PARAMS}/{theirs}"] = _write_array(new, theirs, array.astype(TYPES[dtype]))
        for theirs, arrays in slots.items():  # small, in the index, as T5X has those of matrices
            index |= {f"{SLOTS}/{theirs}/{slot}": array for slot, array in arrays.items()}
        _write_index(new, index, step if statistics is None else statistics.updates)


def _places(param: T5xParam, scanned: bool) -> list[tuple[str, int | None]]:
    """Name and layer in our tree of each of their tensors."""
    if not param.layers:
        return [(param.ours, None)]
    if scanned:
        return [(param.ours, i) for i in range(len(param.theirs))]
    return [(param.ours.replace("/layers/", f"/layers_{i}/", 1), None) for i in range(len(param.theirs))]


def _checked(param: T5xParam, array: np.ndarray) -> np.ndarray:
    wanted = param.our_shape[1:] if param.layers else param.our_shape
    if array.shape != wanted:
        raise CheckpointError(
            f"the checkpoint does not fit its configuration: {param.ours} has the shape {array.shape}, the "
            f"configuration asks for {wanted}"
        )
    return array


def _write_array(folder: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes one array; gives what the index says of it, with a path that holds wherever the folder goes."""
    import tensorstore

    path = f"{PARAMS}.{name.replace('/', '.')}"
    rows = max(1, _CHUNK_BYTES // max(array.nbytes // max(array.shape[0], 1), 1))
    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": path},
        "metadata": {
            "chunks": [min(rows, array.shape[0]), *array.shape[1:]],
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
        },
    }
    here = {"driver": "file", "path": f"{folder / path}/"}
    try:
        tensorstore.open(spec | {"kvstore": here}, create=True).result().write(array).result()
    except (ValueError, RuntimeError) as error:
        raise OSError(str(error).partition("\n")[0][:300]) from error
    return spec


def _write_index(folder: Path, named: Mapping[str, Any], step: int) -> None:
    from flax.serialization import msgpack_serialize

    tree = {"version": VERSION, "optimizer": unflatten({STEP: np.int32(step), **named})}
    write_bytes(folder / INDEX_FILE, msgpack_serialize(tree))
