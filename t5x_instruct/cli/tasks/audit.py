"""`tasks audit`: what is wrong with a mixture's examples before a model is trained on them."""

import argparse
from typing import Any

from t5x_instruct.cli.data_arguments import (
    add_length_arguments,
    add_mixture_arguments,
    add_vocabulary_arguments,
    open_prepared,
    read_lengths,
    read_pairs,
)
from t5x_instruct.cli.output import DIM, YELLOW, add_json_argument, colour, print_json, print_table
from t5x_instruct.common.errors import ConfigError, unknown

COLUMNS = ("task", "split", "examples", "trained %")
# Column -> the checks whose shares of examples it adds up.
CHECK_COLUMNS = {
    "no trained": ("untrained",),
    "no end": ("end_not_trained",),
    "cut inputs": ("cut_inputs",),
    "cut responses": ("cut_responses",),
    "empty": ("empty_targets",),
    "bad text": ("bad_text", "control_characters"),
    "mismatch": ("changed_targets", "lossy_targets", "changed_prompts"),
    "copies": ("duplicates",),
    "elsewhere": ("in_other_tasks",),
    "leaked": ("leaked",),
    "conflicts": ("conflicts",),
    "refused": ("refused",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    add_mixture_arguments(parser)
    add_vocabulary_arguments(parser, default="bytes")
    add_length_arguments(parser)
    parser.add_argument("--variants", type=int, default=1, metavar="V", help="as in training (default: 1)")
    parser.add_argument(
        "--examples", type=int, metavar="N", help="read only N examples of each split, evenly spread (default: all)"
    )
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=SHARE", help="another limit of AuditLimits; repeatable"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares what is not prepared, audits it, and ends with exit code 2 where a limit is passed."""
    lengths = read_lengths(args.lengths, both=True) or None
    if args.examples is not None and args.examples < 1:
        raise ConfigError(f"--examples {args.examples}: must be at least 1")
    from t5x_instruct.data.audit import audit

    limits = _limits(args.limit)
    mixture, vocabulary = open_prepared(args, variants=args.variants)
    report = audit(mixture, vocabulary, lengths, examples=args.examples)
    if args.json:
        stops = {"faults": report.faults(limits), "warnings": report.warnings(limits)}
        print_json({"mixture": mixture.name} | report.to_json() | stops)
    else:
        _print(report, limits)
    if faults := report.faults(limits):
        raise ConfigError(faults)
    return 0


def _limits(words: list[str]) -> Any:
    from t5x_instruct.data.audit import AuditLimits

    pairs = read_pairs(words, "limit")
    names = AuditLimits.__dataclass_fields__
    problems = [f"--limit: {unknown('limit', name, names)}" for name in pairs if name not in names]
    if problems:
        raise ConfigError(problems)
    try:
        return AuditLimits(**{name: float(value) for name, value in pairs.items()})
    except ValueError as error:
        raise ConfigError(f"--limit {' '.join(words)}: {error}; write NAME=SHARE, a number from 0 to 1") from error


def _print(report: Any, limits: Any) -> None:
    rows = [_row(split) for split in report.splits]
    used = [name for name in CHECK_COLUMNS if any(row[name] is not None for row in rows)]
    print_table([*COLUMNS, *used], rows, as_json=False)
    print(colour("percentages of examples; trained %: trained tokens over all tokens; -: not looked at", DIM))
    for split in report.splits:
        counts = {name.removeprefix("count_").replace("_", " "): count for name, count in split.counters.items()}
        if counted := [f"{count:,} {name}" for name, count in counts.items() if count]:
            print(f"task {split.task!r}, split {split.split!r}: {', '.join(counted)}")
    for warning in report.warnings(limits):
        print(colour("warning: ", YELLOW) + warning)


def _row(split: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task": split.task,
        "split": split.split,
        "examples": split.examples,
        "trained %": _percent(split.trained_share),
    }
    for column, checks in CHECK_COLUMNS.items():
        shares = [share for check in checks if (share := split.share(check)) is not None]
        row[column] = _percent(sum(shares)) if shares else None
    return row


def _percent(share: float) -> float:
    """Two digits that tell few from none: 0 is exactly none."""
    return round(100 * share, 1) or (0.1 if share else 0.0)
