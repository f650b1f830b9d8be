"""The GGUF container: metadata and tensors of a file that nobody vouches for.

The `gguf` package's own reader trusts the counts it reads: a flipped bit makes it fill the memory. Here everything
is checked against the size of the file before it is read; only constants and dequantization come from the package.

Source: the GGUF specification, github.com/ggml-org/ggml, docs/gguf.md (versions 2 and 3, little-endian).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from t5x_instruct.common.errors import CheckpointError, unknown

MAGIC = b"GGUF"
SUPPORTED_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_CHUNK_BYTES = 4 << 20
_FORMATS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}

T = TypeVar("T")


class TensorInfo(NamedTuple):
    """Where a tensor lies: NumPy's axis order (rows last in memory first), offset and size in bytes."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    num_bytes: int


class GgufFile:
    """An opened GGUF file: its header is read and checked, tensors are read when asked for.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file cannot be read, is truncated, damaged or of an unsupported version.

    Attributes:
        path: the file.
        metadata: key → bool, int, float, str, a list of str, or a NumPy array.
        tensors: name → where it lies.
    """

    def __init__(self, path: Path):
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            with open(path, "rb") as file:
                self._read_header(_Cursor(file, path))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """A metadata value of a given type.

        Args:
            key: e.g. `llama.block_count`.
            kind: bool, int, float, str, list (of str) or np.ndarray.
            default: what an absent key means; None makes it an error.

        Raises:
            CheckpointError: the key is missing or of another type.
        """
        value = self.metadata.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.path}: metadata: {unknown('key', key, self.metadata)}")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CheckpointError(
                f"{self.path}: metadata {key} is {str(value)[:60]!r}, a {type(value).__name__}; "
                f"it has to be a {kind.__name__}"
            )
        return value

    def read(self, name: str) -> np.ndarray:
        """Reads and dequantizes one tensor.

        Returns:
            float32, in NumPy's axis order: a matrix of a linear layer is [out, in].

        Raises:
            CheckpointError: the file has changed and is too short now.
        """
        info = self.tensors[name]
        width = info.shape[-1]
        block_size, block_bytes = GGML_QUANT_SIZES[info.type]
        row_bytes = width // block_size * block_bytes
        result = np.empty((math.prod(info.shape[:-1]), width), np.float32)
        rows_at_once = max(1, _CHUNK_BYTES // row_bytes)
        with open(self.path, "rb") as file:
            file.seek(info.offset)
            for start in range(0, len(result), rows_at_once):
                part = result[start : start + rows_at_once]
                data = file.read(len(part) * row_bytes)
                if len(data) != len(part) * row_bytes:
                    raise CheckpointError(f"{self.path}: tensor {name} ends early; the file has changed")
                # Damaged scales may be infinite: the caller sees values, not warnings.
                with np.errstate(all="ignore"):
                    part[...] = dequantize(_typed(data, info.type).reshape(len(part), -1), info.type)
        return result.reshape(info.shape)

    def _read_header(self, cursor: "_Cursor") -> None:
        if cursor.take(4, "magic") != MAGIC:
            raise CheckpointError(f"{self.path} is not a GGUF file: it does not start with {MAGIC.decode()!r}")
        version = cursor.number("<u4", "version")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{self.path} has GGUF version {version}; supported: {', '.join(map(str, _VERSIONS))}, little-endian"
            )
        num_tensors, num_keys = cursor.number("<u8", "tensor count"), cursor.number("<u8", "key count")
        for i in range(num_keys):
            key = cursor.string(f"metadata key {i}")
            if key in self.metadata:
                raise CheckpointError(f"{self.path}: metadata key {key!r} occurs twice")
            self.metadata[key] = cursor.value(f"metadata {key!r}")
        places = [self._read_tensor_info(cursor, i) for i in range(num_tensors)]
        alignment = self.get("general.alignment", int, _DEFAULT_ALIGNMENT)
        if alignment < 1 or alignment & (alignment - 1):
            raise CheckpointError(f"{self.path}: general.alignment is {alignment}, not a power of two")
        start = -(-cursor.position // alignment) * alignment
        for name, info in places:
            end = start + info.offset + info.num_bytes
            if end > cursor.size:
                raise CheckpointError(
                    f"{self.path} is truncated: tensor {name} ends at byte {end}, the file at {cursor.size}"
                )
            if name in self.tensors:
                raise CheckpointError(f"{self.path}: tensor {name!r} occurs twice")
            self.tensors[name] = info._replace(offset=start + info.offset)

    def _read_tensor_info(self, cursor: "_Cursor", i: int) -> tuple[str, TensorInfo]:
        name = cursor.string(f"name of tensor {i}")
        num_dimensions = cursor.number("<u4", f"dimensions of tensor {name!r}")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has {num_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible"
            )
        shape = tuple(cursor.number("<u8", f"shape of tensor {name!r}") for _ in range(num_dimensions))[::-1]
        code = cursor.number("<u4", f"type of tensor {name!r}")
        offset = cursor.number("<u8", f"offset of tensor {name!r}")
        kind = {member.value: member for member in GGMLQuantizationType}.get(code)
        if kind is None or kind.name not in SUPPORTED_TYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has the type {kind.name if kind else code}; "
                f"supported: {', '.join(SUPPORTED_TYPES)}"
            )
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        if 0 in shape or shape[-1] % block_size:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has the shape {shape}; {kind.name} needs rows of n x {block_size} values"
            )
        return name, TensorInfo(shape, kind, offset, math.prod(shape) // block_size * block_bytes)


class _Cursor:
    """Reads a header from start to end, never further than the file."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path = file, path
        self.size = file.seek(0, 2)
        self.position = file.seek(0)

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.position:
            raise CheckpointError(
                f"{self._path} is truncated or damaged: {what} needs {count} bytes at byte {self.position}, "
                f"the file has {self.size}"
            )
        data = self._file.read(count)
        if len(data) != count:
            raise CheckpointError(f"{self._path} became shorter while it was read")
        self.position += count
        return data

    def number(self, layout: str, what: str) -> int:
        dtype = np.dtype(layout)
        return int.from_bytes(self.take(dtype.itemsize, what), "little")

    def string(self, what: str) -> str:
        data = self.take(self.number("<u8", what), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path} is damaged: {what} is not UTF-8: {error}") from error

    def value(self, what: str) -> Any:
        kind = self._kind(what)
        if kind is GGUFValueType.STRING:
            return self.string(what)
        if kind is not GGUFValueType.ARRAY:
            layout = _FORMATS[kind]
            return np.frombuffer(self.take(np.dtype(layout).itemsize, what), layout)[0].item()
        kind, count = self._kind(what), self.number("<u8", what)
        if kind is GGUFValueType.STRING:
            return list(self._strings(count, what))
        if kind is GGUFValueType.ARRAY:
            raise CheckpointError(f"{self._path}: {what} is an array of arrays, which is not supported")
        layout = _FORMATS[kind]
        return np.frombuffer(self.take(count * np.dtype(layout).itemsize, what), layout)

    def _strings(self, count: int, what: str) -> Iterator[str]:
        for _ in range(count):
            yield self.string(what)

    def _kind(self, what: str) -> GGUFValueType:
        code = self.number("<u4", f"type of {what}")
        try:
            return GGUFValueType(code)
        except ValueError:
            raise CheckpointError(f"{self._path} is damaged: {what} has the unknown type {code}") from None


def _typed(data: bytes, kind: GGMLQuantizationType) -> np.ndarray:
    # `dequantize` takes plain floats as such and everything else, bfloat16 too, as bytes.
    layouts = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2"}
    return np.frombuffer(data, layouts.get(kind, "u1"))
