"""Rows of TensorFlow Datasets: registered without touching disk or network, read where the data lies on this machine.

    TfdsRows(
        "super_glue/rte",
        {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        row=lambda example: {"text": example["premise"], "answer": str(example["label"])},
    )

Nothing is downloaded while rows are read: `TfdsRows.fetch` does that, and `prepare` and `tasks doctor --download`
call it.
"""

import contextlib
import fcntl
import functools
import logging
import os
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from t5x_instruct.common.errors import ConfigError, DataError, SourceUnavailable, unknown
from t5x_instruct.data.addresses import ANSWER_SECONDS, look_up, there_is_a_network
from t5x_instruct.data.row_shapes import Placed, Row, shortened
from t5x_instruct.data.sources import RowSource

CAP = 30_000
"""The most examples that FLAN 2021 reads of a training split."""

CONNECT_SECONDS = 20.0
READ_SECONDS = 60.0
_SHOWN = 300
_SAID_OF_ALL = "Some of the wmt configs"  # said of every pair of languages, needed by a few that name their own

ADDRESSES = 6  # of one dataset that are looked up
RETRIES = 3  # of a download that is cut off

# Hosts that did not answer while this process ran: a mixture has many datasets on the same few.
_SILENT: set[str] = set()

MakeRow = Callable[[dict[str, Any]], Row | None]
_SLICE = re.compile(r"(?P<split>\w+)(?:\[(?P<start>-?\d*):(?P<stop>-?\d*)\])?")


@dataclass(frozen=True)
class SplitSlice:
    """A part of a builder's split, as Python slices a list: bounds beyond its end are its end.

    Attributes:
        split: the builder's split.
        start: first example; negative: from the end; None: 0.
        stop: the example after the last one, likewise; None: the end.
        cap: at most so many examples, the first ones; None: all.
    """

    split: str
    start: int | None = None
    stop: int | None = None
    cap: int | None = None

    def bounds(self, count: int) -> tuple[int, int]:
        """The slice of a split with `count` examples, as indices (first, after the last)."""
        start, stop, _ = slice(self.start, self.stop).indices(count)
        return start, max(start, stop if self.cap is None else min(stop, start + self.cap))

    def __str__(self) -> str:
        if self.start is None and self.stop is None:
            text = self.split
        else:
            bounds = ["" if bound is None else str(bound) for bound in (self.start, self.stop)]
            text = f"{self.split}[{':'.join(bounds)}]"
        return text if self.cap is None else f"the first {self.cap:,} of {text}"


def split_slice(text: str | SplitSlice) -> SplitSlice:
    """Reads a slice such as 'train', 'train[:-200]', 'validation[:200]'.

    Args:
        text: the notation of TFDS, with counts of examples; a `SplitSlice` is given back.

    Returns:
        The slice.

    Raises:
        ConfigError: another notation, percentages among them.
    """
    if isinstance(text, SplitSlice):
        return text
    found = _SLICE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no slice of a split; write 'train', 'train[:-200]' or 'train[100:200]'")
    start, stop = (int(found[name]) if found[name] else None for name in ("start", "stop"))
    return SplitSlice(found["split"], start, stop)


def cap(text: str, most: int = CAP) -> SplitSlice:
    """A slice of which at most the first `most` examples are read; a smaller one is read whole."""
    return SplitSlice(**{**vars(split_slice(text)), "cap": most})


