"""Reads files of Natural Instructions v2, whatever state they are in.

A file is one JSON object: `Definition`, `Categories`, `Positive Examples`, `Instances` and keys that
are of no use here. What is broken is left out and told by `report` with its place, the rest is read:
of a file that stops being JSON somewhere, the instances before that place are used.
"""

import collections
import functools
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from t5x_instruct.data.sources import Placed, in_validation
from t5x_instruct.evaluation.metrics import normalize
from t5x_instruct.templates.prompts import draw

HEAD_BYTES = 1 << 16
"""How much of a file is read to know its cluster and splits; nearly always enough."""

VALIDATION_PERCENT = 5
MIN_TO_SPLIT = 10
"""Training tasks with fewer different inputs have no validation split."""

TEST_INSTANCES = 100
"""The first instances of a test task are the official test set."""

EXAMPLES_LEFT_OUT: collections.Counter[tuple[str, str]] = collections.Counter()
"""How often a positive example was left out because it is the query, by file and part, when last read."""

_PROBLEMS: dict[str, tuple[str, ...]] = {}
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_SPACE = re.compile(r"[ \t\r\n]*")
# Not strict: texts with raw control characters are common enough in data made by hand.
_DECODER = json.JSONDecoder(strict=False)
_Item = TypeVar("_Item")


class Example(NamedTuple):
    """A positive example; `key` is its input as inputs are compared."""

    input: str
    output: str
    key: str


class Instance(NamedTuple):
    """An instance; `position` counts all instances of the file, also those left out."""

    id: str
    input: str
    outputs: tuple[str, ...]
    key: str
    position: int
    place: str


