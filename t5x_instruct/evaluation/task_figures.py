"""From the answers to one task's questions to its figures."""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from t5x_instruct.data.prepared import PreparedTask
from t5x_instruct.evaluation.asking import Asked, Questions
from t5x_instruct.evaluation.by_template import best_of, choosing_half, mean_metrics, mean_of
from t5x_instruct.evaluation.rank_classification import Choice, Question, RankFigures, rank_figures
from t5x_instruct.evaluation.results import Best, EvalExample, TaskResult, TemplateFigures


class Answer(NamedTuple):
    """A prompt with the token ids and the text the model continued it with."""

    asked: Asked
    ids: np.ndarray
    text: str


class Ranked(NamedTuple):
    """A prompt with its options and the model's choice among them."""

    asked: Asked
    question: Question
    choice: Choice


class _OfPrompt(Protocol):
    @property
    def asked(self) -> Asked: ...


T = TypeVar("T", bound=_OfPrompt)


@dataclasses.dataclass(frozen=True, eq=False)
class TaskAnswers:
    """All that a model answered to a task's questions.

    Attributes:
        questions: what was asked.
        answers: to all of the prompts.
        ranked: those that have options.
        seed: of the halves, see `by_template`.
    """

    questions: Questions
    answers: Sequence[Answer]
    ranked: Sequence[Ranked]
    seed: int

    def groups(self) -> list[list[dict[str, Any]]]:
        """What metrics are computed over, as the worker reads it: all answers, or those of each template.

        With templates the groups are, one after another, all answers by template, and the answers of the choosing
        and of the reporting half by template.
        """
        if not self.questions.num_templates:
            return [[_record(answer) for answer in self.answers]]
        return [[_record(answer) for answer in one] for part in self._sliced(self.answers) for one in part]

    def result(self, judged: Mapping[str, Any], keep_examples: int) -> TaskResult:
        """The task's figures.

        Args:
            judged: the worker's answer for `groups`.
            keep_examples: how many examples to keep.
        """
        task, num_templates, asked, problems = self.questions
        problems = [*problems, *judged["problems"]]
        if not asked:
            problems.append(f"task {task.name!r}: there is no example to ask")
        return TaskResult(
            task=task.name,
            cluster=task.cluster,
            num_examples=len({one.index for one in asked}),
            num_ranked=len(self.ranked),
            shots=float(np.mean([len(one.exemplars) for one in asked])) if asked else 0.0,
            exemplars_dropped=sum(one.dropped for one in asked),
            problems=tuple(problems),
            examples=tuple(_example(answer) for answer in self._kept()[:keep_examples]),
            **(self._by_template(judged["metrics"]) if num_templates else self._pooled(judged["metrics"][0])),
        )

    def _pooled(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        figures = _rank_figures(self.ranked)
        return {
            "metrics": metrics,
            "rank_accuracy": figures.accuracy,
            "rank_accuracy_normalized": figures.accuracy_normalized,
            "rank_chance": figures.chance,
        }

    def _by_template(self, metrics: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """Means over templates, each template's own figures, and the best template."""
        count = self.questions.num_templates
        every, choosing, reporting = (metrics[start : start + count] for start in range(0, 3 * count, count))
        primary = next(iter(mean_metrics(every)), "")
        ranks = [[_rank_figures(one) for one in part] for part in self._sliced(self.ranked)]
        return {
            "metrics": mean_metrics(every),
            "rank_accuracy": mean_of([one.accuracy for one in ranks[0]]),
            "rank_accuracy_normalized": mean_of([one.accuracy_normalized for one in ranks[0]]),
            "rank_chance": mean_of([one.chance for one in ranks[0]]),
            "templates": tuple(
                TemplateFigures(own, rank.accuracy, rank.accuracy_normalized)
                for own, rank in zip(every, ranks[0], strict=True)
            ),
            "best": _best(*([one.get(primary) for one in part] for part in (every, choosing, reporting))),
            "best_rank": _best(*([one.accuracy for one in part] for part in ranks)),
        }

    def _sliced(self, things: Sequence[T]) -> list[list[list[T]]]:
        """Answers or choices by template: of all examples, of the choosing half, of the reporting half."""
        task, num_templates, asked, _ = self.questions
        indices = {one.index for one in asked}
        half = choosing_half(task.name, indices, self.seed)

        def of(part: Set[int]) -> list[list[T]]:
            return [
                [one for one in things if one.asked.template == template and one.asked.index in part]
                for template in range(num_templates)
            ]

        return [of(indices), of(half), of(indices - half)]

    def _kept(self) -> list[Answer]:
        """One answer of each example, with the templates in turn."""
        count = self.questions.num_templates
        if not count:
            return list(self.answers)
        places = {index: place for place, index in enumerate(dict.fromkeys(one.index for one in self.questions.asked))}
        return [one for one in self.answers if one.asked.template == places[one.asked.index] % count]


def without_split(task: PreparedTask, split: str) -> TaskResult:
    """The result of a task that cannot be asked for want of a split."""
    has = ", ".join(task.splits) or "none"
    problem = f"task {task.name!r}: no split {split!r} is prepared (there is: {has})"
    return TaskResult(task.name, task.cluster, problems=(problem,))


def _best(every: list[float | None], choosing: list[float | None], reporting: list[float | None]) -> Best | None:
    # Where there is nothing to choose, no example is spent on choosing.
    return best_of(every, every) if len(every) == 1 else best_of(choosing, reporting)


def _rank_figures(ranked: Sequence[Ranked]) -> RankFigures:
    return rank_figures([one.question for one in ranked], [one.choice for one in ranked])


def _record(answer: Answer) -> dict[str, Any]:
    """An answered example as the worker reads it."""
    example = answer.asked.example
    return {
        "target": answer.asked.target,
        "prediction": answer.text,
        "prediction_ids": answer.ids.tolist(),
        "inputs": example.inputs.tolist(),
        "targets": example.targets.tolist(),
        "meta": example.meta,
    }


def _example(answer: Answer) -> EvalExample:
    one = answer.asked
    exemplars = tuple((exemplar.inputs, exemplar.targets) for exemplar in one.exemplars)
    return EvalExample(one.index, one.question, one.target, answer.text, one.template, exemplars)
