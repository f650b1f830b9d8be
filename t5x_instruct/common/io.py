"""Files: written whole or not at all, and hashed."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import BucketError, DataError
from t5x_instruct.common.paths import AnyPath

_BLOCK_BYTES = 1 << 20


def write_bytes(path: AnyPath, data: bytes, durable: bool = True) -> None:
    """Writes `data` so that `path` holds either its old content or all of the new, whatever happens.

    On a disk a temporary file in the same folder is written, synced and renamed, then the folder is synced; an object
    in a bucket is written whole or not at all anyway.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        durable: False leaves it to the operating system when the disk gets it: a killed process loses nothing, a power
            cut may.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is untouched then.
    """
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_json(path: AnyPath, value: Any, durable: bool = True) -> None:
    """Writes `value` as indented JSON, atomically (see `write_bytes`)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), durable)


def read_json(path: AnyPath) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: the file is missing or is not JSON; the message names it.
        BucketError: it lies in a bucket that cannot be reached.
    """
    try:
        return json.loads(path.read_bytes())
    except BucketError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def sync_folder(folder: Path) -> None:
    """Makes renames within `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value in a canonical spelling (sorted keys, no spaces)."""
    return sha256_of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def crc32c_of_file(path: Path) -> int:
    """CRC-32C (Castagnoli) of a file's content, read in blocks."""
    import google_crc32c

    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return checksum


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
