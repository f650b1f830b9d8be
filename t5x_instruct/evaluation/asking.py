"""What a model is asked: which tasks, which of their examples, and the prompts."""

import dataclasses
import functools
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.cutting import cut_inputs
from t5x_instruct.data.prepare_spec import EXEMPLARS
from t5x_instruct.data.prepared import PreparedMixture, PreparedTask
from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.records import Example
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary
from t5x_instruct.evaluation.exemplars import ExemplarPool, fitted, prompt_form, text_of
from t5x_instruct.templates.chat import PromptFormat
from t5x_instruct.templates.few_shot import Exemplar
from t5x_instruct.templates.prompts import draw


class Asking(NamedTuple):
    """How the questions of all tasks are made; see `runner.evaluate`."""

    vocabulary: Vocabulary
    prompt_format: PromptFormat
    split: str
    num_examples: int | None
    inputs_length: int | None
    shots: int
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A prompt.

    Attributes:
        task: its task's name.
        index: the example's place in the split.
        template: index of the template it is rendered with; None where one was drawn.
        example: the prepared example.
        question: the instruction's text.
        target: the text that is asked for.
        inputs: int32 ids of the whole prompt; may be none.
        exemplars: what stands before the question in it, the nearest last.
        drawn: exemplars that were drawn for it; None where the prompt is not made of the question's text.
    """

    task: str
    index: int
    template: int | None
    example: Example
    question: str
    target: str
    inputs: np.ndarray
    exemplars: Sequence[Exemplar] = ()
    drawn: int | None = 0

    @property
    def dropped(self) -> int:
        """Exemplars that did not fit."""
        return (self.drawn or 0) - len(self.exemplars)


def make_asking(
    mixture: PreparedMixture,
    vocabulary: Vocabulary,
    *,
    split: str,
    num_examples: int | None,
    inputs_length: int | None,
    shots: int,
    seed: int,
) -> Asking:
    """Checks that questions can be asked as wanted; arguments as of `runner.evaluate`.

    Raises:
        ConfigError: exemplars are wanted and none were prepared.
        DataError: the mixture was prepared with another vocabulary.
    """
    prepared = load_vocabulary(mixture.spec.vocabulary)
    if prepared.fingerprint != vocabulary.fingerprint:
        raise DataError(
            f"mixture {mixture.name!r} was prepared with the vocabulary {mixture.spec.vocabulary} "
            f"({prepared.fingerprint[:12]}), the model has another ({vocabulary.fingerprint[:12]}); "
            "prepare it again with the model's"
        )
    if shots < 0:
        raise ConfigError(f"shots is {shots}: must be 0 or more")
    if shots and not mixture.spec.exemplars:
        raise ConfigError(f"mixture {mixture.name!r} was prepared without exemplars; prepare it with exemplars=True")
    prompt_format = make_prompt_format(mixture.spec.prompt_format, vocabulary)
    return Asking(vocabulary, prompt_format, split, num_examples, inputs_length, shots, seed)


def choose_tasks(mixture: PreparedMixture, role: str | None, names: Sequence[str] | None) -> list[PreparedTask]:
    """The tasks to evaluate; arguments and errors as of `runner.evaluate`."""
    by_name = {task.name: task for task in mixture.tasks}
    if names is not None:
        problems = [unknown("task", name, by_name) for name in names if name not in by_name]
        if problems:
            raise ConfigError(problems)
        return [by_name[name] for name in dict.fromkeys(names)]
    groups = {"held_out": mixture.held_out_tasks, "train": mixture.train_tasks, None: mixture.tasks}
    if role not in groups:
        raise ConfigError(unknown("role", str(role), ["held_out", "train"]))
    if not groups[role]:
        raise ConfigError(
            f"mixture {mixture.name!r} has no {role or ''} tasks to evaluate; "
            "name `tasks`, or prepare it with `hold_out`"
        )
    return list(groups[role])


def chosen_indices(task: str, available: int, num_examples: int | None, seed: int) -> Sequence[int]:
    """Which examples of a split are asked: the first by a hash of seed, task and index, in the split's order.

    Args:
        task: the task's name.
        available: examples of the split.
        num_examples: at most so many; None for all.
        seed: another one chooses others.
    """
    everything = range(available)
    if num_examples is None or num_examples >= available:
        return everything
    return sorted(heapq.nsmallest(num_examples, everything, key=lambda i: draw(1 << 62, seed, task, i)))


class Questions(NamedTuple):
    """All that a task is asked.

    Attributes:
        task: the task.
        num_templates: templates that every example is asked with; 0 where one was drawn.
        asked: the prompts, example by example in the split's order.
        problems: what could not be asked as it was meant.
    """

    task: PreparedTask
    num_templates: int
    asked: Sequence[Asked]
    problems: Sequence[str]


def ask(task: PreparedTask, asking: Asking) -> Questions:
    """A task's questions; the task must have the split of `asking`."""
    split = task.splits[asking.split]
    indices = chosen_indices(task.name, split.num_examples, asking.num_examples, asking.seed)
    pool = None
    if asking.shots and EXEMPLARS in task.splits:
        pool = ExemplarPool(task.name, task.splits[EXEMPLARS], asking.seed)
    variants = split.variants if task.each_template else 1
    asked = [
        _asked(task, split.read(index, variant), index, variant, pool, asking)
        for index in indices
        for variant in range(variants)
    ]
    problems = _shortages(task, asked, pool, asking.shots)
    return Questions(task, variants if task.each_template else 0, asked, problems)


def _asked(
    task: PreparedTask, example: Example, index: int, variant: int, pool: ExemplarPool | None, asking: Asking
) -> Asked:
    question = text_of(example, "inputs")
    inputs = example.inputs
    num_drawn: int | None = 0
    kept: Sequence[Exemplar] = ()
    if pool is not None:
        form, num_drawn = prompt_form(example, asking.vocabulary, asking.prompt_format), None
        if form is not None:
            drawn = pool.draw(asking.shots, index, question, example.meta, variant)
            num_drawn = len(drawn)
            prompt, kept = fitted(drawn, functools.partial(form.ids, question=question), asking.inputs_length)
            inputs = prompt if kept else inputs
    return Asked(
        task=task.name,
        index=index,
        template=variant if task.each_template else None,
        example=example,
        question=question,
        target=text_of(example, "targets"),
        inputs=_shortened(inputs, asking.inputs_length, task.inputs_tail),
        exemplars=kept,
        drawn=num_drawn,
    )


def _shortened(inputs: np.ndarray, length: int | None, tail: int) -> np.ndarray:
    """At most `length` tokens, the ones that are left when rows are made for training."""
    return inputs if length is None else cut_inputs(inputs, length, min(tail, length))


def _shortages(task: PreparedTask, asked: Sequence[Asked], pool: ExemplarPool | None, shots: int) -> list[str]:
    """Why questions have fewer exemplars than were asked for, other than that they did not fit."""
    if not shots or not asked:
        return []
    if pool is None:
        return [f"task {task.name!r}: it has no split 'train' to take exemplars from, so it is asked without any"]
    unframed = sum(one.drawn is None for one in asked)
    short = sum(one.drawn is not None and one.drawn < shots for one in asked)
    problems = []
    if unframed:
        problems.append(
            f"task {task.name!r}: {unframed} of {len(asked)} questions are asked without exemplars, since their token "
            "ids are not those of their text in the model's prompt format"
        )
    if short:
        problems.append(
            f"task {task.name!r}: {short} of {len(asked)} questions have fewer than {shots} exemplars, since its split "
            f"'train' has {pool.split.num_examples} examples, and the question itself is never one"
        )
    return problems
