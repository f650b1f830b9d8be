"""One split of one task, rendered into a folder that becomes visible when it is complete."""

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from array_record.python import array_record_module

from t5x_instruct.common.errors import DataError, InstructError
from t5x_instruct.common.io import crc32c_of_file, sync_folder, write_json
from t5x_instruct.data.binding import BoundTask
from t5x_instruct.data.prepare_spec import EXEMPLARS, PrepareSpec
from t5x_instruct.data.prepared import PreparedSplit, lengths_path, split_folder
from t5x_instruct.data.preprocessors import RenderContext, rendering
from t5x_instruct.data.prompt_formats import with_eos
from t5x_instruct.data.records import FORMAT_VERSION, Example, encode_record
from t5x_instruct.data.vocabularies import Vocabulary

SHARD_BYTES = 256 << 20
REFUSED_SHOWN = 20
PROGRESS_SECONDS = 5.0

Progress = Callable[[str], None]


def renderings_of(bound: BoundTask, split: str, spec: PrepareSpec) -> list[RenderContext]:
    """How often a split is rendered, and with what: one context for each variant of its records."""
    if bound.templates:
        return [RenderContext(spec.seed, template=template) for template in range(bound.templates)]
    variants = range(spec.variants if split == "train" else 1)
    return [RenderContext(spec.seed, variant, num_templates=bound.num_templates) for variant in variants]


def rows_of(
    task: seqio.Task, split: str, renderings: Sequence[RenderContext]
) -> Iterator[tuple[Mapping[str, Any], ...]]:
    """Each example of a split as its renderings; `EXEMPLARS` are the examples of 'train'."""
    split = "train" if split == EXEMPLARS else split
    datasets = []
    for context in renderings:
        key = hashlib.blake2b(f"{context.seed}/{task.name}/{context.variant}".encode(), digest_size=4)
        variant_seed = int.from_bytes(key.digest(), "little") >> 1
        tf.random.set_seed(variant_seed)  # for preprocessors that draw without seqio's seeds
        with rendering(context):
            datasets.append(
                task.get_dataset(
                    sequence_length=None,
                    split=split,
                    use_cached=False,
                    shuffle=False,
                    seed=variant_seed,
                    trim_output_features=False,
                    try_in_mem_cache=False,
                )
            )
    iterators = [dataset.as_numpy_iterator() for dataset in datasets]
    missing = object()
    for rows in itertools.zip_longest(*iterators, fillvalue=missing):
        if any(row is missing for row in rows):
            raise DataError("its variants have different numbers of examples; filter before templates are drawn")
        yield rows


def to_example(row: Mapping[str, Any], bound: BoundTask, vocabulary: Vocabulary) -> tuple[Example, str | None]:
    """An example and, if it must be refused, why.

    Args:
        row: what the task gives. An `inputs` that is not among its output features is a field like others.
        bound: the task.
        vocabulary: the run's vocabulary.

    Raises:
        DataError: the ids are not ids of the vocabulary.
    """
    features = bound.task.output_features
    row = {(k if k in features or k != "inputs" else "inputs_field"): v for k, v in row.items()}
    inputs, targets = (_ids(row, name, vocabulary) for name in ("inputs", "targets"))
    mask = np.asarray(row.get("targets_mask", np.ones(len(targets), bool))).astype(bool).reshape(-1)
    meta = {k: _plain(v) for k, v in row.items() if k not in ("inputs", "targets", "targets_mask")}
    for name, ids in (("inputs", inputs), ("targets", targets)):
        if f"{name}_pretokenized" not in meta:
            meta[f"{name}_pretokenized"] = vocabulary.decode(ids.tolist())
    if bound.inputs_eos:
        inputs = np.asarray(with_eos(inputs.tolist(), vocabulary.eos_id), np.int32)
    fault = None
    if not len(targets):
        fault = "it has no target token"
    elif len(mask) != len(targets):
        fault = f"its targets_mask has {len(mask)} entries for {len(targets)} targets"
    elif not mask.any():
        fault = "its targets_mask trains no token"
    return Example(inputs, targets, mask, meta), fault


def _ids(row: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> np.ndarray:
    ids = np.asarray(row.get(name, np.zeros(0, np.int32)))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{name} are {ids.dtype} of rank {ids.ndim}, not a list of token ids")
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocabulary.vocab_size):
        wrong = ids[(ids < 0) | (ids >= vocabulary.vocab_size)][0]
        raise DataError(f"{name} have the id {wrong}, outside the vocabulary's 0 to {vocabulary.vocab_size - 1}")
    return ids.astype(np.int32)


def _plain(value: Any) -> Any:
    """Texts, numbers and lists of them, as records keep them."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if hasattr(value, "to_list"):
        return _plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return value


class _ShardWriter:
    """Writes the records of one variant, in shards of bounded size with a length index each."""

    def __init__(self, folder: Path, variant: int):
        self._folder, self._variant = folder, variant
        self._writer: Any = None
        self._path = folder
        self._bytes = 0
        self._lengths: list[tuple[int, int]] = []
        self.shards: list[dict[str, Any]] = []

    def write(self, example: Example, record: bytes) -> None:
        """Appends a record."""
        if self._writer is None:
            self._path = self._folder / f"v{self._variant:03d}-{len(self.shards):05d}.array_record"
            self._writer = array_record_module.ArrayRecordWriter(str(self._path), "group_size:1")
        self._writer.write(record)
        self._bytes += len(record)
        self._lengths.append((len(example.inputs), len(example.targets)))
        if self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Finishes the open shard, synced to the disk."""
        if self._writer is None:
            return
        self._writer.close()
        index = lengths_path(self._path)
        np.save(index, np.asarray(self._lengths, dtype=np.int32), allow_pickle=False)
        for path in (self._path, index):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        self.shards.append(
            {
                "file": self._path.name,
                "variant": self._variant,
                "records": len(self._lengths),
                "bytes": self._path.stat().st_size,
                "crc32c": crc32c_of_file(self._path),
                "lengths_bytes": index.stat().st_size,
                "lengths_crc32c": crc32c_of_file(index),
            }
        )
        self._writer, self._bytes, self._lengths = None, 0, []


