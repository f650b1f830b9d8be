"""Rendering without TensorFlow, for tasks all of whose steps are functions of one row.

Most tasks are rows, templates, tokens, EOS. As a `tf.data` pipeline that costs a third of a second a split before
the first example (the graph) and most of the time of each example (the passing between TensorFlow and Python); as the
calls that are behind the pipeline it costs neither. Because each example depends on its own row and place alone, any
range of rows can be rendered by itself. The pipeline of the same task gives the same examples, which tests hold true.

A task is rendered this way if its rows come from a `RowSource`, its features are those of the model, and its
preprocessors are `RowStep`s, the rendering of templates, and seqio's tokenizing and EOS, in this order.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.binding import BoundTask
from t5x_instruct.data.few_shot import FewShotRender
from t5x_instruct.data.preprocessors import OptionForm, RenderContext, check_fields, render, rendered_fields
from t5x_instruct.data.row_maps import Row
from t5x_instruct.data.row_steps import RowStep
from t5x_instruct.data.seqio_vocabulary import SeqioVocabulary
from t5x_instruct.data.sources import RowSource

RowFunction = Callable[[Row, int, RenderContext], Row]


def straight_steps(task: seqio.Task) -> list[RowFunction] | None:
    """A bound task's steps from its rows to its texts, or None if it needs TensorFlow.

    Args:
        task: a task that is bound to the run's vocabulary.
    """
    if not isinstance(task.source, RowSource) or not all(map(_is_plain, task.output_features.items())):
        return None
    steps = list(task.preprocessors)
    if steps[-2:] != [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]:
        return None
    functions = [_row_function(step, task.output_features) for step in steps[:-2]]
    known = [function for function in functions if function is not None]
    return known if known and len(known) == len(functions) else None


def _is_plain(item: tuple[str, Any]) -> bool:
    name, feature = item
    return (
        name in ("inputs", "targets")
        and type(feature) is seqio.Feature
        and isinstance(feature.vocabulary, SeqioVocabulary)
        and (feature.dtype, feature.rank) == (tf.int32, 1)
    )


def _row_function(step: Any, features: Mapping[str, seqio.Feature]) -> RowFunction | None:
    if isinstance(step, RowStep):
        return step.fields
    if isinstance(step, FewShotRender):
        return step.row_function(features)
    if isinstance(step, functools.partial) and step.func is render and not step.args:
        return functools.partial(rendered_fields, **{"form": OptionForm(), **step.keywords})
    return None


def straight_rows(
    bound: BoundTask, split: str, renderings: Sequence[RenderContext], steps: Sequence[RowFunction], start: int
) -> Iterator[tuple[Mapping[str, Any], ...]]:
    """Each example of a split as its renderings, as `Task.get_dataset` would give them.

    Args:
        bound: the task.
        split: a split of its source.
        renderings: what each variant is rendered with.
        steps: what `straight_steps` gave.
        start: the first row.

    Raises:
        ConfigError: a template asks for a field that the rows do not have.
        DataError: the split has no rows; a row is at fault.
    """
    rows = bound.task.source.rows(split)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{bound.task.source.description}, split {split!r} has no rows")
    _check_templates(bound.task, first)
    features = bound.task.output_features
    rows = itertools.islice(itertools.chain([first], rows), start, None)
    for index, row in enumerate(rows, start):
        variants = []
        for context in renderings:
            rendered = row
            for step in steps:
                rendered = {**rendered, **step(rendered, index, context)}
            variants.append(_tokenized(rendered, features))
        yield tuple(variants)


def _check_templates(task: seqio.Task, first: Row) -> None:
    spec = {name: tf.TensorSpec([None] * isinstance(value, list), tf.string) for name, value in first.items()}
    for step in task.preprocessors:
        if isinstance(step, RowStep):
            spec |= {name: tf.TensorSpec([None] * rank, tf.string) for name, rank in step.adds.items()}
        elif isinstance(step, functools.partial) and step.func is render:
            check_fields(step.keywords["templates"], spec, task.name)
        elif isinstance(step, FewShotRender):
            check_fields(step.templates, spec, task.name)


def _tokenized(row: Row, features: Mapping[str, seqio.Feature]) -> dict[str, Any]:
    """What seqio's `tokenize` and `append_eos` make of one row."""
    example: dict[str, Any] = {}
    for name, value in row.items():
        if name not in features:
            example[name] = value
            continue
        vocabulary = features[name].vocabulary
        ids = vocabulary.encode(value)
        example[f"{name}_pretokenized"] = value
        example[name] = np.asarray([*ids, vocabulary.eos_id] if features[name].add_eos else ids, np.int32)
    return example
