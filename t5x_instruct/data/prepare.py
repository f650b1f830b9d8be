"""Rendering and tokenizing a mixture, once, into records that are read by index.

Every split of a task is rendered into shards, in a folder of its own that becomes visible by one rename, so a killed
run leaves nothing that is read as complete, and the next run does only the shards that are missing. Runs that want the
same split wait for each other. The work is done in this process, in several, or by an Apache Beam pipeline, and the
files are the same. What a task's records depend on, and so when they are rendered again, is stated in `fingerprints`.

    python -m t5x_instruct.data.prepare SPEC.json
"""

import functools
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, DataError, InstructError
from t5x_instruct.common.io import read_json, sha256_of_file, sha256_of_json, write_json
from t5x_instruct.data.binding import BoundTask, bind_mixture
from t5x_instruct.data.preparation import Preparation
from t5x_instruct.data.prepare_spec import IN_PROCESS, Execution, PrepareSpec
from t5x_instruct.data.prepare_workers import render_in_processes
from t5x_instruct.data.prepared import PreparedMixture, PreparedSplit, SkippedTask, load_prepared, manifest_path
from t5x_instruct.data.rates import mixture_rates
from t5x_instruct.data.records import FORMAT_VERSION
from t5x_instruct.data.shards import make_durable
from t5x_instruct.data.tasks import task_info
from t5x_instruct.data.units import Progress, render_unit
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary

_PIPELINE_SHARES = 64  # a runner chooses its number of workers itself; a large split becomes so many pieces of work


def to_stderr(line: str) -> None:
    """The usual progress: lines on the error stream."""
    print(f"prepare: {line}", file=sys.stderr, flush=True)


def prepare(spec: PrepareSpec, progress: Progress = to_stderr, execution: Execution = IN_PROCESS) -> PreparedMixture:
    """Renders what is missing of a mixture and writes its manifest.

    Args:
        spec: what is to be rendered.
        progress: takes lines on how far it is.
        execution: who does the work.

    Returns:
        The prepared mixture.

    Raises:
        ConfigError: the spec names a module, mixture, cluster or format that does not exist.
        DataError: a task cannot be rendered with the run's vocabulary, its data is at fault, or too many were skipped.
        SourceUnavailable: the data of the only task or of a held-out one cannot be had.
    """
    vocabulary = load_vocabulary(spec.vocabulary)
    bound, files, data_files = bind_mixture(spec, vocabulary)
    modules = [{"path": str(f), "name": _import_name(f), "sha256": sha256_of_file(f)} for f in files]
    sharing = _PIPELINE_SHARES if execution.runner else execution.workers
    work = Preparation(spec, bound, execution.shard_rows, sharing, progress)
    try:
        _render(work, spec, vocabulary, execution)
    finally:
        work.release()
    splits, skipped = work.result()
    make_durable(work.written)
    manifest = _manifest(spec, [b for b in bound if b.task.name in splits], splits, skipped, modules, data_files)
    path = manifest_path(spec, vocabulary)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, manifest)
    if spec.bucket is not None:
        from t5x_instruct.data.prepared_bucket import publish_prepared

        publish_prepared(spec, path, [split.folder for task in splits.values() for split in task.values()], progress)
    prepared = load_prepared(spec)
    if prepared is None:
        raise DataError(f"a task module of {spec.mixture!r} changed while it was prepared; prepare it again")
    return prepared


def _import_name(file: Path) -> str | None:
    """A file's path below the folder that it is imported from, by which another machine finds the same file."""
    folders = [Path(entry or os.getcwd()).resolve() for entry in sys.path]
    below = [str(file.relative_to(folder)) for folder in folders if file.is_relative_to(folder)]
    return min(below, key=len, default=None)


def _render(work: Preparation, spec: PrepareSpec, vocabulary: Vocabulary, execution: Execution) -> None:
    if execution.runner is not None:
        try:
            from t5x_instruct.data.prepare_beam import render_in_pipeline
        except ImportError as error:
            raise ConfigError(
                f"the runner {execution.runner!r} needs Apache Beam ({error}): pip install 't5x_instruct[beam]'"
            ) from error
        render_in_pipeline(work, spec, execution)
        return
    if execution.workers > 1:
        render_in_processes(work, spec, execution)
        return
    for unit in work.units():
        try:
            render_unit(
                work.bound(unit), unit, spec, vocabulary, execution.shard_rows, functools.partial(work.say, unit)
            )
        except InstructError as error:
            work.failed(unit, error)
        else:
            work.done(unit)


def _manifest(
    spec: PrepareSpec,
    bound: Sequence[BoundTask],
    splits: Mapping[str, Mapping[str, PreparedSplit]],
    skipped: Sequence[SkippedTask],
    modules: list[dict[str, Any]],
    data_files: list[dict[str, Any]],
) -> dict[str, Any]:
    rates = mixture_rates(spec, bound, splits)
    tasks = [
        {
            "name": b.task.name,
            "cluster": b.cluster,
            "base": task_info(b.task.name).base,
            "dataset": task_info(b.task.name).dataset,
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
        if b.role != "left_out"
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
        "skipped": [one._asdict() for one in skipped],
        "left_out": [{"name": b.task.name, "cluster": b.cluster, "why": b.why} for b in bound if b.role == "left_out"],
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
