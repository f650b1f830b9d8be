"""Prepared data: what `prepare` wrote, read by index and without TensorFlow.

Layout under `root`:

    mixtures/{mixture}-{key}.json                     the manifest: tasks, rates, roles, counts
    tasks/{task}/{fingerprint}/{split}/info.json      written last: the split is complete
    tasks/{task}/{fingerprint}/{split}/*.array_record the records of one variant, in order
    tasks/{task}/{fingerprint}/{split}/*.lengths.npy  int32 [records, 2]: tokens of inputs, targets
"""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.common.errors import BucketError, ConfigError, DataError
from t5x_instruct.common.io import crc32c_of_file, read_json, sha256_of_file, sha256_of_json
from t5x_instruct.common.paths import is_bucket
from t5x_instruct.data.prepare_spec import PrepareSpec, Role
from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.records import FORMAT_VERSION, REPAIR, Example, Readers, decode_record
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary

__all__ = [
    "Example",
    "PreparedMixture",
    "PreparedSplit",
    "PreparedTask",
    "ensure_prepared",
    "load_prepared",
]

RENDER_VERSION = 1
"""Raised by hand when the package renders some task otherwise than before, so that prepared data is rendered anew."""
OPEN_READERS = 256  # one file descriptor each; thousands of tasks would pass the usual limit

_READERS = Readers(OPEN_READERS)


class _Shard(NamedTuple):
    path: Path
    version: int
    variant: int
    first: int  # index of its first example
    records: int


