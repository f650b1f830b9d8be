"""Conversations of several turns: Open Assistant's message trees and Taskmaster's dialogues, read from their files.

Put the files into one folder and name it by the module option `tasks.chat.FOLDER` or by the environment variable
T5X_INSTRUCT_CHAT_FOLDER. Tasks are registered for the files that are there, each in a cluster of its own, and the
mixture `chat` has them all:

    chat_oasst        *oasst*.jsonl (or .jsonl.gz): one tree of messages a line
    chat_taskmaster   taskmaster*.json, TM-*/*.json: a list of dialogues

An Open Assistant tree holds several replies to the same message, and several questions after the same reply.
`tasks.chat.PATHS` says what becomes of that:

    best   (default) one conversation a tree: the best-ranked reply each time, and among the questions that follow it
           the first that leads on; what people ranked lower is not learned
    all    every path from the root to a leaf. A reply that several paths share is trained on in the first of them and
           is context in the others, so that each reply of a tree is trained on once

Of both collections 5 of 100 trees (dialogues) are the split `validation`, by a hash of their ids: no message of a
validation tree is ever trained on.

Sources: github.com/LAION-AI/Open-Assistant, Köpf et al. 2023, OpenAssistant Conversations (Apache-2.0);
github.com/google-research-datasets/Taskmaster, Byrne et al. 2019, Taskmaster-1 (CC BY 4.0).
"""

import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.chat_tasks import Conversations, add_chat_task
from t5x_instruct.data.file_sources import read_json_rows
from t5x_instruct.data.sources import Placed, in_validation, read_jsonl
from t5x_instruct.data.task_modules import module_option
from t5x_instruct.data.tasks import add_mixture, proportional

FOLDER = module_option("tasks.chat.FOLDER", os.environ.get("T5X_INSTRUCT_CHAT_FOLDER"))
"""The folder with the files."""

PATHS = module_option("tasks.chat.PATHS", os.environ.get("T5X_INSTRUCT_CHAT_PATHS", "best"))
"""Which paths of a tree are conversations: 'best' or 'all'."""

CAP = 100_000
"""Examples beyond this number do not give a task more weight."""

VALIDATION_PERCENT = 5
MAX_DEPTH = 200
"""Messages of a tree below one another; deeper ones are left out (the collection's deepest tree has 20 or so)."""

ROLES = {"prompter": "user", "assistant": "assistant"}
SPEAKERS = {"user": "user", "assistant": "assistant"}

Messages = list[dict[str, Any]]
Node = Mapping[str, Any]


class _Problems:
    """Counts what is left out of a file, and tells of the first ones."""

    def __init__(self, path: str):
        self.path, self.count = path, 0

    def add(self, error: DataError) -> None:
        self.count += 1
        if self.count <= 5:
            logging.warning("skipped: %s", error)

    def close(self) -> None:
        if self.count:
            logging.warning("%s: %d rows were skipped", self.path, self.count)


def oasst_rows(paths: Sequence[str], split: str, which: str = "best") -> Iterator[Placed]:
    """Reads the conversations of one split; lines that are no trees are reported and skipped.

    Args:
        paths: JSONL files of message trees.
        split: 'train' or 'validation'; the tree's id decides which a tree belongs to.
        which: 'best' or 'all', see the module.

    Yields:
        Rows with `messages` and `id`, with their places.

    Raises:
        DataError: a file cannot be read.
    """
    for path in paths:
        problems = _Problems(path)
        for tree, place in read_jsonl(path, problems.add):
            try:
                tree_id, root = str(tree["message_tree_id"]), _checked(tree["prompt"], place)
            except (KeyError, DataError) as error:
                what = f"{place}: the field {error} is missing" if isinstance(error, KeyError) else str(error)
                problems.add(DataError(what))
                continue
            if in_validation(tree_id, VALIDATION_PERCENT) == (split == "validation"):
                found = [_best_path(root)] if which == "best" else _all_paths(root)
                for number, messages in enumerate(map(_until_last_reply, found)):
                    if any(message.get("weight", 1) for message in messages if message["role"] == "assistant"):
                        yield Placed({"messages": messages, "id": f"{tree_id}/{number}"}, place)
        problems.close()


def _checked(node: Any, place: str, depth: int = 0) -> Node:
    """A message with the replies that can be used, the best first; raises DataError for one that is no message."""
    if not isinstance(node, Mapping) or not isinstance(node.get("text"), str) or node.get("role") not in ROLES:
        raise DataError(f"{place}: a message has 'text' and a 'role' of {sorted(ROLES)}, got {str(node)[:80]!r}")
    usable = []
    for reply in node.get("replies") or () if depth < MAX_DEPTH else ():
        if isinstance(reply, Mapping) and not reply.get("deleted") and reply.get("review_result") is not False:
            usable.append(_checked(reply, place, depth + 1))
    return {"role": ROLES[node["role"]], "content": node["text"], "replies": sorted(usable, key=_rank), **_own(node)}


