"""The shapes that instruction data comes in, and how their rows become ours.

A shape either gives single questions (rows with `prompt` and `answer` or `answers`, for `add_task`; the usual
template is '{prompt}') or conversations (rows with `messages`, for `add_chat_task`). Which of the two, and what a
row must have, is in `SHAPES`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data import conversation_shapes as conversations

Row = Mapping[str, Any]

PROMPT = "{prompt}"
"""The template of rows that have a whole prompt of their own."""

SHOWN = 300  # characters of a row in a message


class Placed(NamedTuple):
    """A row with the place it was read from, for messages."""

    row: Row
    place: str


@dataclass(frozen=True)
class Shape:
    """A known shape of rows.

    Attributes:
        keys: what a row looks like, for people.
        gives: 'prompt': rows for `add_task`; 'messages': conversations for `add_chat_task`.
        fits: whether a row looks like one of this shape.
        rows: our rows of one of theirs; raises `conversations.Misshapen` for one that is not right.
    """

    keys: str
    gives: Literal["prompt", "messages"]
    fits: Callable[[Row], bool]
    rows: Callable[[Row], Iterator[Row]]

    def asks(self, row: Row) -> Sequence[str]:
        """What a row of ours asks, so that rows that ask the same land in the same split."""
        return [str(row["prompt"])] if self.gives == "prompt" else conversations.opening(row["messages"])


def shape_named(name: str) -> Shape:
    """A known shape.

    Raises:
        ConfigError: no such shape, with the nearest names and the keys of all.
    """
    if name not in SHAPES:
        raise ConfigError(f"{unknown('shape', name, SHAPES)}\n{known_shapes()}")
    return SHAPES[name]


def known_shapes() -> str:
    """A list of the shapes with their keys, one a line."""
    width = max(map(len, SHAPES))
    return "\n".join(["known shapes:", *(f"  {name:<{width}}  {shape.keys}" for name, shape in SHAPES.items())])


def shapes_of(rows: Sequence[Row]) -> list[str]:
    """The names of the shapes that all of the rows look like; none for no rows."""
    return [name for name, shape in SHAPES.items() if rows and all(map(shape.fits, rows))]


def reshape(rows: Iterable[Placed], name: str) -> Iterator[Placed]:
    """Makes our rows of rows of a known shape.

    Args:
        rows: theirs, with their places.
        name: the shape.

    Yields:
        Rows of texts and lists of texts, or conversations, with the place of the row they are from.

    Raises:
        ConfigError: an unknown shape.
        DataError: a row that is not of this shape: its place, what is wrong, the row itself, and all shapes.
    """
    shape = shape_named(name)
    for row, place in rows:
        made = 0
        try:
            for made, ours in enumerate(shape.rows(row), start=1):
                yield Placed(ours, f"{place}, part {made}" if made > 1 else place)
        except conversations.Misshapen as error:
            part = f", part {made + 1}" if made else ""
            raise DataError(
                f"{place}{part}: the row is not of the shape {name!r}: {error}\n"
                f"the row: {shortened(row)}\n{known_shapes()}"
            ) from error


def shortened(value: Any) -> str:
    """A value as JSON that fits into a message."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 40]} ... {text[-32:]}"


def _text(row: Row, *names: str) -> str:
    """The text of the first of the fields that the row has."""
    name = next((name for name in names if name in row), names[0])
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise conversations.Misshapen(f"{name!r} {conversations.instead(value)}, not a text")
    return value


def _optional_text(row: Row, *names: str) -> str:
    return _text(row, *names) if any(row.get(name) is not None for name in names) else ""


def _has_texts(row: Row, *names: str) -> bool:
    return all(isinstance(row.get(name), str) for name in names)


def _listed(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise conversations.Misshapen(f"{name!r} {conversations.instead(value)}, not a list")
    return value


def _kept(row: Row) -> dict[str, Any]:
    """What is ours already: the options to choose from and all accepted answers."""
    return {name: row[name] for name in ("options", "answers") if isinstance(row.get(name), list)}


def _joined(instruction: str, given: str) -> str:
    return f"{instruction}\n\n{given}" if given.strip() else instruction


_ALPACA = (("input", "output"), ("context", "response"))


def _fits_alpaca(row: Row) -> bool:
    return any(_has_texts(row, "instruction", output) for _, output in _ALPACA)


def _alpaca(row: Row) -> Iterator[Row]:
    given = next(((i, o) for i, o in _ALPACA if o in row), _ALPACA[0])
    instruction, text = _text(row, "instruction"), _optional_text(row, given[0])
    yield {
        "instruction": instruction,
        "input": text,
        "prompt": _joined(instruction, text),
        "answer": _text(row, given[1]),
    }


_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("input", "output"),
)


def _pair_of(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if _has_texts(row, *pair)), None)


def _fits_pair(row: Row) -> bool:
    return _pair_of(row) is not None and not {"instruction", "chosen", "messages"} & set(row)