class PreparedSplit:
    """The rendered examples of one split of a task; safe for threads, small to pickle.

    Args:
      folder: holds a complete split.

    Raises:
      DataError: `info.json` is missing or damaged, or a shard has not the size it should have.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        info = read_json(folder / "info.json")
        try:
            self.task: str = str(info["task"])
            self.fingerprint: str = str(info["fingerprint"])
            self.num_examples: int = int(info["num_examples"])
            self.variants: int = int(info["variants"])
            self.tokens: dict[str, int] = {k: int(v) for k, v in info["tokens"].items()}
            self.refused: dict[str, Any] = dict(info["refused"])
            self.counters: dict[str, int] = {k: int(v) for k, v in info["counters"].items()}
            self._checksums: dict[Path, int] = {}
            self._shards: list[list[_Shard]] = [[] for _ in range(self.variants)]
            for entry in info["shards"]:
                self._add_shard(entry)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"{folder / 'info.json'} is damaged ({error!r}); {REPAIR}") from error
        counts = {sum(s.records for s in shards) for shards in self._shards}
        if counts != {self.num_examples}:
            raise DataError(f"{folder / 'info.json'} is damaged (shard counts {counts}); {REPAIR}")

    def _add_shard(self, entry: Mapping[str, Any]) -> None:
        name = str(entry["file"])
        if Path(name).name != name or not name.endswith(".array_record"):
            raise DataError(f"{self.folder / 'info.json'} names the file {name!r}, not a shard")
        path = self.folder / name
        for file, size in ((path, entry["bytes"]), (lengths_path(path), entry["lengths_bytes"])):
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise DataError(f"{file} {state}; {REPAIR}")
        shards = self._shards[int(entry["variant"])]
        first = shards[-1].first + shards[-1].records if shards else 0
        version = path.stat().st_mtime_ns
        shards.append(_Shard(path, version, int(entry["variant"]), first, int(entry["records"])))
        self._checksums[path] = int(entry["crc32c"])
        self._checksums[lengths_path(path)] = int(entry["lengths_crc32c"])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per example, untrimmed.

        Returns:
          int32 [variants * num_examples, 2], columns inputs and targets; row variant *
          num_examples + example. Memory-mapped where the split has one shard.

        Raises:
          DataError: an index file is damaged.
        """
        parts = [self._lengths_of(shard) for shards in self._shards for shard in shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _lengths_of(self, shard: _Shard) -> np.ndarray:
        path = lengths_path(shard.path)
        self._check(path)
        try:
            lengths = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy's reader fails in many ways on a strange header
            raise DataError(f"{path} is damaged: {error}; {REPAIR}") from error
        if lengths.shape != (shard.records, 2) or lengths.dtype != np.int32:
            raise DataError(f"{path} is damaged: {lengths.dtype} {lengths.shape}; {REPAIR}")
        return lengths

    def _check(self, path: Path) -> None:
        if crc32c_of_file(path) != self._checksums[path]:
            raise DataError(f"{path} is damaged: its checksum differs; {REPAIR}")

    def verify(self) -> None:
        """Reads every file and compares its checksum.

        Raises:
          DataError: a file is damaged.
        """
        for path in self._checksums:
            self._check(path)

    def read(self, example: int, variant: int = 0) -> Example:
        """One example.

        Args:
          example: index from 0 to num_examples - 1.
          variant: index from 0 to variants - 1.

        Raises:
          DataError: the record is damaged; names file and record.
          IndexError: there is no such example or variant.
        """
        return self.read_many([example], [variant])[0]

    def read_many(self, examples: Sequence[int], variants: Sequence[int]) -> list[Example]:
        """Several examples, in the order asked for; see `read`."""
        wanted: dict[_Shard, list[tuple[int, int]]] = {}
        for i, (example, variant) in enumerate(zip(examples, variants, strict=True)):
            shard = self._shard_of(int(example), int(variant))
            wanted.setdefault(shard, []).append((i, int(example) - shard.first))
        found: list[Example | None] = [None] * len(examples)
        for shard, places in wanted.items():
            reader = _READERS.get(shard.path, shard.version, shard.records)
            for i, record in places:
                found[i] = self._decode(shard, record, reader)
        return [e for e in found if e is not None]

    def _shard_of(self, example: int, variant: int) -> _Shard:
        if not (0 <= example < self.num_examples and 0 <= variant < self.variants):
            raise IndexError(
                f"example {example}, variant {variant} of {self.folder}, which has "
                f"{self.num_examples} examples in {self.variants} variants"
            )
        return next(s for s in reversed(self._shards[variant]) if s.first <= example)

    def _decode(self, shard: _Shard, record: int, reader: Any) -> Example:
        place = f"{shard.path}, record {record}"
        try:
            raw = reader.read([record])[0]
        except Exception as error:  # the extension raises RuntimeError and others
            raise DataError(f"{place}: {error}; {REPAIR}") from error
        example = decode_record(raw, place)
        row = self.lengths[shard.variant * self.num_examples + shard.first + record]
        if (len(example.inputs), len(example.targets)) != (row[0], row[1]):
            raise DataError(f"{place}: its lengths differ from the length index; {REPAIR}")
        return example

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "lengths"}


@dataclasses.dataclass(frozen=True)
class PreparedTask:
    """One task of a prepared mixture.

    Attributes:
      name: the task's name.
      cluster: the cluster it belongs to; its own name if it has none.
      rate: mixing rate relative to the other training tasks; 0 for held-out tasks.
      role: 'train' or 'held_out'.
      splits: the rendered splits by name.
      inputs_tail: how many last tokens of `inputs` must survive cutting.
      fingerprint: hash of everything its records depend on.
      each_template: whether variant v of its splits is rendered with template v.
      base: the task whose rows it shows; itself for most.
      dataset: identity of its source data, see `TaskInfo`; None where it is not known.
    """

    name: str
    cluster: str
    rate: float
    role: Role
    splits: dict[str, PreparedSplit]
    inputs_tail: int
    fingerprint: str
    each_template: bool = False
    base: str = ""
    dataset: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.base or self.name)


class SkippedTask(NamedTuple):
    """A task of a mixture that was left out because its data could not be had.

    Attributes:
      task: its name.
      why: what is missing.
      fix: what would help.
    """

    task: str
    why: str
    fix: str


