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

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import seqio

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.data.few_shot import BUDGET, ExemplarTemplates, FewShotRender, Shots
from t5x_instruct.data.preprocessors import PLACEHOLDERS, OptionForm, preprocessors_for, render
from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.sources import Rows, RowSource
from t5x_instruct.templates.options import OptionsShown, check_options_shown
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
        dataset: identity of the source data, such as 'tfds:super_glue/rte'; of several, parted by ';'. None where it
            is not known. Tasks with the same one share source data (see `sharing.data_sets`).
        base: the task whose rows it shows in another form (`add_rendering`), or itself.
    """

    name: str
    cluster: str
    templates: tuple[Template, ...]
    source: str
    where: str
    dataset: str | None = None
    base: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.base or self.name)


_TASKS: dict[str, TaskInfo] = {}
_MIXTURE_PLACES: dict[str, str] = {}
_RELATED: dict[str, set[str]] = {}


def add_task(
    name: str,
    *,
    cluster: str,
    source: Mapping[str, Rows] | seqio.DataSource,
    templates: Sequence[Template | str],
    metrics: Sequence[MetricFn],
    options: OptionsShown = "as_written",
    letters: bool = False,
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
        options: 'as_written': rows' options stand where templates have placeholders for them. 'shown': also after
            every instruction that asks for the answer and has none, with a heading and in a style drawn for each
            example. 'hidden': never; templates with placeholders are left out.
        letters: where options are shown in a style with letters, the letter is the answer instead of the text.
        preprocessors: seqio preprocessors run on the rows before the templates.
        postprocess_fn: replaces `accept_answers`; called as seqio calls it.
        output_features: the features; without it those of the model that is trained.
        dataset: identity of the source data, see `TaskInfo`; without it what the source knows of it.

    Returns:
        The registered seqio task.

    Raises:
        ConfigError: the name is taken (saying where) or not allowed, there is no template, or something is of
            another type.
    """
    where = calling_place()
    check_free(name, where)
    form = OptionForm(check_options_shown(options), letters)
    filled = _usable_templates(templates, form, f"{where}: task {name!r}")
    rows = source if isinstance(source, seqio.DataSource) else RowSource(source, f"rows of {where}")
    return register_task(
        TaskInfo(name, cluster, filled, describe_source(rows), where, dataset=dataset or identity_of(rows)),
        rows,
        preprocessors=[*preprocessors, *preprocessors_for(name, filled, form)],
        output_features=output_features or model_features(),
        metrics=metrics,
        postprocess_fn=postprocess_fn,
    )


def add_rendering(
    name: str,
    of: str,
    *,
    options: OptionsShown | None = None,
    letters: bool | None = None,
    shots: tuple[int, int] = (0, 0),
    exemplar_templates: ExemplarTemplates = "same",
    budget: int = BUDGET,
    templates: Sequence[Template | str] | None = None,
    inverted: Literal["only", "never"] | None = None,
    metrics: Sequence[MetricFn] | None = None,
    postprocess_fn: Callable[..., Any] | None = None,
) -> seqio.Task:
    """Registers a task that shows the rows of another in another form, in the same cluster.

    Args:
        name: a name that no task or mixture has yet.
        of: the other task, registered by `add_task`.
        options: see `add_task`; without it as the other task does.
        letters: see `add_task`; without it as the other task does.
        shots: the fewest and the most exemplars from the split 'train' before each row, see `few_shot.Shots`.
        exemplar_templates: 'same' template as the question's, or 'mixed'.
        budget: tokens of inputs that exemplars may fill.
        templates: instructions instead of the other task's.
        inverted: 'only' those templates that ask for something else than the answer, such as the question; 'never'
            them; None: all.
        metrics: instead of the other task's.
        postprocess_fn: instead of the other task's.

    Returns:
        The registered seqio task.

    Raises:
        ConfigError: the name is taken, the other task has no templates of its own, or none is left.
    """
    where = calling_place()
    check_free(name, where)
    info, base = task_info(of), seqio.TaskRegistry.get(of)
    if info.base != of:
        raise ConfigError(f"{where}: {of!r} is itself a rendering; name {info.base!r}, whose rows it shows")
    steps = list(base.preprocessors)
    place = next((i for i, s in enumerate(steps) if isinstance(s, functools.partial) and s.func is render), None)
    if place is None:
        raise ConfigError(f"{where}: {of!r} (registered at {info.where}) is not rendered with templates")
    own: OptionForm = steps[place].keywords["form"]
    shown = own.shown if options is None else check_options_shown(options)
    form = OptionForm(shown, own.letters if letters is None else letters)
    kept = _usable_templates(templates or info.templates, form, f"{where}: task {name!r}", inverted)
    rendered = preprocessors_for(name, kept, form)
    if shots != (0, 0):
        rendered[0] = FewShotRender(
            task=name,
            templates=kept,
            form=form,
            shots=Shots(*shots, exemplar_templates, budget),
            source=base.source,
            steps=steps[:place],
            all_templates=info.templates,
        )
    return register_task(
        dataclasses.replace(info, name=name, templates=kept, where=where, base=of),
        base.source,
        preprocessors=[*steps[:place], *rendered],
        output_features=base.output_features,
        metrics=base.metric_fns if metrics is None else metrics,
        postprocess_fn=postprocess_fn or base.postprocessor,
    )


