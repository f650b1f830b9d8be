"""`tasks stats`: how long a mixture's examples are, and which row shape wastes least."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.cli.data_arguments import (
    add_length_arguments,
    add_mixture_arguments,
    add_vocabulary_arguments,
    open_prepared,
    read_lengths,
)
from t5x_instruct.cli.output import BOLD, DIM, GREEN, add_json_argument, colour, print_json, print_table
from t5x_instruct.common.errors import ConfigError

SHAPE_COLUMNS = ("inputs", "targets", "cost", "fill %", "at best %", "sides %", "cut inputs %", "cut targets %", "")
MODELS = {"decoder": "causal", "encoder-decoder": "encoder"}
BAR_WIDTH = 50
SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    add_mixture_arguments(parser)
    add_vocabulary_arguments(parser, default="bytes")
    add_length_arguments(parser)
    parser.add_argument("--split", default="train", help="whose lengths are shown (default: train)")
    parser.add_argument("--width", type=int, default=768, metavar="N", help="of the model (default: 768)")
    parser.add_argument(
        "--most_cut",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the examples a recommended shape may cut, inputs and targets each (default: 0.01)",
    )
    parser.add_argument("--sample", type=int, default=8192, metavar="N", help="examples to pack (default: 8192)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw the histograms there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares what is not prepared and prints histograms, percentiles and shapes."""
    lengths = read_lengths(args.lengths, both=True)
    problems = [
        f"--{name} {getattr(args, name)}: must be at least 1" for name in ("width", "sample") if getattr(args, name) < 1
    ]
    problems += [] if 0 <= args.most_cut < 1 else [f"--most_cut {args.most_cut}: must be a share from 0 to 1"]
    if problems:
        raise ConfigError(problems)
    from t5x_instruct.data.stats import best_shapes, measure_shape, sample_lengths, task_lengths

    mixture, _ = open_prepared(args, splits=tuple(dict.fromkeys(("train", "validation", args.split))))
    tasks = task_lengths(mixture.tasks, args.split)
    if not tasks:
        raise ConfigError(f"no task of {args.mixture!r} has the split {args.split!r}")
    histograms = _histograms(mixture, args.split)
    raw = sample_lengths(mixture, args.sample, args.seed)
    shapes: dict[str, list[Any]] = {}
    asked: dict[str, Any] = {}
    for model, reads_inputs in MODELS.items():
        shapes[model] = best_shapes(raw, reads_inputs, args.width, args.most_cut)
        if lengths:
            asked[model] = measure_shape(raw, lengths["inputs"], lengths["targets"], reads_inputs, args.width)
    if args.svg is not None:
        _draw(args.svg, mixture.name, histograms)
    if args.json:
        print_json(_as_json(mixture.name, args.split, tasks, histograms, shapes, asked))
        return 0
    _print_lengths(histograms, tasks)
    for model, found in shapes.items():
        _print_shapes(model, found[:SHOWN], asked.get(model))
    print(
        colour(
            f"cost: of a target token, in tokens through a layer of width {args.width}, attention included "
            "(the formula is in data/stats.py, row_cost); fill: slots that hold a token",
            DIM,
        )
    )
    return 0


def _histograms(mixture: Any, split: str) -> dict[str, list[Any]]:
    import numpy as np

    from t5x_instruct.data.stats import histogram

    raw = np.concatenate([task.splits[split].lengths for task in mixture.tasks if split in task.splits])
    return {"inputs": histogram(raw[:, 0]), "targets": histogram(raw[:, 1])}


def _as_json(
    mixture: str,
    split: str,
    tasks: Sequence[Any],
    histograms: Mapping[str, Sequence[Any]],
    shapes: Mapping[str, Sequence[Any]],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    from t5x_instruct.data.stats import QUANTILES

    return {
        "mixture": mixture,
        "split": split,
        "quantiles": QUANTILES,
        "tasks": [task._asdict() for task in tasks],
        "histograms": {name: [bar._asdict() for bar in bars] for name, bars in histograms.items()},
        "shapes": {model: [shape._asdict() for shape in found] for model, found in shapes.items()},
        "asked": {model: shape._asdict() for model, shape in asked.items()},
    }


def _print_lengths(histograms: Mapping[str, Sequence[Any]], tasks: Sequence[Any]) -> None:
    from t5x_instruct.data.stats import QUANTILES

    for name, bars in histograms.items():
        print(colour(f"{name} [tokens]", BOLD))
        most = max(bar.examples for bar in bars)
        labels = [f"{bar.low:,} - {bar.high:,}" for bar in bars]
        for bar, label in zip(bars, labels, strict=True):
            line = "█" * round(BAR_WIDTH * bar.examples / most) or ("▏" if bar.examples else "")
            print(f"{label.rjust(max(map(len, labels)))}  {line} {bar.examples:,}")
        print()
    marks = ["most" if q == 1 else f"{100 * q:.0f} %" for q in QUANTILES]
    columns = ["task", "examples", *(f"{feature} {mark}" for feature in histograms for mark in marks)]
    rows = [dict(zip(columns, [task.task, task.examples, *task.inputs, *task.targets], strict=True)) for task in tasks]
    print_table(columns, rows, as_json=False)


def _print_shapes(model: str, shapes: Sequence[Any], asked: Any) -> None:
    best = shapes[0]
    print(colour(f"\n{model}: ", BOLD) + colour(f"TASK_FEATURE_LENGTHS = {_gin(best)}", GREEN))
    rows = [_row(shape, "") for shape in shapes]
    if asked is not None:
        rows.append(_row(asked, f"as asked: {asked.cost / best.cost:.2f} x the cost of the best"))
    print_table(SHAPE_COLUMNS, rows, as_json=False)


def _gin(shape: Any) -> str:
    return f"{{'inputs': {shape.inputs}, 'targets': {shape.targets}}}"


def _row(shape: Any, note: str) -> dict[str, Any]:
    values = [
        shape.inputs,
        shape.targets,
        round(shape.cost, 2),
        round(100 * shape.fill, 1),
        round(100 * shape.best_fill, 1),
        " + ".join(f"{100 * side:.0f}" for side in shape.fills),
        round(100 * shape.cut_inputs, 1),
        round(100 * shape.cut_targets, 1),
        note,
    ]
    return dict(zip(SHAPE_COLUMNS, values, strict=True))


def _draw(path: Path, mixture: str, histograms: Mapping[str, Sequence[Any]]) -> None:
    from t5x_instruct.common.io import write_bytes
    from t5x_instruct.evaluation.charts import Panel, histogram_page

    panels = [
        Panel(f"{mixture}: {name} [tokens]", [(f"{bar.low}-{bar.high}", bar.examples) for bar in bars])
        for name, bars in histograms.items()
    ]
    try:
        write_bytes(path, histogram_page(panels).encode())
    except OSError as error:
        raise ConfigError(f"--svg {path}: {error.strerror or error}") from error
