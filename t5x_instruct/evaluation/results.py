"""What an evaluation found, as plain data that goes through JSON unchanged; every figure is in 0-100."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class EvalExample:
    """One example as it was asked and answered.

    Attributes:
        index: its place in the task's split.
        prompt: the instruction's text.
        target: the text that was asked for.
        prediction: the text that the model wrote.
        template: index of the template; None where one was drawn.
        exemplars: (instruction, answer) of what stood before it in the prompt, the nearest last.
    """

    index: int
    prompt: str
    target: str
    prediction: str
    template: int | None = None
    exemplars: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "EvalExample":
        """The inverse of `dataclasses.asdict`, also after JSON."""
        exemplars = tuple((inputs, targets) for inputs, targets in value["exemplars"])
        return cls(**{**value, "exemplars": exemplars})


@dataclasses.dataclass(frozen=True)
class Best:
    """The best template of a task, chosen on one half of the examples and judged on the other (see `by_template`).

    Attributes:
        template: its index.
        score: its figure on the half it was not chosen on.
        mean: the mean over all templates on the same half, to compare with.
    """

    template: int
    score: float
    mean: float


@dataclasses.dataclass(frozen=True)
class TemplateFigures:
    """The figures of one template of a task, over all examples; see `TaskResult`."""

    metrics: Mapping[str, float]
    rank_accuracy: float | None
    rank_accuracy_normalized: float | None


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """The figures of one task.

    Attributes:
        task: its name.
        cluster: its cluster.
        num_examples: examples that were answered.
        metrics: the task's own metrics, in their order; the first is the primary one.
        rank_accuracy: percentage of examples whose likeliest option (by summed log-likelihood) is right; None where
            examples have no options.
        rank_accuracy_normalized: the same by log-likelihood per token.
        rank_chance: what guessing would reach.
        num_ranked: questions that were ranked.
        shots: mean number of exemplars before a question.
        exemplars_dropped: exemplars that were drawn for the questions and did not fit into their prompts.
        templates: where every example is asked with every template, the figures of each; those above are then means
            over the templates.
        best: the best template by the primary metric.
        best_rank: the best template by `rank_accuracy`.
        problems: what could not be computed, and why.
        seen: tasks the model was trained on that show the same rows or source data: then it is no unseen task.
        examples: a few of the examples.
    """

    task: str
    cluster: str
    num_examples: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rank_accuracy: float | None = None
    rank_accuracy_normalized: float | None = None
    rank_chance: float | None = None
    num_ranked: int = 0
    shots: float = 0.0
    exemplars_dropped: int = 0
    templates: tuple[TemplateFigures, ...] = ()
    best: Best | None = None
    best_rank: Best | None = None
    problems: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    examples: tuple[EvalExample, ...] = ()

    @property
    def primary(self) -> str | None:
        """Name of the primary metric; None where there is no metric."""
        return next(iter(self.metrics), None)

    @property
    def score(self) -> float | None:
        """Value of the primary metric."""
        return None if self.primary is None else self.metrics[self.primary]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TaskResult":
        """The inverse of `dataclasses.asdict`, also after JSON."""
        best = {name: Best(**value[name]) for name in ("best", "best_rank") if value[name] is not None}
        return cls(
            **{
                **value,
                **best,
                "problems": tuple(value["problems"]),
                "seen": tuple(value["seen"]),
                "examples": tuple(EvalExample.from_json(example) for example in value["examples"]),
                "templates": tuple(TemplateFigures(**figures) for figures in value["templates"]),
            }
        )


class Means(NamedTuple):
    """Means over tasks, each task counting once; None where no task has the figure.

    Attributes:
        score: of the primary metrics.
        exact_match: of the metrics called ``exact_match``.
        rank_accuracy: see `TaskResult`.
        rank_accuracy_normalized: see `TaskResult`.
        rank_chance: see `TaskResult`.
        best: of the scores of the tasks' best templates.
        best_rank: of their rank accuracies.
        num_tasks: tasks with at least one example.
        num_examples: examples of all tasks.
    """

    score: float | None
    exact_match: float | None
    rank_accuracy: float | None
    rank_accuracy_normalized: float | None
    rank_chance: float | None
    best: float | None
    best_rank: float | None
    num_tasks: int
    num_examples: int


def means(tasks: Sequence[TaskResult]) -> Means:
    """The means over `tasks`."""

    def mean(figure: Callable[[TaskResult], float | None]) -> float | None:
        values = [value for task in tasks if (value := figure(task)) is not None]
        return sum(values) / len(values) if values else None

    return Means(
        score=mean(lambda task: task.score),
        exact_match=mean(lambda task: task.metrics.get("exact_match")),
        rank_accuracy=mean(lambda task: task.rank_accuracy),
        rank_accuracy_normalized=mean(lambda task: task.rank_accuracy_normalized),
        rank_chance=mean(lambda task: task.rank_chance),
        best=mean(lambda task: None if task.best is None else task.best.score),
        best_rank=mean(lambda task: None if task.best_rank is None else task.best_rank.score),
        num_tasks=sum(task.num_examples > 0 for task in tasks),
        num_examples=sum(task.num_examples for task in tasks),
    )


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """The figures of an evaluation.

    Attributes:
        split: which split was evaluated.
        tasks: each task's figures, in the mixture's order.
        shots: exemplars that were asked for before each question.
        templates: 'drawn': one template for each example; 'each': every example with every template of its task.
    """

    split: str
    tasks: tuple[TaskResult, ...]
    shots: int = 0
    templates: str = "drawn"

    @property
    def overall(self) -> Means:
        """Means over all tasks."""
        return means(self.tasks)

    @property
    def mean(self) -> float | None:
        """Mean of the tasks' primary metrics, in 0-100."""
        return self.overall.score

    @property
    def clusters(self) -> dict[str, Means]:
        """Means over the tasks of each cluster, in order of first appearance."""
        return {name: means(tasks) for name, tasks in by_cluster(self.tasks).items()}

    @property
    def problems(self) -> list[str]:
        """Everything that could not be computed."""
        return [problem for task in self.tasks for problem in task.problems]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads; the means are included for other readers."""
        return {
            "split": self.split,
            "shots": self.shots,
            "templates": self.templates,
            "mean": self.mean,
            "overall": self.overall._asdict(),
            "clusters": {name: figures._asdict() for name, figures in self.clusters.items()},
            "tasks": [dataclasses.asdict(task) for task in self.tasks],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "EvalResult":
        """The inverse of `to_json`; means are computed anew."""
        tasks = tuple(TaskResult.from_json(task) for task in value["tasks"])
        return cls(value["split"], tasks, value["shots"], value["templates"])


def manner(shots: int, templates: str) -> str:
    """How questions were asked, for people: 'zero-shot', '5-shot, every template'; arguments as in `EvalResult`."""
    how = f"{shots}-shot" if shots else "zero-shot"
    return f"{how}, every template" if templates == "each" else how


def by_cluster(tasks: Iterable[TaskResult]) -> dict[str, list[TaskResult]]:
    """Tasks grouped by cluster, in order of first appearance."""
    clusters: dict[str, list[TaskResult]] = {}
    for task in tasks:
        clusters.setdefault(task.cluster, []).append(task)
    return clusters
