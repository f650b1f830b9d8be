"""The seqio preprocessor that renders a row behind solved examples of its own task.

The examples come from a pool: of the first `SCANNED` rows of the split 'train' the `POOL` ones with the smallest hash.
So memory stays bounded for any task, and no evaluation split is ever shown. A row is never among its own examples,
nor is one that asks the same.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import seqio
import tensorflow as tf

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.preprocessors import (
    PLACEHOLDERS,
    OptionForm,
    RenderContext,
    check_fields,
    render_context,
    render_with,
    rendering,
    template_index,
)
from t5x_instruct.data.row_maps import Row, map_rows
from t5x_instruct.data.row_steps import RowStep
from t5x_instruct.data.sources import RowSource
from t5x_instruct.templates.few_shot import FRAMES, Exemplar, Frame, drawn_order
from t5x_instruct.templates.prompts import Template, draw

POOL = 1_000
SCANNED = 30_000
BUDGET = 1_920
"""Tokens of inputs that exemplars may fill, as in the FLAN collection: 2,048 less room for the answer's frame."""

COUNTS = ("count_exemplars", "count_dropped_exemplars")
ExemplarTemplates = Literal["same", "mixed"]
RowFunction = Callable[[Row, int, RenderContext], dict[str, Any]]


@dataclass(frozen=True)
class Shots:
    """How many exemplars stand before a row, and which.

    Attributes:
        fewest: exemplars at least, before the budget.
        most: exemplars at most; how many of them an example gets is drawn for it.
        templates: 'same': exemplars have the template and option style of the question (FLAN's x-shot kind); 'mixed':
            each draws its own (FLAN's template-mix kind).
        budget: tokens of the whole inputs, up to which exemplars are kept; the farthest from the question is dropped
            first, each whole. A question that is longer by itself stays as it is.
    """

    fewest: int
    most: int
    templates: ExemplarTemplates = "same"
    budget: int = BUDGET

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.fewest <= self.most or self.most > POOL - 1:
            problems.append(f"shots are ({self.fewest}, {self.most}); give (fewest, most), from 0 to {POOL - 1}")
        if self.templates not in get_args(ExemplarTemplates):
            problems.append(unknown("kind of exemplar templates", self.templates, get_args(ExemplarTemplates)))
        if self.budget < 1:
            problems.append(f"the budget of exemplars is {self.budget} tokens; it must be at least 1")
        if problems:
            raise ConfigError(problems)


class _PoolRow(NamedTuple):
    place: int
    row: Row
    asks: frozenset[tuple[str, ...]]


