"""Which metric of a run decides the checkpoint that is kept as the best."""

import math
from collections.abc import Sequence
from typing import Literal

from t5x_instruct.common.errors import ConfigError, unknown

KeepBest = tuple[str, Literal["min", "max"]]


def keep_best_by(name: str | None, validation_tasks: Sequence[str]) -> KeepBest | None:
    """The metric and whether less or more of it is better.

    Only validation figures of the tasks that are trained on can be named: a checkpoint that was chosen on held-out
    tasks would make their scores the scores of a choice.

    Args:
        name: a name of `metrics.named_numbers`; None keeps no best step.
        validation_tasks: the tasks that the validation figures are about.

    Raises:
        ConfigError: no such metric, or there are no validation examples.
    """
    if name is None:
        return None
    if not validation_tasks:
        raise ConfigError(
            f"KEEP_BEST = {name!r}: no step will have it, since no trained task has a split 'validation'; give a task "
            "one, or leave KEEP_BEST at None"
        )
    valid: dict[str, Literal["min", "max"]] = {"validation/loss": "min", "validation/accuracy": "max"}
    for task in validation_tasks:
        valid |= {f"validation/task_loss/{task}": "min", f"validation/task_accuracy/{task}": "max"}
    if name not in valid:
        raise ConfigError(f"KEEP_BEST: {unknown('metric', name, valid)}")
    return name, valid[name]


def period_problem(train_steps: int, checkpoint_period: int | None, eval_period: int | None) -> str | None:
    """What is wrong with periods under which checkpoints before the last step are never validated, or None."""
    if checkpoint_period is None or checkpoint_period >= train_steps:
        return None
    if eval_period is not None and math.lcm(checkpoint_period, eval_period) < train_steps:
        return None
    return (
        f"KEEP_BEST: of the checkpoints before the last step (every {checkpoint_period} of {train_steps} steps) none "
        f"will have it, since figures are taken every {eval_period} steps; make CHECKPOINT_PERIOD a multiple of "
        "EVAL_PERIOD"
    )
