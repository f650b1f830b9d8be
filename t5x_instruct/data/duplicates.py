"""Examples that are there more than once: in a task, in several tasks, in training and validation."""

import functools
import hashlib
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.data.example_checks import text_of
from t5x_instruct.data.records import Example

Hashes = NDArray[np.uint64]
Duplicate = tuple[int, int, int | None, str]


class SplitHashes:
    """64-bit hashes of the texts of a split's examples, 24 bytes an example.

    Args:
        task: its task's name.
        split: its name.
        role: 'train' or 'held_out'.
    """

    def __init__(self, task: str, split: str, role: str):
        self.task, self.split, self.role = task, split, role
        self._indices = array("q")
        self._digests = bytearray()

    def add(self, examples: Sequence[tuple[int, Example]]) -> None:
        """Takes examples with their indices; all of them before anything is read."""
        for index, example in examples:
            inputs, targets = (text_of(example, name).encode("utf-8", "replace") for name in ("inputs", "targets"))
            first = hashlib.blake2b(inputs, digest_size=8)
            self._digests += first.digest() if inputs else bytes(8)
            first.update(b"\0" + targets)
            self._digests += first.digest()
            self._indices.append(index)

    @property
    def indices(self) -> NDArray[np.int64]:
        """Index of each example in the split, int64 [N]."""
        return np.frombuffer(self._indices, np.int64)

    @property
    def inputs(self) -> Hashes:
        """Hash of each example's inputs, uint64 [N]; 0 for empty ones."""
        return self._table[:, 0]

    @property
    def pairs(self) -> Hashes:
        """Hash of each example's inputs and targets, uint64 [N]."""
        return self._table[:, 1]

    @functools.cached_property
    def _table(self) -> Hashes:
        return np.frombuffer(bytes(self._digests), np.uint64).reshape(-1, 2)

    @property
    def is_trained(self) -> bool:
        """Whether a model is trained on it."""
        return self.role == "train" and self.split == "train"


def find_duplicates(splits: Sequence[SplitHashes]) -> list[dict[str, Duplicate]]:
    """Duplicates within each split and among them.

    Args:
        splits: of one mixture.

    Returns:
        For each split, by the names of `example_checks.CHECKS`: how many examples, of how many, index of the first,
        what it is like. Training splits have 'duplicates' (copies, without the first of each), 'in_other_tasks' and
        'conflicts'; others 'duplicates' and 'leaked'.
    """
    trained = [one for one in splits if one.is_trained]
    pairs = np.concatenate([np.unique(one.pairs) for one in trained]) if trained else np.zeros(0, np.uint64)
    owners = np.concatenate([np.full(len(np.unique(one.pairs)), i) for i, one in enumerate(trained)] or [np.zeros(0)])
    order = np.argsort(pairs, kind="stable")
    pairs, owners = pairs[order], owners[order].astype(np.int64)
    names = [one.task for one in trained]
    found = []
    numbers = {id(one): i for i, one in enumerate(trained)}
    for one in splits:
        own: dict[str, Duplicate] = {"duplicates": _copies(one)}
        if one.is_trained:
            own["in_other_tasks"] = _elsewhere(one, pairs, owners, names, numbers[id(one)])
            own["conflicts"] = _conflicts(one)
        else:
            own["leaked"] = _elsewhere(one, pairs, owners, names, None)
        found.append(own)
    return found


def _copies(one: SplitHashes) -> Duplicate:
    _, first, inverse = np.unique(one.pairs, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    copies = np.flatnonzero(first[inverse] != np.arange(len(inverse)))
    if not len(copies):
        return 0, len(inverse), None, ""
    example, original = (int(one.indices[i]) for i in (copies[0], first[inverse[copies[0]]]))
    return len(copies), len(inverse), example, f"a copy of example {original}"


def _elsewhere(
    one: SplitHashes, pairs: Hashes, owners: NDArray[np.int64], names: Sequence[str], own: int | None
) -> Duplicate:
    """Examples that stand in a trained task; `own`: the number of the trained task that does not count."""
    if not len(pairs):
        return 0, len(one.pairs), None, ""
    left = np.searchsorted(pairs, one.pairs, side="left")
    right = np.searchsorted(pairs, one.pairs, side="right")
    # Within a task pairs are unique, so its own entry is the only one to leave out.
    there = np.flatnonzero(right - left > (0 if own is None else 1))
    if not len(there):
        return 0, len(one.pairs), None, ""
    others: dict[str, int] = {}
    for place in there.tolist():
        for owner in owners[left[place] : right[place]].tolist():
            if owner != own:
                others[names[owner]] = others.get(names[owner], 0) + 1
    return len(there), len(one.pairs), int(one.indices[there[0]]), f"in {_most(others)}"


def _most(counts: Mapping[str, int]) -> str:
    best = sorted(counts, key=lambda name: -counts[name])
    more = f" and {len(best) - 3} more" if len(best) > 3 else ""
    return ", ".join(f"{name!r} ({counts[name]:,})" for name in best[:3]) + more


def _conflicts(one: SplitHashes) -> Duplicate:
    """Examples whose inputs stand there with another target too; empty inputs do not ask for one answer."""
    inputs, pairs = one.inputs, one.pairs
    both = np.unique(np.stack([inputs, pairs], axis=1)[inputs != 0], axis=0)
    asked, answers = np.unique(both[:, 0], return_counts=True)
    wrong = np.flatnonzero(np.isin(inputs, asked[answers > 1]))
    if not len(wrong):
        return 0, len(inputs), None, ""
    other = np.flatnonzero((inputs == inputs[wrong[0]]) & (pairs != pairs[wrong[0]]))[0]
    example, another = (int(one.indices[i]) for i in (wrong[0], other))
    return len(wrong), len(inputs), example, f"asked like example {another}, answered otherwise"
