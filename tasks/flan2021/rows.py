"""What row functions of several clusters do with the texts of an example."""

from collections.abc import Iterable, Mapping

Row = dict[str, str | list[str]]


def complete(fields: Mapping[str, str | list[str]], *optional: str) -> Row | None:
    """A row without white space around its texts.

    Args:
        fields: the row's texts and lists of texts.
        *optional: names of those that may be empty.

    Returns:
        The row; None if another one of them is empty.
    """
    row: Row = {
        name: value.strip() if isinstance(value, str) else [part.strip() for part in value]
        for name, value in fields.items()
    }
    return row if all(value or name in optional for name, value in row.items()) else None


def accepted(texts: Iterable[str]) -> list[str]:
    """Accepted answers in their order, each once, without empty ones."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def asked(question: str) -> str:
    """A question with its question mark, which sets made of search queries leave out."""
    question = question.strip()
    return question if not question or question.endswith(("?", ".", "!", ":")) else f"{question}?"
