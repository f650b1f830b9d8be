"""Any checkpoint as a Hugging Face folder that transformers opens."""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from t5x_instruct.checkpoints.convert.hf_config import CONFIG_FILE, config_to_hf
from t5x_instruct.checkpoints.convert.hf_names import our_params
from t5x_instruct.checkpoints.convert.hf_tables import HEAD, HfTensor, ModelConfig, layout_of
from t5x_instruct.checkpoints.convert.hf_tokenizer import GENERATION_FILE, special_ids, write_hf_vocabulary
from t5x_instruct.checkpoints.convert.new_folder import new_folder, refuse_used
from t5x_instruct.checkpoints.convert.safetensors_folder import INDEX_FILE, SINGLE_FILE
from t5x_instruct.checkpoints.placement import LayerReader, LazyTensor, check_names
from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.common.io import write_json
from t5x_instruct.data.vocabularies import Vocabulary
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.models.t5gemma import T5GemmaConfig

MAX_FILE_BYTES = 5_000_000_000
DEFAULT_CONTEXT_LENGTH = 2048
_ALIGNMENT = 8


class _Type(NamedTuple):
    numpy: np.dtype
    stored: str


TYPES = {
    "float32": _Type(np.dtype("<f4"), "F32"),
    "bfloat16": _Type(np.dtype(ml_dtypes.bfloat16), "BF16"),
}


class _Entry(NamedTuple):
    """One tensor to write: its name, and where its numbers are."""

    name: str
    tensor: HfTensor
    ours: str
    layer: int | None


def export_hf(
    tensors: Mapping[str, LazyTensor],
    config: ModelConfig,
    vocabulary: Vocabulary,
    folder: Path,
    *,
    dtype: str = "float32",
    context_length: int = DEFAULT_CONTEXT_LENGTH,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes a model as transformers keeps it: config, safetensors, tokenizer files and chat template.

    Tensors are read and written one at a time; host memory holds one parameter (of a run whose layers are scanned:
    that of all layers), one tensor, and of a run what is read ahead (`step_tensors`). The folder appears when it is
    complete.

    Args:
        tensors: the parameters (`Source.tensors`).
        config: the model's.
        vocabulary: the model's.
        folder: must not exist, or be empty.
        dtype: "float32" or "bfloat16" (rounded to the nearest).
        context_length: what a decoder's file says of how long texts may be, in tokens.
        max_file_bytes: bytes of tensors a file; above, an index names the files.

    Raises:
        CheckpointError: transformers has no such model or vocabulary, the parameters are not the configuration's, the
            folder exists, or it cannot be written.
    """
    if dtype not in TYPES:
        raise CheckpointError(unknown("dtype", dtype, TYPES))
    refuse_used(folder)
    settings = config_to_hf(config, context_length) | special_ids(vocabulary) | {"dtype": dtype}
    entries = _entries(tensors, config, own_head=not settings["tie_word_embeddings"])
    fillers = layout_of(config).fillers
    entries += [_Entry(name, HfTensor(name, shape, shape, _same, _same), name, None) for name, shape in fillers.items()]
    generation = special_ids(vocabulary)
    if isinstance(config, T5Config | T5GemmaConfig):
        generation |= {"decoder_start_token_id": config.decoder_start_id}
    with new_folder(folder) as new:
        write_json(new / CONFIG_FILE, settings)
        write_json(new / GENERATION_FILE, generation)
        write_hf_vocabulary(vocabulary, new)
        _write_tensors(new, entries, {**tensors, **_zeros(fillers)}, TYPES[dtype], max_file_bytes)


def _zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    return {name: LazyTensor(shape, [partial(np.zeros, shape, np.float32)], False) for name, shape in shapes.items()}


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _entries(tensors: Mapping[str, LazyTensor], config: ModelConfig, own_head: bool) -> list[_Entry]:
    """All tensors, those of one parameter of ours one after the other."""
    layout = layout_of(config)
    params = list(our_params(layout, config.scan_layers))
    check_names(tensors, [param.name for param in params])
    problems = [
        f"parameter {p.name} has the shape {tensors[p.name].shape}, the configuration asks for {p.shape}"
        for p in params
        if tensors[p.name].shape != p.shape
    ]
    if problems:
        raise CheckpointError("the checkpoint does not fit its configuration:\n  " + "\n  ".join(problems))
    entries = []
    for param in params:
        names = list(param.theirs)
        if config.tie_embeddings and own_head and param.theirs[0] == layout.copies.get(HEAD):
            names.append(HEAD)  # transformers makes a head of its own where the file says so, and wants its numbers
        entries += [
            _Entry(layout.to_file(name), param.tensor, param.name, i if param.stacked else None)
            for i, name in enumerate(names)
        ]
    return entries


def _write_tensors(
    folder: Path, entries: list[_Entry], tensors: Mapping[str, LazyTensor], kind: _Type, max_file_bytes: int
) -> None:
    files = list(_files(entries, kind, max_file_bytes))
    names = [SINGLE_FILE]
    if len(files) > 1:
        names = [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    reader = LayerReader(tensors)
    for name, held in zip(names, files, strict=True):
        with open(folder / name, "wb") as file:
            _write_file(file, held, reader, kind)
            file.flush()
            os.fsync(file.fileno())
    if len(files) > 1:
        places = {entry.name: name for name, held in zip(names, files, strict=True) for entry in held}
        total = sum(_num_bytes(entry, kind) for entry in entries)
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def _files(entries: list[_Entry], kind: _Type, max_file_bytes: int) -> Iterator[list[_Entry]]:
    held: list[_Entry] = []
    size = 0
    for entry in entries:
        num_bytes = _num_bytes(entry, kind)
        if held and size + num_bytes > max_file_bytes:
            yield held
            held, size = [], 0
        held.append(entry)
        size += num_bytes
    yield held


def _write_file(file: BinaryIO, entries: list[_Entry], reader: LayerReader, kind: _Type) -> None:
    """One safetensors file.

    Source: the format's description, github.com/huggingface/safetensors: the header's length as a little-endian
    64-bit number, the header in JSON, the tensors in their order without gaps.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + _num_bytes(entry, kind)
        header[entry.name] = {"dtype": kind.stored, "shape": list(entry.tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(text)) + text)
    for entry in entries:
        array = np.ascontiguousarray(entry.tensor.to_theirs(reader.read(entry.ours, entry.layer)), kind.numpy)
        file.write(array.reshape(-1).view(np.uint8).data)


def _num_bytes(entry: _Entry, kind: _Type) -> int:
    return int(np.prod(entry.tensor.shape, dtype=np.int64)) * kind.numpy.itemsize
