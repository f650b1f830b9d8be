"""`t5x-instruct plan`: whether a run fits a TPU slice that is not there, and how long a step would take."""

import argparse
import os

from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.cli.output import add_json_argument, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "train")
    parser.usage = f"{parser.prog} --topology=SLICE [--gin_file=FILE ...] [--gin.NAME=VALUE ...]"
    parser.add_argument(
        "--topology", required=True, metavar="SLICE", help="a slice by name or shape: v5e-256, v5p-128, v4:4x4x4, v6e-8"
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="how many slices (default: 1)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compiles the run's step and prints the plan; exit code 1 if it does not fit."""
    # The compiler runs here; devices of this machine would only be in its way.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Programs for devices that are not there cannot be read back from a cache.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    from t5x_instruct.config.validate import resolve
    from t5x_instruct.plan.compiled import plan_training
    from t5x_instruct.plan.report import as_json, as_text
    from t5x_instruct.plan.topologies import parse_slices
    from t5x_instruct.runs.opening import planned_model

    slices = parse_slices(args.topology, args.slices)
    # Nothing is written, so that a recipe need not name a folder.
    config = resolve(args.gin_file, ["MODEL_DIR=unused", *args.gin_overrides], verb="train")
    training_run = config.instantiate("TrainRun")
    plan = plan_training(training_run, planned_model(training_run.model), slices)
    if args.json:
        print_json(as_json(plan))
    else:
        print(as_text(plan))
    return 0 if plan.fits else 1
