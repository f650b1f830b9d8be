"""Evaluation of a model on the tasks of a prepared mixture.

The model answers here; the tasks' own metrics run in a child process (`worker.py`), since seqio tasks need TensorFlow.
"""

import dataclasses
import heapq
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from t5x_instruct.common import hosts
from t5x_instruct.common.errors import ConfigError, DataError, InstructError, unknown
from t5x_instruct.common.io import read_json
from t5x_instruct.data.prepared import PreparedMixture, PreparedTask
from t5x_instruct.data.records import Example
from t5x_instruct.data.vocabularies import load_vocabulary
from t5x_instruct.decoding.generate import generate
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.evaluation.rank_classification import (
    Choice,
    Question,
    question,
    rank,
    rank_figures,
)
from t5x_instruct.evaluation.results import EvalExample, EvalResult, TaskResult
from t5x_instruct.templates.prompts import draw

#: Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

_ERROR_CHARACTERS = 4000


@dataclasses.dataclass(frozen=True, eq=False)
class _Item:
    """An example that is asked: its task's name, its place in the split, itself, its texts and cut inputs."""

    task: str
    index: int
    example: Example
    prompt: str
    target: str
    inputs: np.ndarray


def evaluate(
    lm: LanguageModel,
    mixture: PreparedMixture,
    *,
    role: str | None = "held_out",
    tasks: Sequence[str] | None = None,
    split: str = "validation",
    num_examples: int | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    inputs_length: int | None = None,
    seed: int = 0,
    modules: Sequence[str] | None = None,
    keep_examples: int = 8,
    progress: Progress | None = None,
) -> EvalResult:
    """Asks the model the tasks' examples, greedily, and computes the tasks' metrics.

    Examples with `options` are also answered by rank classification. The result depends on the model, the data and
    the arguments only: the same examples are asked every time, before and after training. On several hosts every
    host calls this; the rows are spread over the mesh of the parameters, host 0 computes the metrics for all.

    Args:
        lm: the model, with the vocabulary that the mixture was prepared with.
        mixture: prepared examples, with their prompts already in the model's prompt format.
        role: evaluate the mixture's ``held_out`` tasks or those it is trained on (``train``); None for both.
        tasks: evaluate just these, whatever their role.
        split: which of the tasks' splits.
        num_examples: at most this many examples of each task, chosen by hash; None for all.
        max_new_tokens: answers are cut after so many tokens.
        batch_size: examples answered at once.
        inputs_length: longer prompts lose tokens before their tail, as in training; None never cuts.
        seed: of the choice of examples.
        modules: what registers the tasks; by default what the mixture was prepared with.
        keep_examples: how many examples of each task the result holds.
        progress: told how far the work is.

    Returns:
        The figures of each task; whatever could not be computed is in its `problems`, the rest goes on.

    Raises:
        ConfigError: an unknown task or role, or none to evaluate; a task module that cannot be imported.
        DataError: the mixture was prepared with another vocabulary.
        InstructError: the metrics' process died; the message has the end of what it said.
    """
    _check_vocabulary(lm, mixture)
    chosen = _choose_tasks(mixture, role, tasks)
    with_split = [task for task in chosen if split in task.splits]
    items = [item for task in with_split for item in _items(lm, task, split, num_examples, seed, inputs_length)]
    answers = _answers(lm, items, max_new_tokens, batch_size, _stage(progress, "answers"))
    ranked = _ranked(lm, items, batch_size, _stage(progress, "options"))
    judged = _judge(
        {
            "modules": list(mixture.spec.modules if modules is None else modules),
            "module_options": dict(mixture.spec.module_options),
            "vocabulary": str(mixture.spec.vocabulary),
            "tasks": {task.name: _records(task.name, answers) for task in with_split},
        }
    )
    results = [
        _task_result(task, answers, ranked, judged[task.name], keep_examples)
        if split in task.splits
        else _without_split(task, split)
        for task in chosen
    ]
    return EvalResult(split, tuple(results))


class _Answer(NamedTuple):
    """An item with the token ids and the text the model continued it with."""

    item: _Item
    ids: np.ndarray
    text: str


_Ranked = list[tuple[_Item, Question, Choice]]


def _check_vocabulary(lm: LanguageModel, mixture: PreparedMixture) -> None:
    prepared = load_vocabulary(mixture.spec.vocabulary)
    if prepared.fingerprint != lm.vocabulary.fingerprint:
        raise DataError(
            f"mixture {mixture.name!r} was prepared with the vocabulary {mixture.spec.vocabulary} "
            f"({prepared.fingerprint[:12]}), the model has another ({lm.vocabulary.fingerprint[:12]}); "
            "prepare it again with the model's"
        )


def _choose_tasks(mixture: PreparedMixture, role: str | None, names: Sequence[str] | None) -> list[PreparedTask]:
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


