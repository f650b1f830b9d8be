"""A folder of safetensors files that nobody vouches for: one file, or several with an index.

The `safetensors` library checks a file's header against the file before it gives anything (size of the header, types,
offsets without holes and overlaps). What is added here: the index, which names may only stay in the folder, and one
view of all files. A tensor's file is opened for that tensor alone: a file that has shrunk since is an error and no
crash, and nothing stays mapped.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.common.errors import CheckpointError, DataError
from t5x_instruct.common.io import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 << 20
READ_TYPES = ("F64", "F32", "F16", "BF16")
_COMPARED_ROWS = 4096
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


class StoredTensor(NamedTuple):
    """A tensor as its file has it: shape, the format's name of the type, size in bytes, and how it lay on devices."""

    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    sharding: str | None = None


class SafetensorsFolder:
    """The tensors of a Hugging Face folder; headers are read and checked, tensors are read when asked for.

    Args:
        folder: with `model.safetensors`, or `model.safetensors.index.json` and the files it names.
        single: the name of the one file, where it is not that of a model's.

    Raises:
        CheckpointError: there are no such files (weights that are pickled are refused, with the way out), a file is
            damaged or truncated, or the index names what is not there or lies outside of the folder.

    Attributes:
        tensors: name -> what its file says about it.
        shapes: name -> shape.
    """

    def __init__(self, folder: Path, single: str = SINGLE_FILE):
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        self._files: dict[str, Path] = {}
        if (folder / single).is_file():
            self._add(folder / single)
        elif (folder / INDEX_FILE).is_file():
            self._add_indexed(folder / INDEX_FILE)
        else:
            raise CheckpointError(_no_weights(folder))
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}

    def check_types(self) -> None:
        """Refuses tensors that are no floats.

        Raises:
            CheckpointError: there are some; the first ones are listed.
        """
        others = [
            f"{name!r} is {tensor.dtype}" for name, tensor in self.tensors.items() if tensor.dtype not in READ_TYPES
        ]
        if others:
            more = f" and {len(others) - 20} more" if len(others) > 20 else ""
            raise CheckpointError(
                f"{self.folder}: tensors of types that are not read: {', '.join(others[:20])}{more}; supported: "
                f"{', '.join(READ_TYPES)} (of a quantised model take the one it was made from)"
            )

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor.

        Returns:
            float32, in the file's axis order: a matrix of a linear layer is [out, in].

        Raises:
            CheckpointError: the file has changed.
        """
        with _opened(self._files[name]) as file:
            array = file.get_tensor(name)
        if array.shape != self.shapes[name]:
            raise CheckpointError(f"{self._files[name]}: tensor {name!r} has another shape now; the file has changed")
        return np.asarray(array, np.float32)

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors of the same shape hold the same numbers; read in parts, up to the first that differ."""
        with _opened(self._files[name]) as one, _opened(self._files[other]) as two:
            first, second = one.get_slice(name), two.get_slice(other)
            rows = self.shapes[name][0] if self.shapes[name] else 0
            for start in range(0, rows, _COMPARED_ROWS):
                part = slice(start, min(start + _COMPARED_ROWS, rows))  # the library takes no end beyond the last row
                if not np.array_equal(np.asarray(first[part], np.float32), np.asarray(second[part], np.float32)):
                    return False
        return True

    def _add(self, path: Path) -> None:
        with _opened(path) as file:
            for name, stored in _header(file).items():
                if name in self.tensors:
                    raise CheckpointError(f"tensor {name!r} is in {self._files[name].name} and in {path}")
                self.tensors[name] = stored
                self._files[name] = path

    def _add_indexed(self, index: Path) -> None:
        content = read_bounded_json(index)
        places = content.get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(v, str) for v in places.values()):
            raise CheckpointError(f"{index}: 'weight_map' has to say for each tensor in which file it is")
        names = sorted(set(places.values()))
        problems = [
            f"file name {name!r} is not that of a .safetensors file in this folder"
            for name in names
            if not name.endswith(".safetensors") or name != Path(name).name or "\\" in name or "\0" in name
        ]
        if not problems:
            problems = [f"file {name!r} is missing" for name in names if not (self.folder / name).is_file()]
        if problems:
            raise CheckpointError(f"{index}:\n  " + "\n  ".join(problems))
        for name in names:
            self._add(self.folder / name)
        for tensor, name in places.items():
            if tensor not in self.tensors:
                problems.append(f"tensor {tensor!r} should be in {name} and is not")
            elif self._files[tensor].name != name:
                problems.append(f"tensor {tensor!r} should be in {name} and is in {self._files[tensor].name}")
        if problems:
            raise CheckpointError(f"{index}:\n  " + "\n  ".join(problems))


def read_bounded_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that nobody vouches for.

    Raises:
        CheckpointError: the file is missing, larger than such files are, or holds no JSON object.
    """
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes; such a file has at most {MAX_JSON_BYTES:,}")
    try:
        content = read_json(path)
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply to be such a file") from None
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no intact safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _header(file: Any) -> dict[str, StoredTensor]:
    found = {}
    for name in file.keys():  # noqa: SIM118 - no mapping
        tensor = file.get_slice(name)
        shape, dtype = tuple(tensor.get_shape()), str(tensor.get_dtype())
        found[name] = StoredTensor(shape, dtype, _num_bytes(shape, dtype))
    return found


def _num_bytes(shape: tuple[int, ...], dtype: str) -> int:
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    bits = int(digits) if digits else 8  # BOOL
    size = 1
    for axis in shape:
        size *= axis
    return size * bits // 8


def _no_weights(folder: Path) -> str:
    message = f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}"
    pickles = sorted({path.name for pattern in _PICKLES for path in folder.glob(pattern)})
    if pickles:
        return (
            f"{message}, but {', '.join(pickles[:3])}: pickled weights can run any code when they are opened and are "
            "refused. Where you trust them, let transformers write safetensors: model = "
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}) (AutoModelForSeq2SeqLM for T5), "
            "model.save_pretrained(NEW_FOLDER, safe_serialization=True), and copy the tokenizer's files there"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    return f"{message}; other safetensors files in it: {', '.join(others[:5]) or 'none'}"
