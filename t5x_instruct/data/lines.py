"""The lines of a data file, wherever it lies."""

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from t5x_instruct.common.errors import DataError
from t5x_instruct.common.paths import is_bucket

MAX_LINE_BYTES = 64 << 20
"""A longer line is refused: a small compressed file may hold an endless one."""

BLOCK_BYTES = 1 << 20


def open_data(path: str) -> Any:
    """Opens a data file to read its bytes from the beginning to the end: local, `gs://`, or what TensorFlow reads."""
    if is_bucket(path):
        from t5x_instruct.common.buckets import BucketPath

        return BucketPath(path).open("rb")
    return tf.io.gfile.GFile(path, "rb")


def raw_lines(path: str) -> Iterator[bytes]:
    """The lines of a file with their ends, decompressed if the path ends in '.gz'.

    Raises:
        DataError: the file cannot be read, or a line is too long.
    """
    try:
        with open_data(path) as file:
            opened = gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file
            yield from _split_lines(iter(lambda: opened.read(BLOCK_BYTES), b""), path)
    except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _split_lines(blocks: Iterator[bytes], path: str) -> Iterator[bytes]:
    # TensorFlow's own reading of lines drops carriage returns, which cells of CSV may have.
    begun: list[bytes] = []
    size, number = 0, 1
    for block in blocks:
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield b"".join([*begun, line, b"\n"])
            begun, size, number = [], 0, number + 1
        begun.append(rest)
        size += len(rest)
        if size > MAX_LINE_BYTES:
            raise DataError(f"{path}:{number}: the line has more than {MAX_LINE_BYTES} bytes; one row is one line")
    if size:
        yield b"".join(begun)
