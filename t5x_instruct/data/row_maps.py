"""Python functions of one row, mapped over a TensorFlow dataset of texts and lists of texts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

CHUNK = 256  # rows that pass between TensorFlow and Python at once
Row = dict[str, str | list[str]]


def map_rows(
    dataset: tf.data.Dataset, function: Callable[[Row, int], Mapping[str, str | list[str]]], adds: Mapping[str, int]
) -> tf.data.Dataset:
    """Adds fields to every row; every other field stays.

    Args:
        dataset: rows, each a dict of string scalars, lists of strings, or numbers, which the function sees as texts.
            Other fields it does not see.
        function: called with a row and its place in the dataset; gives the new fields.
        adds: the new fields: 0 for a text, 1 for a list of texts.

    Returns:
        The dataset with the new fields, in the same order.
    """
    spec = dataset.element_spec
    names = [name for name in sorted(spec) if spec[name].shape.rank in (0, 1)]

    def map_chunk(indices: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
        rows = _rows_of(spec, names, columns)
        new = [function(row, int(index)) for index, row in zip(indices, rows, strict=True)]
        return [
            part
            for name, rank in adds.items()
            for part in (_ragged_parts([n[name] for n in new]) if rank else [_bytes(str(n[name]) for n in new)])
        ]

    @tf.autograph.experimental.do_not_convert
    def add_fields(indices: tf.Tensor, chunk: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        columns = [part for name in names for part in _parts(chunk[name], spec[name].shape.rank)]
        kinds = [kind for rank in adds.values() for kind in [tf.string, tf.int64][: 1 + rank]]
        parts = iter(tf.numpy_function(map_chunk, [indices, *columns], kinds, stateful=False))
        new = {}
        for name, rank in adds.items():
            values = tf.ensure_shape(next(parts), [None])
            new[name] = _ragged(values, tf.ensure_shape(next(parts), [None])) if rank else values
        return {**chunk, **new}

    # In chunks, because a call from TensorFlow into Python costs more than rendering an example.
    chunks = dataset.enumerate().ragged_batch(CHUNK)
    return without_ragged(chunks.map(add_fields, num_parallel_calls=1).unbatch())


def without_ragged(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Gives lists the plain type [None] again, after chunks were taken apart."""
    if not any(isinstance(part, tf.RaggedTensorSpec) for part in dataset.element_spec.values()):
        return dataset
    return dataset.map(_as_tensors)


@tf.autograph.experimental.do_not_convert
def _as_tensors(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    return {name: tf.convert_to_tensor(value) for name, value in example.items()}


def _parts(column: tf.Tensor | tf.RaggedTensor, rank: int) -> list[tf.Tensor]:
    """A column of a chunk as plain tensors: [values], or for lists [flat values, row lengths]."""
    if rank == 0:
        return [column]
    if isinstance(column, tf.Tensor):  # lists of a fixed length come as a matrix
        column = tf.RaggedTensor.from_tensor(column)
    return [column.flat_values, column.row_lengths()]


def _ragged(values: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def _rows_of(spec: Mapping[str, Any], names: Sequence[str], columns: Sequence[np.ndarray]) -> Iterator[Row]:
    """The rows of a chunk, from the columns that `_parts` gave for the names."""
    parts = iter(columns)
    lists: list[Sequence[str | list[str]]] = []
    for name in names:
        texts = [_text(value) for value in next(parts)]
        if spec[name].shape.rank:
            ends = np.cumsum(next(parts)).tolist()
            starts = [0, *ends[:-1]]
            lists.append([texts[a:b] for a, b in zip(starts, ends, strict=True)])
        else:
            lists.append(texts)
    return (dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _bytes(texts: Iterable[str]) -> np.ndarray:
    # As objects: numpy's own byte strings would lose NUL characters at the end.
    encoded = [text.encode() for text in texts]
    array = np.empty(len(encoded), dtype=object)
    array[:] = encoded
    return array


def _ragged_parts(lists: Sequence[Any]) -> list[np.ndarray]:
    flat = _bytes(text for texts in lists for text in texts)
    return [flat, np.array([len(texts) for texts in lists], np.int64)]
