"""A T5X checkpoint that nobody vouches for: an index in msgpack, and arrays in it or in zarr folders beside it.

The index is a nested dictionary. A leaf is an array (msgpack extensions 1 and 3 of `flax.serialization`; arrays above
1 GiB as a dictionary of chunks), a dictionary that describes a TensorStore array, or, where T5X saved by Orbax, the
text `PLACEHOLDER://NAME`. Everything is checked before it is used: a folder's name may only stay beside the index, and
its own metadata has to say what the index says. Arrays in zarr folders are read when asked for, and only the part that
is asked for, from a bucket (`gs://...`) as from a disk.

In a bucket no object is asked for that a checkpoint lacks, and nothing is listed, once the checkpoint itself is named:
where strangers may read objects and not list them, an absent one is a refusal.

Source: the layout that T5X's `checkpoints.py` writes (github.com/google-research/t5x); zarr version 2.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from t5x_instruct.common.errors import BucketError, CheckpointError
from t5x_instruct.common.paths import AnyPath, kvstore_of

INDEX_FILE = "checkpoint"
ZARR_FILE = ".zarray"
PARAMS = "target"
SLOTS = "state/param_states"
STEP = "state/step"
MAX_INDEX_BYTES = 8 << 30
READ_TYPES = ("bfloat16", "float16", "float32", "float64")
_ARRAY, _SCALAR = 1, 3
_PLACEHOLDER = "PLACEHOLDER://"
_CHUNKED = "__msgpack_chunked_array__"
_ROOTS = ("optimizer", "_optimizer")
_FIRST_KEYS = ("version", *_ROOTS, "state", PARAMS, "flax_mutables", "params_axes")
_MAX_ZARR_BYTES = 1 << 20
_MAX_DEPTH = 50
_BLOCK_BYTES = 16 << 20
_AT_A_TIME = 32  # each of thousands of small files is a request to a bucket, and most of a request is waiting

Box = tuple[tuple[int, int], ...]


class T5xArray(NamedTuple):
    """One array.

    Attributes:
        shape: its shape.
        dtype: name of its type, e.g. "float32".
        inline: its numbers, where the index holds them.
        folder: of zarr, where it does not.
    """

    shape: tuple[int, ...]
    dtype: str
    inline: np.ndarray | None = None
    folder: AnyPath | None = None


class T5xFolder:
    """An opened T5X checkpoint: the index is read and checked against the zarr folders' metadata.

    Args:
        path: the checkpoint's folder, its index file, or a T5X run's folder of which the newest checkpoint is taken.

    Raises:
        CheckpointError: there is none, it is damaged, or arrays are missing or others than the index says (all that
            were found).

    Attributes:
        folder: the checkpoint's.
        arrays: name like ``target/encoder/encoder_norm/scale`` -> array.
        step: steps it was trained for; None if it does not say.
    """

    def __init__(self, path: AnyPath):
        index = find_index(path)
        if index is None:
            raise CheckpointError(f"{path} is no T5X checkpoint: {_why_not(path)}")
        self.folder = index.parent
        self.arrays: dict[str, T5xArray] = {}
        tree = _read_index(index)
        problems = []
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for name, found in pool.map(partial(_array_or_problem, self.folder), _leaves(tree, index)):
                if isinstance(found, T5xArray):
                    self.arrays[name] = found
                else:
                    problems.append(found)
        if problems:
            shown = problems[:40] + ([f"and {len(problems) - 40} more"] if len(problems) > 40 else [])
            raise CheckpointError(f"{index}: {len(problems)} arrays cannot be read:\n  " + "\n  ".join(shown))
        self.step = self._step()

    def params(self) -> dict[str, T5xArray]:
        """The model's parameters, by names like ``encoder/encoder_norm/scale``."""
        prefix = f"{PARAMS}/"
        return {name.removeprefix(prefix): a for name, a in self.arrays.items() if name.startswith(prefix)}

    def read(self, names: Sequence[str], box: Box | None = None) -> list[np.ndarray]:
        """Reads arrays or the same part of each, all at a time.

        Args:
            names: keys of `arrays`.
            box: (start, stop) of each axis; None: all of it.

        Returns:
            float32.

        Raises:
            CheckpointError: files are missing or damaged, or the bucket does not give them.
        """
        part = tuple(slice(*bounds) for bounds in box) if box is not None else ...
        arrays = [self.arrays[name] for name in names]
        with ThreadPoolExecutor(min(len(arrays), _AT_A_TIME)) as pool:
            return list(pool.map(lambda array: np.asarray(self._numbers(array, part), np.float32), arrays))

    def _step(self) -> int | None:
        step = self.arrays.get(STEP)
        if step is None or step.shape or np.dtype(step.dtype).kind not in "iu":
            return None
        return int(self._numbers(step, ...))

    @staticmethod
    def _numbers(array: T5xArray, part: Any) -> np.ndarray:
        if array.inline is not None:
            return np.asarray(array.inline[part])
        import tensorstore

        assert array.folder is not None
        spec = {"driver": "zarr", "kvstore": kvstore_of(array.folder)}
        try:
            store = tensorstore.open(spec, open=True, read=True).result()
            if store.shape != array.shape:
                raise ValueError("it has another shape now; the checkpoint has changed")
            return np.asarray(store[part].read().result())
        except (ValueError, OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot read {array.folder}: {str(error).partition(chr(10))[0][:300]}") from error


def find_index(path: AnyPath) -> AnyPath | None:
    """The index of the T5X checkpoint that a path names (see `T5xFolder`); None if it names none."""
    return next((found for found in _candidates(path) if found.is_file() and _is_index(found)), None)


def _candidates(path: AnyPath) -> Iterator[AnyPath]:
    """Where the index may be, the likeliest first: what comes later is not asked for once one is found."""
    names = (INDEX_FILE, f"state/{INDEX_FILE}")
    yield from (path / name for name in names)
    yield path
    if path.is_dir():
        steps = [p for p in path.glob("checkpoint_*") if re.fullmatch(r"checkpoint_\d+", p.name) and p.is_dir()]
        if steps:
            newest = max(steps, key=lambda p: int(p.name.rpartition("_")[2]))
            yield from (newest / name for name in names)


def _is_index(path: AnyPath) -> bool:
    """Whether a file begins as an index does: a small map whose first key is one that T5X writes."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start or not 0x81 <= start[0] <= 0x8F:
        return False
    return any(start[1:].startswith(bytes([0xA0 + len(key)]) + key.encode()) for key in _FIRST_KEYS)


def _why_not(path: AnyPath) -> str:
    index = path / INDEX_FILE if path.is_dir() else path
    if not index.is_file():
        return f"there is no file {INDEX_FILE!r} and no folder checkpoint_STEP with one"
    with index.open("rb") as file:
        start = file.read(32)
    if start.startswith(b"model_checkpoint_path"):
        return (
            "it is TensorFlow's, as Mesh TensorFlow wrote them; take the same model from "
            "gs://t5-data/pretrained_models/t5x/"
        )
    return f"{index} does not begin as a T5X index does"


def _read_index(index: AnyPath) -> Any:
    data = bytearray()
    try:
        with index.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                data += block
                if len(data) > MAX_INDEX_BYTES:
                    raise CheckpointError(f"{index} has more than {MAX_INDEX_BYTES:,} bytes, the most for such a file")
    except BucketError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {index}: {error.strerror or error}") from error
    try:
        tree = msgpack.unpackb(data, ext_hook=_unpack_extension, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise CheckpointError(f"{index} is damaged: {error or type(error).__name__}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{index} does not hold a tree of arrays")
    return next((tree[root] for root in _ROOTS if root in tree), tree)


def _unpack_extension(code: int, data: bytes) -> Any:
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"extension {code} is no array")
    shape, name, numbers = msgpack.unpackb(data)
    return np.frombuffer(numbers, _dtype(name)).reshape([int(size) for size in shape])


def _dtype(name: Any) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    dtype = np.dtype(name if isinstance(name, str) else "")
    if dtype.kind not in "biuf":
        raise ValueError(f"type {name!r} is not one of numbers")
    return dtype


def _leaves(tree: Any, index: AnyPath, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise CheckpointError(f"{index} is nested too deeply to be such a file")
    if not isinstance(tree, dict) or _is_store(tree) or _CHUNKED in tree:
        if tree is not None:
            yield prefix, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, index, f"{prefix}/{key}" if prefix else str(key), depth + 1)


def _is_store(leaf: Mapping[Any, Any]) -> bool:
    return "driver" in leaf and "kvstore" in leaf


def _array_or_problem(folder: AnyPath, named: tuple[str, Any]) -> tuple[str, T5xArray | str]:
    name, leaf = named
    try:
        return name, _array(name, leaf, folder)
    except CheckpointError as error:
        return name, str(error)


def _array(name: str, leaf: Any, folder: AnyPath) -> T5xArray:
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        return _stored(name, leaf.removeprefix(_PLACEHOLDER), folder, None)
    if isinstance(leaf, dict) and _is_store(leaf):
        if leaf["driver"] != "zarr":
            raise CheckpointError(f"{name}: its driver is {str(leaf['driver'])[:60]!r}; only 'zarr' is supported")
        kvstore, metadata = leaf["kvstore"], leaf.get("metadata")
        path = kvstore.get("path", leaf.get("path")) if isinstance(kvstore, dict) else None
        stated = metadata.get("shape") if isinstance(metadata, dict) else None
        return _stored(name, path, folder, stated)
    try:
        array = _joined(leaf) if isinstance(leaf, dict) else np.asarray(leaf)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{name}: its chunks do not fit together: {error}") from error
    if array.dtype.hasobject or (array.dtype.kind in "USV" and array.dtype.name != "bfloat16"):
        raise CheckpointError(f"{name} holds no numbers but {str(leaf)[:60]!r}")
    return T5xArray(array.shape, array.dtype.name, inline=array)


def _stored(name: str, path: Any, folder: AnyPath, stated: Any) -> T5xArray:
    """An array in a zarr folder, by the folder's own metadata."""
    plain = path.rstrip("/") if isinstance(path, str) else ""
    if not plain or plain != Path(plain).name or plain == ".." or "\\" in plain or "\0" in plain:
        raise CheckpointError(f"{name}: {str(path)[:80]!r} is no folder beside the index")
    try:
        with (folder / plain / ZARR_FILE).open("rb") as file:
            content = json.loads(file.read(_MAX_ZARR_BYTES))
        shape, dtype = tuple(map(int, content["shape"])), _zarr_dtype(content["dtype"])
    except BucketError:
        raise
    except OSError as error:
        raise CheckpointError(f"{name}: {plain}/{ZARR_FILE} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{name}: {plain}/{ZARR_FILE} is damaged: {error}") from error
    if stated is not None and list(stated) != list(shape):
        raise CheckpointError(f"{name}: by the index its shape is {tuple(stated)}, by {plain}/{ZARR_FILE} {shape}")
    return T5xArray(shape, dtype, folder=folder / plain)


def _zarr_dtype(name: Any) -> str:
    return "bfloat16" if name == "bfloat16" else _dtype(name).name


def _joined(leaf: Mapping[str, Any]) -> np.ndarray:
    """An array that was too large for one entry: its shape, and its numbers in flat chunks."""
    shape = tuple(int(leaf["shape"][str(i)]) for i in range(len(leaf["shape"])))
    chunks = [np.asarray(leaf["chunks"][str(i)]) for i in range(len(leaf["chunks"]))]
    if math.prod(shape) != sum(chunk.size for chunk in chunks):
        raise ValueError(f"{sum(chunk.size for chunk in chunks)} numbers for the shape {shape}")
    return np.concatenate([chunk.ravel() for chunk in chunks]).reshape(shape)