class ExemplarPool:
    """Training rows to draw exemplars from.

    Args:
        rows: rows of the split 'train' with their places in it.
        templates: all templates of the task: a row asks what those that want the answer put into the instruction.
    """

    def __init__(self, rows: Sequence[tuple[int, Row]], templates: Sequence[Template]):
        self._questions = _questions(templates)
        texts = {names: {_texts(row, names) for _, row in rows} for names in self._questions}
        # What all rows share, such as the name of a language, says nothing of what one of them asks.
        self._questions = [names for names, values in texts.items() if len(values) > 1 or len(rows) == 1]
        self._rows = [_PoolRow(index, row, self.asks(row)) for index, row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def asks(self, row: Row) -> frozenset[tuple[str, ...]]:
        """What a row asks, in the fields of each way to ask it; of a row with options alone these."""
        if self._questions:
            return frozenset((*names, *_texts(row, names)) for names in self._questions)
        options = row.get("options", [])
        return frozenset([tuple(sorted(options))] if options else [])

    def draw(self, row: Row, index: int, count: int, *key: str | int) -> list[Row]:
        """Rows other than the one at `index` that ask something else than `row`, in an order drawn by `key`.

        Args:
            row: the row that exemplars are wanted for.
            index: its place in its split.
            count: how many; fewer come back if there are no more.
            *key: see `templates.prompts.draw`.
        """
        asked = self.asks(row)
        order = (self._rows[i] for i in drawn_order(len(self), *key))
        others = (one.row for one in order if one.place != index and not one.asks & asked)
        return list(itertools.islice(others, count))


def _questions(templates: Sequence[Template]) -> list[tuple[str, ...]]:
    asking = [t.input_fields - PLACEHOLDERS - {"answer"} for t in templates if not t.is_inverted]
    asked = [t.target_fields - {"answer"} for t in templates if t.is_inverted]
    return sorted({tuple(sorted(names)) for names in (asking or asked) if names})


def _texts(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(str(row.get(name, "")).casefold().split()) for name in names)


def render_few_shot(
    row: Row,
    index: int,
    context: RenderContext,
    *,
    task: str,
    templates: Sequence[Template],
    form: OptionForm,
    shots: Shots,
    pool: ExemplarPool,
    count_tokens: Callable[[str], int],
) -> dict[str, Any]:
    """Renders one row behind exemplars: a pure function of its arguments.

    Args:
        row: the row, see `preprocessors.render_example`.
        index: its place in its split, part of the key of all draws.
        context: seed and variant, the rest of the key, or the template.
        task: the task's name, part of the key.
        templates: the task's templates.
        form: how options are shown.
        shots: how many exemplars, which, and how long.
        pool: where they are drawn from.
        count_tokens: tokens of the model's prompt with a text.

    Returns:
        `inputs`, `targets`, `accepted_targets`, for rows with options `options`, and the counts `COUNTS`.

    Raises:
        DataError: a row's answer is not among its options.
    """
    key = (context.seed, task, index, context.variant)
    chosen = template_index(templates, context, *key)
    question = render_with(row, templates[chosen], form, f"task {task!r}, example {index}", *key)
    wanted = shots.fewest + draw(shots.most - shots.fewest + 1, *key, "shots")
    exemplars = []
    for number, other in enumerate(pool.draw(row, index, wanted, *key, "exemplars")):
        own: tuple[str | int, ...] = key
        template = chosen
        if shots.templates == "mixed":
            own = (*key, "exemplar", number)
            template = template_index(templates, context._replace(template=None), *own)
        shown = render_with(other, templates[template], form, f"task {task!r}, an exemplar of {index}", *own)
        exemplars.append(Exemplar(shown.inputs, shown.targets))
    frame = FRAMES[draw(len(FRAMES), *key, "frame")]
    kept = _fitting(exemplars, question.inputs, frame, shots.budget, count_tokens)
    fields: dict[str, Any] = {
        "inputs": frame.text(kept, question.inputs),
        "targets": question.targets,
        "accepted_targets": question.accepted_targets,
        "count_exemplars": len(kept),
        "count_dropped_exemplars": len(exemplars) - len(kept),
    }
    return fields | ({"options": question.options} if "options" in row else {})


def _fitting(
    exemplars: Sequence[Exemplar], question: str, frame: Frame, budget: int, count_tokens: Callable[[str], int]
) -> list[Exemplar]:
    """As many exemplars as fit, the first drawn last, next to the question."""
    kept = list(reversed(exemplars))
    text = frame.text(kept, question)
    # No vocabulary makes more tokens than bytes, besides those that the model's prompt has around any text.
    if not kept or len(text.encode()) + count_tokens("x") <= budget:
        return kept
    sizes = [count_tokens(frame.shown(one)) for one in kept]
    while kept and sum(sizes) > budget:  # what cannot fit goes at once: counting the whole costs most
        del kept[0], sizes[0]
    while kept and count_tokens(frame.text(kept, question)) > budget:
        del kept[0]
    return kept


class FewShotRender:
    """A seqio preprocessor like `preprocessors.render`, with exemplars.

    Besides the fields of `render` it adds the numbers `count_exemplars` and `count_dropped_exemplars`.

    Args:
        task: the task's name.
        templates: the task's templates.
        form: how options are shown.
        shots: how many exemplars, which, and how long.
        source: the task's rows.
        steps: the task's preprocessors before this one.
        all_templates: those of the task that the rows belong to, which tell what a row asks.
    """

    def __init__(
        self,
        *,
        task: str,
        templates: Sequence[Template],
        form: OptionForm,
        shots: Shots,
        source: seqio.DataSource,
        steps: Sequence[Any],
        all_templates: Sequence[Template],
    ):
        self.task = task
        self.templates = tuple(templates)
        self.form = form
        self.shots = shots
        self.source = source
        self.steps = tuple(steps)
        self.all_templates = tuple(all_templates)

    def __call__(self, dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        """The rendered dataset, as seqio calls it.

        Args:
            dataset: rows, see `preprocessors.render`.
            output_features: the task's features, whose vocabulary counts tokens.

        Returns:
            The dataset of examples, in the same order.

        Raises:
            ConfigError: a template asks for a field that the rows do not have.
            DataError: the source has no split 'train'.
        """
        check_fields(self.templates, dataset.element_spec, self.task)
        context = render_context()
        pool = self.pool(context, output_features)
        count_tokens = _counter(output_features)
        adds = {"inputs": 0, "targets": 0, "accepted_targets": 1} | dict.fromkeys(COUNTS, 0)
        if "options" in dataset.element_spec:
            adds["options"] = 1

        def new_fields(row: Row, index: int) -> dict[str, Any]:
            return self._rendered(row, index, context, pool, count_tokens)

        return map_rows(dataset, new_fields, adds).map(_with_numbers)

    def row_function(self, output_features: Mapping[str, seqio.Feature]) -> RowFunction:
        """What is done to one row, with pools that are made at first use and kept as long as the function is.

        Args:
            output_features: the task's features, bound to the run's vocabulary.

        Returns:
            A function of a row, its place in its split and the context, which gives the row's new fields.
        """
        count_tokens = _counter(output_features)
        pools: dict[tuple[int, int], ExemplarPool] = {}

        def new_fields(row: Row, index: int, context: RenderContext) -> dict[str, Any]:
            key = (context.seed, context.variant)  # what the rows of a pool depend on
            if key not in pools:
                pools[key] = self.pool(context, output_features)
            return self._rendered(row, index, context, pools[key], count_tokens)

        return new_fields

    def _rendered(
        self, row: Row, index: int, context: RenderContext, pool: ExemplarPool, count_tokens: Callable[[str], int]
    ) -> dict[str, Any]:
        return render_few_shot(
            row,
            index,
            context,
            task=self.task,
            templates=self.templates,
            form=self.form,
            shots=self.shots,
            pool=pool,
            count_tokens=count_tokens,
        )

    def pool(self, context: RenderContext, output_features: Mapping[str, seqio.Feature]) -> ExemplarPool:
        """The exemplars for one context.

        Raises:
            DataError: the source has no split 'train'.
        """
        if "train" not in self.source.splits:
            raise DataError(
                f"task {self.task!r}: exemplars come from the split 'train', but there are only"
                f" {sorted(self.source.splits)}; render it with shots=(0, 0)"
            )
        rows = itertools.islice(enumerate(self._train_rows(context, output_features)), SCANNED)
        # By seed, not by variant: the variants of an example draw from the same rows.
        drawn = ((draw(2**60, context.seed, self.task, "pool", index), index, row) for index, row in rows)
        return ExemplarPool([one[1:] for one in heapq.nsmallest(POOL, drawn)], self.all_templates)

    def _train_rows(self, context: RenderContext, features: Mapping[str, seqio.Feature]) -> Iterator[Row]:
        if isinstance(self.source, RowSource) and all(isinstance(step, RowStep) for step in self.steps):
            for index, row in enumerate(self.source.rows("train")):
                for step in self.steps:
                    row = {**row, **step.fields(row, index, context)}
                yield row
            return
        steps = [*self.steps, seqio.CacheDatasetPlaceholder()]
        task = seqio.Task(self.task, source=self.source, output_features=features, preprocessors=steps)
        with rendering(context):
            dataset = task.preprocess_precache(self.source.get_dataset("train", shuffle=False), seed=context.seed)
        for example in dataset.as_numpy_iterator():
            yield {name: _texts_in(value) for name, value in example.items() if np.ndim(value) < 2}


def _counter(output_features: Mapping[str, seqio.Feature]) -> Callable[[str], int]:
    vocabulary = (output_features.get("inputs") or output_features["targets"]).vocabulary
    return lambda text: len(vocabulary.encode(text))


def _texts_in(value: Any) -> str | list[str]:
    if np.ndim(value):
        return [_text(part) for part in value]
    return _text(value)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@tf.autograph.experimental.do_not_convert
def _with_numbers(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {**example, **{name: tf.strings.to_number(example[name], tf.int64) for name in COUNTS}}