class TaskFile(NamedTuple):
    """What a file has; without definition or instances it makes no task.

    `source` names the data sets that the instances were made from, parted by ';'.
    """

    category: str | None = None
    source: str | None = None
    definition: str | None = None
    examples: tuple[Example, ...] = ()
    instances: tuple[Instance, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def num_inputs(self) -> int:
        """How many different inputs there are."""
        return len({instance.key for instance in self.instances})


def report() -> list[str]:
    """What was found broken and left out: 'file:line: what', in the order of files.

    A training task's large file is read as a whole when its examples are, so its problems are known
    only after that.
    """
    return [problem for path in sorted(_PROBLEMS) for problem in _PROBLEMS[path]]


def note_problems(path: str, problems: Sequence[str]) -> None:
    """Keeps the problems of a file for `report`, and warns of new ones."""
    if problems and _PROBLEMS.get(path) != tuple(problems):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        logging.warning("left out: %s%s", problems[0], more)
    _PROBLEMS.pop(path, None)
    if problems:
        _PROBLEMS[path] = tuple(problems)


def read(path: str) -> TaskFile:
    """Reads a file; its problems are kept for `report`.

    Args:
        path: the file.

    Returns:
        What could be read of it.
    """
    try:
        state = os.stat(path)
        found = _read_unchanged(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        found = TaskFile(problems=(f"{path}: cannot be read: {error}",))
    note_problems(path, found.problems)
    return found


@functools.lru_cache(maxsize=2)
def _read_unchanged(path: str, size: int, mtime_ns: int) -> TaskFile:
    # A file is read once for each split and each variant, one after the other.
    del size, mtime_ns
    with open(path, "rb") as file:
        content = file.read()
    try:
        return parse(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"{path}:{line}: not UTF-8 text: {error.reason}; U+FFFD stands for what cannot be read"
        found = parse(content.decode("utf-8-sig", errors="replace"), path)
        return found._replace(problems=(problem, *found.problems))


def read_head(path: str, num_inputs: int) -> TaskFile:
    """Reads the beginning of a file if that is enough, else the file.

    Args:
        path: the file.
        num_inputs: how many different inputs have to be known.

    Returns:
        Category and definition, and the instances if they are few, else some.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD_BYTES)
    except OSError:
        return read(path)
    if len(start) == HEAD_BYTES:
        # Twice as many instances, in case some are broken or have the same input.
        head = parse(start.decode("utf-8-sig", errors="ignore"), path, 2 * num_inputs)
        if head.category and head.definition and head.num_inputs >= num_inputs:
            return head
    return read(path)


def rows(path: str, part: str, shots: int) -> Iterator[Placed]:
    """Gives the rows of a part of a file.

    The part 'validation' has the inputs that a hash of their instance's id draws, at least one where
    there are `MIN_TO_SPLIT`; instances with the same input stay together. 'train' has the others.

    Args:
        path: the file.
        part: 'train', 'validation', or 'test' for the first `TEST_INSTANCES` instances.
        shots: how many positive examples to show at most.

    Yields:
        Rows with the fields of `tasks.niv2.TEMPLATE`, `answers` and `id`, with their places.
    """
    task = read(path)
    held_out = _validation_keys(task.instances)
    EXAMPLES_LEFT_OUT[path, part] = 0
    for instance in task.instances:
        if part == "test":
            wanted = instance.position < TEST_INSTANCES
        else:
            wanted = (instance.key in held_out) == (part == "validation")
        if wanted:
            shown, left_out = choose_examples(task.examples, instance.key, shots)
            EXAMPLES_LEFT_OUT[path, part] += left_out
            row = {
                "definition": sentence(task.definition or ""),
                "examples": render_examples(shown),
                "input": sentence(instance.input),
                "answers": list(instance.outputs),
                "id": instance.id,
            }
            yield Placed(row, instance.place)


def choose_examples(examples: Sequence[Example], query: str, shots: int) -> tuple[list[Example], int]:
    """The first positive examples that are not the query.

    Args:
        examples: the positive examples in the file's order.
        query: the query's `key`.
        shots: how many to choose at most.

    Returns:
        The chosen examples, and how many were passed over because they are the query.
    """
    chosen: list[Example] = []
    left_out = 0
    for example in examples:
        if len(chosen) == shots:
            break
        if example.key == query:
            left_out += 1
        else:
            chosen.append(example)
    return chosen, left_out


def render_examples(examples: Sequence[Example]) -> str:
    """Positive examples as Tk-Instruct writes them, the odd spaces included."""
    return "".join(
        f" Positive Example {number} -\nInput: {sentence(example.input)}\n Output: {sentence(example.output)}\n\n"
        for number, example in enumerate(examples, start=1)
    )


def sentence(text: str) -> str:
    """A text without white space around it, with a full stop unless it ends with ASCII punctuation."""
    text = text.strip()
    return text if text[-1:] in _PUNCTUATION else f"{text}."


def _validation_keys(instances: Sequence[Instance]) -> set[str]:
    ids: dict[str, str] = {}
    for instance in instances:
        ids.setdefault(instance.key, instance.id)
    if len(ids) < MIN_TO_SPLIT:
        return set()
    keys = {key for key, id_ in ids.items() if in_validation(id_, VALIDATION_PERCENT)}
    return keys or {min(ids, key=lambda key: draw(1 << 62, ids[key]))}


def parse(text: str, path: str, max_instances: int | None = None) -> TaskFile:
    """Reads a file's text.

    Args:
        text: the text, whole or only its beginning.
        path: the file's path, for messages.
        max_instances: nothing is read after this many instances.

    Returns:
        What the text has, and what is wrong with it.
    """
    fields: dict[str, Any] = {}
    items: list[tuple[int, Any]] = []
    problems: list[str] = []
    scanner = _Scanner(text)
    try:
        for name in scanner.members():
            if name == "Instances" and scanner.take("["):
                fields[name] = items = []
                items.extend(itertools.islice(scanner.elements(), max_instances))
                if len(items) == max_instances:
                    break
            else:
                fields[name] = scanner.value()
        else:
            scanner.end()
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else scanner.line()
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        problems.append(f"{path}:{line}: not JSON: {why}; only what stands before is used")
    if not isinstance(fields.get("Instances"), list):
        problems.append(f"{path}: Instances {_instead(fields.get('Instances'))}, not a list")
    elif not items:
        problems.append(f"{path}: Instances is an empty list")
    name = os.path.basename(path).removesuffix(".json")
    return TaskFile(
        category=_first_text(fields, "Categories", path, problems),
        source="; ".join(filter(None, map(str.strip, _texts(fields.get("Source"))))) or None,
        definition=_first_text(fields, "Definition", path, problems),
        examples=tuple(_examples(fields.get("Positive Examples"), path, problems)),
        instances=tuple(_instances(items, name, path, problems)),
        problems=tuple(problems),
    )


def _first_text(fields: dict[str, Any], name: str, path: str, problems: list[str]) -> str | None:
    """A text, or the first of a list of texts (the collection has lists of one)."""
    texts = _texts(fields.get(name))
    if texts and texts[0].strip():
        return texts[0].strip()
    problems.append(f"{path}: {name} {_instead(fields.get(name))}, not a text with something in it")
    return None


def _examples(items: Any, path: str, problems: list[str]) -> Iterator[Example]:
    if not isinstance(items, list | None):
        problems.append(f"{path}: Positive Examples {_instead(items)}, not a list")
        return
    for position, item in enumerate(items or ()):
        pair = _pair(item)
        if isinstance(pair, str):
            problems.append(f"{path}: Positive Examples[{position}]: {pair}")
        else:
            yield Example(pair[0], pair[1][0], normalize(pair[0]))


def _instances(items: Sequence[tuple[int, Any]], name: str, path: str, problems: list[str]) -> Iterator[Instance]:
    ids: set[str] = set()
    for position, (line, item) in enumerate(items):
        place = f"{path}:{line}"
        pair = _pair(item)
        if isinstance(pair, str):
            problems.append(f"{place}: Instances[{position}]: {pair}")
            continue
        id_ = _clean(str(item.get("id", "")))
        if not id_ or id_ in ids:  # the split needs one that is its own
            id_ = f"{name}-{position}"
        ids.add(id_)
        yield Instance(id_, pair[0], pair[1], normalize(pair[0]), position, place)


def _pair(item: Any) -> tuple[str, tuple[str, ...]] | str:
    """The input and the outputs of an example or instance; what is wrong with it if there is none."""
    if not isinstance(item, dict):
        return f"{_instead(item)}, not an object"
    if not isinstance(item.get("input"), str):
        return f"'input' {_instead(item.get('input'))}, not a text"
    outputs = _texts(item.get("output"))
    if not outputs:
        return f"'output' {_instead(item.get('output'))}, not a text or a list of texts"
    return _clean(item["input"]), tuple(output.strip() for output in outputs)


def _texts(value: Any) -> list[str]:
    """A text or a list of texts as a list; empty for anything else."""
    values = value if isinstance(value, list) else [value]
    return [_clean(v) for v in values] if all(isinstance(v, str) for v in values) else []


def _instead(value: Any) -> str:
    """What stands where something else should be."""
    if value is None:
        return "is missing"
    text = repr(value)
    return f"is {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _clean(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which JSON allows and UTF-8 does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class _Scanner:
    """Takes JSON from a text value by value, so that a fault costs only what comes after it."""

    def __init__(self, text: str):
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0

    def line(self) -> int:
        """The line of the current place, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def members(self) -> Iterator[str]:
        """The names of an object's members; who iterates has to take the value of each."""
        self._expect("{")
        return self._separated("}", self._name)

    def elements(self) -> Iterator[tuple[int, Any]]:
        """The rest of a list whose bracket is taken: lines and values."""
        return self._separated("]", lambda: (self._next_line(), self.value()))

    def value(self) -> Any:
        """The next value, whatever it is."""
        self._skip_space()
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value

    def take(self, mark: str) -> bool:
        """Takes a mark if it comes next."""
        self._skip_space()
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) * found
        return found

    def end(self) -> None:
        """Checks that nothing more comes."""
        self._skip_space()
        if self._at < len(self._text):
            raise json.JSONDecodeError("more text after the object", self._text, self._at)

    def _separated(self, close: str, take_item: Callable[[], _Item]) -> Iterator[_Item]:
        if self.take(close):
            return
        yield take_item()
        while self.take(","):
            yield take_item()
        self._expect(close)

    def _name(self) -> str:
        at = self._at
        name = self.value()
        if not isinstance(name, str):
            raise json.JSONDecodeError("expected a name in quotes", self._text, at)
        self._expect(":")
        return name

    def _next_line(self) -> int:
        self._skip_space()
        return self.line()

    def _expect(self, mark: str) -> None:
        if not self.take(mark):
            raise json.JSONDecodeError(f"expected {mark!r}", self._text, self._at)

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