@dataclasses.dataclass(frozen=True)
class PreparedMixture:
    """A prepared mixture.

    Attributes:
      name: the mixture's name.
      tasks: in the order of their names.
      fingerprint: hash of the tasks' fingerprints, rates and roles.
      spec: what was asked for.
      left_out: why tasks of the mixture are neither trained nor evaluated, by task.
      skipped: tasks whose data could not be had.
    """

    name: str
    tasks: tuple[PreparedTask, ...]
    fingerprint: str
    spec: PrepareSpec
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    skipped: tuple[SkippedTask, ...] = ()

    @property
    def train_tasks(self) -> tuple[PreparedTask, ...]:
        """The tasks to train on."""
        return tuple(t for t in self.tasks if t.role == "train")

    @property
    def held_out_tasks(self) -> tuple[PreparedTask, ...]:
        """The tasks that are only evaluated."""
        return tuple(t for t in self.tasks if t.role == "held_out")


def folder_name(name: str) -> str:
    """A name as one path component that cannot leave its folder."""
    quoted = urllib.parse.quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def lengths_path(shard: Path) -> Path:
    """The length index beside a shard."""
    return shard.with_suffix(".lengths.npy")


def split_folder(root: Path, task: str, fingerprint: str, split: str) -> Path:
    """Where the records of a split lie."""
    return root / "tasks" / folder_name(task) / fingerprint[:16] / folder_name(split)


def manifest_path(spec: PrepareSpec, vocabulary: Vocabulary) -> Path:
    """Where the manifest of a spec lies: its name has a hash of all that the user asked for.

    Args:
      spec: what is asked for; where it lies (`root`, the vocabulary's path) and `strict` do not matter.
      vocabulary: the opened vocabulary of the spec.
    """
    asked = spec.to_json()
    for name in ("root", "bucket", "vocabulary", "strict"):
        del asked[name]
    asked["hold_out"] = sorted(asked["hold_out"])
    prompt_format = make_prompt_format(spec.prompt_format, vocabulary).fingerprint
    key = sha256_of_json([FORMAT_VERSION, asked, vocabulary.fingerprint, prompt_format, RENDER_VERSION])
    return spec.root / "mixtures" / f"{folder_name(spec.mixture)}-{key[:16]}.json"


def load_prepared(spec: PrepareSpec) -> PreparedMixture | None:
    """Opens what is prepared.

    Args:
      spec: what is asked for; what lies in a bucket is copied to the disk first.

    Returns:
      The mixture, or None if nothing current is there: never prepared, or since then a task module
      or a data file changed (a data file that is gone does not matter), or a split was removed, or
      tasks were skipped and `strict` allows none.

    Raises:
      DataError: the prepared data is damaged, or there is no vocabulary.
    """
    path = manifest_path(spec, load_vocabulary(spec.vocabulary))
    if spec.bucket is not None:
        from t5x_instruct.data.prepared_bucket import fetch_prepared

        if not fetch_prepared(spec, path):
            return None
    if not path.is_file():
        return None
    manifest = read_json(path)
    try:
        current = manifest["format_version"] == FORMAT_VERSION and _files_unchanged(manifest)
        if not current:
            return None
        tasks = []
        for entry in manifest["tasks"]:
            task = _open_task(spec.root, entry)
            if task is None:
                return None
            tasks.append(task)
        left_out = {str(entry["name"]): str(entry["why"]) for entry in manifest["left_out"]}
        skipped = tuple(SkippedTask(*map(str, (s["task"], s["why"], s["fix"]))) for s in manifest["skipped"])
        if skipped and spec.strict:
            return None
        return PreparedMixture(spec.mixture, tuple(tasks), str(manifest["fingerprint"]), spec, left_out, skipped)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); delete it and prepare again") from error


