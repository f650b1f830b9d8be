"""How a task of FLAN 2021 is registered: one call, the same for every cluster."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import seqio

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.task_modules import module_option
from t5x_instruct.data.tasks import MetricFn, add_task
from t5x_instruct.data.tfds_source import MakeRow, SplitSlice, TfdsRows, cap
from t5x_instruct.templates.prompts import Template

__all__ = ["add_flan_task", "cap", "registered_tasks"]

REGISTERS_FOR_CALLERS = True
"""A task's place is the cluster module that calls, not this one."""

DATA_DIR = module_option("tasks.flan2021.DATA_DIR", os.environ.get("TFDS_DATA_DIR"))
"""Where TFDS keeps its data; without it ~/tensorflow_datasets."""

PREFIX = "flan2021_"
TEMPLATES = 10

_REGISTERED: list[str] = []


def add_flan_task(
    name: str,
    *,
    cluster: str,
    dataset: str,
    train: str | SplitSlice | None,
    validation: str | SplitSlice | None,
    test: str | SplitSlice | None,
    row: MakeRow,
    templates: Sequence[Template | str],
    metrics: Sequence[MetricFn],
    version: str | None = None,
    manual: str | None = None,
    postprocess_fn: Callable[..., Any] | None = None,
) -> seqio.Task:
    """Registers 'flan2021_{name}'. Nothing is read or looked up.

    Args:
        name: the task's name without prefix.
        cluster: its cluster, as FLAN's code names them.
        dataset: TFDS name or name/config.
        train: slice of the builder's splits, or `cap(slice)` for at most its first 30,000; None: no such split.
        validation: likewise.
        test: likewise.
        row: makes a row of an example (see `TfdsRows`); None leaves the example out.
        templates: exactly 10, without placeholders for options: the frame shows them.
        metrics: as in `add_task`.
        version: the version FLAN pins, where it pins one.
        manual: how to get by hand what TFDS cannot download.
        postprocess_fn: as in `add_task`.

    Returns:
        The registered task.

    Raises:
        ConfigError: not 10 templates, or the errors of `add_task`.
    """
    if len(templates) != TEMPLATES:
        raise ConfigError(f"task {PREFIX + name!r} has {len(templates)} templates; each task of FLAN has {TEMPLATES}")
    given = {"train": train, "validation": validation, "test": test}
    splits = {split: part for split, part in given.items() if part is not None}
    task = add_task(
        PREFIX + name,
        cluster=cluster,
        source=TfdsRows(dataset, splits, row, pinned=version, manual=manual, data_dir=DATA_DIR),
        templates=templates,
        metrics=metrics,
        options="shown",
        postprocess_fn=postprocess_fn,
    )
    _REGISTERED.append(task.name)
    return task


def registered_tasks() -> tuple[str, ...]:
    """Names of all tasks of FLAN 2021, in alphabetical order."""
    return tuple(sorted(_REGISTERED))