def _usable_templates(
    templates: Sequence[Template | str],
    form: OptionForm,
    what: str,
    inverted: Literal["only", "never"] | None = None,
) -> tuple[Template, ...]:
    """The templates that suit, as `Template`s; there is at least one."""
    if isinstance(templates, str | Template):  # a text would be taken for a list of its letters
        raise ConfigError(f"{what}: templates is one template; give a list of them, with it in it")
    if not templates:
        raise ConfigError(f"{what} has no templates; give at least one")
    filled = tuple(Template(t) if isinstance(t, str) else t for t in templates)
    if inverted is not None:
        filled = tuple(t for t in filled if t.is_inverted == (inverted == "only"))
        if not filled:
            raise ConfigError(f"{what} has no template left with inverted={inverted!r}; give it one")
    if form.shown == "hidden":
        filled = tuple(t for t in filled if not t.input_fields & PLACEHOLDERS)
        if not filled:
            raise ConfigError(
                f"{what} hides options, but all its templates show them; give it one without '{{options}}'"
            )
    return filled


def register_task(
    info: TaskInfo,
    source: seqio.DataSource,
    *,
    preprocessors: Sequence[Callable[..., Any]],
    output_features: Mapping[str, seqio.Feature],
    metrics: Sequence[MetricFn],
    postprocess_fn: Callable[..., Any] | None = None,
) -> seqio.Task:
    """Registers a task from all its parts, for functions that know how to make them.

    Args:
        info: its name and what is known of it.
        source: its rows.
        preprocessors: from rows to tokens, complete.
        output_features: the features.
        metrics: see `add_task`.
        postprocess_fn: see `add_task`.

    Returns:
        The registered seqio task.

    Raises:
        ConfigError: seqio refuses it, for instance for its name; metrics are no functions.
    """
    if not isinstance(metrics, Sequence) or isinstance(metrics, str) or not all(map(callable, metrics)):
        raise ConfigError(
            f"{info.where}: task {info.name!r}: metrics is {metrics!r}; give a list of functions, such as those of"
            " evaluation.metrics"
        )
    try:
        task = seqio.TaskRegistry.add(
            info.name,
            source=source,
            output_features=dict(output_features),
            preprocessors=list(preprocessors),
            postprocess_fn=postprocess_fn or accept_answers,
            metric_fns=list(metrics),
        )
    except ValueError as error:
        raise ConfigError(f"{info.where}: task {info.name!r} cannot be registered: {error}") from error
    _TASKS[info.name] = info
    return task


def add_mixture(name: str, tasks: Sequence[str | tuple[str, Rate]], rate: Rate | None = None) -> seqio.Mixture:
    """Registers a mixture.

    Args:
        name: a name that no task or mixture has yet.
        tasks: names of tasks or mixtures, or pairs of a name and its own rate. A mixture whose rate is a number has
            that share of the new one, divided by its own rates; one whose rate is a function is replaced by its
            tasks, each with that rate.
        rate: the rate of names that come without one: a number or a function of the task.

    Returns:
        The registered seqio mixture.

    Raises:
        ConfigError: the name is taken (saying where), a task does not exist, or one has no rate.
    """
    where = calling_place()
    check_free(name, where)
    known = _all_names()
    rated: list[tuple[str, Rate]] = []
    problems = []
    for entry in tasks:
        part, part_rate = (entry, rate) if isinstance(entry, str) else entry
        if part_rate is None:
            problems.append(f"{where}: mixture {name!r}: {part!r} has no rate; give one, or `rate`")
        elif not callable(part_rate) and not (isinstance(part_rate, int | float) and 0 < part_rate < float("inf")):
            problems.append(
                f"{where}: mixture {name!r}: the rate of {part!r} is {part_rate!r}; it has to be a number above 0, or a"
                " function of the task; leave a task out instead of giving it 0"
            )
        elif part not in known:
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


def proportional(cap: int | None = None, temperature: float = 1.0, scale: float = 1.0) -> Rate:
    """A rate in proportion to a task's number of training examples.

    Args:
        cap: examples beyond this number do not raise the rate.
        temperature: T raises min(examples, cap) to the power 1 / T.
        scale: the rate is multiplied by it, after that.

    Returns:
        A function of the task, for `add_mixture`. It counts the split 'train', or the task's first
        split where there is no 'train'.
    """
    return functools.partial(_rate_of, cap=cap, temperature=temperature, scale=scale)