def _files_unchanged(manifest: Mapping[str, Any]) -> bool:
    for entry in manifest["modules"]:
        name = entry.get("name")  # another machine has the same module at another place
        places = [Path(entry["path"]), *(Path(p or os.getcwd(), name) for p in sys.path if name)]
        path = next((place for place in places if place.is_file()), None)
        if path is None or sha256_of_file(path) != entry["sha256"]:
            return False
    for entry in manifest["data_files"]:
        if is_bucket(entry["path"]):
            if _generation(entry["path"]) not in (None, entry["generation"]):
                return False
            continue
        path = Path(entry["path"])
        if path.is_file():
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) != (entry["bytes"], entry["mtime_ns"]):
                return False
    return True


def _generation(name: str) -> str | None:
    """Which content an object has; None where it is gone or cannot be asked for: then it does not matter."""
    from t5x_instruct.common.buckets import BucketPath

    try:
        found = BucketPath(name).generation()
    except BucketError:
        return None
    return None if found is None else found.hex()


def _open_task(root: Path, entry: Mapping[str, Any]) -> PreparedTask | None:
    name, fingerprint, role = str(entry["name"]), str(entry["fingerprint"]), entry["role"]
    if role not in ("train", "held_out") or not fingerprint.isalnum():
        raise ValueError(f"role {role!r}, fingerprint {fingerprint!r} of task {name!r}")
    splits = {}
    for split in entry["splits"]:
        folder = split_folder(root, name, fingerprint, split)
        if not (folder / "info.json").is_file():
            return None
        splits[split] = PreparedSplit(folder)
        if splits[split].fingerprint != fingerprint:
            raise DataError(f"{folder} holds other data than the manifest names; {REPAIR}")
    return PreparedTask(
        name=name,
        cluster=str(entry["cluster"]),
        rate=float(entry["rate"]),
        role=role,
        splits=splits,
        inputs_tail=int(entry["inputs_tail"]),
        fingerprint=fingerprint,
        each_template=bool(entry["each_template"]),
        base=str(entry["base"]),
        dataset=entry["dataset"] and str(entry["dataset"]),
    )


def ensure_prepared(spec: PrepareSpec, *, in_process: bool = False) -> PreparedMixture:
    """Opens what is prepared, and prepares it first if nothing current is there.

    Args:
      spec: what is asked for.
      in_process: run `prepare` here (imports TensorFlow) instead of in a child process.

    Raises:
      ConfigError: the spec names something that does not exist.
      DataError: `prepare` failed; carries its message.
    """
    prepared = load_prepared(spec)
    if prepared is not None:
        return prepared
    if in_process:
        from t5x_instruct.data.prepare import prepare

        return prepare(spec)
    _prepare_in_child(spec)
    prepared = load_prepared(spec)
    if prepared is None:
        raise DataError(
            f"`prepare` of {spec.mixture!r} ended well, but a task module or data file changed meanwhile; run it again"
        )
    return prepared


def _prepare_in_child(spec: PrepareSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spec_file, error_file = Path(folder) / "spec.json", Path(folder) / "error.txt"
        spec_file.write_text(json.dumps(spec.to_json()))
        command = [sys.executable, "-m", "t5x_instruct.common.quiet_tensorflow", "t5x_instruct.data.prepare"]
        command += [str(spec_file), str(error_file)]
        child = subprocess.Popen(command, env=child_environment())
        try:
            code = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if code == 0:
            return
        message = error_file.read_text() if error_file.exists() else how_it_ended(code)
    if code == ConfigError.exit_code:
        raise ConfigError(message)
    raise DataError(message)


def child_environment() -> dict[str, str]:
    """The environment of a process that prepares: task modules are found as they are here, no accelerator is taken."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def how_it_ended(code: int) -> str:
    """A sentence on a process of `prepare` that ended by itself or was killed.

    Args:
      code: its exit code, below 0 for a signal.
    """
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by signal {signal.Signals(-code).name}"
    return f"`prepare` {how} (out of memory?); run it again, finished shards are kept"
