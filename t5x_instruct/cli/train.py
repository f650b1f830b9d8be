"""`t5x-instruct train`: one run, from tasks to a report."""

import argparse
import json
import sys

from t5x_instruct.cli.gin_arguments import add_gin_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "train")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="show the resolved configuration, the mesh, the model's size and the first examples; train nothing",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Trains, or with `--dry_run` says what would be trained."""
    from t5x_instruct.config.validate import resolve

    config = resolve(args.gin_file, args.gin_overrides, verb="train")
    from t5x_instruct.common import hosts

    hosts.initialize()
    training_run = config.instantiate("TrainRun")
    if args.dry_run:
        from t5x_instruct.runs.dry_run import dry_run

        print(dry_run(training_run, config.text))
        return 0
    from t5x_instruct.evaluation.report import summary_text
    from t5x_instruct.runs.train import train

    report = train(training_run, config.text)
    if args.json:
        print(json.dumps({"model_dir": training_run.model_dir, "report": str(report)}))
    else:
        print(summary_text(report.with_suffix(".json")))
    sys.stdout.flush()
    return 0
