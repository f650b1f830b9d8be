"""Rendering and tokenizing a mixture, once, into records that are read by index.

Every split of a task is rendered into a folder of its own and becomes visible by one rename, so a
killed run leaves nothing that is read as complete, and the next run does only what is missing.
Runs that want the same split wait for each other. What a task's records depend on, and so when they
are rendered again, is stated in `fingerprints`.

    python -m t5x_instruct.data.prepare SPEC.json
"""

import contextlib
import functools
import itertools
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import seqio

from t5x_instruct.common.errors import ConfigError, DataError, InstructError, unknown
from t5x_instruct.common.io import read_json, sha256_of_file, sha256_of_json, write_json
from t5x_instruct.data.binding import BoundTask, bind_mixture, splits_of
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import PreparedMixture, PreparedSplit, load_prepared, manifest_path
from t5x_instruct.data.preprocessors import RenderContext
from t5x_instruct.data.records import FORMAT_VERSION, Example
from t5x_instruct.data.render_splits import (
    Progress,
    count_examples,
    ensure_split,
    rows_of,
    to_example,
)
from t5x_instruct.data.vocabularies import load_vocabulary, token_strings


def to_stderr(line: str) -> None:
    """The usual progress: lines on the error stream."""
    print(f"prepare: {line}", file=sys.stderr, flush=True)


class Preview(NamedTuple):
    """A rendered example for people.

    Attributes:
        inputs_text: the exact text the model is given.
        targets_text: the text of the targets.
        example: ids, mask and other fields.
        inputs_tokens: each token of the inputs, for display.
        targets_tokens: each token of the targets.
        fault: why `prepare` refuses the example, if it does.
    """

    inputs_text: str
    targets_text: str
    example: Example
    inputs_tokens: list[str]
    targets_tokens: list[str]
    fault: str | None


def prepare(spec: PrepareSpec, progress: Progress = to_stderr) -> PreparedMixture:
    """Renders what is missing of a mixture and writes its manifest.

    Args:
        spec: what is to be rendered.
        progress: takes lines on how far it is.

    Returns:
        The prepared mixture.

    Raises:
        ConfigError: the spec names a module, mixture, cluster or format that does not exist.
        DataError: a task cannot be rendered with the run's vocabulary, or its data is at fault.
    """
    vocabulary = load_vocabulary(spec.vocabulary)
    bound, files, data_files = bind_mixture(spec, vocabulary)
    modules = [{"path": str(f), "sha256": sha256_of_file(f)} for f in files]
    splits: dict[str, dict[str, PreparedSplit]] = {}
    for i, one in enumerate(bound):
        splits[one.task.name] = {}
        for split in splits_of(one, spec):
            label = f"[{i + 1}/{len(bound)}] {one.task.name}/{split}"
            labelled = functools.partial(_labelled, progress, label)
            splits[one.task.name][split] = ensure_split(one, split, spec, vocabulary, labelled)
    manifest = _manifest(spec, bound, splits, modules, data_files)
    path = manifest_path(spec, vocabulary)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, manifest)
    prepared = load_prepared(spec)
    if prepared is None:
        raise DataError(f"a task module of {spec.mixture!r} changed while it was prepared; prepare it again")
    return prepared


def _labelled(progress: Progress, label: str, line: str) -> None:
    progress(f"{label}: {line}")


def preview(spec: PrepareSpec, task: str, split: str = "train", n: int = 3) -> list[Preview]:
    """Renders the first examples of a task without writing anything.

    Args:
        spec: vocabulary, prompt format, modules, seed; its mixture must have the task.
        task: the task's name.
        split: the split.
        n: how many examples.

    Raises:
        ConfigError, DataError: as `prepare`.
    """
    vocabulary = load_vocabulary(spec.vocabulary)
    bound = {b.task.name: b for b in bind_mixture(spec, vocabulary)[0]}
    if task not in bound:
        raise ConfigError(unknown(f"task of {spec.mixture!r}", task, bound))
    if split not in bound[task].task.splits:
        raise ConfigError(f"{unknown('split', split, bound[task].task.splits)} of task {task!r}")
    previews = []
    rows = rows_of(bound[task].task, split, [RenderContext(spec.seed)])
    for row in itertools.islice((variants[0] for variants in rows), n):
        example, fault = to_example(row, bound[task], vocabulary)
        previews.append(
            Preview(
                inputs_text=_verbatim("inputs", example, bound[task]),
                targets_text=_verbatim("targets", example, bound[task]),
                example=example,
                inputs_tokens=token_strings(vocabulary, example.inputs.tolist()),
                targets_tokens=token_strings(vocabulary, example.targets.tolist()),
                fault=fault,
            )
        )
    return previews


