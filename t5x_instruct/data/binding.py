"""Which tasks a mixture has, in which role, bound to the vocabulary of the run."""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import seqio

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.fingerprints import Describer, fingerprint_of, state_of_files
from t5x_instruct.data.prepare_spec import EXEMPLARS, PrepareSpec, Role
from t5x_instruct.data.prepared import RENDER_VERSION
from t5x_instruct.data.prompt_formats import make_prompt_format, prompt_tail
from t5x_instruct.data.records import FORMAT_VERSION
from t5x_instruct.data.seqio_vocabulary import ModelVocabulary
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import clusters_of, related_clusters, task_info, tasks_in
from t5x_instruct.data.tfds_source import TfdsRows
from t5x_instruct.data.vocabularies import Vocabulary
from t5x_instruct.templates.chat import PromptFormat

SAMPLES = ("What is 12 + 7?", "  Café, naïve: 東京 👍\n\tline two", "a" * 40 + " <b> {x}")


class BoundTask(NamedTuple):
    """A task that is bound to the run's vocabulary.

    Attributes:
        task: a copy outside seqio's registry, rendering with the run's vocabulary.
        cluster: its cluster.
        role: 'train', 'held_out', or 'left_out' for what is related to held-out clusters.
        inputs_tail: how many last tokens of `inputs` must survive cutting.
        inputs_eos: whether the run's prompts end with EOS, whatever the task says.
        fingerprint: hash of everything its records depend on.
        templates: how many templates it is rendered with, variant v with template v; 0: each variant draws one.
        num_templates: how many templates are drawn from, the first ones; None: all.
        why: why it is left out.
    """

    task: seqio.Task
    cluster: str
    role: Role
    inputs_tail: int
    inputs_eos: bool
    fingerprint: str
    templates: int = 0
    num_templates: int | None = None
    why: str = ""


def bind_mixture(spec: PrepareSpec, vocabulary: Vocabulary) -> tuple[list[BoundTask], list[Path], list[dict[str, Any]]]:
    """The mixture's tasks, the files of their code, and the state of their data files."""
    prompt_format = make_prompt_format(spec.prompt_format, vocabulary)
    files = set(import_task_modules(spec.modules, spec.module_options))
    clusters = clusters_of(spec.mixture)
    held_out = _held_out(spec, clusters)
    left_out = _left_out(clusters, held_out)
    packages = frozenset(m.partition(".")[0] for m in spec.modules if not m.endswith(".py"))
    describer = Describer(packages)
    bound = []
    for cluster, names in clusters.items():
        for name in names:
            original = seqio.TaskRegistry.get(name)
            why = left_out.get(name, "")
            role: Role = "held_out" if name in held_out else "left_out" if why else "train"
            one = bind_named(spec, vocabulary, name, role, "")
            rendered = [["each template"] if one.templates else [], [one.num_templates] if one.num_templates else []]
            fingerprint = _task_fingerprint(
                describer, original, one.inputs_tail, spec, vocabulary, prompt_format, rendered
            )
            bound.append(one._replace(cluster=cluster, fingerprint=fingerprint, why=why))
    bound.sort(key=lambda b: b.task.name)
    return bound, sorted(files | describer.code_files), state_of_files(describer.data_files, describer.data_objects)


def bind_named(spec: PrepareSpec, vocabulary: Vocabulary, name: str, role: Role, fingerprint: str) -> BoundTask:
    """One task of the mixture, for a process that is told its role and fingerprint."""
    if name not in seqio.TaskRegistry.names():
        raise ConfigError(
            f"{unknown('task', name, seqio.TaskRegistry.names())}; with several processes the modules of a run have to"
            f" register all of its tasks, and {list(spec.modules)} do not"
        )
    prompt_format = make_prompt_format(spec.prompt_format, vocabulary)
    task, tail = bind(seqio.TaskRegistry.get(name), vocabulary, prompt_format)
    info = task_info(name)
    each = spec.templates == "each" and spec.evaluates(role)
    templates = len(info.templates) if each else 0
    few = None if spec.evaluates(role) else spec.num_templates
    return BoundTask(task, info.cluster, role, tail, prompt_format.add_eos, fingerprint, templates, few)


def _held_out(spec: PrepareSpec, clusters: Mapping[str, Sequence[str]]) -> set[str]:
    """The tasks that `spec.hold_out` names: by themselves, by cluster, or by another mixture that shares them."""
    tasks = {name for names in clusters.values() for name in names}
    groups = {name: {name} for name in tasks} | {cluster: set(names) for cluster, names in clusters.items()}
    for name in set(seqio.MixtureRegistry.names()) - groups.keys() - {spec.mixture}:
        if shared := tasks & set(tasks_in(name)):
            groups[name] = shared
    problems = [
        f"hold_out: {unknown(f'cluster, task or mixture of tasks of {spec.mixture!r}', name, groups)}"
        for name in spec.hold_out
        if name not in groups
    ]
    if problems:
        raise ConfigError(problems)
    return {task for name in spec.hold_out for task in groups[name]}