def _rate_of(task: seqio.Task, cap: int | None, temperature: float, scale: float) -> float:
    count = task.num_input_examples("train" if "train" in task.splits else task.splits[0])
    if count is None:
        raise ConfigError(
            f"task {task.name!r}: its source does not know how many examples it has;"
            " give `num_input_examples` to the source, or the task a rate of its own"
        )
    return scale * min(count, cap or count) ** (1.0 / temperature)


def rates_of(name: str, tasks: Collection[str]) -> dict[str, float]:
    """The rates of some tasks of a mixture, as if it had no others.

    A part of a mixture that is itself a mixture with a number as its rate keeps this share, whichever of its tasks are
    asked for: inside, they divide it by their own rates. So 0.4 of the total stays 0.4 when tasks are held out.
    Each rate function is called once for each place its task has.

    Args:
        name: the mixture, or a task, whose rate is 1.
        tasks: names of tasks; those that the mixture does not have are passed over.

    Returns:
        {task: rate}.

    Raises:
        ConfigError: an unknown mixture or task.
    """
    if name in seqio.TaskRegistry.names():
        return {name: 1.0} if name in tasks else {}
    if name not in seqio.MixtureRegistry.names():
        raise ConfigError(_unknown_name(name))
    rates: dict[str, float] = {}
    for part, rate in seqio.MixtureRegistry.get(name).rate_per_task_name.items():
        if part in seqio.TaskRegistry.names():
            if part in tasks:
                own = rate(seqio.TaskRegistry.get(part)) if callable(rate) else rate
                rates[part] = rates.get(part, 0.0) + float(own)
            continue
        inner = rates_of(part, tasks)
        total = sum(inner.values())
        for task, share in inner.items() if total else ():
            rates[task] = rates.get(task, 0.0) + float(rate) * share / total
    return rates


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
    source = seqio.TaskRegistry.get(name).source
    return TaskInfo(name, name, (), describe_source(source), PLAIN_SEQIO, dataset=identity_of(source))


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


def all_tasks() -> list[str]:
    """Names of all registered tasks, sorted."""
    return sorted(seqio.TaskRegistry.names())


def tasks_registered_in(module: ModuleType) -> list[str]:
    """Names of the tasks that a module's file registered with `add_task`, in their order."""
    return [name for name, info in _TASKS.items() if info.where.rpartition(":")[0] == module.__file__]


def clusters_of(name: str) -> dict[str, list[str]]:
    """The tasks of a mixture (or a task) by cluster, both in alphabetical order; errors of `tasks_in`."""
    clusters: dict[str, list[str]] = {}
    for task in tasks_in(name):
        clusters.setdefault(task_info(task).cluster, []).append(task)
    return dict(sorted(clusters.items()))


def relate_clusters(related: Mapping[str, Sequence[str]]) -> None:
    """Says which clusters teach so nearly the same that holding one out means not training on the others either.

    Args:
        related: for a cluster those that are left out, neither trained on nor evaluated, where all of its tasks are
            held out. The other way round it has to be said too.
    """
    for cluster, others in related.items():
        _RELATED.setdefault(cluster, set()).update(others)


def related_clusters(cluster: str) -> frozenset[str]:
    """The clusters that `relate_clusters` named for a cluster."""
    return frozenset(_RELATED.get(cluster, ()))


def _all_names() -> set[str]:
    return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _unknown_name(name: str) -> str:
    return unknown("task or mixture", name, _all_names())


def check_free(name: str, where: str) -> None:
    """Refuses the name of a task or mixture that is there, saying where it was registered."""
    if name not in _all_names():
        return
    is_task = name in seqio.TaskRegistry.names()
    first = task_info(name).where if is_task else _MIXTURE_PLACES.get(name, PLAIN_SEQIO)
    kind = "task" if is_task else "mixture"
    raise ConfigError(f"{where}: the name {name!r} is taken by a {kind}, first at: {first}")


def calling_place() -> str:
    """'file:line' of the nearest caller outside this module and those that register for their own callers."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_globals.get("REGISTERS_FOR_CALLERS")
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def identity_of(source: seqio.DataSource) -> str | None:
    """The public data set that a source's rows are of, see `TaskInfo`; None where it is not known."""
    if isinstance(source, seqio.TfdsDataSource):
        return f"tfds:{source.tfds_dataset.name}"
    return source.dataset_identity if isinstance(source, RowSource) else None


def describe_source(source: Any) -> str:
    """What the rows come from, for people."""
    return source.description if isinstance(source, RowSource) else repr(source)
