"""The final answer in a text that reasons first."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from t5x_instruct.data.tasks import accept_answers

_MARKER = re.compile(r"\banswer is:?", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def last_answer(text: str) -> str:
    """What follows the last 'answer is', up to the line's end and without its full stop; else the whole text."""
    found = list(_MARKER.finditer(text))
    if not found:
        return text.strip()
    return text[found[-1].end() :].strip().partition("\n")[0].strip().removesuffix(".")


def last_number(text: str) -> str:
    """The last number of a text in one spelling ('1,200.50' is '1200.5'); '' if it has none.

    The language of the text does not matter, so that it is no help to look for words before the number.
    """
    found = _NUMBER.findall(text)
    if not found:
        return ""
    try:
        number = Decimal(found[-1].replace(",", ""))
    except InvalidOperation:
        return ""
    return format(number.normalize() + 0, "f")


def as_answer(output: str, **known: Any) -> str | list[str]:
    """Postprocessing with `last_answer`."""
    return _each(last_answer, accept_answers(output, **known))


def as_number(output: str, **known: Any) -> str | list[str]:
    """Postprocessing with `last_number`."""
    return _each(last_number, accept_answers(output, **known))


def _each(find: Callable[[str], str], texts: str | list[str]) -> str | list[str]:
    return find(texts) if isinstance(texts, str) else [find(text) for text in texts]
