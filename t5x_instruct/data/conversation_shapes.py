"""Conversations in the shapes they are published in, as lists of messages.

A message is a dict with `role` ('system', 'user', 'assistant' or 'tool') and `content` (a text), as the chat
templates of models read them; `tool_calls`, `tool_call_id`, `name` and `weight` are passed on. Each function takes a
row and gives rows with `messages`.

Sources: the formats of the OpenAI API (platform.openai.com/docs/api-reference/chat), ShareGPT, Open Assistant
(Koepf et al. 2023), HH-RLHF (Bai et al. 2022) and Taskmaster (Byrne et al. 2019).
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""The roles that data has, and ours."""

PASSED_ON = ("tool_calls", "tool_call_id", "name", "weight")
_TURN = re.compile(r"\n\n(Human|Assistant):[ \t]?")
_MAX_DEPTH = 200  # of a tree of replies


class Misshapen(Exception):
    """A row is not of the shape that was asked for; the message says what is wrong with it."""


def instead(value: Any) -> str:
    """What stands where something else should be."""
    if value is None:
        return "is missing"
    text = repr(value)
    return f"is {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def opening(messages: Sequence[Message]) -> list[str]:
    """What a conversation says before the assistant's first reply."""
    before = itertools.takewhile(lambda message: message["role"] != "assistant", messages)
    return [str(message["content"]) for message in before]


def is_transcript(text: str) -> bool:
    """Whether a text consists of turns of 'Human:' and 'Assistant:'."""
    return re.match(r"\n\n(Human|Assistant):", text) is not None


def from_messages(row: Row) -> Iterator[Row]:
    """Messages of role and content, in the OpenAI API's shape."""
    yield {"messages": _checked(_messages(row.get("messages"), "messages")), **_tools(row)}


def from_sharegpt(row: Row) -> Iterator[Row]:
    """Turns of `from` and `value`; a system message may stand beside them."""
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"]:
        messages.append({"role": "system", "content": row["system"]})
    for number, turn in enumerate(_list(row.get("conversations"), "conversations")):
        place = f"conversations[{number}]"
        if not isinstance(turn, Mapping):
            raise Misshapen(f"{place} {instead(turn)}, not an object with 'from' and 'value'")
        if turn.get("from") == "function_call":
            messages.append({"role": "assistant", "content": "", "tool_calls": [_call(turn.get("value"), place)]})
        else:
            messages.append({"role": _role(turn.get("from"), place, "from"), "content": _content(turn, "value", place)})
    yield {"messages": _checked(messages), **_tools(row)}


def from_transcripts(row: Row) -> Iterator[Row]:
    """A chosen and a rejected transcript that differ in their last reply; only where they differ is trained on."""
    chosen, rejected = (_transcript(row.get(name), name) for name in ("chosen", "rejected"))
    yield _preferred(chosen, rejected)


def from_preference(row: Row) -> Iterator[Row]:
    """A chosen and a rejected conversation, or replies (texts or messages) to a conversation that `prompt` has.

    Only where they differ is trained on.
    """
    before = _messages(row["prompt"], "prompt") if isinstance(row.get("prompt"), list) else []
    ends = {}
    for name in ("chosen", "rejected"):
        value = row.get(name)
        is_reply = isinstance(value, str)
        ends[name] = before + ([{"role": "assistant", "content": value}] if is_reply else _messages(value, name))
    yield {**_preferred(ends["chosen"], ends["rejected"]), **_tools(row)}


def _preferred(chosen: list[Message], rejected: list[Message]) -> dict[str, Any]:
    """The chosen conversation, with weight 0 for the replies that both begin with, and the reply that was rejected.

    The preference says nothing of those, and several pairs may share them.
    """
    last = _last_reply(rejected, "rejected")
    _last_reply(chosen, "chosen")
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected, strict=False))
    shared = sum(1 for _ in pairs)
    messages = [
        {**message, "weight": 0} if i < shared and message["role"] == "assistant" else message
        for i, message in enumerate(chosen)
    ]
    return {"messages": messages, "rejected": last}


def from_tree(row: Row) -> Iterator[Row]:
    """A tree of messages: one conversation for each way down it on which each reply is the best-ranked one.

    Where people wrote several follow-ups to a reply, each begins a conversation of its own, and what the assistant
    said before is trained on in the first of them only. A reply that nobody ranked counts after those that were.
    Messages that were deleted are left out with what follows them.
    """
    root = row.get("prompt")
    if not isinstance(root, Mapping):
        raise Misshapen(f"'prompt' {instead(root)}, not a message with replies")
    trained: set[int] = set()
    for way in _ways_down(root, []):
        messages = []
        for node in way:
            message: Message = {"role": _node_role(node), "content": _content(node, "text", "a message")}
            messages.append(message | ({"weight": 0} if id(node) in trained else {}))
        trained |= {id(node) for node in way if _node_role(node) == "assistant"}
        yield {"messages": messages}


