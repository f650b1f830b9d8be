"""Rows from Hugging Face datasets: of the hub, or saved in a folder (extra `hf`)."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.row_shapes import Placed
from t5x_instruct.data.sources import Fields, FileSource

INSTALL = "pip install 't5x_instruct[hf]'"
TIMEOUT_SECONDS = 20


class HuggingFace(FileSource):
    """Rows of a Hugging Face dataset. Code that a dataset comes with is never run.

    A number that names a class becomes the class's name.

    Args:
        name: an id of the hub ('org/name'), or the path of a folder that `save_to_disk` wrote or that has CSV, JSONL
            or Parquet files.
        splits: our splits, and which of theirs each is; Hugging Face's slices are allowed ('train[:1000]').
        config: which configuration of a dataset that has several.
        revision: a commit, tag or branch of the hub; without it the newest at the time of the download.
        fields: the fields to keep, as in `FileSource`; all of them without it.
        **shaping: `shape`, `validation_percent` and `split_by` of `FileSource`.
    """

    def __init__(
        self,
        name: str,
        splits: Mapping[str, str] | None = None,
        *,
        config: str | None = None,
        revision: str | None = None,
        fields: Fields | None = None,
        **shaping: Any,
    ):
        columns = None if fields is None else tuple(fields.values() if isinstance(fields, Mapping) else fields)
        read = functools.partial(read_dataset, name, config=config, revision=revision, columns=columns)
        where = f"Hugging Face {name}" + (f" ({config})" if config else "")
        super().__init__(splits or {"train": "train"}, read, where, fields=fields, **shaping)
        # The paths of a folder's files, so that a change in one of them is seen.
        self.files = tuple(sorted(str(path) for path in Path(name).rglob("*") if path.is_file()))
        if not self.files:  # a folder's name says nothing
            self.dataset_identity = "/".join(filter(None, ("hf:" + name, config)))


def read_dataset(
    name: str,
    split: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    columns: tuple[str, ...] | None = None,
) -> Iterator[Placed]:
    """Reads a split of a dataset, downloading it if it is not in Hugging Face's cache.

    Args:
        name: as in `HuggingFace`.
        split: one of the dataset's splits, or a slice of it.
        config: as in `HuggingFace`.
        revision: as in `HuggingFace`.
        columns: the columns to read; all of them without it.

    Yields:
        The rows; the place is the dataset, the split and the row's number.

    Raises:
        ConfigError: the extra is not installed, or the dataset, split or column does not exist.
        DataError: it cannot be read, or the hub cannot be reached.
    """
    dataset = _open(name, split, config, revision)
    missing = [column for column in columns or () if column not in dataset.column_names]
    if missing:
        raise ConfigError(f"{name}, split {split!r}: {unknown('column', missing[0], dataset.column_names)}")
    if columns is not None:
        dataset = dataset.select_columns(list(columns))
    classes = {key: feature.names for key, feature in dataset.features.items() if hasattr(feature, "int2str")}
    for number, row in enumerate(dataset):
        for key, names in classes.items():
            if isinstance(row[key], int) and 0 <= row[key] < len(names):
                row[key] = names[row[key]]
        yield Placed(row, f"{name}, split {split!r}, row {number}")


def dataset_splits(name: str, config: str | None = None, revision: str | None = None) -> list[str]:
    """The names of a dataset's splits; errors as in `read_dataset`."""
    datasets = _library()
    try:
        if _is_saved(Path(name)):
            saved = datasets.load_from_disk(name)
            return list(saved) if isinstance(saved, datasets.DatasetDict) else ["train"]
        return [str(split) for split in datasets.get_dataset_split_names(_source(name), config, revision=revision)]
    except Exception as error:
        raise _explained(error, name, config) from error


def _open(name: str, split: str, config: str | None, revision: str | None) -> Any:
    datasets = _library()
    try:
        if not _is_saved(Path(name)):
            download = datasets.DownloadConfig(max_retries=1)
            return datasets.load_dataset(
                _source(name), config, split=split, revision=revision, download_config=download
            )
        saved = datasets.load_from_disk(name)
    except Exception as error:
        raise _explained(error, name, config) from error
    if not isinstance(saved, datasets.DatasetDict):
        saved = {"train": saved}
    if split not in saved:
        raise ConfigError(f"{name}: {unknown('split', split, saved)}")
    return saved[split]


def _library() -> Any:
    # Read when huggingface_hub is first imported; a value that the user has set stays.
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(TIMEOUT_SECONDS))
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(TIMEOUT_SECONDS))
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"Hugging Face datasets need the extra 'hf': {INSTALL} ({error})") from error
    datasets.disable_progress_bars()
    return datasets


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _source(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _explained(error: Exception, name: str, config: str | None) -> ConfigError | DataError:
    """What went wrong, in a line, with what can be done about it."""
    kind, text = type(error).__name__, str(error).strip()
    what = f"the dataset {name!r}" + (f" (configuration {config!r})" if config else "")
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    if any(
        part in type(one).__name__
        for one in chain
        for part in ("Offline", "Connect", "Timeout", "ProxyError", "MaxRetry")
    ):
        return DataError(
            f"{what} is not in the cache and the hub cannot be reached ({kind}: {text}); go online, or download it"
            " elsewhere, save it with `save_to_disk` and name the folder"
        )
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError"):
        return ConfigError(f"{what} does not exist, or is private: {text}")
    if "scripts are no longer supported" in text:
        return ConfigError(
            f"{what} comes as a program, which is never run; ask for a revision with Parquet files"
            " (`revision='refs/convert/parquet'`)"
        )
    return DataError(f"{what} cannot be read: {kind}: {text}")
