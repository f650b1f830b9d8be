"""Where the rows of a task come from: Python, JSONL and TSV, as seqio data sources.

A row is a dict of texts and lists of texts. Numbers become their usual text; anything else is
refused with the row's place (file and line, or split and row number). CSV, JSON and Parquet are in
`file_sources`, Hugging Face datasets in `hub_sources`.
"""

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.lines import raw_lines
from t5x_instruct.data.row_maps import CHUNK, without_ragged
from t5x_instruct.data.row_shapes import Placed, Row, reshape, shape_named, shortened

Rows = Sequence[Row] | Callable[[], Iterable[Row | Placed]]
Refuse = Callable[[DataError], None]
Files = Mapping[str, str | Sequence[str]]
Fields = Sequence[str] | Mapping[str, str]

VALIDATION = "validation"
ANSWERS = ("answer", "answers")
LISTS = ("answers", "options")


def raise_error(error: DataError) -> None:
    """The usual way to refuse a line: the error ends the reading."""
    raise error


class RowSource(seqio.DataSource):
    """Rows that Python has or makes.

    Args:
        splits: for each split's name its rows: a sequence of dicts, or a function that gives them
            anew at each call. All rows of a split have the same fields.
        description: what the source is, for listings and messages.

    Raises:
        ConfigError: something else than splits with rows.
    """

    dataset_identity: str | None = None
    """The public data set that the rows are of (see `tasks.TaskInfo`); None where the source does not know."""

    def __init__(self, splits: Mapping[str, Rows], description: str = "rows in Python"):
        if not isinstance(splits, Mapping):
            given = type(splits).__name__
            raise ConfigError(f"{description}: {given} is no source; give {{'train': rows}} or a source such as Jsonl")
        self._rows = dict(splits)
        self._counts: dict[str, int] = {}
        self.description = description
        super().__init__(splits=tuple(splits))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description}, splits={self.splits})"

    @property
    def unchecked(self) -> Mapping[str, Rows]:
        """The rows of each split as they were given, for sources that make rows of other shapes into these."""
        return dict(self._rows)

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

    def placed(self, split: str) -> Iterator[Placed]:
        """Gives the rows of a split as they are, unchecked, with their places; errors of the split's own."""
        rows = self._split(split)
        for i, item in enumerate(rows() if callable(rows) else rows):
            yield item if isinstance(item, Placed) else Placed(item, f"{self._name(split)}, row {i}")

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
        first: dict[str, str | list[str]] | None = None
        for row, place in self.placed(split):
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
            raise DataError(f"{self._name(split)} has no rows; give it some, or leave the split out")
        return _dataset(lambda: self.rows(split), first)

    def _split(self, split: str) -> Rows:
        if split not in self._rows:
            raise DataError(f"{unknown('split', split, self._rows)} of {self.description}")
        return self._rows[split]

    def _name(self, split: str) -> str:
        return f"{self.description}, split {split!r}"


class FileSource(RowSource):
    """Rows read from files, put into shape, and parted into train and validation if that is asked for.

    Args:
        files: for each split's name a path or a list of paths.
        read: gives the rows of one path with their places, anew at each call.
        description: what the source is.
        fields: the fields to keep: a list of names, or a mapping from new names to those in the file
            ({'answer': 'label'}); all of them without it.
        shape: the name of a known shape (`row_shapes.SHAPES`) to make rows of.
        validation_percent: how many of 100 rows of 'train' make the split 'validation'. Rows that ask the same
            land on the same side, in this and every other file.
        split_by: the fields that say what a row asks; without it the shape knows, or it is all but the answers.

    Raises:
        ConfigError: an unknown shape, or a share of a split that is not there or has files of its own.
    """

    def __init__(
        self,
        files: Files,
        read: Callable[[str], Iterator[Placed]],
        description: str,
        *,
        fields: Fields | None = None,
        shape: str | None = None,
        validation_percent: int = 0,
        split_by: Sequence[str] = (),
    ):
        columns = dict(zip(fields, fields, strict=True)) if not isinstance(fields, Mapping | None) else fields
        asks: Callable[[Row], Sequence[str]] = functools.partial(_texts_of, tuple(split_by))
        if shape is not None:
            known = shape_named(shape)
            asks = asks if split_by else known.asks
        rows = {
            split: functools.partial(_file_rows, paths_of(paths), read, columns, shape)
            for split, paths in files.items()
        }
        super().__init__(_with_validation(rows, validation_percent, asks, description), description)


