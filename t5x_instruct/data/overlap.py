"""Contamination: which evaluated examples stand in what is trained on, whole or in parts.

An example is in the training data whole if its texts are, but for case and white space: its inputs alone, or inputs
and targets. In parts: the share of its runs of n words (13 by default) that stand anywhere in the training data. What
many examples of the same evaluated task have are its instructions, which say nothing of its content: runs of which half
the words are such do not count.

Source: Brown et al., "Language models are few-shot learners", 2020, appendix C (13-grams); there too what stands in
many documents is left out.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.example_checks import text_of
from t5x_instruct.data.prepared import PreparedTask
from t5x_instruct.data.word_hashes import Hashes, Runs, runs_of, words_of

NGRAM = 13
INSTRUCTION_SHARE, INSTRUCTION_COUNT = 0.02, 3
CHUNK_CHARACTERS = 1_500_000
CHUNK_EXAMPLES = 4096
_MOST_TABLE_BITS = 27
SHOWN = 100


class Texts(NamedTuple):
    """Texts of consecutive examples of a task.

    Attributes:
        task: the task's name.
        first: index of the first of them in its split.
        inputs: their inputs.
        targets: their targets, as many.
    """

    task: str
    first: int
    inputs: Sequence[str]
    targets: Sequence[str]


class Match(NamedTuple):
    """An evaluated example that is in the training data.

    Attributes:
        task: its task.
        example: its index in the split.
        same: 'instance' (inputs and targets), 'inputs', or None where only runs of words are the same.
        found: how many of its different runs of words stand in the training data.
        runs: how many it has.
        train_task: the trained task that has the same text, or most of the runs (each counted where it stands first).
        train_example: index of the example there.
        text: the beginning of its inputs.
    """

    task: str
    example: int
    same: str | None
    found: int
    runs: int
    train_task: str
    train_example: int
    text: str

    @property
    def share(self) -> float:
        """Found runs over all; 1 for the same instance."""
        if self.same == "instance":
            return 1.0
        return self.found / self.runs if self.runs else 0.0


class TaskOverlap(NamedTuple):
    """The figures of an evaluated task.

    Attributes:
        task: its name.
        examples: how many it has.
        same_instance: how many stand in the training data, inputs and targets.
        same_inputs: how many have inputs that do.
        with_runs: how many have a run of words that does.
        half: of how many at least half of the runs do.
        mean_share: mean share of runs that do, over all examples.
    """

    task: str
    examples: int
    same_instance: int
    same_inputs: int
    with_runs: int
    half: int
    mean_share: float


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What `find_overlap` has found.

    Attributes:
        n: words of a run.
        train_examples: how many training examples were read.
        tasks: the evaluated tasks.
        matches: the evaluated examples that are in the training data, those with the largest share first.
    """

    n: int
    train_examples: int
    tasks: tuple[TaskOverlap, ...]
    matches: tuple[Match, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "n": self.n,
            "train_examples": self.train_examples,
            "tasks": [task._asdict() for task in self.tasks],
            "matches": [match._asdict() | {"share": match.share} for match in self.matches],
        }


def texts_of_tasks(tasks: Iterable[PreparedTask], split: str) -> Iterator[Texts]:
    """The texts of a split of prepared tasks, a few thousand at a time; tasks without the split are passed over."""
    for task in tasks:
        if split not in task.splits:
            continue
        prepared = task.splits[split]
        for first in range(0, prepared.num_examples, CHUNK_EXAMPLES):
            numbers = range(first, min(first + CHUNK_EXAMPLES, prepared.num_examples))
            examples = prepared.read_many(numbers, [0] * len(numbers))
            both = [[text_of(example, name) for example in examples] for name in ("inputs", "targets")]
            yield Texts(task.name, first, *both)


def find_overlap(train: Iterable[Texts], evaluated: Iterable[Texts], n: int = NGRAM) -> Overlap:
    """Which evaluated examples stand in the training data.

    Args:
        train: what is trained on; read once.
        evaluated: what is evaluated, each task's texts together; about 10 kB of memory an example.
        n: words of a run.

    Raises:
        ConfigError: n is not at least 1.
    """
    if n < 1:
        raise ConfigError(f"runs of {n} words: must be at least 1")
    index = _Index(evaluated, n)
    scan = _Scan(index, n)
    for texts in train:
        scan.read(texts)
    matches = scan.matches()
    matches.sort(key=lambda match: (-match.share, match.same != "inputs", match.task, match.example))
    return Overlap(n, scan.examples, tuple(_figures(index, matches)), tuple(matches))


