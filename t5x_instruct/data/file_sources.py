"""Rows from CSV, JSON and Parquet files, as seqio data sources."""

import csv
import functools
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.common.paths import is_bucket
from t5x_instruct.data.lines import open_data, raw_lines
from t5x_instruct.data.row_shapes import Placed, shortened
from t5x_instruct.data.sources import Fields, Files, FileSource, column_names, listed

MAX_CELL_CHARACTERS = 16 << 20
"""A longer cell of a CSV file is taken for a quote that was never closed."""

MAX_JSON_BYTES = 1 << 30
"""A JSON file is read as a whole; of JSONL and Parquet files only a part is in memory."""

PARQUET_ROWS = 1024  # in memory at once


class Csv(FileSource):
    """Rows of a CSV file, cells quoted as RFC 4180 has it. A path that ends in '.gz' is decompressed.

    Args:
        files: for each split's name a path or a list of paths (local, or any TensorFlow reads).
        columns: names of the columns, in their order; without it the first row has them.
        delimiter: what stands between cells.
        **shaping: `fields`, `shape`, `validation_percent` and `split_by` of `FileSource`.

    Raises:
        ConfigError: the delimiter is not one character.

    Source: RFC 4180, Common Format and MIME Type for CSV Files.
    """

    def __init__(self, files: Files, columns: Sequence[str] | None = None, *, delimiter: str = ",", **shaping: Any):
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"the delimiter of CSV is {delimiter!r}; it must be one character, and no quote")
        names = None if columns is None else tuple(columns)
        read = functools.partial(read_csv, columns=names, delimiter=delimiter)
        super().__init__(files, read, f"CSV {listed(files)}", **shaping)


class Json(FileSource):
    """Rows of JSON files, each a list of objects, or one object that is the only row.

    Args:
        files: for each split's name a path or a list of paths (local, or any TensorFlow reads).
        **shaping: `fields`, `shape`, `validation_percent` and `split_by` of `FileSource`.
    """

    def __init__(self, files: Files, **shaping: Any):
        super().__init__(files, read_json_rows, f"JSON {listed(files)}", **shaping)


class Parquet(FileSource):
    """Rows of Parquet files, read in batches; columns that are not asked for are not read.

    Args:
        files: for each split's name a path or a list of paths (local, gs:// or s3://).
        fields: the columns to keep, as in `FileSource`; all of them without it.
        **shaping: `shape`, `validation_percent` and `split_by` of `FileSource`.
    """

    def __init__(self, files: Files, fields: Fields | None = None, **shaping: Any):
        columns = None if fields is None else tuple(fields.values() if isinstance(fields, Mapping) else fields)
        read = functools.partial(read_parquet, columns=columns)
        super().__init__(files, read, f"Parquet {listed(files)}", fields=fields, **shaping)


def read_csv(path: str, columns: Sequence[str] | None = None, delimiter: str = ",") -> Iterator[Placed]:
    """Reads rows from a CSV file; empty lines are passed over.

    Args:
        path: the file.
        columns: names of the columns; without it the first row has them.
        delimiter: what stands between cells.

    Yields:
        The rows; the place of a row of several lines is its first.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or a row is not right, with file and line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
    reader = csv.reader(_texts(path), delimiter=delimiter, strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problem = f"{place}: not a row of CSV: {error}; quotes within a cell are doubled, and closed at its end"
            raise DataError(problem) from error
        if cells is None:
            return
        if not cells:
            continue
        if columns is None:
            columns = column_names(cells, place)
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{place}: {len(cells)} cells, expected {len(columns)}: {tuple(columns)}; the row is {shortened(cells)}"
            )
        yield Placed(dict(zip(columns, cells, strict=True)), place)


def read_json_rows(path: str) -> Iterator[Placed]:
    """Reads the rows of a JSON file.

    Args:
        path: the file: a list of objects, or one object.

    Yields:
        The rows; the place is the file and, in a list, the item's number from 0.

    Raises:
        DataError: the file cannot be read, is too large, or something in it is not right.
    """
    value = _json_of(path)
    if isinstance(value, dict):
        yield Placed(value, path)
        return
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects or an object, got {type(value).__name__}")
    for number, row in enumerate(value):
        place = f"{path}, item {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object, got {type(row).__name__} {shortened(row)}")
        yield Placed(row, place)


def read_parquet(path: str, columns: Sequence[str] | None = None) -> Iterator[Placed]:
    """Reads the rows of a Parquet file, some at a time.

    Args:
        path: the file.
        columns: the columns to read; all of them without it.

    Yields:
        The rows; the place is the file and the row's number from 0.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    import pyarrow
    from pyarrow import fs, parquet

    number = 0
    try:
        if is_bucket(path):
            from t5x_instruct.common.buckets import BucketPath
            from t5x_instruct.common.staging import stage

            path = str(stage(BucketPath(path)))  # Parquet is read from its end
        system, name = fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)
        with system.open_input_file(name) as opened, parquet.ParquetFile(opened, buffer_size=1 << 20) as file:
            there = file.schema_arrow.names
            missing = [column for column in columns or () if column not in there]
            if missing:
                raise DataError(f"{path}: {unknown('column', missing[0], there)}")
            for batch in file.iter_batches(PARQUET_ROWS, columns=None if columns is None else list(columns)):
                for row in batch.to_pylist():
                    yield Placed(row, f"{path}, row {number}")
                    number += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _texts(path: str) -> Iterator[str]:
    for number, line in enumerate(raw_lines(path), start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8 text: {error}") from error


def _json_of(path: str) -> Any:
    try:
        with open_data(path) as file:
            opened = gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file
            data = opened.read(MAX_JSON_BYTES + 1)
    except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise DataError(f"{path} has more than {MAX_JSON_BYTES} bytes of JSON; write it as JSONL, one object a line")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