def _file_rows(
    paths: Sequence[str], read: Callable[[str], Iterator[Placed]], columns: Mapping[str, str] | None, shape: str | None
) -> Iterator[Placed]:
    rows = (item for path in paths for item in read(path))
    if columns is not None:
        rows = (_projected(item, columns) for item in rows)
    return rows if shape is None else reshape(rows, shape)


def _projected(item: Placed, columns: Mapping[str, str]) -> Placed:
    missing = [name for name in columns.values() if name not in item.row]
    if missing:
        raise DataError(f"{item.place}: {unknown('field', missing[0], item.row)}, in {shortened(item.row)}")
    return Placed({new: item.row[old] for new, old in columns.items()}, item.place)


def _with_validation(
    rows: Mapping[str, Callable[[], Iterator[Placed]]],
    percent: int,
    asks: Callable[[Row], Sequence[str]],
    description: str,
) -> dict[str, Rows]:
    if percent == 0:
        return dict(rows)
    if not 0 < percent < 100:
        raise ConfigError(f"{description}: validation_percent is {percent}; it must be from 1 to 99, or 0 for none")
    if "train" not in rows or VALIDATION in rows:
        raise ConfigError(
            f"{description}: validation_percent takes a share of 'train' for 'validation', but the splits are"
            f" {sorted(rows)}; leave it out"
        )
    parts = {
        split: functools.partial(_part, rows["train"], split == VALIDATION, percent, asks)
        for split in ("train", VALIDATION)
    }
    return {**rows, **parts}


def _part(
    rows: Callable[[], Iterator[Placed]], held_out: bool, percent: int, asks: Callable[[Row], Sequence[str]]
) -> Iterator[Placed]:
    for item in rows():
        # White space apart, because copies of a text often differ in it.
        if in_validation("\n".join(" ".join(text.split()) for text in asks(item.row)), percent) == held_out:
            yield item


def _texts_of(names: Sequence[str], row: Row) -> list[str]:
    names = names or sorted(set(row) - set(ANSWERS)) or sorted(row)
    missing = [name for name in names if name not in row]
    if missing:
        raise DataError(f"split_by: {unknown('field', missing[0], row)}, in {shortened(row)}")
    return [str(row[name]) for name in names]


class Jsonl(FileSource):
    """One JSON object a line; empty lines are passed over. A path that ends in '.gz' is decompressed.

    Args:
        files: for each split's name a path or a list of paths (local, or any TensorFlow reads).
        fields: the fields to keep; all of them without it.
        **shaping: `shape`, `validation_percent` and `split_by` of `FileSource`.
    """

    def __init__(self, files: Files, fields: Fields | None = None, **shaping: Any):
        super().__init__(files, read_jsonl, f"JSONL {listed(files)}", fields=fields, **shaping)


class Tsv(FileSource):
    """One row a line, columns parted by tabs, without quoting. A path that ends in '.gz' is decompressed.

    Args:
        files: for each split's name a path or a list of paths (local, or any TensorFlow reads).
        columns: names of the columns, in their order; without it the first line has them.
        unescape: whether a backslash and an 'n' stand for a line break.
        **shaping: `fields`, `shape`, `validation_percent` and `split_by` of `FileSource`.
    """

    def __init__(self, files: Files, columns: Sequence[str] | None = None, *, unescape: bool = False, **shaping: Any):
        names = None if columns is None else tuple(columns)
        read = functools.partial(read_tsv, columns=names, unescape=unescape)
        super().__init__(files, read, f"TSV {listed(files)}", **shaping)


