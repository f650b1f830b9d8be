"""Where the rows of a task come from: Python, JSONL and TSV, as seqio data sources.

A row is a dict of texts and lists of texts. Numbers become their usual text; anything else is
refused with the row's place (file and line, or split and row number).
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import seqio
import tensorflow as tf

from t5x_instruct.common.errors import DataError, unknown
from t5x_instruct.data.preprocessors import CHUNK, without_ragged

Row = Mapping[str, Any]
Rows = Sequence[Row] | Callable[[], Iterable["Row | Placed"]]
Refuse = Callable[[DataError], None]


class Placed(NamedTuple):
    """A row with the place it was read from, for messages."""

    row: Row
    place: str


def _raise(error: DataError) -> None:
    raise error


class RowSource(seqio.DataSource):
    """Rows that Python has or makes.

    Args:
        splits: for each split's name its rows: a sequence of dicts, or a function that gives them
            anew at each call. All rows of a split have the same fields.
        description: what the source is, for listings and messages.
    """

    def __init__(self, splits: Mapping[str, Rows], description: str = "rows in Python"):
        self._rows = dict(splits)
        self._counts: dict[str, int] = {}
        self.description = description
        super().__init__(splits=tuple(splits))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description}, splits={self.splits})"

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Always false: a split is one sequence of rows."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """The split itself, as its only shard."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Counts the rows of a split (reading them once where they come from a function)."""
        if split not in self._counts:
            rows = self._split(split)
            self._counts[split] = sum(1 for _ in rows()) if callable(rows) else len(rows)
        return self._counts[split]

    def rows(self, split: str) -> Iterator[dict[str, str | list[str]]]:
        """Gives the checked rows of a split in their order.

        Args:
            split: one of the source's splits.

        Yields:
            Rows of strings and lists of strings.

        Raises:
            DataError: an unknown split; a row with a value that is no text, number or list of texts,
                or with other fields than the first row, naming its place.
        """
        rows = self._split(split)
        first: dict[str, str | list[str]] | None = None
        for i, item in enumerate(rows() if callable(rows) else rows):
            row, place = item if isinstance(item, Placed) else (item, f"{self._name(split)}, row {i}")
            checked = _check_row(row, place)
            first = checked if first is None else first
            _check_same_fields(first, checked, place)
            yield checked

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """The split as a dataset, in the rows' order (`shuffle` is seqio's, after this)."""
        del shuffle, seed, sequence_length, use_cached, num_epochs
        if shard_info is not None and shard_info.num_shards > 1:
            raise DataError(
                f"{self._name(split)} has one shard and cannot give {shard_info.num_shards}; shard the examples instead"
            )
        first = next(self.rows(split), None)
        if first is None:
            raise DataError(f"{self._name(split)} has no rows")
        return _dataset(lambda: self.rows(split), first)

    def _split(self, split: str) -> Rows:
        if split not in self._rows:
            raise DataError(f"{unknown('split', split, self._rows)} of {self.description}")
        return self._rows[split]

    def _name(self, split: str) -> str:
        return f"{self.description}, split {split!r}"


class Jsonl(RowSource):
    """One JSON object a line; empty lines are passed over.

    Args:
        files: for each split's name a path or a list of paths (local, or any TensorFlow reads).
        fields: the fields to keep; all of them without it.
    """

    def __init__(self, files: Mapping[str, str | Sequence[str]], fields: Sequence[str] | None = None):
        keep = None if fields is None else tuple(fields)
        splits = {
            split: _each(_paths(files_of), lambda path: read_jsonl(path, keep)) for split, files_of in files.items()
        }
        super().__init__(splits, f"JSONL {_listed(files)}")


class Tsv(RowSource):
    """One row a line, columns parted by tabs, without header and without quoting.

    Args:
        files: for each split's name a path or a list of paths (local, or any TensorFlow reads).
        columns: names of the columns, in their order.
    """

    def __init__(self, files: Mapping[str, str | Sequence[str]], columns: Sequence[str]):
        names = tuple(columns)
        splits = {
            split: _each(_paths(files_of), lambda path: read_tsv(path, names)) for split, files_of in files.items()
        }
        super().__init__(splits, f"TSV {_listed(files)}")


def read_jsonl(path: str, fields: Sequence[str] | None = None, refuse: Refuse = _raise) -> Iterator[Placed]:
    """Reads rows from a JSONL file.

    Args:
        path: the file.
        fields: the fields to keep; all of them without it.
        refuse: called with an error that names file and line for each bad line; the line is skipped
            if it returns.

    Yields:
        The rows with their places.

    Raises:
        DataError: the file cannot be read; a bad line (from the default `refuse`).
    """
    for text, place in _lines(path, refuse):
        try:
            row = json.loads(text)
        except ValueError as error:
            refuse(DataError(f"{place}: not a JSON value: {error}"))
            continue
        if not isinstance(row, dict):
            refuse(DataError(f"{place}: expected a JSON object, got {type(row).__name__}"))
            continue
        missing = [name for name in fields or () if name not in row]
        if missing:
            refuse(DataError(f"{place}: {unknown('field', missing[0], row)}"))
            continue
        yield Placed(row if fields is None else {name: row[name] for name in fields}, place)


