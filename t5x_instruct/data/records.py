"""The record of one example: what is in it, its bytes on disk, and the readers of record files."""

import collections
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from t5x_instruct.common.errors import DataError

FORMAT_VERSION = 1
MAX_RECORD_BYTES = 64 << 20
MAX_LIST_LENGTH = 1 << 16
MAX_META_FIELDS = 1 << 10
REPAIR = "run `prepare` again, it renders damaged splits anew"


class Example(NamedTuple):
    """One rendered, tokenized, untrimmed example.

    Attributes:
      inputs: int32 [inputs length]; may be empty.
      targets: int32 [targets length].
      targets_mask: bool [targets length]; True where the model is trained.
      meta: every other field: texts, numbers, lists; has `inputs_pretokenized` and
        `targets_pretokenized`, and `options` where the task has them.
    """

    inputs: np.ndarray
    targets: np.ndarray
    targets_mask: np.ndarray
    meta: dict[str, Any]


def encode_record(example: Example) -> bytes:
    """Serialises an example as msgpack: ids as little-endian int32, the mask as packed bits.

    Raises:
      DataError: the example is larger than a reader accepts.
    """
    fields = [
        FORMAT_VERSION,
        np.ascontiguousarray(example.inputs, dtype="<i4").tobytes(),
        np.ascontiguousarray(example.targets, dtype="<i4").tobytes(),
        np.packbits(example.targets_mask).tobytes(),
        example.meta,
    ]
    record = msgpack.packb(fields, use_bin_type=True)
    if len(record) > MAX_RECORD_BYTES:
        raise DataError(f"the example takes {len(record)} bytes, more than {MAX_RECORD_BYTES}")
    lists = [(k, v) for k, v in example.meta.items() if isinstance(v, list)]
    large = [k for k, v in lists if len(v) > MAX_LIST_LENGTH]
    if large or len(example.meta) > MAX_META_FIELDS:
        raise DataError(
            f"the example has {len(example.meta)} fields (at most {MAX_META_FIELDS}) or too long a "
            f"list (at most {MAX_LIST_LENGTH} entries) in {large}"
        )
    return record


def decode_record(record: bytes, place: str) -> Example:
    """The inverse of `encode_record`, for bytes that may be anything.

    Args:
      record: the bytes.
      place: file and record, for the message.

    Raises:
      DataError: the bytes are no record of this format.
    """
    if len(record) > MAX_RECORD_BYTES:
        raise DataError(f"{place}: {len(record)} bytes, more than the limit {MAX_RECORD_BYTES}")
    try:
        fields = msgpack.unpackb(
            record,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_LIST_LENGTH,
            max_map_len=MAX_META_FIELDS,
            max_ext_len=0,
        )
    except Exception as error:  # the reader of hostile bytes must have one way to fail
        raise DataError(f"{place}: not a readable record: {error}") from error
    if not isinstance(fields, list) or len(fields) != 5 or fields[0] != FORMAT_VERSION:
        raise DataError(f"{place}: not a record of format version {FORMAT_VERSION}")
    _, inputs, targets, mask, meta = fields
    if not all(isinstance(part, bytes) for part in (inputs, targets, mask)):
        raise DataError(f"{place}: the token ids are not bytes")
    if len(inputs) % 4 or len(targets) % 4 or len(mask) != (len(targets) // 4 + 7) // 8:
        raise DataError(
            f"{place}: {len(inputs)} bytes of inputs, {len(targets)} of targets and {len(mask)} of "
            "mask do not fit together"
        )
    if not isinstance(meta, dict) or not all(isinstance(k, str) for k in meta):
        raise DataError(f"{place}: the untrained fields are not a map with text keys")
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(targets) // 4)
    return Example(
        np.frombuffer(inputs, "<i4").astype(np.int32, copy=False),
        np.frombuffer(targets, "<i4").astype(np.int32, copy=False),
        bits.astype(bool),
        meta,
    )


class Readers:
    """The most recently used ArrayRecord readers of this process; each is safe for threads."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._readers: collections.OrderedDict[tuple[int, str, int], Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, version: int, num_records: int) -> Any:
        """An open reader.

        Args:
            path: the file.
            version: changes when the file is replaced by another of the same name.
            num_records: how many records it must hold.

        Raises:
            DataError: it cannot be read or does not hold them.
        """
        from array_record.python import array_record_module

        key = (os.getpid(), str(path), version)  # a forked process must not share file positions
        with self._lock:
            if key in self._readers:
                self._readers.move_to_end(key)
                return self._readers[key]
        try:
            reader = array_record_module.ArrayRecordReader(
                str(path),
                options="readahead_buffer_size:0,max_parallelism:0",
                file_reader_buffer_size=32768,
            )
            found = reader.num_records()
        except Exception as error:  # the extension raises RuntimeError and others
            raise DataError(f"cannot read {path}: {error}; {REPAIR}") from error
        if found != num_records:
            raise DataError(f"{path} is damaged: {found} of {num_records} records found; {REPAIR}")
        with self._lock:
            self._readers[key] = reader
            while len(self._readers) > self._capacity:
                self._readers.popitem(last=False)
        return reader