def read_jsonl(path: str, refuse: Refuse = raise_error) -> Iterator[Placed]:
    """Reads rows from a JSONL file.

    Args:
        path: the file.
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
        except (ValueError, RecursionError) as error:
            refuse(DataError(f"{place}: not a JSON value: {error}; the line is {shortened(text)}"))
            continue
        if not isinstance(row, dict):
            refuse(DataError(f"{place}: expected a JSON object, got {type(row).__name__} {shortened(row)}"))
            continue
        yield Placed(row, place)


def read_tsv(
    path: str, columns: Sequence[str] | None = None, refuse: Refuse = raise_error, *, unescape: bool = False
) -> Iterator[Placed]:
    """Reads rows from a file of tab-separated columns.

    Args:
        path: the file.
        columns: names of the columns; without it the first line has them.
        refuse: as in `read_jsonl`.
        unescape: whether a backslash and an 'n' stand for a line break.

    Yields:
        The rows with their places.

    Raises:
        DataError: the file cannot be read; a bad line (from the default `refuse`).
    """
    for text, place in _lines(path, refuse):
        values = text.split("\t")
        if columns is None:
            columns = column_names(values, place)
            continue
        if len(values) != len(columns):
            refuse(
                DataError(
                    f"{place}: {len(values)} columns, expected {len(columns)}: {tuple(columns)};"
                    f" the line is {shortened(text)}"
                )
            )
            continue
        if unescape:
            values = [value.replace("\\n", "\n") for value in values]
        yield Placed(dict(zip(columns, values, strict=True)), place)


def column_names(names: Sequence[str], place: str) -> tuple[str, ...]:
    """Checks the names of columns that a file begins with.

    Raises:
        DataError: an empty name, or one that comes twice.
    """
    wrong = [name for i, name in enumerate(names) if not name.strip() or name in names[:i]]
    if wrong:
        raise DataError(
            f"{place}: the first line names the columns {shortened(list(names))}, where {wrong[0]!r} is empty or comes"
            " twice; correct it, or name the columns (`columns=`) if it is a row"
        )
    return tuple(names)


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
    # Half of a surrogate pair has a hash too: rows that have one are refused, with their place, when they are read.
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()
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


def paths_of(paths: str | Sequence[str]) -> tuple[str, ...]:
    """A path or a list of paths as a tuple."""
    return (str(paths),) if isinstance(paths, str) else tuple(str(path) for path in paths)


def listed(files: Files) -> str:
    """All paths of all splits, for descriptions."""
    return ", ".join(path for paths in files.values() for path in paths_of(paths))


def _lines(path: str, refuse: Refuse) -> Iterator[tuple[str, str]]:
    """Gives (line without its end, 'path:number') of the lines that are not empty."""
    for number, line in enumerate(raw_lines(path), start=1):
        place = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            refuse(DataError(f"{place}: not UTF-8 text: {error}"))
            continue
        if text.strip():
            yield text, place


def _check_row(row: Any, place: str) -> dict[str, str | list[str]]:
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row is a dict of fields, got {type(row).__name__} {shortened(row)}")
    return {str(name): _check_value(name, value, place) for name, value in row.items()}


def _check_value(name: str, value: Any, place: str) -> str | list[str]:
    if isinstance(value, str) and name in LISTS:
        raise DataError(
            f"{place}: the field {name!r} is the text {shortened(value)}; it has to be a list of texts, or another name"
        )
    if isinstance(value, str):
        return _checked_text(name, value, place)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise DataError(f"{place}: the field {name!r} is {value}, which is no number; correct the row")
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return [_checked_text(name, part, place) for part in value]
    raise DataError(
        f"{place}: the field {name!r} is {type(value).__name__} {shortened(value)};"
        " a field is a text, a number or a list of texts: convert it or leave it out (`fields=`)"
    )


def _checked_text(name: str, text: str, place: str) -> str:
    # Python reads it from JSON, but UTF-8 cannot have it.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: the field {name!r} is no text: it has half of a surrogate pair; correct the row"
        ) from None
    return text


def _check_same_fields(first: Row, row: Row, place: str) -> None:
    shape = {name: type(value).__name__ for name, value in row.items()}
    wanted = {name: type(value).__name__ for name, value in first.items()}
    if shape != wanted:
        different = sorted(set(shape.items()) ^ set(wanted.items()))
        raise DataError(
            f"{place}: the fields differ from the first row's in {different}; all rows of a split have the same fields"
        )