def _verbatim(name: str, example: Example, bound: BoundTask) -> str:
    text = str(example.meta[f"{name}_pretokenized"])
    feature = bound.task.output_features.get(name)
    prompt_format = getattr(getattr(feature, "vocabulary", None), "prompt_format", None)
    return prompt_format.prompt(text) if prompt_format is not None and text else text


def _rates(spec: PrepareSpec, bound: Sequence[BoundTask], splits: Mapping[str, Any]) -> dict[str, float]:
    """The rate of each training task; functions are called with the rendered number of examples."""
    if "train" not in spec.splits:
        return {}
    counts = {
        b.task.name: splits[b.task.name]["train"].num_examples
        if b.role == "train"
        else count_examples(b.task, "train") or 1
        for b in bound
    }
    provider = seqio.get_mixture_or_task(spec.mixture)
    rates = {}
    with _counted(counts):
        for name in (one.task.name for one in bound if one.role == "train"):
            rate = 1.0
            if isinstance(provider, seqio.Mixture):
                rate = float(provider.get_rate(seqio.TaskRegistry.get(name)))
            if not math.isfinite(rate) or rate < 0:
                raise ConfigError(f"mixture {spec.mixture!r}: the rate of {name!r} is {rate}; it must be 0 or more")
            rates[name] = rate
    return rates


@contextlib.contextmanager
def _counted(counts: Mapping[str, int]) -> Iterator[None]:
    """Lets seqio's rate functions see rendered counts, whether they ask for input or cached ones."""
    tasks = [seqio.TaskRegistry.get(name) for name in counts]
    for task in tasks:
        count = counts[task.name]
        task.num_input_examples = lambda split, n=count: n
        task.get_cached_stats = lambda split="train", n=count: {"examples": n}
    try:
        yield
    finally:
        for task in tasks:
            del task.num_input_examples, task.get_cached_stats


def _manifest(
    spec: PrepareSpec,
    bound: Sequence[BoundTask],
    splits: Mapping[str, Mapping[str, PreparedSplit]],
    modules: list[dict[str, Any]],
    data_files: list[dict[str, Any]],
) -> dict[str, Any]:
    rates = _rates(spec, bound, splits)
    tasks = [
        {
            "name": b.task.name,
            "cluster": b.cluster,
            "rate": rates.get(b.task.name, 0.0),
            "role": b.role,
            "fingerprint": b.fingerprint,
            "inputs_tail": b.inputs_tail,
            "each_template": b.templates > 0,
            "splits": {
                name: {
                    "num_examples": split.num_examples,
                    "variants": split.variants,
                    "tokens": split.tokens,
                    "refused": split.refused,
                }
                for name, split in splits[b.task.name].items()
            },
        }
        for b in bound
    ]
    identity = [[t["name"], t["fingerprint"], t["rate"], t["role"], sorted(t["splits"])] for t in tasks]
    return {
        "format_version": FORMAT_VERSION,
        "mixture": spec.mixture,
        "fingerprint": sha256_of_json(identity),
        "spec": spec.to_json(),
        "modules": modules,
        "data_files": data_files,
        "tasks": tasks,
    }


def main(arguments: Sequence[str]) -> int:
    """The child process of `ensure_prepared`.

    Args:
        arguments: the spec's JSON file and, optionally, a file that receives the error's message
            (otherwise it goes to the error stream).

    Returns:
        The exit code: 0 done, 1 a fault, 2 the spec is wrong.
    """
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # seqio warns of each uncached task
    try:
        prepare(PrepareSpec.from_json(read_json(Path(arguments[0]))))
    except Exception as error:
        known = isinstance(error, InstructError)
        message = str(error) if known else f"{type(error).__name__}: {error}"
        if not known:
            traceback.print_exc()
        if len(arguments) > 1:
            Path(arguments[1]).write_text(message)
        else:
            print(f"error: {message}", file=sys.stderr)
        return error.exit_code if isinstance(error, InstructError) else 1
    return 0


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m t5x_instruct.data.prepare SPEC.json [ERROR_FILE]")
    sys.exit(main(sys.argv[1:]))
