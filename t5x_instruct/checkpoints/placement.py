"""Tensors of foreign checkpoints on their way to the devices, one piece at a time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_instruct.common.errors import CheckpointError, nearest
from t5x_instruct.common.trees import flatten_with_names, unflatten

Index = tuple[tuple[int, int], ...]


class LazyTensor(NamedTuple):
    """A parameter that is read when it is wanted.

    Attributes:
        shape: of the whole parameter.
        pieces: each reads one layer, `shape[1:]`, of a parameter stacked over layers; or a single one reads it all.
        stacked: whether the pieces are layers.
        part: reads any box of it, where a format can do so without reading more; (start, stop) of each axis.
        dtype: of what the pieces read.
    """

    shape: tuple[int, ...]
    pieces: Sequence[Callable[[], np.ndarray]]
    stacked: bool
    part: Callable[[Index], np.ndarray] | None = None
    dtype: Any = np.float32

    def read(self) -> np.ndarray:
        """All of it in host memory."""
        if not self.stacked:
            return np.ascontiguousarray(self.pieces[0]())
        whole = np.empty(self.shape, self.dtype)
        for i, piece in enumerate(self.pieces):
            whole[i] = piece()
        return whole


class LayerReader:
    """Parameters a layer at a time; one that has to be read as a whole is kept until another is wanted.

    Args:
        tensors: name -> parameter.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor]):
        self._tensors = tensors
        self._kept: tuple[str, np.ndarray] | None = None

    def read(self, name: str, layer: int | None) -> np.ndarray:
        """One layer of a parameter that is stacked over layers, or (None) all of a parameter."""
        tensor = self._tensors[name]
        if tensor.stacked and layer is not None:
            return tensor.pieces[layer]()
        if self._kept is None or self._kept[0] != name:
            self._kept = None  # before the next is read: memory holds one
            self._kept = (name, tensor.read())
        whole = self._kept[1]
        return whole if layer is None else whole[layer]


def place_params(tensors: Mapping[str, LazyTensor], shardings: Any | None) -> dict[str, Any]:
    """Reads parameters and puts each on the devices before the next one is read.

    Host memory at any time: this host's part of one parameter and, unless the format reads parts, one piece of it.

    Args:
        tensors: name like `decoder/decoder_norm/scale` → tensor.
        shardings: nested dictionaries of `jax.sharding.Sharding` of the same names; None: all on one device.

    Returns:
        Nested dictionaries of arrays.

    Raises:
        CheckpointError: the names of `shardings` differ from those of `tensors`; all differences are listed.
    """
    if shardings is None:
        single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        named: dict[str, Any] = dict.fromkeys(tensors, single)
    else:
        named = flatten_with_names(shardings)
    check_names(tensors, named)
    return unflatten({name: _place(tensor, named[name]) for name, tensor in tensors.items()})


def check_names(saved: Iterable[str], wanted: Iterable[str]) -> None:
    """Compares the parameters of a checkpoint with those of a model.

    Raises:
        CheckpointError: they differ; each difference is listed, with the nearest names.
    """
    has, wants = set(saved), set(wanted)
    problems = [f"the model has, the checkpoint lacks: {name}{_hint(name, has)}" for name in sorted(wants - has)]
    problems += [f"the checkpoint has, the model lacks: {name}{_hint(name, wants)}" for name in sorted(has - wants)]
    if problems:
        raise CheckpointError("the checkpoint does not fit the model:\n  " + "\n  ".join(problems))


def _hint(name: str, others: set[str]) -> str:
    close = nearest(name, others)
    return f" (nearest: {', '.join(close)})" if close else ""


def _place(tensor: LazyTensor, sharding: jax.sharding.Sharding) -> jax.Array:
    indices = {
        device: _bounds(index, tensor.shape)
        for device, index in sharding.addressable_devices_indices_map(tensor.shape).items()
    }
    if tensor.part is not None:
        parts = {index: tensor.part(index) for index in dict.fromkeys(indices.values())}
    else:
        parts = _cut(tensor, list(indices.values()))
    arrays = [jax.device_put(parts[index], device) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(tensor.shape, sharding, arrays)


def _cut(tensor: LazyTensor, indices: Iterable[Index]) -> dict[Index, np.ndarray]:
    """The parts of a parameter that is read piece by piece."""
    parts = {index: np.empty([stop - start for start, stop in index], tensor.dtype) for index in indices}
    if tensor.stacked:
        for i, piece in enumerate(tensor.pieces):
            holders = [index for index in parts if index[0][0] <= i < index[0][1]]
            if holders:
                layer = piece()
                for index in holders:
                    parts[index][i - index[0][0]] = layer[_slices(index[1:])]
    else:
        whole = tensor.pieces[0]()
        for index, part in parts.items():
            part[...] = whole[_slices(index)]
    return parts


def _bounds(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Index:
    assert index is not None  # only devices of other hosts have none
    return tuple(piece.indices(size)[:2] for piece, size in zip(index, shape, strict=True))


def _slices(index: Index) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in index)
