"""The seqio preprocessor that turns a row into an instruction and an answer."""

import contextlib
import contextvars
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.templates.options import BLOCK_STYLES, INLINE_STYLES, render_options
from t5x_instruct.templates.prompts import Template, draw

CHUNK = 256  # rows that pass between TensorFlow and Python at once
Fields = Mapping[str, str | list[str]]


class RenderContext(NamedTuple):
    """What a rendering depends on besides the example itself.

    Attributes:
        seed: the seed of the draws of templates and option styles.
        variant: which of several renderings of the same example.
        template: index of the template for all examples; None draws one for each.
        num_templates: draw among this many templates, the first ones; None: among all.
    """

    seed: int = 0
    variant: int = 0
    template: int | None = None
    num_templates: int | None = None


_CONTEXT: contextvars.ContextVar[RenderContext] = contextvars.ContextVar("render_context", default=RenderContext())


@contextlib.contextmanager
def rendering(context: RenderContext) -> Iterator[None]:
    """Sets the `RenderContext` for the datasets whose graph is built inside the `with`.

    A dataset keeps what it was built with: it may be read after the `with` is left.

    Args:
        context: what they are rendered with.
    """
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def render_context() -> RenderContext:
    """The context of the dataset that is being built, for preprocessors that draw something."""
    return _CONTEXT.get()


class Rendered(NamedTuple):
    """The texts of one rendered example."""

    inputs: str
    targets: str
    accepted_targets: list[str]
    options: list[str]


def render_example(
    fields: Fields, templates: Sequence[Template], task: str, index: int, context: RenderContext
) -> Rendered:
    """Renders one row with the template of the context or the one drawn for it: a pure function of its arguments.

    Args:
        fields: the row. `answer` is the text to learn; `answers` lists all texts that count as
            right (the first is learned where there is no `answer`); `options` lists the choices,
            shown where a template has '{options}' (a line each) or '{options_inline}'.
        templates: the task's templates.
        task: the task's name, part of the key of the draws.
        index: the example's place in its split, part of the key of the draws.
        context: seed and variant, the rest of the key, or the template.

    Returns:
        The texts. `accepted_targets` has the target for every accepted answer, `options` the target
        for every option; it is empty where the drawn template does not ask for the answer.

    Raises:
        DataError: the answer is not among the options.
    """
    key = (context.seed, task, index, context.variant)
    usable = templates[: context.num_templates]
    template = usable[draw(len(usable), *key)] if context.template is None else templates[context.template]
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    answers = list(fields.get("answers", ()))
    if answers:
        texts.setdefault("answer", answers[0])
    choices = list(fields.get("options", ()))
    if choices:
        _check_answer(texts, choices, task, index)
        block = BLOCK_STYLES[draw(len(BLOCK_STYLES), *key, "options")]
        inline = INLINE_STYLES[draw(len(INLINE_STYLES), *key, "options_inline")]
        texts["options"] = render_options(choices, block)
        texts["options_inline"] = render_options(choices, inline)
    inputs, targets = template.render(texts)

    if "answer" not in template.target_fields:
        return Rendered(inputs, targets, [targets], [])
    with_answer = [template.render_targets(texts | {"answer": a}) for a in answers]
    with_option = [template.render_targets(texts | {"answer": o}) for o in choices]
    return Rendered(inputs, targets, list(dict.fromkeys([targets, *with_answer])), with_option)


def _check_answer(texts: Mapping[str, str], choices: list[str], task: str, index: int) -> None:
    if "answer" in texts and texts["answer"] not in choices:
        raise DataError(
            f"task {task!r}, example {index}: the answer {texts['answer']!r} is not one of the"
            f" options {choices}; correct the row"
        )