def ensure_split(
    bound: BoundTask, split: str, spec: PrepareSpec, vocabulary: Vocabulary, progress: Progress
) -> PreparedSplit:
    """Opens a complete split, or renders it."""
    folder = split_folder(spec.root, bound.task.name, bound.fingerprint, split)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock", progress):
        complete = _open_complete(folder, bound.fingerprint, progress)
        if complete is not None:
            return complete
        _remove_partial(folder)
        partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
        partial.mkdir()
        try:
            info = _render(bound, split, spec, vocabulary, partial, progress)
            write_json(partial / "info.json", info)
            if folder.exists():
                folder.rename(folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial")
            partial.rename(folder)
            sync_folder(folder.parent)
        finally:
            _remove_partial(folder)
        return PreparedSplit(folder)


def _remove_partial(folder: Path) -> None:
    """Removes what a killed or replaced rendering left; only under the split's lock."""
    for leftover in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(leftover)


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Holds a lock that the operating system drops when the process ends, however it ends."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is preparing it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_complete(folder: Path, fingerprint: str, progress: Progress) -> PreparedSplit | None:
    if not (folder / "info.json").is_file():
        return None
    try:
        split = PreparedSplit(folder)
        split.verify()
        if split.fingerprint == fingerprint:
            return split
        progress("it holds other data; rendering it again")
    except DataError as error:
        progress(f"it is damaged ({error}); rendering it again")
    return None


def _render(
    bound: BoundTask,
    split: str,
    spec: PrepareSpec,
    vocabulary: Vocabulary,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the shards of a split and gives its `info.json`."""
    renderings = renderings_of(bound, split, spec)
    writers = [_ShardWriter(folder, v) for v in range(len(renderings))]
    tokens = {"inputs": 0, "targets": 0, "trained": 0}
    refused: list[dict[str, Any]] = []
    num_refused = index = 0
    ticker = _Ticker(progress, bound.task, split)
    with _named_errors(bound.task.name, split, lambda: index):
        for index, rows in enumerate(rows_of(bound.task, split, renderings)):
            ticker.tick(index)
            rendered = [to_example(row, bound, vocabulary) for row in rows]
            fault = next((f"variant {v}: {f}" for v, (_, f) in enumerate(rendered) if f), None)
            if fault is not None:
                num_refused += 1
                text = str(rendered[0][0].meta["inputs_pretokenized"])[:80]
                refused.append({"example": index, "why": fault, "inputs": text})
                del refused[REFUSED_SHOWN:]
                continue
            for (example, _), writer in zip(rendered, writers, strict=True):
                writer.write(example, encode_record(example))
                tokens["inputs"] += len(example.inputs)
                tokens["targets"] += len(example.targets)
                tokens["trained"] += int(example.targets_mask.sum())
        for writer in writers:
            writer.close()
        num_examples = sum(s["records"] for s in writers[0].shards)
        if not num_examples:
            first = f", the first because {refused[0]['why']}" if refused else ""
            raise DataError(f"no example is left: {num_refused} refused{first}")
    ticker.done(num_examples, num_refused)
    return {
        "format_version": FORMAT_VERSION,
        "task": bound.task.name,
        "split": split,
        "fingerprint": bound.fingerprint,
        "variants": len(renderings),
        "num_examples": num_examples,
        "tokens": tokens,
        "refused": {"count": num_refused, "first": refused},
        "shards": [shard for writer in writers for shard in writer.shards],
    }


@contextlib.contextmanager
def _named_errors(task: str, split: str, index: Callable[[], int]) -> Iterator[None]:
    """Errors of a task's code and data get the task, the split and roughly the example."""
    try:
        yield
    except Exception as error:
        # TensorFlow hides an error of ours in the text of a traceback.
        found = re.search(r"\b(?:Data|Config)Error: (.+)", str(error))
        why = str(error) if isinstance(error, InstructError) else f"{type(error).__name__}: {error}"
        why = found[1] if found else why[:2000]
        raise DataError(f"task {task!r}, split {split!r}, near example {index()}: {why}") from error


class _Ticker:
    """A line now and then: how far, how fast, how long still."""

    def __init__(self, progress: Progress, task: seqio.Task, split: str):
        self._progress = progress
        self._total = count_examples(task, "train" if split == EXEMPLARS else split)
        self._start = self._last = time.monotonic()

    def tick(self, done: int) -> None:
        """Called before each example."""
        now = time.monotonic()
        if now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        speed = done / (now - self._start)
        line = f"{done:,} examples ({speed:,.0f}/s)"
        if self._total and speed:
            left = max(self._total - done, 0) / speed
            line = f"{done:,} of {self._total:,} examples ({speed:,.0f}/s, {left:,.0f} s left)"
        self._progress(line)

    def done(self, examples: int, refused: int) -> None:
        """Called once at the end."""
        seconds = time.monotonic() - self._start
        note = f", {refused:,} refused" if refused else ""
        self._progress(f"{examples:,} examples in {seconds:.1f} s{note}")


def count_examples(task: seqio.Task, split: str) -> int | None:
    """The number of rows of a split before rendering, where the source can tell."""
    try:
        count = task.num_input_examples(split)
    except Exception:  # a source that cannot count may say so in any way; only the ETA is lost
        return None
    return int(count) if count else None
