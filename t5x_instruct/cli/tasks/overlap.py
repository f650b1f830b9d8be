"""`tasks overlap`: which examples of one mixture stand in what another trains on."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_instruct.cli.data_arguments import SPLIT, add_module_arguments, open_prepared
from t5x_instruct.cli.output import BOLD, DIM, YELLOW, add_json_argument, colour, print_json, print_table
from t5x_instruct.common.errors import ConfigError

COLUMNS = ("task", "examples", "same instance", "same inputs", "with runs", "half found", "mean share %")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    parser.add_argument("train", metavar="TRAIN", help="mixture or task that is trained on")
    parser.add_argument("evaluated", metavar="EVAL", help="mixture or task that is evaluated; may be the same")
    parser.add_argument("--n", type=int, default=13, help="words of a run (default: 13)")
    parser.add_argument("--split", default=SPLIT, help=f"which split of EVAL (default: {SPLIT})")
    parser.add_argument("--examples", type=int, default=10, metavar="N", help="how many to show (default: 10)")
    parser.add_argument(
        "--hold_out", action="append", default=[], metavar="NAME", help="what TRAIN holds out; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="of templates and options (default: 0)")
    parser.add_argument("--prepared_dir", metavar="DIR", help="where prepared data goes (default: the cache folder)")
    add_module_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares both mixtures as bytes, which any text fits, and compares their texts."""
    problems = [
        f"--{name} {getattr(args, name)}: must be at least {least}"
        for name, least in (("n", 1), ("examples", 0))
        if getattr(args, name) < least
    ]
    if problems:
        raise ConfigError(problems)
    from t5x_instruct.data.overlap import find_overlap, texts_of_tasks
    from t5x_instruct.data.sharing import shared_data

    args.vocabulary, args.prompt_format = "bytes", "plain"
    train, _ = open_prepared(args, mixture=args.train)
    evaluated, _ = open_prepared(args, mixture=args.evaluated, splits=(args.split,), hold_out=())
    tasks = [task for task in evaluated.tasks if args.split in task.splits]
    if not tasks:
        raise ConfigError(f"no task of {args.evaluated!r} has the split {args.split!r}")
    held_out = {task.name for task in train.held_out_tasks}
    if args.train == args.evaluated and held_out:
        tasks = [task for task in tasks if task.name in held_out]
    overlap = find_overlap(texts_of_tasks(train.train_tasks, "train"), texts_of_tasks(tasks, args.split), args.n)
    # A mixture with itself: its validation examples are beside the training examples of the same tasks on purpose.
    own = args.train == args.evaluated and not held_out
    shared = [] if own else shared_data(train.train_tasks, tasks)
    if args.json:
        figures = {"train": args.train, "evaluated": args.evaluated, "split": args.split} | overlap.to_json()
        print_json(figures | {"shared": [one._asdict() for one in shared]})
    else:
        _print(overlap, shared, args.examples)
    return 0


def _print(overlap: Any, shared: Sequence[Any], shown: int) -> None:
    rows = [
        dict(zip(COLUMNS, [*task[:-1], round(100 * task.mean_share, 1)], strict=True))
        for task in sorted(overlap.tasks, key=lambda task: -task.mean_share)
    ]
    print_table(COLUMNS, rows, as_json=False)
    print(
        colour(
            f"examples that stand in {overlap.train_examples:,} training examples: whole, their inputs, or with runs "
            f"of {overlap.n} words; half found: at least half of their runs",
            DIM,
        )
    )
    for one in shared[:shown]:
        print(colour("warning: ", YELLOW) + str(one))
    if len(shared) > shown:
        print(f"... and {len(shared) - shown:,} more pairs of tasks that share data (see --json)")
    for match in overlap.matches[:shown]:
        what = f"{match.found:,} of {match.runs:,} runs ({100 * match.share:.0f} %)"
        if match.same is not None:
            what = "the same instance" if match.same == "instance" else f"the same inputs, {what}"
        print(colour(f"\n{match.task}, example {match.example}", BOLD))
        print(f"  in {match.train_task}, example {match.train_example}: {what}\n  {match.text}")
    if len(overlap.matches) > shown:
        print(f"\n... and {len(overlap.matches) - shown:,} more (--examples N, or --json for all)")
