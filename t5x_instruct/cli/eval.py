"""`t5x-instruct eval`: scores a model on a mixture's validation examples, zero-shot or with exemplars."""

import argparse
from typing import Any

from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.cli.output import add_json_argument, print_json, print_table

COLUMNS = ["task", "cluster", "examples", "metric", "score", "rank", "rank normalized", "rank by chance"]
SHOTS_COLUMNS = ["shots", "dropped"]
SEEN_COLUMN = "trained on"
TEMPLATES_COLUMNS = ["templates", "best template", "best", "best rank"]
ABOUT_BEST = (
    "figures are means over templates; the best is chosen on one half of the examples, its figure is the other's"
)


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

    with hosts.joined(config.instantiate("HostSettings")):
        result = run_evaluation(config.instantiate("EvalRun", output=args.output))
        if hosts.process_index() == 0:
            _print_result(result, args.json)
    return 0


def _print_result(result: Any, as_json: bool) -> None:
    from t5x_instruct.evaluation.normalized import normalized_average

    if as_json:
        print_json(result.to_json() | {"normalized": normalized_average(result.tasks).to_json()})
        return
    _print_figures(result)
    for task in result.tasks:
        if task.seen:
            print(f"warning: {task.task}: the model was trained on the same data ({', '.join(task.seen)})")
    for problem in result.problems:
        print(f"note: {problem}")


def _print_figures(result: Any) -> None:
    """A line for each task, then the means; columns of exemplars and templates only where they are used."""
    from t5x_instruct.evaluation.normalized import normalized_average
    from t5x_instruct.evaluation.results import manner

    rows = [
        _row(task.task, task.cluster, task.num_examples, task.primary, task.score, task)
        | dict(zip(SHOTS_COLUMNS, [round(task.shots, 1), task.exemplars_dropped], strict=True))
        | dict(zip(TEMPLATES_COLUMNS, _template_figures(task), strict=True))
        | {SEEN_COLUMN: "yes" if task.seen else "no"}
        for task in result.tasks
    ]
    for cluster, means in [*result.clusters.items(), ("all", result.overall)]:
        best = [None, None, _rounded(means.best), _rounded(means.best_rank)]
        rows.append(
            _row("mean", cluster, means.num_examples, None, means.score, means)
            | dict.fromkeys(SHOTS_COLUMNS)
            | dict(zip(TEMPLATES_COLUMNS, best, strict=True))
            | {SEEN_COLUMN: None}
        )
    columns = COLUMNS + (SHOTS_COLUMNS if result.shots else [])
    columns += TEMPLATES_COLUMNS if result.templates == "each" else []
    columns += [SEEN_COLUMN] if any(task.seen for task in result.tasks) else []
    print_table(columns, rows, as_json=False)
    normalized = normalized_average(result.tasks)
    if normalized.average is not None and any(task.rank_chance for task in result.tasks):
        suites = ", ".join(f"{name} {score:.1f}" for name, score in normalized.suites.items())
        print(f"from guessing (0) to perfect (100): {suites}; average {normalized.average:.1f}")
    print(f"asked {manner(result.shots, result.templates)}" + (f"; {ABOUT_BEST}" if result.templates == "each" else ""))


def _row(
    name: str, cluster: str, num_examples: int, metric: str | None, score: float | None, figures: Any
) -> dict[str, Any]:
    values = [score, figures.rank_accuracy, figures.rank_accuracy_normalized, figures.rank_chance]
    return dict(zip(COLUMNS, [name, cluster, num_examples, metric, *map(_rounded, values)], strict=True))


def _template_figures(task: Any) -> list[Any]:
    """The cells of `TEMPLATES_COLUMNS`; templates are counted from 1."""
    best, best_rank = task.best, task.best_rank
    return [
        len(task.templates),
        None if best is None else best.template + 1,
        None if best is None else _rounded(best.score),
        None if best_rank is None else _rounded(best_rank.score),
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
