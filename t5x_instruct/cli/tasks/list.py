"""`tasks list`: what is registered."""

import argparse
from typing import Any

from t5x_instruct.cli.data_arguments import add_task_choice, chosen_tasks
from t5x_instruct.cli.output import add_json_argument, print_table
from t5x_instruct.common.errors import ConfigError, unknown

COLUMNS = ("task", "cluster", "base", "source", "dataset", "status", "templates", "train", "validation", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    add_task_choice(parser)
    parser.add_argument("--cluster", help="only this cluster")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Lists the tasks."""
    names = chosen_tasks(args)
    import seqio

    from t5x_instruct.data.tasks import task_info

    rows = [_row(task_info(name), seqio.TaskRegistry.get(name)) for name in names]
    if args.cluster:
        clusters = {row["cluster"] for row in rows}
        if args.cluster not in clusters:
            raise ConfigError(unknown("cluster", args.cluster, clusters))
        rows = [row for row in rows if row["cluster"] == args.cluster]
    print_table(COLUMNS, sorted(rows, key=lambda row: (row["cluster"], row["task"])), args.json)
    return 0


def _row(info: Any, task: Any) -> dict[str, Any]:
    from t5x_instruct.data.source_states import state_of

    status = state_of(task.source).status
    functions = list(task.metric_fns)
    objects = list(task.metric_objs)  # seqio appends one for each function
    metrics = functions + objects[: len(objects) - len(functions)]
    return {
        "task": info.name,
        "cluster": info.cluster,
        "base": None if info.base == info.name else info.base,
        "source": info.source,
        "dataset": info.dataset,
        "status": status,
        "templates": len(info.templates),
        "train": _count(task, "train") if status == "ready" else None,
        "validation": _count(task, "validation") if status == "ready" else None,
        "metrics": [getattr(m, "__name__", type(m).__name__) for m in metrics],
    }


def _count(task: Any, split: str) -> int | None:
    """Examples of a split; None where there is no such split or only reading it would tell."""
    return task.num_input_examples(split) if split in task.splits else None