def render(dataset: tf.data.Dataset, *, templates: Sequence[Template], task: str) -> tf.data.Dataset:
    """Renders a dataset of rows; every field stays in the example beside the new ones.

    Adds the string features `inputs`, `targets`, `accepted_targets` (a list) and, where rows have
    options, `options` (a list, replacing the row's own).

    Args:
        dataset: rows, each a dict of string scalars, lists of strings, or numbers.
        templates: the task's templates.
        task: the task's name.

    Returns:
        The dataset of examples, in the same order.

    Raises:
        ConfigError: a template asks for a field that the rows do not have.
    """
    spec = dataset.element_spec
    check_fields(templates, spec, task)
    names = [name for name in sorted(spec) if spec[name].shape.rank in (0, 1)]
    context = render_context()

    def render_chunk(indices: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
        chunk = [
            render_example(fields, templates, task, int(index), context)
            for index, fields in zip(indices, _rows_of(spec, names, columns), strict=True)
        ]
        accepted = _ragged_parts([rendered.accepted_targets for rendered in chunk])
        options = _ragged_parts([rendered.options for rendered in chunk])
        texts = [_bytes(r.inputs for r in chunk), _bytes(r.targets for r in chunk)]
        return [*texts, *accepted, *options]

    @tf.autograph.experimental.do_not_convert
    def render_rows(indices: tf.Tensor, rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        columns = [part for name in names for part in _parts(rows[name], spec[name].shape.rank)]
        kinds = [tf.string, tf.string, tf.string, tf.int64, tf.string, tf.int64]
        parts = tf.numpy_function(render_chunk, [indices, *columns], kinds, stateful=False)
        for part in parts:
            part.set_shape([None])
        inputs, targets, accepted, accepted_lengths, options, option_lengths = parts
        new = {
            "inputs": inputs,
            "targets": targets,
            "accepted_targets": _ragged(accepted, accepted_lengths),
        }
        if "options" in rows:
            new["options"] = _ragged(options, option_lengths)
        return {**rows, **new}

    # In chunks, because a call from TensorFlow into Python costs more than rendering an example.
    chunks = dataset.enumerate().ragged_batch(CHUNK)
    return without_ragged(chunks.map(render_rows, num_parallel_calls=1).unbatch())


def without_ragged(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Gives lists the plain type [None] again, after chunks were taken apart."""
    if not any(isinstance(part, tf.RaggedTensorSpec) for part in dataset.element_spec.values()):
        return dataset
    return dataset.map(_as_tensors)


@tf.autograph.experimental.do_not_convert
def _as_tensors(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    return {name: tf.convert_to_tensor(value) for name, value in example.items()}


def check_fields(templates: Sequence[Template], spec: Mapping[str, Any], task: str) -> None:
    """Checks that rows have what templates use.

    Args:
        templates: the task's templates.
        spec: element spec of the rows, by field name.
        task: the task's name, for the message.

    Raises:
        ConfigError: with every template and field that do not fit.
    """
    usable = {name for name, part in spec.items() if part.shape.rank == 0}
    if "answers" in spec:
        usable.add("answer")
    if "options" in spec:
        usable |= {"options", "options_inline"}
    problems = [
        f"task {task!r}: {unknown('field', name, usable)}, used by the template {t.inputs!r}"
        for t in templates
        for name in sorted(t.fields - usable)
    ]
    if problems:
        raise ConfigError(problems)


def _parts(column: tf.Tensor | tf.RaggedTensor, rank: int) -> list[tf.Tensor]:
    """A column of a chunk as plain tensors: [values], or for lists [flat values, row lengths]."""
    if rank == 0:
        return [column]
    if isinstance(column, tf.Tensor):  # lists of a fixed length come as a matrix
        column = tf.RaggedTensor.from_tensor(column)
    return [column.flat_values, column.row_lengths()]


def _ragged(values: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def _rows_of(
    spec: Mapping[str, Any], names: Sequence[str], columns: Sequence[np.ndarray]
) -> Iterator[dict[str, str | list[str]]]:
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


def _ragged_parts(lists: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    flat = _bytes(text for texts in lists for text in texts)
    return flat, np.array([len(texts) for texts in lists], np.int64)


def preprocessors_for(name: str, templates: Sequence[Template]) -> list[Any]:
    """The preprocessors of a task with templates: rendering, tokenizing, EOS.

    Args:
        name: the task's name.
        templates: the task's templates.

    Returns:
        Preprocessors in seqio's order.
    """
    return [
        functools.partial(render, templates=tuple(templates), task=name),
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
    ]
