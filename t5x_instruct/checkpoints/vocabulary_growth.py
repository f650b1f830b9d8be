"""A checkpoint's embedding and head with rows for new tokens.

Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models",
https://nlp.stanford.edu/~johnhew/vocab-expansion.html.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.checkpoints.placement import LazyTensor, place_params
from t5x_instruct.checkpoints.restore import Source
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.common.types import Params
from t5x_instruct.data.vocabularies import Vocabulary, token_strings
from t5x_instruct.models.presets import make_model

ROWS_MULTIPLE = 128


def grown_config(config: Any, num_ids: int) -> Any:
    """A model's configuration with room for more ids.

    Ids take the rows that the model has free, as T5's and Qwen's have; where these do not suffice the model is made
    larger, its rows rounded up to a multiple of 128 so that a mesh divides them.

    Args:
        config: a model's configuration, a dataclass.
        num_ids: of the vocabulary.
    """
    if num_ids <= config.vocab_size:
        return config
    multiple = math.lcm(config.vocab_multiple, ROWS_MULTIPLE)
    return dataclasses.replace(config, vocab_size=num_ids, vocab_multiple=multiple)


class _Rows(NamedTuple):
    """Rows of a grown table: the pretrained ones up to `known`, new ones up to `ids`, `total` with padding."""

    known: int
    ids: int
    total: int


def grown(source: Source, known: int, vocabulary: Vocabulary) -> Source:
    """A checkpoint whose embedding (and head, where it is another) has a row for each id of a larger vocabulary.

    The new rows are the mean of the pretrained vocabulary's: by a head with such rows n ids and k new ones have at
    most ``1 + k / n`` times the probability mass they had, so that the model begins as what it was. (Random rows may
    take nearly all of it.) With a soft cap on logits this holds as far as the cap is linear.

    Tensors are still read one at a time when they are placed, and only tables are held twice then.

    Args:
        source: the checkpoint.
        known: ids of its own vocabulary, whose rows are pretrained; rows from there on are padding.
        vocabulary: the larger one.

    Raises:
        CheckpointError: a table has not as many rows as the checkpoint's configuration says.
    """
    config = grown_config(source.model_config, vocabulary.vocab_size)
    axes = flatten_with_names(make_model(source.model_config).param_axes())
    tables = {name: names.index("vocab") for name, names in axes.items() if "vocab" in names and name in source.tensors}
    _check_rows(source, tables)
    rows = _Rows(known, vocabulary.vocab_size, config.vocab_rows)
    tensors = dict(source.tensors)
    for name, axis in tables.items():
        tensors[name] = _grown_tensor(tensors[name], axis, rows)

    def params_fn(shardings: Any | None) -> Params:
        return place_params(tensors, shardings)

    new = token_strings(vocabulary, range(known, vocabulary.vocab_size))
    ids = f"ids {known} to {vocabulary.vocab_size - 1}"
    return source._replace(
        model_config=config,
        vocabulary=vocabulary,
        tensors=tensors,
        params_fn=params_fn,
        description=f"{source.description}, with the new tokens {', '.join(new)} ({ids})",
        adapters=None,  # they are merged in `tensors`
    )


def _check_rows(source: Source, tables: dict[str, int]) -> None:
    config = source.model_config
    problems = [
        f"{name} has the shape {source.tensors[name].shape}, of which axis {axis} must be {config.vocab_rows}"
        for name, axis in tables.items()
        if source.tensors[name].shape[axis] != config.vocab_rows
    ]
    if problems:
        raise CheckpointError(
            f"{source.description}: its tables cannot take new tokens; vocab_size is {config.vocab_size}, rounded up "
            f"to a multiple of {config.vocab_multiple}, but:\n  " + "\n  ".join(problems)
        )


def _grown_tensor(tensor: LazyTensor, axis: int, rows: _Rows) -> LazyTensor:
    shape = (*tensor.shape[:axis], rows.total, *tensor.shape[axis + 1 :])
    # A part of a table would need the mean of rows outside of it.
    return LazyTensor(shape, [partial(_read_grown, tensor, axis, rows)], stacked=False, dtype=tensor.dtype)


def _read_grown(tensor: LazyTensor, axis: int, rows: _Rows) -> np.ndarray:
    table = np.moveaxis(tensor.read(), axis, 0)
    larger = np.zeros((*tensor.shape[:axis], rows.total, *tensor.shape[axis + 1 :]), table.dtype)
    rows_first = np.moveaxis(larger, axis, 0)
    rows_first[: len(table)] = table
    rows_first[rows.known : rows.ids] = table[: rows.known].mean(axis=0, dtype=np.float64)
    return larger
