"""Scores on the scale from guessing (0) to perfect (100), so that suites of benchmarks can be averaged."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from t5x_instruct.evaluation.results import TaskResult, by_cluster


class NormalizedAverage(NamedTuple):
    """The mean over suites of the suites' normalised scores.

    Attributes:
        average: the mean over `suites`, each counting once; None without any.
        suites: for each cluster the mean of its tasks' normalised scores.
    """

    average: float | None
    suites: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"average": self.average, "suites": self.suites}


def normalized_score(task: TaskResult) -> float | None:
    """A task's score as the part of the way from guessing to perfect, in percent; below 0 it is worse than guessing.

    The score is the primary metric of what the model wrote, or for a task without metrics the accuracy of rank
    classification. Guessing is right as often as a drawn option, and never where there are no options.

    Args:
        task: its figures.

    Returns:
        100 * (score - guessing) / (100 - guessing); None where there is no score, or guessing is always right.

    Source: Srivastava et al. 2022, Beyond the Imitation Game (normalised preferred metric); Chung et al. 2022, Scaling
    Instruction-Finetuned Language Models, section 2.3, which averages MMLU, BBH, TyDiQA and MGSM so.
    """
    score = task.rank_accuracy if task.score is None else task.score
    guessing = task.rank_chance or 0.0
    if score is None or guessing >= 100.0:
        return None
    return 100.0 * (score - guessing) / (100.0 - guessing)


def normalized_average(tasks: Sequence[TaskResult]) -> NormalizedAverage:
    """The normalised average of an evaluation; each cluster is a suite.

    Args:
        tasks: the figures of all tasks.
    """
    suites = {}
    for cluster, members in by_cluster(tasks).items():
        scores = [score for task in members if (score := normalized_score(task)) is not None]
        if scores:
            suites[cluster] = sum(scores) / len(scores)
    return NormalizedAverage(sum(suites.values()) / len(suites) if suites else None, suites)
