"""A conversation as plain text, for models without a chat template.

    {what the system message says}

    User:
    ...

    Assistant:
    ...

    Assistant:

A conversation of one user turn is the instruction alone, so that the first turn of a chat is what tasks of one turn
train on. A label has a line of its own: an answer starts the same way in the text so far and where it is asked for,
and no space has to be guessed between a label and a text.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_instruct.common.errors import DataError, unknown

LABELS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def dialogue_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text that asks for the next reply.

    Args:
        messages: dicts with `role` and `content`, all texts, at least one.

    Raises:
        DataError: no message, another role, or a message that calls a tool, for which there is no text.
    """
    if not messages:
        raise DataError("the conversation has no message to answer")
    for i, message in enumerate(messages):
        if message["role"] not in LABELS:
            raise DataError(f"message {i}: {unknown('role', message['role'], LABELS)}")
        if message.get("tool_calls"):
            raise DataError(
                f"message {i} calls a tool, which plain text has no form for; use a model with a chat template"
            )
    opening = [m["content"] for m in itertools.takewhile(lambda message: message["role"] == "system", messages)]
    turns = messages[len(opening) :]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return "\n\n".join([*opening, turns[0]["content"]])
    labelled = [f"{LABELS[turn['role']]}:\n{turn['content']}" for turn in turns]
    return "\n\n".join([*opening, *labelled, f"{LABELS['assistant']}:\n"])
