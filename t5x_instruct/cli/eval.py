"""`t5x-instruct eval`: scores a model on a mixture's validation examples, zero-shot."""

import argparse
from typing import Any

from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.cli.output import add_json_argument, print_json, print_table

COLUMNS = ["task", "cluster", "examples", "metric", "score", "rank", "rank normalized", "rank by chance"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "eval")
    parser.add_argument("--output", metavar="FILE", help="also write the figures and examples there, as JSON")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the figures of each task, each cluster and all."""
    from t5x_instruct.config.validate import resolve

    config = resolve(["runs/eval.gin", *args.gin_file], args.gin_overrides, verb="eval")
    from t5x_instruct.common import hosts
    from t5x_instruct.runs.evaluate import run_evaluation

    hosts.initialize()
    result = run_evaluation(config.instantiate("EvalRun", output=args.output))
    if args.json:
        print_json(result.to_json())
        return 0
    rows = [_row(task.task, task.cluster, task.num_examples, task.primary, task.score, task) for task in result.tasks]
    for cluster, means in [*result.clusters.items(), ("all", result.overall)]:
        rows.append(_row("mean", cluster, means.num_examples, None, means.score, means))
    print_table(COLUMNS, rows, as_json=False)
    for problem in result.problems:
        print(f"note: {problem}")
    return 0


def _row(
    name: str, cluster: str, num_examples: int, metric: str | None, score: float | None, figures: Any
) -> dict[str, Any]:
    values = [score, figures.rank_accuracy, figures.rank_accuracy_normalized, figures.rank_chance]
    rounded = [None if value is None else round(value, 1) for value in values]
    return dict(zip(COLUMNS, [name, cluster, num_examples, metric, *rounded], strict=True))