class TfdsRows(RowSource):
    """Rows made of the examples of a TFDS dataset.

    Args:
        dataset: name, or name/config, of the dataset.
        splits: for each split's name the slice of the builder's splits that it is.
        row: makes a row of an example, which it is given as plain Python: texts (str), int, float, bool, class labels
            as int, lists for sequences, dicts for nested features (a sequence of dicts is a dict of lists). None leaves
            the example out.
        pinned: the version that the task's definition names, where TFDS ships another one today.
        manual: how to get what TFDS cannot download by itself.
        data_dir: where TFDS keeps data; without it the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
    """

    def __init__(
        self,
        dataset: str,
        splits: Mapping[str, str | SplitSlice],
        row: MakeRow,
        *,
        pinned: str | None = None,
        manual: str | None = None,
        data_dir: str | None = None,
    ):
        self.dataset = dataset
        self.dataset_identity = f"tfds:{dataset}"
        self.slices = {name: split_slice(part) for name, part in splits.items()}
        self.make_row = row
        self.pinned = pinned
        self.manual = manual
        self._data_dir = data_dir
        self._stats: dict[str, int] = {}
        super().__init__({name: functools.partial(self._read, name) for name in splits}, f"tfds:{dataset}")

    @functools.cached_property
    def builder(self) -> Any:
        """The dataset's builder, made at first use, from this machine's files alone.

        Raises:
            SourceUnavailable: this version of TFDS does not have the dataset, or cannot build it here.
        """
        try:
            return tfds.builder(self.dataset, data_dir=self._data_dir)
        except tfds.core.registered.DatasetNotFoundError:
            problem = f"TFDS {tfds.__version__} has no dataset {self.dataset!r}"
            fix = self.manual or "install a version of tensorflow-datasets that has it, or leave the task out"
        except Exception as error:  # a builder may fail in any way of its own
            first = str(error).strip().partition("\n")[0]
            problem = f"TFDS cannot make the builder of {self.dataset!r}: {type(error).__name__}: {first[:_SHOWN]}"
            fix = self.manual or "install what it names, or leave the task out"
        raise SourceUnavailable(problem, fix) from None

    def shipped_version(self) -> str | None:
        """The dataset's version in the installed TFDS; None if that has no such dataset."""
        try:
            return str(self.builder.version)
        except SourceUnavailable:
            return None

    def manual_instructions(self) -> str | None:
        """How to get by hand what TFDS cannot download; None if it downloads everything."""
        said = self.manual or self.builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        return None if said is None or said.strip().startswith(_SAID_OF_ALL) else " ".join(said.split())

    def manual_dir(self) -> Path:
        """Where what is downloaded by hand goes; errors of `builder`."""
        return Path(self.builder.data_dir_root) / "downloads" / "manual"

    def is_prepared(self) -> bool:
        """Whether the data lies ready on this machine; errors of `builder`."""
        return (Path(self.builder.data_dir) / "dataset_info.json").is_file()

    def addresses(self) -> list[str]:
        """Where TFDS would download from: of what it has recorded for all configs the addresses that name this one.

        At most `ADDRESSES`; none where TFDS has recorded none.

        Raises:
            ConfigError: a Python module that TFDS downloads with is not installed.
            SourceUnavailable: see `builder`.
        """
        try:
            recorded = self.builder.url_infos or {}
        except ModuleNotFoundError as error:
            raise ConfigError(f"TFDS cannot download without {error.name}: pip install {error.name}") from error
        urls = [url for url in recorded if url.startswith("http")]
        config = _bare(self.dataset.partition("/")[2])
        own = [url for url in urls if config and config in _bare(url)]
        return (own or urls)[:ADDRESSES]

    def fetch(self, progress: Callable[[str], None]) -> None:
        """Downloads and prepares the dataset unless it lies ready. Two processes do it one after the other.

        Args:
            progress: takes lines on what is done.

        Raises:
            SourceUnavailable: it cannot be had, with the fix: a hand download, another place, a network.
        """
        if self.is_prepared():
            return
        root = Path(self.builder.data_dir_root)
        manual_dir = self.manual_dir()
        needs = self.manual_instructions()
        if needs is not None and not (manual_dir.is_dir() and any(manual_dir.iterdir())):
            raise self._needs_hand_download(needs, manual_dir)
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f".{self.dataset.replace('/', '.')}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_prepared():
                return
            self._check_servers()
            progress(f"TFDS downloads and prepares {self.dataset} in {self.builder.data_dir}")
            try:
                with network_timeouts():
                    # From its own place, not from the public bucket: looking there may wait for credentials.
                    config = tfds.download.DownloadConfig(try_download_gcs=False)
                    self.builder.download_and_prepare(download_config=config)
            except Exception as error:  # whatever its code and its servers come up with
                if needs is not None:
                    raise self._needs_hand_download(f"{needs} ({_first_line(error)})", manual_dir) from error
                raise SourceUnavailable(
                    f"TFDS cannot download and prepare {self.dataset!r}: {_first_line(error)}",
                    f"check the network and {tfds_page(self.dataset)}; `tasks doctor` says whether its files are still"
                    " there",
                ) from error

    def num_input_examples(self, split: str) -> int | None:  # type: ignore[override]
        """The examples of a split before `row` leaves some out; None while the data is not on this machine."""
        if split not in self.slices:
            raise DataError(f"{unknown('split', split, self.slices)} of {self.description}")
        try:
            if not self.is_prepared():
                return None
        except SourceUnavailable:
            return None
        start, stop = self._bounds(split)
        return stop - start

    def left_out(self, split: str) -> int | None:
        """How many examples `row` left out when the split was last read to its end; None: not read yet."""
        return self._stats.get(split)

    def _bounds(self, split: str) -> tuple[int, int]:
        part = self.slices[split]
        has = self.builder.info.splits
        if part.split not in has:
            raise DataError(f"{unknown('split', part.split, has)} of TFDS dataset {self.dataset!r}, asked by {part}")
        return part.bounds(has[part.split].num_examples)

    def _read(self, split: str) -> Iterator[Placed]:
        if not self.is_prepared():
            raise SourceUnavailable(
                f"TFDS dataset {self.dataset!r} is not on this machine (in {self.builder.data_dir_root})",
                "let `t5x-instruct prepare` or `t5x-instruct tasks doctor TASK --download` download it",
            )
        part = self.slices[split]
        start, stop = self._bounds(split)
        if start == stop:
            return
        # One file after the other, so that an example's number is its place in the split.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        wanted = tfds.core.ReadInstruction(part.split, from_=start, to=stop, unit="abs")
        dataset = self.builder.as_dataset(split=wanted, shuffle_files=False, read_config=config)
        left_out = 0
        for number, raw in enumerate(tfds.as_numpy(dataset), start=start):
            place = f"tfds:{self.dataset}, split {part.split!r}, row {number}"
            made = row_of(raw, self.make_row, place)
            if made is None:
                left_out += 1
            else:
                yield Placed(made, place)
        self._stats[split] = left_out
        if left_out:
            logging.warning("%s, split %r: %d of %d examples left out", self.description, split, left_out, stop - start)

    def _check_servers(self) -> None:
        """Gives up in seconds where TFDS would try a server that is silent again and again, for minutes."""
        hosts = {url: urllib.parse.urlsplit(url).netloc for url in self.addresses()}
        answers = look_up([url for url, host in hosts.items() if host not in _SILENT], ANSWER_SECONDS)
        if hosts and not there_is_a_network(answers):
            _SILENT.update(hosts.values())
            named = ", ".join(sorted(set(hosts.values())))
            raise SourceUnavailable(
                f"none of the servers of TFDS dataset {self.dataset!r} answers ({named})",
                "check the network and run it again",
            )

    def _needs_hand_download(self, instructions: str, folder: Path) -> SourceUnavailable:
        return SourceUnavailable(f"TFDS dataset {self.dataset!r} needs a download by hand into {folder}", instructions)