def _items(
    lm: LanguageModel,
    task: PreparedTask,
    split: str,
    num_examples: int | None,
    seed: int,
    inputs_length: int | None,
) -> list[_Item]:
    """The task's examples to ask, in the split's order."""
    prepared = task.splits[split]
    items = []
    for index in chosen_indices(task.name, prepared.num_examples, num_examples, seed):
        example = prepared.read(index)
        meta = example.meta
        prompt = meta.get("inputs_pretokenized")
        target = meta.get("targets_pretokenized")
        inputs = example.inputs if len(example.inputs) else np.asarray([lm.vocabulary.start_id])
        items.append(
            _Item(
                task=task.name,
                index=index,
                example=example,
                prompt=lm.vocabulary.decode(example.inputs.tolist()) if prompt is None else prompt,
                target=lm.vocabulary.decode(example.targets.tolist()) if target is None else target,
                inputs=_shortened(inputs, inputs_length, task.inputs_tail),
            )
        )
    return items


def _shortened(inputs: np.ndarray, length: int | None, tail: int) -> np.ndarray:
    """At most `length` tokens: those before the last `tail` go first, as when rows are made for training."""
    if length is None or len(inputs) <= length:
        return inputs
    tail = min(tail, length)
    return np.concatenate([inputs[: length - tail], inputs[len(inputs) - tail :]])


def _answers(
    lm: LanguageModel,
    items: Sequence[_Item],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Answer]:
    continuations = generate(
        lm.model,
        lm.params,
        [item.inputs for item in items],
        max_new_tokens=max_new_tokens,
        eos_id=lm.vocabulary.eos_id,
        pad_id=lm.vocabulary.pad_id,
        batch_size=batch_size,
        progress=progress,
    )
    return [
        _Answer(item, ids, lm.vocabulary.decode(ids.tolist())) for item, ids in zip(items, continuations, strict=True)
    ]


def _ranked(
    lm: LanguageModel,
    items: Sequence[_Item],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> _Ranked:
    asked = []
    for item in items:
        targets = item.example.targets
        ends = len(targets) > 0 and int(targets[-1]) == lm.vocabulary.eos_id
        asked.append((item, question(item.inputs, item.target, item.example.meta, ends=ends)))
    questions = [(item, q) for item, q in asked if q is not None]
    choices = rank(lm, [q for _, q in questions], batch_size=batch_size, progress=progress)
    return [(item, q, choice) for (item, q), choice in zip(questions, choices, strict=True)]


def _records(task: str, answers: Sequence[_Answer]) -> list[dict[str, Any]]:
    """A task's examples as the worker reads them."""
    return [
        {
            "target": answer.item.target,
            "prediction": answer.text,
            "prediction_ids": answer.ids.tolist(),
            "inputs": answer.item.example.inputs.tolist(),
            "targets": answer.item.example.targets.tolist(),
            "meta": answer.item.example.meta,
        }
        for answer in answers
        if answer.item.task == task
    ]


def _judge(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The worker's answer, on every host; an error on host 0 is raised on all of them."""
    answer: dict[str, Any] = {}
    if hosts.process_index() == 0:
        try:
            answer = {"tasks": _run_worker(request)}
        except InstructError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
    answer = hosts.broadcast_from_host0(answer)
    if "error" in answer:
        kind = ConfigError if answer["exit_code"] == ConfigError.exit_code else InstructError
        raise kind(answer["error"])
    return answer["tasks"]


def _run_worker(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="t5x_instruct_eval_") as folder:
        asked, answered = Path(folder, "request.msgpack"), Path(folder, "answer.json")
        asked.write_bytes(msgpack.packb(request))
        # The child must see the same modules, and must not take the accelerator that this process holds.
        search_path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        done = subprocess.run(
            [sys.executable, "-m", "t5x_instruct.evaluation.worker", str(asked), str(answered)],
            env=os.environ | {"PYTHONPATH": search_path, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            return read_json(answered)
        said = done.stderr.strip()[-_ERROR_CHARACTERS:]
        if done.returncode == ConfigError.exit_code:
            raise ConfigError(said)
        raise InstructError(f"the process that computes metrics ended with code {done.returncode}:\n{said}")


def _task_result(
    task: PreparedTask,
    answers: Sequence[_Answer],
    ranked: _Ranked,
    judged: Mapping[str, Any],
    keep_examples: int,
) -> TaskResult:
    own = [answer for answer in answers if answer.item.task == task.name]
    chosen = [(q, choice) for item, q, choice in ranked if item.task == task.name]
    figures = rank_figures([q for q, _ in chosen], [choice for _, choice in chosen])
    problems = list(judged["problems"])
    if not own:
        problems.append(f"task {task.name!r}: there is no example to ask")
    return TaskResult(
        task=task.name,
        cluster=task.cluster,
        num_examples=len(own),
        metrics=judged["metrics"],
        rank_accuracy=figures.accuracy,
        rank_accuracy_normalized=figures.accuracy_normalized,
        rank_chance=figures.chance,
        num_ranked=len(chosen),
        problems=tuple(problems),
        examples=tuple(
            EvalExample(item.index, item.prompt, item.target, text) for item, _, text in own[:keep_examples]
        ),
    )


def _without_split(task: PreparedTask, split: str) -> TaskResult:
    has = ", ".join(task.splits) or "none"
    problem = f"task {task.name!r}: no split {split!r} is prepared (there is: {has})"
    return TaskResult(task.name, task.cluster, problems=(problem,))


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
