"""Scoring a model on a mixture, zero-shot or with exemplars."""

import dataclasses
from collections.abc import Sequence

from t5x_instruct.checkpoints.restore import run_folder
from t5x_instruct.common import hosts
from t5x_instruct.common.errors import DataError
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.common.paths import as_path
from t5x_instruct.data.prepared import PreparedMixture
from t5x_instruct.data.sharing import Identified, TaskIdentity, refuse_shared, shared_data
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
        ConfigError: the model was trained on data of these tasks, and that is not allowed.
        InstructError: anything else that a person can mend.
    """
    trained = trained_tasks(run.model.initial_checkpoint_path)
    lm = open_language_model(run.model)
    mixture = open_data(run.data, lm.model, lm.vocabulary, lm.prompt_format.name, run.evaluation)
    refuse_shared(trained, mixture.held_out_tasks if run.data.hold_out else mixture.tasks, run.data.allow_overlap)
    result = score(lm, mixture, run.data, run.evaluation, trained)
    if run.output is not None and hosts.process_index() == 0:
        write_json(as_path(run.output), result.to_json())
    return result


def trained_tasks(checkpoint: str | None) -> list[TaskIdentity]:
    """What the model of a run was trained on, as its manifest tells; nothing is known of other checkpoints.

    Args:
        checkpoint: a checkpoint's name, see `checkpoints.restore.open_source`.

    Raises:
        DataError: the manifest is damaged.
    """
    folder = None if checkpoint is None else run_folder(checkpoint)
    if folder is None or not (folder / "manifest.json").exists():
        return []
    manifest = read_json(folder / "manifest.json")
    try:
        return [TaskIdentity(**task) for task in manifest["trained_on"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'manifest.json'} does not tell what the model was trained on ({error!r}): it is damaged, or "
            "of a version that did not write it; put it back, start the run's command once more, which writes it anew, "
            "or name an exported folder of the model (t5x-instruct convert), of which nothing is known"
        ) from error


def score(
    lm: LanguageModel,
    mixture: PreparedMixture,
    data: DataSettings,
    evaluation: EvaluationSettings,
    trained: Sequence[Identified] = (),
) -> EvalResult:
    """Asks the held-out tasks, or all where nothing is held out, on the first of the run's splits that is not 'train'.

    Args:
        lm: the model.
        mixture: the prepared mixture.
        data: what is held out, lengths, seed.
        evaluation: how the tasks are asked.
        trained: what the model has been trained on; tasks that share data with it are marked in the result.
    """
    seen: dict[str, list[str]] = {}
    for one in shared_data(trained, mixture.tasks):
        seen.setdefault(one.evaluated, []).append(one.trained)
    result = evaluate(
        lm,
        mixture,
        role="held_out" if data.hold_out else None,
        split=next((split for split in data.splits if split != "train"), "validation"),
        num_examples=evaluation.num_examples,
        shots=evaluation.shots,
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        inputs_length=data.task_feature_lengths["inputs"],
        seed=data.seed,
    )
    marked = (dataclasses.replace(task, seen=tuple(seen.get(task.task, ()))) for task in result.tasks)
    return dataclasses.replace(result, tasks=tuple(marked))