def _left_out(clusters: Mapping[str, Sequence[str]], held_out: Set[str]) -> dict[str, str]:
    """The tasks of clusters related to one that is held out whole, each with the reason."""
    left_out: dict[str, str] = {}
    for cluster in (cluster for cluster, names in clusters.items() if held_out >= set(names)):
        for related in sorted(related_clusters(cluster) & clusters.keys()):
            why = f"its cluster {related!r} is related to {cluster!r}, which is held out"
            left_out |= {name: why for name in clusters[related] if name not in held_out}
    return left_out


def bind(task: seqio.Task, vocabulary: Vocabulary, prompt_format: PromptFormat) -> tuple[seqio.Task, int]:
    """A copy of a task that renders with the run's vocabulary.

    Args:
        task: the registered task; not changed.
        vocabulary: the run's vocabulary.
        prompt_format: applied to the text of `inputs` where it follows the model. A task that names
            its own vocabulary formats its own prompts, but for the format's EOS, which
            `render_splits.to_example` puts after those of every task.

    Returns:
        The copy, outside seqio's registry and without cache placeholders, and how many last tokens
        of its `inputs` must survive cutting.

    Raises:
        DataError: the task has no targets, or names a vocabulary that is not the run's.
    """
    if "targets" not in task.output_features:
        raise DataError(f"task {task.name!r} has no feature 'targets', only {sorted(task.output_features)}")
    features = {}
    tail = 0
    for name, feature in task.output_features.items():
        own = feature.vocabulary
        if isinstance(own, ModelVocabulary):
            form = prompt_format if name == "inputs" else None
            feature = dataclasses.replace(feature, vocabulary=own.bound(vocabulary, form))
            tail += prompt_tail(vocabulary, prompt_format) if name == "inputs" else 0
        elif name in ("inputs", "targets") and not isinstance(own, seqio.PassThroughVocabulary):
            _check_same_vocabulary(task.name, name, own, vocabulary)
        tail += int(name == "inputs" and feature.add_eos)
        features[name] = feature
    steps = [p for p in task.preprocessors if not isinstance(p, seqio.CacheDatasetPlaceholder)]
    # The format's EOS and the feature's are the same one.
    return task.replace(output_features=features, preprocessors=steps), 1 if prompt_format.add_eos else tail


def _check_same_vocabulary(task: str, feature: str, own: seqio.Vocabulary, run: Vocabulary) -> None:
    differences = []
    if own.vocab_size != run.vocab_size:
        differences.append(f"{own.vocab_size} ids instead of {run.vocab_size}")
    if own.eos_id != run.eos_id:
        differences.append(f"EOS {own.eos_id} instead of {run.eos_id}")
    if not differences:
        differences = [f"other ids for {s!r}" for s in SAMPLES if list(own.encode(s)) != run.encode(s)][:1]
    if differences:
        raise DataError(
            f"task {task!r}: its feature {feature!r} has its own vocabulary {own}, which is not the "
            f"run's ({', '.join(differences)}); register it with output_features=model_features(), "
            "which follows the model, or run with that vocabulary"
        )


def _task_fingerprint(
    describer: Describer,
    task: seqio.Task,
    tail: int,
    spec: PrepareSpec,
    vocabulary: Vocabulary,
    prompt_format: PromptFormat,
    rendered: Sequence[Any],
) -> str:
    source = task.source
    shards = []
    if isinstance(source, seqio.FileDataSource):  # its patterns become files here
        shards = [[split, list(source.list_shards(split))] for split in source.splits]
    elif isinstance(source, TfdsRows):  # the version that is read, which TFDS never changes once it is out
        shards = [["version", [source.shipped_version()]]]
    features = [
        [name, type(f.vocabulary).__qualname__, f.add_eos, f.required, f.dtype.name, f.rank]
        for name, f in task.output_features.items()
    ]
    described = [
        source,
        shards,
        list(task.preprocessors),
        task_info(task.name).templates,
        task.postprocessor,
    ]
    return fingerprint_of(
        [
            FORMAT_VERSION,
            RENDER_VERSION,
            task.name,
            features,
            tail,
            describer.describe(described),
            vocabulary.fingerprint,
            prompt_format.fingerprint,
            [spec.seed, spec.variants, sorted(spec.module_options.items())],
            rendered,
        ]
    )


def splits_of(bound: BoundTask, spec: PrepareSpec) -> list[str]:
    """The splits to render; a task without any is an error rather than a gap in the mixture."""
    name, has = bound.task.name, bound.task.splits
    if bound.role == "left_out":
        return []
    exemplars = [EXEMPLARS] if spec.exemplars and spec.evaluates(bound.role) and "train" in has else []
    if bound.role == "held_out":
        splits = [s for s in spec.splits if s != "train" and s in has]
        if not splits:
            raise DataError(f"held-out task {name!r} has only the splits {sorted(has)}; add one of them to splits")
        return splits + exemplars
    if "train" in spec.splits and "train" not in has:
        raise DataError(
            f"task {name!r} has no split 'train' (only {sorted(has)}): hold it out, or take it out of {spec.mixture!r}"
        )
    return [s for s in spec.splits if s in has] + exemplars
