"""The seqio preprocessor that turns a row into an instruction and an answer."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import seqio
import tensorflow as tf

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.row_maps import Row, map_rows
from t5x_instruct.templates.options import (
    BLOCK_STYLES,
    INLINE_STYLES,
    OptionsShown,
    draw_shown,
    letters_of,
    render_options,
    styles_for,
)
from t5x_instruct.templates.prompts import Template, draw

Fields = Mapping[str, str | list[str]]
PLACEHOLDERS = frozenset({"options", "options_inline"})
"""Fields of templates that show a row's options."""


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


class OptionForm(NamedTuple):
    """How a task shows its rows' options; see `tasks.add_task`."""

    shown: OptionsShown = "as_written"
    letters: bool = False


AS_WRITTEN = OptionForm()


class Rendered(NamedTuple):
    """The texts of one rendered example."""

    inputs: str
    targets: str
    accepted_targets: list[str]
    options: list[str]


def render_example(
    fields: Fields,
    templates: Sequence[Template],
    task: str,
    index: int,
    context: RenderContext,
    form: OptionForm = AS_WRITTEN,
) -> Rendered:
    """Renders one row with the template of the context or the one drawn for it: a pure function of its arguments.

    Args:
        fields: the row. `answer` is the text to learn; `answers` lists all texts that count as
            right (the first is learned where there is no `answer`); `options` lists the choices,
            shown where a template has '{options}' (a line each) or '{options_inline}', or by `form`.
        templates: the task's templates.
        task: the task's name, part of the key of the draws.
        index: the example's place in its split, part of the key of the draws.
        context: seed and variant, the rest of the key, or the template.
        form: how options are shown.

    Returns:
        The texts. `accepted_targets` has the target for every accepted answer, `options` the target
        for every option; it is empty where the drawn template does not ask for the answer.

    Raises:
        DataError: the answer is not among the options, or there is none.
    """
    key = (context.seed, task, index, context.variant)
    template = templates[template_index(templates, context, *key)]
    return render_with(fields, template, form, f"task {task!r}, example {index}", *key)


def template_index(templates: Sequence[Template], context: RenderContext, *key: str | int) -> int:
    """Which of a task's templates: the context's, or one of those it draws among."""
    if context.template is not None:
        return context.template
    return draw(len(templates[: context.num_templates]), *key)


def render_with(fields: Fields, template: Template, form: OptionForm, place: str, *key: str | int) -> Rendered:
    """Renders one row with a template; option styles are drawn by `key`. See `render_example`.

    Args:
        fields: the row.
        template: the template.
        form: how options are shown.
        place: what the row is, for messages.
        *key: see `templates.prompts.draw`.
    """
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    answers = list(fields.get("answers", ()))
    if answers:
        texts.setdefault("answer", answers[0])
    elif "answers" in fields and "answer" not in fields:
        raise DataError(f"{place}: 'answers' is an empty list; give the row an answer, or leave it out")
    choices = list(fields.get("options", ()))
    asks = not template.is_inverted
    appended, letters = "", None
    if choices:
        _check_answer(texts, choices, place)
        blocks = styles_for(choices, BLOCK_STYLES)
        block = blocks[draw(len(blocks), *key, "options")]
        inline = INLINE_STYLES[draw(len(INLINE_STYLES), *key, "options_inline")]
        texts["options"] = render_options(choices, block)
        texts["options_inline"] = render_options(choices, inline)
        if form.letters and "options" in template.input_fields:
            letters = letters_of(choices, block)
        if form.shown == "shown" and asks and not template.input_fields & PLACEHOLDERS:
            appended, letters = draw_shown(choices, form.letters, *key)
    inputs = template.render_inputs(texts) + appended
    if not asks:
        targets = template.render_targets(texts)
        return Rendered(inputs, targets, [targets], [])

    if letters is not None and "answer" in texts:
        letter = dict(zip(reversed(choices), reversed(letters), strict=True))  # of two equal options the first's
        texts["answer"] = letter[texts["answer"]]
        answers = [letter[a] for a in answers if a in letter]
        choices = letters
    targets = template.render_targets(texts)
    with_answer = [template.render_targets(texts | {"answer": a}) for a in answers]
    with_option = [template.render_targets(texts | {"answer": o}) for o in choices]
    return Rendered(inputs, targets, list(dict.fromkeys([targets, *with_answer])), with_option)


def _check_answer(texts: Mapping[str, str], choices: list[str], place: str) -> None:
    if "answer" in texts and texts["answer"] not in choices:
        raise DataError(f"{place}: the answer {texts['answer']!r} is not one of the options {choices}; correct the row")


def render(
    dataset: tf.data.Dataset, *, templates: Sequence[Template], task: str, form: OptionForm = AS_WRITTEN
) -> tf.data.Dataset:
    """Renders a dataset of rows; every field stays in the example beside the new ones.

    Adds the string features `inputs`, `targets`, `accepted_targets` (a list) and, where rows have
    options, `options` (a list, replacing the row's own).

    Args:
        dataset: rows, each a dict of string scalars, lists of strings, or numbers.
        templates: the task's templates.
        task: the task's name.
        form: how options are shown.

    Returns:
        The dataset of examples, in the same order.

    Raises:
        ConfigError: a template asks for a field that the rows do not have.
    """
    spec = dataset.element_spec
    check_fields(templates, spec, task)
    with_options = "options" in spec
    context = render_context()

    def fields(row: Row, index: int) -> Row:
        return rendered_fields(row, index, context, templates=templates, task=task, form=form)

    adds = {"inputs": 0, "targets": 0, "accepted_targets": 1} | ({"options": 1} if with_options else {})
    return map_rows(dataset, fields, adds)


def rendered_fields(
    row: Row, index: int, context: RenderContext, *, templates: Sequence[Template], task: str, form: OptionForm
) -> Row:
    """The fields that `render` adds to a row, for renderings that need no dataset; see `render_example`."""
    texts = render_example(row, templates, task, index, context, form)
    fields: Row = {"inputs": texts.inputs, "targets": texts.targets, "accepted_targets": texts.accepted_targets}
    return fields | ({"options": texts.options} if "options" in row else {})


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


def preprocessors_for(name: str, templates: Sequence[Template], form: OptionForm = AS_WRITTEN) -> list[Any]:
    """The preprocessors of a task with templates: rendering, tokenizing, EOS.

    Args:
        name: the task's name.
        templates: the task's templates.
        form: how options are shown.

    Returns:
        Preprocessors in seqio's order.
    """
    return [
        functools.partial(render, templates=tuple(templates), task=name, form=form),
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
    ]
