"""What makes a checkpoint step complete: a list of its files with sizes and CRC-32C, itself hashed.

Orbax checks no array data on restore, so damage between save and restore would go unseen. `CHECKSUMS.json` is
written after Orbax's commit; a step without it was cut off while it was being written.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
from etils import epath

from t5x_instruct.common import io
from t5x_instruct.common.buckets import BucketPath
from t5x_instruct.common.errors import BucketError, CheckpointError
from t5x_instruct.common.paths import is_bucket

CHECKSUMS_NAME = "CHECKSUMS.json"
_BLOCK_BYTES = 1 << 20
_THREADS = 4
_BUCKET_THREADS = 16  # one stream from a bucket is slow, and many are not


def write_checksums(step_folder: epath.Path) -> None:
    """Hashes every file below `step_folder` and writes the list, which marks the step as complete.

    Args:
        step_folder: `MODEL_DIR/checkpoints/STEP`, committed.

    Raises:
        OSError: the folder cannot be read or written.
    """
    names = sorted(_file_names(step_folder))
    with _pool(step_folder) as pool:
        entries = list(pool.map(lambda name: _measure(step_folder / name), names))
    content = {"step": step_folder.name, "files": dict(zip(names, entries, strict=True))}
    _write(step_folder / CHECKSUMS_NAME, _rendered(content))


def read_checksums(step_folder: epath.Path) -> dict[str, dict[str, Any]]:
    """Reads the list of files of a step and checks it against its own hash.

    Returns:
        File name relative to the step → `{"size": bytes, "crc32c": hexadecimal}`.

    Raises:
        CheckpointError: the list is missing (the step is incomplete), damaged, or belongs to another step.
        BucketError: the bucket cannot be reached.
    """
    path = step_folder / CHECKSUMS_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"step {step_folder} is incomplete: it has no {CHECKSUMS_NAME}, so its save was cut off"
        ) from None
    except BucketError:
        raise  # a bucket that does not answer says nothing of the step
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    try:
        content = json.loads(raw)
        found = content.pop("self")
        intact = raw == _rendered(content)
        step, files = content["step"], content["files"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not intact:
        raise CheckpointError(
            f"{path} is damaged: its content has the sha256 {io.sha256_of_json(content)}, it says {found!r}"
        )
    if step != step_folder.name:
        raise CheckpointError(f"{path} belongs to step {step}, but lies in the folder of {step_folder.name}")
    return files


def verify(step_folder: epath.Path) -> list[str]:
    """Compares every file of a step with its checksum.

    Returns:
        One message for each damaged, missing or additional file, naming it with what was expected and found; empty
        when the step is intact.
    """
    try:
        expected = read_checksums(step_folder)
    except CheckpointError as error:
        return [str(error)]
    present = set(_file_names(step_folder))
    problems = [
        f"{step_folder / name} is missing (expected {expected[name]['size']} bytes)"
        for name in sorted(expected.keys() - present)
    ]
    problems += [
        f"{step_folder / name} does not belong to the step (it is not in {CHECKSUMS_NAME})"
        for name in sorted(present - expected.keys())
    ]
    common = sorted(present & expected.keys())
    with _pool(step_folder) as pool:
        found = pool.map(lambda name: _measure(step_folder / name), common)
        for name, entry in zip(common, found, strict=True):
            for what, unit in (("size", " bytes"), ("crc32c", "")):
                if entry[what] != expected[name][what]:
                    problems.append(
                        f"{step_folder / name} is damaged: {what} expected {expected[name][what]}{unit}, "
                        f"found {entry[what]}{unit}"
                    )
                    break
    return problems


def _pool(folder: epath.Path) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_BUCKET_THREADS if is_bucket(folder) else _THREADS)


def _file_names(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    if isinstance(folder, BucketPath):  # one listing has all
        names = (str(child.relative_to(folder)) for child in folder.objects())
        yield from (name for name in names if name != CHECKSUMS_NAME)
        return
    for child in folder.iterdir():
        name = prefix + child.name
        if child.is_dir():
            yield from _file_names(child, name + "/")
        elif name != CHECKSUMS_NAME:
            yield name


def _measure(path: epath.Path) -> dict[str, Any]:
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            size += len(block)
            checksum = google_crc32c.extend(checksum, block)
    return {"size": size, "crc32c": f"{checksum:08x}"}


def _rendered(content: dict[str, Any]) -> bytes:
    # Reading compares bytes with this one spelling, so that no bit of the file is without meaning.
    hashed = {**content, "self": io.sha256_of_json(content)}
    return (json.dumps(hashed, indent=1, sort_keys=True) + "\n").encode()


def _write(path: epath.Path, data: bytes) -> None:
    # An object store writes whole objects or nothing; a local disk needs the rename.
    if is_bucket(path):
        path.write_bytes(data)
    else:
        io.write_bytes(Path(path), data)