def _figures(index: "_Index", matches: Sequence[Match]) -> Iterator[TaskOverlap]:
    by_task = collections.defaultdict(list)
    for match in matches:
        by_task[match.task].append(match)
    for task, size in collections.Counter(task for task, _ in index.places).items():
        own = by_task[task]
        yield TaskOverlap(
            task,
            size,
            same_instance=sum(match.same == "instance" for match in own),
            same_inputs=sum(match.same is not None for match in own),
            with_runs=sum(match.found > 0 for match in own),
            half=sum(match.share >= 0.5 for match in own),
            mean_share=sum(match.share for match in own) / size,
        )


def _exact(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8", "replace"), digest_size=8).digest()


def _in_chunks(texts: Texts) -> Iterator[tuple[int, list[str]]]:
    """Inputs and targets as one text each, as many at a time as a fixed memory takes; with the first one's number."""
    chunk: list[str] = []
    size = first = 0
    for i, (inputs, targets) in enumerate(zip(texts.inputs, texts.targets, strict=True)):
        text = f"{inputs}\n{targets}"
        if chunk and size + len(text) > CHUNK_CHARACTERS:
            yield first, chunk
            chunk, size, first = [], 0, i
        chunk.append(text)
        size += len(text)
    if chunk:
        yield first, chunk


class _Index:
    """What is looked for: the evaluated examples' texts and their different runs of words.

    Attributes:
        places: (task, index) of each text.
        shown: the beginning of each one's inputs.
        inputs: hash of exact inputs -> numbers of texts.
        pairs: hash of each text's exact inputs and targets.
        hashes: uint64 [R], the runs that count, ascending, each once.
        run: int64 [P], for each pair of a run and a text the run's place in `hashes`.
        text: int64 [P], its text.
    """

    def __init__(self, evaluated: Iterable[Texts], n: int):
        self.places: list[tuple[str, int]] = []
        self.shown: list[str] = []
        self.pairs: list[bytes] = []
        self.inputs: dict[bytes, list[int]] = {}
        found: dict[int, list[Runs]] = {n: [], -(-n // 2): []}
        for texts in evaluated:
            start = len(self.places)
            self._add(texts)
            for first, chunk in _in_chunks(texts):
                words = words_of(chunk)
                for size, parts in found.items():
                    runs = runs_of(words, size)
                    parts.append(Runs(runs.hashes, runs.texts + start + first))
        names = {task: i for i, task in enumerate(dict.fromkeys(task for task, _ in self.places))}
        tasks = np.array([names[task] for task, _ in self.places], np.int64)
        runs, halves = (_joined(found[size]) for size in (n, -(-n // 2)))
        runs = _content(runs, halves, _are_instructions(halves, tasks), n // 2)
        self.text = runs.texts
        self.hashes, self.run = np.unique(runs.hashes, return_inverse=True)

    def _add(self, texts: Texts) -> None:
        for i, (inputs, targets) in enumerate(zip(texts.inputs, texts.targets, strict=True)):
            if inputs.strip():
                self.inputs.setdefault(_exact(inputs), []).append(len(self.places))
            self.pairs.append(_exact(f"{inputs}\n{targets}"))
            self.places.append((texts.task, texts.first + i))
            self.shown.append(" ".join(inputs[: 2 * SHOWN].split())[:SHOWN])


def _joined(parts: Sequence[Runs]) -> Runs:
    if not parts:
        return Runs(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    return Runs(np.concatenate([part.hashes for part in parts]), np.concatenate([part.texts for part in parts]))


def _are_instructions(runs: Runs, tasks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which runs stand in many texts of their task, bool [R]; `tasks` is the task of each text."""
    hashes, texts, task = runs.hashes, runs.texts, tasks[runs.texts]
    order = np.lexsort((texts, task, hashes))
    hashes, texts, task = hashes[order], texts[order], task[order]
    group = np.cumsum(_starts(hashes, task)) - 1
    different = _starts(hashes, texts)
    counts = np.bincount(group[different], minlength=len(hashes))[group]
    often = np.zeros(len(hashes), bool)
    often[order] = counts > np.maximum(INSTRUCTION_COUNT, INSTRUCTION_SHARE * np.bincount(tasks)[task])
    return often


def _content(runs: Runs, halves: Runs, instructions: NDArray[np.bool_], more: int) -> Runs:
    """Each text's different runs, without those that have one of the instructions in them.

    Args:
        runs: all runs, in the order of their texts.
        halves: likewise all runs of half their words.
        instructions: which of the halves are instructions.
        more: how many words longer the runs are.
    """
    seen = np.concatenate([[0], np.cumsum(instructions)])
    offset = np.arange(len(runs.texts)) - np.searchsorted(runs.texts, runs.texts)
    first = np.searchsorted(halves.texts, runs.texts) + offset
    content = seen[np.minimum(first + more + 1, len(halves.texts))] == seen[first]
    hashes, texts = runs.hashes[content], runs.texts[content]
    order = np.lexsort((texts, hashes))
    hashes, texts = hashes[order], texts[order]
    different = _starts(hashes, texts)
    return Runs(hashes[different], texts[different])


def _starts(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where rows differ from the row before."""
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return starts


class _Scan:
    """Goes once through the training data and keeps where what is looked for stands first."""

    def __init__(self, index: _Index, n: int):
        self._index, self._n = index, n
        self.examples = 0
        self._starts: list[int] = []  # number of the first example of each batch of texts
        self._batches: list[tuple[str, int]] = []
        self._first = np.full(len(index.hashes), -1, np.int64)
        self._same_inputs: dict[int, int] = {}
        self._same_instance: dict[int, int] = {}
        # Most runs are not looked for: a table of their first bits says so without a search.
        self._bits = min(_MOST_TABLE_BITS, max(10, (16 * len(index.hashes)).bit_length()))
        self._table = np.zeros(1 << self._bits, bool)
        self._table[self._slots(index.hashes)] = True

    def _slots(self, hashes: Hashes) -> Hashes:
        return hashes >> np.uint64(64 - self._bits)

    def read(self, texts: Texts) -> None:
        """Looks through the texts of some training examples."""
        self._starts.append(self.examples)
        self._batches.append((texts.task, texts.first))
        self._look_for_instances(texts)
        for first, chunk in _in_chunks(texts):
            runs = runs_of(words_of(chunk), self._n)
            likely = np.flatnonzero(self._table[self._slots(runs.hashes)])
            if not len(likely):
                continue
            hashes = runs.hashes[likely]
            place = np.minimum(np.searchsorted(self._index.hashes, hashes), len(self._index.hashes) - 1)
            real = (self._index.hashes[place] == hashes) & (self._first[place] < 0)
            # Of several assignments to one place the last stays: backwards, so that it is the first.
            self._first[place[real][::-1]] = (runs.texts[likely][real] + self.examples + first)[::-1]
        self.examples += len(texts.inputs)

    def _look_for_instances(self, texts: Texts) -> None:
        wanted = self._index.inputs
        for i, inputs in enumerate(texts.inputs):
            for text in wanted.get(_exact(inputs), ()) if inputs.strip() else ():
                self._same_inputs.setdefault(text, self.examples + i)
                if self._index.pairs[text] == _exact(f"{inputs}\n{texts.targets[i]}"):
                    self._same_instance.setdefault(text, self.examples + i)

    def matches(self) -> list[Match]:
        """The evaluated examples that were found."""
        index = self._index
        seen = self._first[index.run] >= 0 if len(index.run) else np.zeros(0, bool)
        size = len(index.places)
        runs, found = np.bincount(index.text, minlength=size), np.bincount(index.text[seen], minlength=size)
        most = _most_frequent(index.text[seen], self._first[index.run[seen]])
        matches = []
        for text in sorted(most.keys() | self._same_inputs.keys()):
            same = "instance" if text in self._same_instance else "inputs" if text in self._same_inputs else None
            where = self._same_instance.get(text, self._same_inputs.get(text, most.get(text, -1)))
            matches.append(
                Match(
                    *index.places[text], same, int(found[text]), int(runs[text]), *self._place(where), index.shown[text]
                )
            )
        return matches

    def _place(self, number: int) -> tuple[str, int]:
        batch = int(np.searchsorted(self._starts, number, side="right")) - 1
        task, first = self._batches[batch]
        return task, first + number - self._starts[batch]


def _most_frequent(texts: NDArray[np.int64], places: NDArray[np.int64]) -> dict[int, int]:
    """For each text the place that it has most often, the lowest of several."""
    order = np.lexsort((places, texts))
    texts, places = texts[order], places[order]
    starts = np.flatnonzero(_starts(texts, places))
    counts = np.diff(np.append(starts, len(texts)))
    best: dict[int, tuple[int, int]] = {}
    for text, place, count in zip(texts[starts].tolist(), places[starts].tolist(), counts.tolist(), strict=True):
        if count > best.get(text, (0, 0))[0]:
            best[text] = (count, place)
    return {text: place for text, (_, place) in best.items()}
