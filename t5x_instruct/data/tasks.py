"""The registry: tasks and mixtures are seqio's own, with what seqio does not know beside them.

A task in a few lines:

    add_task(
        "capital_of_country",
        cluster="geography",
        source={"train": [{"country": "France", "answer": "Paris"}, ...], "validation": [...]},
        templates=["What is the capital of {country}?", "Country: {country}\\nCapital:", ...],
        metrics=[exact_match],
    )
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import seqio

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.data.preprocessors import preprocessors_for
from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.sources import Rows, RowSource
from t5x_instruct.templates.prompts import Template

MetricFn = Callable[..., Mapping[str, Any]]
Rate = float | Callable[[seqio.Task], float]
PLAIN_SEQIO = "registered with seqio directly"


@dataclass(frozen=True)
class TaskInfo:
    """What is known of a task besides seqio's own record.

    Attributes:
        name: the task's name in seqio's registry.
        cluster: tasks of one cluster are held out together; a plain seqio task is its own cluster.
        templates: the instruction templates; none for a plain seqio task.
        source: what the rows come from, for people.
        where: 'file:line' of the registration.
        dataset: identity of the source data, such as 'tfds:super_glue/rte'; None where it is not known. Tasks with
            the same one share source data.
    """

    name: str
    cluster: str
    templates: tuple[Template, ...]
    source: str
    where: str
    dataset: str | None = None


_TASKS: dict[str, TaskInfo] = {}
_MIXTURE_PLACES: dict[str, str] = {}


def add_task(
    name: str,
    *,
    cluster: str,
    source: Mapping[str, Rows] | seqio.DataSource,
    templates: Sequence[Template | str],
    metrics: Sequence[MetricFn],
    preprocessors: Sequence[Callable[..., Any]] = (),
    postprocess_fn: Callable[..., Any] | None = None,
    output_features: Mapping[str, seqio.Feature] | None = None,
    dataset: str | None = None,
) -> seqio.Task:
    """Registers a task that renders rows with instruction templates.

    A row needs `answer` (a text), or `answers` (all texts that count as right, the first is
    learned), or whatever other fields the templates' targets use. `options` (a list of texts) lets
    the task be scored by rank classification and may be shown by '{options}' (a line for each) or
    '{options_inline}'. Metrics get all accepted answers as the target.

    Args:
        name: a name that no task or mixture has yet.
        cluster: the cluster of tasks it belongs to.
        source: rows for each split (`sources.RowSource`), or any seqio data source.
        templates: instructions; a plain string has the targets '{answer}'.
        metrics: functions (targets, predictions) -> {name: value from 0 to 100}.
        preprocessors: seqio preprocessors run on the rows before the templates.
        postprocess_fn: replaces `accept_answers`; called as seqio calls it.
        output_features: the features; without it those of the model that is trained.
        dataset: identity of the source data, see `TaskInfo`.

    Returns:
        The registered seqio task.

    Raises:
        ConfigError: the name is taken (saying where) or not allowed, or there is no template.
    """
    where = _calling_place()
    _check_free(name, where)
    if not templates:
        raise ConfigError(f"{where}: task {name!r} has no templates; give at least one")
    filled = tuple(Template(t) if isinstance(t, str) else t for t in templates)
    rows = source if isinstance(source, seqio.DataSource) else RowSource(source, f"rows of {where}")
    try:
        task = seqio.TaskRegistry.add(
            name,
            source=rows,
            output_features=dict(output_features or model_features()),
            preprocessors=[*preprocessors, *preprocessors_for(name, filled)],
            postprocess_fn=postprocess_fn or accept_answers,
            metric_fns=list(metrics),
        )
    except ValueError as error:
        raise ConfigError(f"{where}: task {name!r} cannot be registered: {error}") from error
    _TASKS[name] = TaskInfo(name, cluster, filled, _describe(rows), where, dataset=dataset)
    return task


def add_mixture(name: str, tasks: Sequence[str | tuple[str, Rate]], rate: Rate | None = None) -> seqio.Mixture:
    """Registers a mixture.

    Args:
        name: a name that no task or mixture has yet.
        tasks: names of tasks or mixtures, or pairs of a name and its own rate. A mixture whose rate
            is a function is replaced by its tasks, each with that rate.
        rate: the rate of names that come without one: a number or a function of the task.

    Returns:
        The registered seqio mixture.

    Raises:
        ConfigError: the name is taken (saying where), a task does not exist, or one has no rate.
    """
    where = _calling_place()
    _check_free(name, where)
    rated: list[tuple[str, Rate]] = []
    problems = []
    for entry in tasks:
        part, part_rate = (entry, rate) if isinstance(entry, str) else entry
        if part_rate is None:
            problems.append(f"{where}: mixture {name!r}: {part!r} has no rate; give one, or `rate`")
        elif part not in _all_names():
            problems.append(f"{where}: mixture {name!r}: {_unknown_name(part)}")
        elif callable(part_rate):
            rated += [(task, part_rate) for task in tasks_in(part)]
        else:
            rated.append((part, part_rate))
    if not rated and not problems:
        problems.append(f"{where}: mixture {name!r} has no tasks")
    if problems:
        raise ConfigError(problems)
    mixture = seqio.MixtureRegistry.add(name, rated)
    _MIXTURE_PLACES[name] = where
    return mixture


def proportional(cap: int | None = None, temperature: float = 1.0) -> Rate:
    """A rate in proportion to a task's number of training examples.

    Args:
        cap: examples beyond this number do not raise the rate.
        temperature: T raises min(examples, cap) to the power 1 / T.

    Returns:
        A function of the task, for `add_mixture`. It counts the split 'train', or the task's first
        split where there is no 'train'.
    """
    return functools.partial(_rate_of, cap=cap, temperature=temperature)


def _rate_of(task: seqio.Task, cap: int | None, temperature: float) -> float:
    count = task.num_input_examples("train" if "train" in task.splits else task.splits[0])
    if count is None:
        raise ConfigError(
            f"task {task.name!r}: its source does not know how many examples it has;"
            " give `num_input_examples` to the source, or the task a rate of its own"
        )
    return min(count, cap or count) ** (1.0 / temperature)


def accept_answers(
    output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any
) -> str | list[str]:
    """The usual postprocessing: a prediction as it is, a target as the list of accepted answers."""
    if is_target and example is not None and "accepted_targets" in example:
        return texts_of(example["accepted_targets"])
    return output


def texts_of(value: Any) -> list[str]:
    """A list of texts from a prepared example (texts) or a seqio one (an array of bytes)."""
    parts = value.tolist() if isinstance(value, np.ndarray) else value
    return [part.decode() if isinstance(part, bytes) else str(part) for part in parts]


def task_info(name: str) -> TaskInfo:
    """What is known of a registered task.

    Args:
        name: a task's name.

    Returns:
        Its record; for a plain seqio task one with the cluster named like the task.

    Raises:
        ConfigError: no such task, with the nearest names.
    """
    if name not in seqio.TaskRegistry.names():
        raise ConfigError(unknown("task", name, seqio.TaskRegistry.names()))
    if name in _TASKS:
        return _TASKS[name]
    return TaskInfo(name, name, (), _describe(seqio.TaskRegistry.get(name).source), PLAIN_SEQIO)


def tasks_in(name: str) -> list[str]:
    """Names of the tasks of a mixture, sorted; of a task the task itself.

    Args:
        name: a mixture's or task's name.

    Returns:
        Names of tasks, each once, those of mixtures inside the mixture included.

    Raises:
        ConfigError: no such mixture or task, with the nearest names.
    """
    if name in seqio.TaskRegistry.names():
        return [name]
    if name not in seqio.MixtureRegistry.names():
        raise ConfigError(_unknown_name(name))
    return [task.name for task in seqio.MixtureRegistry.get(name).tasks]


def tasks_registered_in(module: ModuleType) -> list[str]:
    """Names of the tasks that a module's file registered with `add_task`, in their order."""
    return [name for name, info in _TASKS.items() if info.where.rpartition(":")[0] == module.__file__]


def clusters_of(name: str) -> dict[str, list[str]]:
    """The tasks of a mixture (or a task) by cluster, both in alphabetical order; errors of `tasks_in`."""
    clusters: dict[str, list[str]] = {}
    for task in tasks_in(name):
        clusters.setdefault(task_info(task).cluster, []).append(task)
    return dict(sorted(clusters.items()))


def _all_names() -> set[str]:
    return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _unknown_name(name: str) -> str:
    return unknown("task or mixture", name, _all_names())


def _check_free(name: str, where: str) -> None:
    if name not in _all_names():
        return
    is_task = name in seqio.TaskRegistry.names()
    first = task_info(name).where if is_task else _MIXTURE_PLACES.get(name, PLAIN_SEQIO)
    kind = "task" if is_task else "mixture"
    raise ConfigError(f"{where}: the name {name!r} is taken by a {kind}, first at: {first}")


def _calling_place() -> str:
    """'file:line' of the nearest caller outside this module."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _describe(source: Any) -> str:
    return source.description if isinstance(source, RowSource) else repr(source)