def read_tsv(path: str, columns: Sequence[str], refuse: Refuse = _raise) -> Iterator[Placed]:
    """Reads rows from a file of tab-separated columns.

    Args:
        path: the file.
        columns: names of the columns.
        refuse: as in `read_jsonl`.

    Yields:
        The rows with their places.

    Raises:
        DataError: the file cannot be read; a bad line (from the default `refuse`).
    """
    for text, place in _lines(path, refuse):
        values = text.split("\t")
        if len(values) != len(columns):
            refuse(DataError(f"{place}: {len(values)} columns, expected {len(columns)}: {columns}"))
            continue
        yield Placed(dict(zip(columns, values, strict=True)), place)


def split_by_key(rows: Iterable[Row], key: Callable[[Row], str], validation_percent: int) -> dict[str, list[Row]]:
    """Parts rows into train and validation by what they are about.

    Rows with the same key land on the same side, here and in every other task that uses the key.

    Args:
        rows: the rows.
        key: gives the fact behind a row, such as the country of a row about its capital.
        validation_percent: how many of 100 keys go to validation, by a hash of the key.

    Returns:
        {'train': rows, 'validation': rows}, each in the given order.
    """
    splits: dict[str, list[Row]] = {"train": [], "validation": []}
    for row in rows:
        held_out = in_validation(key(row), validation_percent)
        splits["validation" if held_out else "train"].append(row)
    return splits


def in_validation(key: str, validation_percent: int) -> bool:
    """Whether a key belongs to validation: a fixed function of the key's text and the percentage."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 100 < validation_percent


def _dataset(
    rows: Callable[[], Iterator[Mapping[str, str | list[str]]]], first: Mapping[str, str | list[str]]
) -> tf.data.Dataset:
    """Rows as a dataset of strings and lists of strings, with the fields of the first row."""

    def chunks() -> Iterator[dict[str, tf.Tensor | tf.RaggedTensor]]:
        remaining = rows()
        while chunk := list(itertools.islice(remaining, CHUNK)):
            yield {
                name: tf.ragged.constant([row[name] for row in chunk], tf.string, ragged_rank=1)
                if isinstance(value, list)
                else tf.constant([row[name] for row in chunk])
                for name, value in first.items()
            }

    signature = {
        name: tf.RaggedTensorSpec([None, None], tf.string, ragged_rank=1)
        if isinstance(value, list)
        else tf.TensorSpec([None], tf.string)
        for name, value in first.items()
    }
    chunked = tf.data.Dataset.from_generator(chunks, output_signature=signature)
    return without_ragged(chunked.unbatch())


def _each(paths: Sequence[str], read: Callable[[str], Iterator[Placed]]) -> Rows:
    return lambda: (item for path in paths for item in read(path))


def _paths(paths: str | Sequence[str]) -> tuple[str, ...]:
    return (str(paths),) if isinstance(paths, str) else tuple(str(path) for path in paths)


def _listed(files: Mapping[str, str | Sequence[str]]) -> str:
    return ", ".join(path for paths in files.values() for path in _paths(paths))


def _lines(path: str, refuse: Refuse) -> Iterator[tuple[str, str]]:
    """Gives (line without its end, 'path:number') of the lines that are not empty."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                place = f"{path}:{number}"
                try:
                    text = line.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    refuse(DataError(f"{place}: not UTF-8 text: {error}"))
                    continue
                if text.strip():
                    yield text, place
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_row(row: Any, place: str) -> dict[str, str | list[str]]:
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row is a dict of fields, got {type(row).__name__} {row!r}")
    return {str(name): _check_value(name, value, place) for name, value in row.items()}


def _check_value(name: str, value: Any, place: str) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return list(value)
    raise DataError(
        f"{place}: the field {name!r} is {type(value).__name__} {value!r};"
        " a field is a text, a number or a list of texts: convert it or leave it out"
    )


def _check_same_fields(first: Row, row: Row, place: str) -> None:
    shape = {name: type(value).__name__ for name, value in row.items()}
    wanted = {name: type(value).__name__ for name, value in first.items()}
    if shape != wanted:
        different = sorted(set(shape.items()) ^ set(wanted.items()))
        raise DataError(
            f"{place}: the fields differ from the first row's in {different}; all rows of a split have the same fields"
        )