def _own(node: Node) -> dict[str, Any]:
    return {"rank": node["rank"]} if isinstance(node.get("rank"), int) else {}


def _rank(node: Node) -> tuple[bool, int]:
    """Ranked replies come first, the best (0) before the others; all others stay in their order."""
    return "rank" not in node, node.get("rank", 0)


def _message(node: Node, **more: Any) -> dict[str, Any]:
    return {"role": node["role"], "content": node["content"], **more}


def _best_path(root: Node) -> Messages:
    path = [_message(root)]
    while root["replies"]:
        leading = [reply for reply in root["replies"] if reply["role"] == "assistant" or reply["replies"]]
        root = (leading or root["replies"])[0]
        path.append(_message(root))
    return path


def _all_paths(root: Node) -> Iterator[Messages]:
    """Paths to the leaves, the best first; an assistant's message has weight 0 in all of its paths but the first."""
    for i, reply in enumerate(root["replies"]):
        for j, rest in enumerate(_all_paths(reply)):
            seen = i + j > 0 and root["role"] == "assistant"
            yield [_message(root, weight=0) if seen else _message(root), *rest]
    if not root["replies"]:
        yield [_message(root)]


def _until_last_reply(messages: Messages) -> Messages:
    """A conversation without the questions at its end that nobody answered."""
    kept = list(itertools.dropwhile(lambda message: message["role"] != "assistant", reversed(messages)))
    return kept[::-1]


def taskmaster_rows(paths: Sequence[str], split: str) -> Iterator[Placed]:
    """Reads the dialogues of one split; what is no dialogue is reported and skipped.

    What one speaker says in several utterances is one turn, in as many lines.

    Args:
        paths: JSON files of dialogues.
        split: 'train' or 'validation'; the dialogue's id decides which it belongs to.

    Yields:
        Rows with `messages` and `id`, with their places.

    Raises:
        DataError: a file cannot be read.
    """
    for path in paths:
        problems = _Problems(path)
        for dialogue, place in read_json_rows(path):
            try:
                name, messages = str(dialogue["conversation_id"]), _turns(dialogue["utterances"])
            except (KeyError, TypeError, AttributeError) as error:
                problems.add(DataError(f"{place}: not a dialogue ({type(error).__name__}: {error})"))
                continue
            messages = _until_last_reply(messages)
            asked = any(message["role"] == "user" for message in messages)
            if asked and in_validation(name, VALIDATION_PERCENT) == (split == "validation"):
                yield Placed({"messages": messages, "id": name}, place)
        problems.close()


def _turns(utterances: Iterable[Mapping[str, Any]]) -> Messages:
    said = [(SPEAKERS[one["speaker"].lower()], one["text"].strip()) for one in utterances]
    turns = itertools.groupby((part for part in said if part[1]), key=lambda part: part[0])
    return [{"role": role, "content": "\n".join(text for _, text in parts)} for role, parts in turns]


def _files() -> dict[str, list[str]]:
    """The files of each collection that are in the folder."""
    hint = "set the module option tasks.chat.FOLDER or the environment variable T5X_INSTRUCT_CHAT_FOLDER"
    problems = []
    if PATHS not in ("best", "all"):
        problems.append(f"tasks.chat.PATHS: {unknown('value', str(PATHS), ['best', 'all'])}")
    found: dict[str, list[str]] = {}
    if not FOLDER:
        problems.append(f"the folder of the conversations is not set; {hint}")
    else:
        for name, patterns in PATTERNS.items():
            paths = sorted(str(path) for pattern in patterns for path in Path(FOLDER).glob(pattern))
            found |= {name: paths} if paths else {}
        if not found:
            wanted = ", ".join(pattern for patterns in PATTERNS.values() for pattern in patterns)
            problems.append(f"tasks.chat.FOLDER is {FOLDER!r}, which has none of {wanted}; {hint}")
    if problems:
        raise ConfigError(problems)
    return found


PATTERNS = {
    "oasst": ("*oasst*.jsonl", "*oasst*.jsonl.gz"),
    "taskmaster": ("taskmaster*.json", "TM-*/*.json", "TM-*/data/*.json"),
}
READERS: Mapping[str, Callable[..., Iterator[Placed]]] = {
    "oasst": functools.partial(oasst_rows, which=str(PATHS)),
    "taskmaster": taskmaster_rows,
}
FOUND = _files()

for _name, _paths in FOUND.items():
    add_chat_task(
        f"chat_{_name}",
        cluster=f"chat_{_name}",
        source=Conversations(
            {split: functools.partial(READERS[_name], _paths, split) for split in ("train", "validation")},
            fields=("id",),
            description=f"{_name} in {', '.join(_paths)}",
        ),
        dataset=_name,
    )

add_mixture("chat", [f"chat_{name}" for name in FOUND], rate=proportional(cap=CAP))