def from_utterances(row: Row) -> Iterator[Row]:
    """Utterances of speakers; those of one speaker that follow each other are one message."""
    messages: list[Message] = []
    for number, one in enumerate(_list(row.get("utterances"), "utterances")):
        place = f"utterances[{number}]"
        if not isinstance(one, Mapping):
            raise Misshapen(f"{place} {instead(one)}, not an object with 'speaker' and 'text'")
        role, text = _role(str(one.get("speaker")).lower(), place, "speaker"), _content(one, "text", place)
        _append(messages, role, text, "\n")
    yield {"messages": _checked(messages)}


def _append(messages: list[Message], role: str, text: str, between: str) -> None:
    """Adds a message, or goes on with the last one if it is of the same role."""
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] = between.join(part for part in (messages[-1]["content"], text) if part)
    else:
        messages.append({"role": role, "content": text})


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise Misshapen(f"{name!r} {instead(value)}, not a list with something in it")
    return value


def _messages(value: Any, name: str) -> list[Message]:
    messages = []
    for number, one in enumerate(_list(value, name)):
        place = f"{name}[{number}]"
        if not isinstance(one, Mapping):
            raise Misshapen(f"{place} {instead(one)}, not an object with 'role' and 'content'")
        content = "" if one.get("tool_calls") and one.get("content") is None else _content(one, "content", place)
        message: Message = {"role": _role(one.get("role"), place, "role"), "content": content}
        messages.append(message | {key: one[key] for key in PASSED_ON if one.get(key) not in (None, [], "")})
    return messages


def _checked(messages: list[Message]) -> list[Message]:
    if not any(message["role"] == "assistant" for message in messages):
        roles = [message["role"] for message in messages]
        raise Misshapen(f"the conversation has no message of the assistant to learn from; its roles are {roles}")
    return messages


def _role(value: Any, place: str, key: str) -> str:
    role = ROLES.get(value) if isinstance(value, str) else None
    if role is None:
        raise Misshapen(f"{key!r} of {place} {instead(value)}; known: {', '.join(map(repr, ROLES))}")
    return role


def _content(message: Row, key: str, place: str) -> str:
    value = message.get(key)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    raise Misshapen(f"{key!r} of {place} {instead(value)}, not a text")


def _tools(row: Row) -> dict[str, Any]:
    """The tools that the assistant may call; some data has them as JSON text."""
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise Misshapen(f"'tools' is a text that is not JSON: {error}") from None
    if tools and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        raise Misshapen(f"'tools' {instead(tools)}, not a list of objects")
    return {"tools": tools} if tools else {}


def _call(value: Any, place: str) -> dict[str, Any]:
    """A call of a tool, written as a JSON object with name and arguments."""
    try:
        call = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        call = None
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise Misshapen(f"'value' of {place} {instead(value)}, not a JSON object with 'name' and 'arguments'")
    return {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}


def _transcript(text: Any, name: str) -> list[Message]:
    if not isinstance(text, str) or not is_transcript(text):
        raise Misshapen(f"{name!r} {instead(text)}, not a transcript that begins with '\\n\\nHuman: '")
    parts = _TURN.split(text)
    messages: list[Message] = []
    for who, said in zip(parts[1::2], parts[2::2], strict=True):
        # A few transcripts have two turns of one speaker in a row.
        _append(messages, ROLES[who.lower()], said.strip(), "\n\n")
    return messages


def _last_reply(messages: Sequence[Message], name: str) -> str:
    if not messages or messages[-1]["role"] != "assistant":
        raise Misshapen(f"{name!r} does not end with a message of the assistant")
    return str(messages[-1]["content"])


def _node_role(node: Row) -> str:
    return _role(node.get("role"), "a message", "role")


def _ways_down(node: Row, before: list[Row]) -> Iterator[list[Row]]:
    if len(before) > _MAX_DEPTH:
        raise Misshapen(f"the tree is deeper than {_MAX_DEPTH} messages")
    way = [*before, node]
    replies = [one for one in node.get("replies") or () if isinstance(one, Mapping) and not one.get("deleted")]
    if _node_role(node) == "user":
        for best in sorted(replies, key=_rank)[:1]:
            yield from _ways_down(best, way)
        return
    goes_on = False
    for reply in replies:
        for found in _ways_down(reply, way):
            goes_on = True
            yield found
    if not goes_on:
        yield way


def _rank(node: Row) -> float:
    rank = node.get("rank")
    return float(rank) if isinstance(rank, int | float) else float("inf")
