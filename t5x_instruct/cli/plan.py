"""`t5x-instruct plan`: whether a run fits a TPU slice that is not there, and how long a step would take."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.cli.output import add_json_argument, print_json
from t5x_instruct.common.errors import ConfigError

_NO_FOLDER = "MODEL_DIR=unused"
STEPS = ("train", "validate", "score", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "train")
    parser.usage = f"{parser.prog} --topology=SLICE [--gin_file=FILE ...] [--gin.NAME=VALUE ...]"
    parser.add_argument(
        "--topology",
        action="append",
        required=True,
        metavar="SLICE",
        help="a slice by name or shape: v5e-256, v5p-128, v4:4x4x4, v6e-8; with --search repeatable",
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
    parser.add_argument(
        "--search",
        action="store_true",
        help="look for the fastest mesh, rematerialisation, micro-batches and row shape (with as many tokens a step)",
    )
    parser.add_argument(
        "--most", type=int, default=12, metavar="N", help="search: compile at most so many of each slice (default: 12)"
    )
    parser.add_argument(
        "--prices",
        metavar="FILE",
        help="search: the cheapest by a file of 'generation, price of a chip-hour' (see launch/prices_example.csv)",
    )
    parser.add_argument("--output", metavar="FILE", help="search: write the best there, as a gin file for `train`")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compiles the run's step and prints the plan, or searches; exit code 1 if nothing fits."""
    # The compiler runs here; devices of this machine would only be in its way.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Programs for devices that are not there cannot be read back from a cache.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    problems = _problems(args)
    if problems:
        raise ConfigError(problems)
    from t5x_instruct.config.validate import resolve
    from t5x_instruct.plan.report import as_json, as_text
    from t5x_instruct.plan.topologies import parse_slices

    choices = [parse_slices(one, args.slices) for one in args.topology]
    # Nothing is written there, so that a recipe need not name a folder.
    config = resolve(args.gin_file, [_NO_FOLDER, *args.gin_overrides], verb="train")
    training_run = config.instantiate("TrainRun")
    if args.search:
        return _search(args, training_run, choices)
    plan = _plan(args, training_run, choices[0])
    if args.json:
        print_json(as_json(plan))
    else:
        print(as_text(plan))
    return 0 if plan.fits else 1


def _problems(args: argparse.Namespace) -> list[str]:
    found = [
        f"--{name} {getattr(args, name)}: must be at least 1"
        for name in ("options", "num_beams", "most")
        if getattr(args, name) < 1
    ]
    if args.search and args.step != "train":
        found.append(f"--search with --step {args.step}: it searches over training steps only")
    if not args.search:
        found += [f"--{name} goes with --search" for name in ("prices", "output") if getattr(args, name)]
        if len(args.topology) > 1:
            found.append(f"{len(args.topology)} topologies ({', '.join(args.topology)}): several go with --search")
    return found


def _search(args: argparse.Namespace, run: Any, choices: Sequence[Any]) -> int:
    from t5x_instruct.plan.prices import read_prices
    from t5x_instruct.plan.report import found_as_json, found_as_text, trial_line
    from t5x_instruct.plan.search import Progress, search

    def show(progress: Progress) -> None:
        left = f"at most {progress.seconds_left / 60:.0f} min left" if progress.done < progress.most else "done"
        line = f"{progress.done}/{progress.most}  {trial_line(progress.trial)}; {left}"
        print(line, file=sys.stderr, flush=True)

    prices = read_prices(args.prices) if args.prices else None
    found = search(run, choices, most=args.most, prices=prices, progress=show)
    if found.best is not None and args.output:
        _write(args, found.best.candidate.settings(run), f"{trial_line(found.best)}.")
    if args.json:
        print_json(found_as_json(found, run))
    else:
        print(found_as_text(found, run))
        if found.best is not None and args.output:
            print(f"\nwritten to {args.output}: t5x-instruct train --gin_file={args.output} --gin.MODEL_DIR=...")
    return 0 if found.best is not None else 1


def _write(args: argparse.Namespace, settings: Mapping[str, Any], about: str) -> None:
    """Writes the run with the settings that were found: all of it in one file, but for its folder."""
    from t5x_instruct.common.io import write_bytes
    from t5x_instruct.config.validate import resolve

    words = [f"{name}={value!r}" for name, value in settings.items()]
    text = resolve(args.gin_file, [_NO_FOLDER, *args.gin_overrides, *words], verb="train").text
    kept = [line for line in text.splitlines() if line != "MODEL_DIR = 'unused'"]
    header = ["# Found by `t5x-instruct plan --search`:", f"# {about}", "#"]
    write_bytes(Path(args.output), "\n".join([*header, *kept, ""]).encode())


def _plan(args: argparse.Namespace, run: Any, slices: Any) -> Any:
    from t5x_instruct.decoding.sampling import Sampling
    from t5x_instruct.plan.compiled import plan_training, plan_validation
    from t5x_instruct.plan.inference import plan_decoding, plan_scoring
    from t5x_instruct.runs.opening import planned_model

    model, lengths = planned_model(run.model), run.data.task_feature_lengths
    if args.step == "decode":
        return plan_decoding(run.evaluation, lengths, model, slices, Sampling(num_beams=args.num_beams))
    if args.step == "score":
        return plan_scoring(run.evaluation, lengths, model, slices, args.options)
    return (plan_training if args.step == "train" else plan_validation)(run, model, slices)