def row_of(raw: Any, make_row: MakeRow, place: str) -> Row | None:
    """Makes a row of an example as numpy values.

    Args:
        raw: the example: nested dicts of numpy arrays, scalars and bytes.
        make_row: see `TfdsRows`.
        place: where the example comes from, for messages.

    Returns:
        The row, or None if it is left out.

    Raises:
        DataError: a text that is not UTF-8, or a fault of `make_row`, with the example.
    """
    try:
        example = plain(raw)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text: {error}") from error
    try:
        return make_row(example)
    except Exception as error:  # the function is the task's own
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
            why = unknown("field", error.args[0], example)
        raise DataError(f"{place}: no row can be made of it: {why}; it is {shortened(example)}") from error


def plain(value: Any) -> Any:
    """Numpy values of TFDS as plain Python: texts, numbers, lists and dicts."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if hasattr(value, "to_list"):  # ragged
        return plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value


@contextlib.contextmanager
def network_timeouts(connect: float = CONNECT_SECONDS, read: float = READ_SECONDS) -> Iterator[None]:
    """Gives every connection that is made inside the `with` a limit, also those of libraries that set none.

    TFDS downloads with `requests` and `urllib` and without any timeout, so that a silent server hangs a run for ever.

    Args:
        connect: for a connection [s].
        read: between two pieces of an answer [s].
    """
    import requests
    from tensorflow_datasets.core.download import downloader

    before_socket, before_send = socket.getdefaulttimeout(), requests.Session.send
    before_retries = downloader.MAX_RETRIES
    hub = {"HF_HUB_DOWNLOAD_TIMEOUT": read, "HF_HUB_ETAG_TIMEOUT": connect}
    added = [name for name in hub if name not in os.environ]

    def send(session: Any, request: Any, **options: Any) -> Any:
        if options.get("timeout") is None:
            options["timeout"] = (connect, read)
        return before_send(session, request, **options)

    socket.setdefaulttimeout(read)
    downloader.MAX_RETRIES = min(RETRIES, before_retries)  # each waits twice as long as the one before
    requests.Session.send = send  # type: ignore[method-assign, assignment]
    os.environ.update({name: str(int(hub[name])) for name in added})
    try:
        yield
    finally:
        socket.setdefaulttimeout(before_socket)
        downloader.MAX_RETRIES = before_retries
        requests.Session.send = before_send  # type: ignore[method-assign]
        for name in added:
            del os.environ[name]


def tfds_page(dataset: str) -> str:
    """The address of a dataset's page in the catalog of TFDS."""
    return f"https://www.tensorflow.org/datasets/catalog/{dataset.partition('/')[0]}"


def _bare(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _first_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:_SHOWN]}"