def _pair(row: Row) -> Iterator[Row]:
    # Where neither pair is there the first is asked for, so that the message names its fields.
    asked, answer = _pair_of(row) or next((pair for pair in _PAIRS if pair[0] in row), _PAIRS[0])
    yield {"prompt": _text(row, asked), "answer": _text(row, answer), **_kept(row)}


def _natural_instructions(row: Row) -> Iterator[Row]:
    definition = row.get("Definition")
    if isinstance(definition, list) and definition:
        definition = definition[0]
    definition = _text({"Definition": definition}, "Definition").strip()
    for number, one in enumerate(_listed(row, "Instances")):
        if not isinstance(one, Mapping):
            raise conversations.Misshapen(f"Instances[{number}] {conversations.instead(one)}, not an object")
        outputs = one.get("output")
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, list) or not outputs or not all(isinstance(text, str) for text in outputs):
            problem = f"'output' of Instances[{number}] {conversations.instead(outputs)}, not a list of texts"
            raise conversations.Misshapen(problem)
        given = _text(one, "input")
        prompt = _joined(definition, given)
        yield {"definition": definition, "input": given, "prompt": prompt, "answers": list(outputs)}


def _self_instruct(row: Row) -> Iterator[Row]:
    instruction = _text(row, "instruction")
    for number, one in enumerate(_listed(row, "instances")):
        if not isinstance(one, Mapping):
            raise conversations.Misshapen(f"instances[{number}] {conversations.instead(one)}, not an object")
        given = _optional_text(one, "input")
        prompt = _joined(instruction, given)
        yield {"instruction": instruction, "input": given, "prompt": prompt, "answer": _text(one, "output")}


def _preference(row: Row) -> Iterator[Row]:
    pair = {"answer": _text(row, "chosen"), "rejected": _text(row, "rejected")}
    yield {"prompt": _text(row, "prompt", "question", "instruction"), **pair}


def _fits_preference(row: Row) -> bool:
    asked = any(isinstance(row.get(name), str) for name in ("prompt", "question", "instruction"))
    return asked and _has_texts(row, "chosen", "rejected") and not _fits_transcripts(row)


def _fits_transcripts(row: Row) -> bool:
    return all(
        isinstance(row.get(name), str) and conversations.is_transcript(row[name]) for name in ("chosen", "rejected")
    )


def _fits_preference_chat(row: Row) -> bool:
    lists = [isinstance(row.get(name), list) for name in ("prompt", "chosen", "rejected")]
    return "chosen" in row and "rejected" in row and (lists[0] or all(lists[1:]))


SHAPES: dict[str, Shape] = {
    "alpaca": Shape(
        "instruction, output and perhaps input (or instruction, response and perhaps context)",
        "prompt",
        _fits_alpaca,
        _alpaca,
    ),
    "prompt_completion": Shape(
        "two texts: " + ", ".join(f"{a}/{b}" for a, b in _PAIRS) + "; perhaps options, answers",
        "prompt",
        _fits_pair,
        _pair,
    ),
    "natural_instructions": Shape(
        "Definition and Instances: a list of {input, output}",
        "prompt",
        lambda row: "Definition" in row and isinstance(row.get("Instances"), list),
        _natural_instructions,
    ),
    "self_instruct": Shape(
        "instruction and instances: a list of {input, output}",
        "prompt",
        lambda row: _has_texts(row, "instruction") and isinstance(row.get("instances"), list),
        _self_instruct,
    ),
    "preference": Shape(
        "prompt, chosen and rejected: three texts (chosen is learned, rejected is kept)",
        "prompt",
        _fits_preference,
        _preference,
    ),
    "preference_chat": Shape(
        "chosen and rejected: lists of {role, content}, or answers to prompt: a list of {role, content}",
        "messages",
        _fits_preference_chat,
        conversations.from_preference,
    ),
    "hh_rlhf": Shape(
        "chosen and rejected: transcripts of turns that begin with '\\n\\nHuman: ' and '\\n\\nAssistant: '",
        "messages",
        _fits_transcripts,
        conversations.from_transcripts,
    ),
    "messages": Shape(
        "messages: a list of {role, content} with the roles system, user, assistant, tool; perhaps tools",
        "messages",
        lambda row: isinstance(row.get("messages"), list),
        conversations.from_messages,
    ),
    "sharegpt": Shape(
        "conversations: a list of {from, value}; perhaps system, tools",
        "messages",
        lambda row: isinstance(row.get("conversations"), list),
        conversations.from_sharegpt,
    ),
    "open_assistant": Shape(
        "prompt: a tree of {text, role, replies}; of ranked replies the best is learned",
        "messages",
        lambda row: isinstance(row.get("prompt"), Mapping) and "replies" in row["prompt"],
        conversations.from_tree,
    ),
    "taskmaster": Shape(
        "utterances: a list of {speaker, text}",
        "messages",
        lambda row: isinstance(row.get("utterances"), list),
        conversations.from_utterances,
    ),
}
"""The shapes by name."""
