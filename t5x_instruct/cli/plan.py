"""`t5x-instruct plan`: whether a run fits a TPU slice that is not there, and how long a step would take."""

import argparse
import os
from typing import Any

from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.cli.output import add_json_argument, print_json
from t5x_instruct.common.errors import ConfigError

STEPS = ("train", "validate", "score", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "train")
    parser.usage = f"{parser.prog} --topology=SLICE [--gin_file=FILE ...] [--gin.NAME=VALUE ...]"
    parser.add_argument(
        "--topology", required=True, metavar="SLICE", help="a slice by name or shape: v5e-256, v5p-128, v4:4x4x4, v6e-8"
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="how many slices (default: 1)")
    parser.add_argument(
        "--step",
        choices=STEPS,
        default="train",
        help="train (default) or validate: as `train` runs them on MESH; score: ranking the options of a batch of "
        "questions, decode: answering a batch of prompts, both as `eval` runs them on its own mesh, with "
        "EvaluationSettings.batch_size, TASK_FEATURE_LENGTHS and MAX_NEW_TOKENS",
    )
    parser.add_argument("--options", type=int, default=4, metavar="N", help="score: options a question (default: 4)")
    parser.add_argument("--num_beams", type=int, default=1, metavar="N", help="decode: beams, as of `infer`")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compiles the run's step and prints the plan; exit code 1 if it does not fit."""
    # The compiler runs here; devices of this machine would only be in its way.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Programs for devices that are not there cannot be read back from a cache.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    from t5x_instruct.config.validate import resolve
    from t5x_instruct.plan.report import as_json, as_text
    from t5x_instruct.plan.topologies import parse_slices

    slices = parse_slices(args.topology, args.slices)
    # Nothing is written, so that a recipe need not name a folder.
    config = resolve(args.gin_file, ["MODEL_DIR=unused", *args.gin_overrides], verb="train")
    plan = _plan(args, config.instantiate("TrainRun"), slices)
    if args.json:
        print_json(as_json(plan))
    else:
        print(as_text(plan))
    return 0 if plan.fits else 1


def _plan(args: argparse.Namespace, run: Any, slices: Any) -> Any:
    from t5x_instruct.decoding.sampling import Sampling
    from t5x_instruct.plan.compiled import plan_training, plan_validation
    from t5x_instruct.plan.inference import plan_decoding, plan_scoring
    from t5x_instruct.runs.opening import planned_model

    if args.options < 1:
        raise ConfigError(f"--options {args.options}: must be at least 1")
    model, lengths = planned_model(run.model), run.data.task_feature_lengths
    if args.step == "decode":
        return plan_decoding(run.evaluation, lengths, model, slices, Sampling(num_beams=args.num_beams))
    if args.step == "score":
        return plan_scoring(run.evaluation, lengths, model, slices, args.options)
    return (plan_training if args.step == "train" else plan_validation)(run, model, slices)
