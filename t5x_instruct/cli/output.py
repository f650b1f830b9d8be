"""What verbs print: tables, JSON, colours and errors, the same everywhere."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

BOLD, RED, GREEN, YELLOW, DIM = "1", "31", "32", "33", "2"


def in_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that wants colours (`NO_COLOR` turns them off)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def colour(text: str, code: str, stream: TextIO | None = None) -> str:
    """`text` in a colour if the stream (standard output by default) shows colours."""
    return f"\033[{code}m{text}\033[0m" if text and in_colour(stream or sys.stdout) else text


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`, which every verb has that prints a table."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def print_json(value: Any) -> None:
    """Prints a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Prints rows as aligned columns, numbers to the right, or as a JSON list of objects.

    Args:
        columns: names, which are the rows' keys, in order.
        rows: the cells; None is shown as '-'.
        as_json: JSON instead.
    """
    if as_json:
        print_json([{name: row[name] for name in columns} for row in rows])
        return
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[name], int | float | None) for row in rows) for name in columns]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    print(colour(line(columns), BOLD))
    for row_cells in cells:
        print(line(row_cells))


def print_error(message: str) -> None:
    """Prints a message for the user to standard error, its first word in red on a terminal."""
    print(f"{colour('error:', RED, sys.stderr)} {message}", file=sys.stderr)
