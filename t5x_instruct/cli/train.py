"""`t5x-instruct train`: one run, from tasks to a report."""

import argparse
import json
from typing import Any

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

    with hosts.joined(config.instantiate("HostSettings")):
        return _run(args, config)


def _run(args: argparse.Namespace, config: Any) -> int:
    from t5x_instruct.common import hosts

    training_run = config.instantiate("TrainRun")
    if args.dry_run:
        from t5x_instruct.runs.dry_run import dry_run

        text = dry_run(training_run, config.text)
    else:
        from t5x_instruct.evaluation.report import summary_text
        from t5x_instruct.runs.train import train

        report = train(training_run, config.text)
        text = json.dumps({"model_dir": training_run.model_dir, "report": str(report)})
        if not args.json and hosts.process_index() == 0:  # which has written it
            text = summary_text(report.with_suffix(".json"))
    if hosts.process_index() == 0:
        print(text, flush=True)
    return 0
