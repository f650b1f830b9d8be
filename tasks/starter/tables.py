"""How the starter tasks write down facts, part them into splits and make up options."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from t5x_instruct.data.sources import Row, split_by_key
from t5x_instruct.templates.prompts import draw

FACTS_PERCENT = 30
"""Share of a table of facts that goes to validation; the tables have about a hundred lines."""

MADE_PERCENT = 15
"""Share of made-up examples that goes to validation; there are a few hundred of each kind."""


def table(text: str, *columns: str) -> list[dict[str, str]]:
    """Reads a table with one row a line and '|' between the columns; empty lines are passed over."""
    lines = (line for line in text.splitlines() if line.strip())
    return [dict(zip(columns, (cell.strip() for cell in line.split("|")), strict=True)) for line in lines]


def pairs(text: str, *columns: str) -> list[dict[str, str]]:
    """Reads short rows, parted by ',' or line ends, with '>' between the columns."""
    entries = (entry for line in text.splitlines() for entry in line.split(","))
    return table("\n".join(entry.replace(">", "|") for entry in entries), *columns)


def words(text: str) -> list[str]:
    """The words of a text, parted by white space."""
    return text.split()


def without_accents(text: str) -> str:
    """The text without marks above and below its letters, as many people type it."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def grouped(text: str) -> dict[str, list[str]]:
    """Reads lines 'group: item, item, ...' (a group may have several lines)."""
    groups: dict[str, list[str]] = {}
    for line in filter(str.strip, text.splitlines()):
        name, items = line.split(":")
        groups.setdefault(name.strip(), []).extend(item.strip() for item in items.split(","))
    return groups


def alternatives(cell: str) -> list[str]:
    """The accepted answers in a cell, parted by ';'."""
    return [part.strip() for part in cell.split(";") if part.strip()]


def shuffled(items: Iterable[str], *key: str | int) -> list[str]:
    """The items in an order that depends on nothing but them and the key."""
    return sorted(items, key=lambda item: (draw(2**62, "shuffled", *key, item), item))


def with_options(answer: str, wrong: Iterable[str], how_many_wrong: int, *key: str | int) -> list[str]:
    """Options in a drawn order: the answer and `how_many_wrong` drawn from `wrong`."""
    others = shuffled({*wrong} - {answer}, "wrong", *key)[:how_many_wrong]
    return shuffled([answer, *others], "order", *key)


def facts(rows: Iterable[Row], key: str | Callable[[Row], str]) -> dict[str, list[Row]]:
    """Splits rows about facts; all rows with the same key, in whatever task, are on one side.

    The rows come in a drawn order, since tables are sorted by answer or theme and an evaluation may
    read only the first rows of a split.
    """
    key_of = key if callable(key) else lambda row: str(row[key])
    numbered = enumerate(rows)
    ordered = sorted(numbered, key=lambda item: draw(2**62, "facts", key_of(item[1]), item[0]))
    return split_by_key((row for _, row in ordered), key_of, FACTS_PERCENT)


def made(name: str, count: int, make: Callable[[Callable[[int], int]], Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Makes up `count` examples, no two alike, and splits them by what they ask.

    Args:
        name: the task's name, the seed of everything drawn.
        count: how many examples to try; repetitions are dropped.
        make: gets a function `below(n)` that draws from [0, n) and gives a row.

    Returns:
        {'train': rows, 'validation': rows}.
    """
    rows: dict[str, Row] = {}
    for i in range(count):
        row = make(_Draws(name, i))
        rows.setdefault(_question(row), row)
    return split_by_key(rows.values(), _question, MADE_PERCENT)


def pick(below: Callable[[int], int], items: Sequence[str], how_many: int) -> list[str]:
    """Draws that many different items, in a drawn order."""
    left = list(items)
    return [left.pop(below(len(left))) for _ in range(how_many)]


class _Draws:
    """Successive draws for one made-up example."""

    def __init__(self, name: str, index: int):
        self._key = (name, index)
        self._count = 0

    def __call__(self, n: int) -> int:
        self._count += 1
        return draw(n, *self._key, self._count)


def _question(row: Row) -> str:
    """What a made-up row asks: its fields without answers, and options in any order."""
    asked = {name: value for name, value in row.items() if not name.startswith("answer")}
    return repr(sorted((k, sorted(v) if isinstance(v, list) else v) for k, v in asked.items()))
