"""What the benchmarks' modules share: the folder of the files, and a task that is never trained on."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.row_shapes import Row
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.task_modules import module_option
from t5x_instruct.data.tasks import MetricFn, add_task
from t5x_instruct.templates.prompts import Template

REGISTERS_FOR_CALLERS = True
TEMPLATE = Template("{prompt}")


def folder_of(benchmark: str, layout: str) -> Path:
    """The folder of a benchmark's files.

    Args:
        benchmark: name of its module.
        layout: which files are wanted there, for the message.

    Returns:
        What the module option `tasks.benchmarks.{benchmark}.FOLDER` or the environment variable
        T5X_INSTRUCT_{BENCHMARK}_FOLDER names.

    Raises:
        ConfigError: neither is set, or there is no such folder.
    """
    option, variable = f"tasks.benchmarks.{benchmark}.FOLDER", f"T5X_INSTRUCT_{benchmark.upper()}_FOLDER"
    folder = module_option(option, os.environ.get(variable))
    hint = f"set the module option {option} or the environment variable {variable} to the folder with {layout}"
    if not folder:
        raise ConfigError(f"the folder of {benchmark}'s files is not set; {hint}")
    if not Path(folder).is_dir():
        raise ConfigError(f"{option} is {folder!r}, which is no folder; {hint}")
    return Path(folder)


def add_benchmark(
    name: str,
    *,
    cluster: str,
    dataset: str,
    splits: Mapping[str, Callable[[], Sequence[Row]]],
    where: Path,
    metrics: Sequence[MetricFn] = (),
    postprocess_fn: Callable[..., Any] | None = None,
) -> seqio.Task:
    """Registers a task that is only asked.

    Args:
        name: the task's name.
        cluster: the suite whose mean is reported.
        dataset: identity of the questions, the same for all ways to ask them.
        splits: for 'validation' and 'test' a function that reads the rows: `prompt`, the whole instruction; `answer`;
            and `options` for rank classification.
        where: the file or folder, for listings.
        metrics: of the generated answers; none where rank classification is the measure.
        postprocess_fn: see `add_task`.

    Raises:
        ConfigError: a split 'train', or the errors of `add_task`.
    """
    if "train" in splits:
        raise ConfigError(f"benchmark {name!r} has a split 'train'; benchmarks are never trained on: leave it out")
    return add_task(
        name,
        cluster=cluster,
        source=RowSource(splits, f"benchmark {where}"),
        templates=[TEMPLATE],
        metrics=metrics,
        postprocess_fn=postprocess_fn,
        dataset=dataset,
    )


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
