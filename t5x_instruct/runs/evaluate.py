"""Scoring a model on a mixture, zero-shot or with exemplars."""

import dataclasses
from pathlib import Path

from t5x_instruct.common.io import write_json
from t5x_instruct.data.prepared import PreparedMixture
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.evaluation.results import EvalResult
from t5x_instruct.evaluation.runner import evaluate
from t5x_instruct.runs.opening import open_data, open_language_model
from t5x_instruct.runs.settings import DataSettings, EvaluationSettings, ModelSettings


@dataclasses.dataclass(frozen=True)
class EvalRun:
    """An evaluation, as data.

    Attributes:
        model: which model.
        data: which mixture; with a hold-out only the tasks that are held out, else all.
        evaluation: how many examples, how long an answer.
        output: where the result goes as JSON; None: nowhere.
    """

    model: ModelSettings
    data: DataSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    output: str | None = None


def run_evaluation(run: EvalRun) -> EvalResult:
    """Asks the model the validation examples of each task and computes the tasks' metrics.

    Returns:
        The figures of each task, cluster and all.

    Raises:
        InstructError: anything that a person can mend.
    """
    lm = open_language_model(run.model)
    mixture = open_data(run.data, lm.model, lm.vocabulary, run.evaluation)
    result = score(lm, mixture, run.data, run.evaluation)
    if run.output is not None:
        write_json(Path(run.output), result.to_json())
    return result


def score(
    lm: LanguageModel, mixture: PreparedMixture, data: DataSettings, evaluation: EvaluationSettings
) -> EvalResult:
    """Asks the validation examples of the held-out tasks; of all tasks where nothing is held out."""
    return evaluate(
        lm,
        mixture,
        role="held_out" if data.hold_out else None,
        num_examples=evaluation.num_examples,
        shots=evaluation.shots,
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        inputs_length=data.task_feature_lengths["inputs"],
        seed=data.seed,
    )
