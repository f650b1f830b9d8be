import os
import threading

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.common.io import crc32c_of_file, read_json, write_json
from t5x_instruct.data import prepared as prepared_lib
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import Example, PreparedSplit, folder_name
from t5x_instruct.data.records import MAX_LIST_LENGTH, Readers, decode_record, encode_record

META = {"inputs_pretokenized": "é\n", "targets_pretokenized": "", "options": ["a", "b"], "n": 3}


def _example(inputs, targets, mask):
    return Example(np.array(inputs, np.int32), np.array(targets, np.int32), np.array(mask, bool), META)


def _write_split(folder, examples, per_shard=100, variants=1):
    from array_record.python import array_record_module

    shards = []
    for variant in range(variants):
        for start in range(0, len(examples), per_shard):
            part = examples[start : start + per_shard]
            path = folder / f"v{variant:03d}-{start:05d}.array_record"
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            for example in part:
                writer.write(encode_record(example))
            writer.close()
            index = prepared_lib.lengths_path(path)
            np.save(index, np.array([(len(e.inputs), len(e.targets)) for e in part], np.int32))
            shards.append(
                {
                    "file": path.name,
                    "variant": variant,
                    "records": len(part),
                    "bytes": path.stat().st_size,
                    "crc32c": crc32c_of_file(path),
                    "lengths_bytes": index.stat().st_size,
                    "lengths_crc32c": crc32c_of_file(index),
                }
            )
    info = {
        "task": "t",
        "fingerprint": "f",
        "num_examples": len(examples),
        "variants": variants,
        "tokens": {},
        "refused": {},
        "counters": {},
        "shards": shards,
    }
    write_json(folder / "info.json", info)
    return info


@pytest.fixture
def split_folder(tmp_path):
    examples = [_example(range(i), range(i + 1), [True] * (i + 1)) for i in range(250)]
    _write_split(tmp_path, examples, variants=2)
    return tmp_path


ids = st.lists(st.integers(0, 2**31 - 1), max_size=40)


@settings(max_examples=80)
@given(inputs=ids, targets=ids, data=st.data())
def test_records_round_trip(inputs, targets, data):
    size = len(targets)
    mask = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    read = decode_record(encode_record(_example(inputs, targets, mask)), "here")
    assert read.inputs.tolist() == inputs
    assert read.targets.tolist() == targets
    assert read.targets_mask.tolist() == mask
    assert read.meta == META
    assert read.inputs.dtype == np.int32
    assert read.targets_mask.dtype == bool


GOOD = encode_record(_example([1, 0, 2], range(9), [False, True] * 4 + [True]))


@settings(max_examples=300)
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_data_errors(raw):
    with pytest.raises(DataError, match="^file, record 3"):
        decode_record(raw, "file, record 3")


@settings(max_examples=200)
@given(cut=st.integers(0, len(GOOD) - 1), position=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_damaged_records_decode_or_are_data_errors(cut, position, byte):
    with pytest.raises(DataError):
        decode_record(GOOD[:cut], "here")
    changed = GOOD[:position] + bytes([byte]) + GOOD[position + 1 :]
    try:
        read = decode_record(changed, "here")
    except DataError:
        return
    assert len(read.targets) == len(read.targets_mask)


def _deep(levels):
    return b"\x95\x01\xc4\x00\xc4\x00\xc4\x00" + b"\x91" * levels + b"\xc0"


@pytest.mark.parametrize(
    "raw",
    [
        _deep(5000),
        b"\xdd\xff\xff\xff\xff" * 600,  # nested lists that claim 2**32 - 1 entries
        msgpack.packb([1, b"", b"", b"", {"x": msgpack.ExtType(5, b"abc")}]),
        msgpack.packb([1, b"", b"", b"", {"x": msgpack.Timestamp(1)}]),
        msgpack.packb([1, b"", b"", b"", {b"x": 1}]),
        msgpack.packb([1, b"", b"", b"", {"x": [0] * (MAX_LIST_LENGTH + 1)}]),
        msgpack.packb([1, b"abc", b"", b"", {}]),
        msgpack.packb([1, b"", b"abcd", b"", {}]),
        msgpack.packb([2, b"", b"", b"", {}]),
        msgpack.packb([1, "", b"", b"", {}]),
    ],
)
def test_hostile_records_are_data_errors(raw):
    with pytest.raises(DataError):
        decode_record(raw, "here")


def test_too_large_examples_are_not_written():
    with pytest.raises(DataError, match="too long a list"):
        encode_record(_example([], [1], [True])._replace(meta={"x": [0] * (MAX_LIST_LENGTH + 1)}))


def test_random_access_over_shards_and_variants(split_folder):
    split = PreparedSplit(split_folder)
    assert split.lengths.shape == (500, 2)
    assert split.lengths[250 + 7].tolist() == [7, 8]
    read = split.read_many([249, 0, 100, 249], [1, 0, 1, 0])
    assert [len(e.inputs) for e in read] == [249, 0, 100, 249]
    for wrong in ((250, 0), (-1, 0), (0, 2)):
        with pytest.raises(IndexError, match="250 examples in 2 variants"):
            split.read(*wrong)


def test_reading_from_many_threads_with_few_open_files(split_folder, monkeypatch):
    monkeypatch.setattr(prepared_lib, "_READERS", Readers(capacity=1))
    split = PreparedSplit(split_folder)
    wrong = []

    def read(offset):
        for i in range(offset, 750, 7):
            if len(split.read(i % 250, i % 2).inputs) != i % 250:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_flipped_byte_in_a_record_names_file_and_record(split_folder):
    path = split_folder / "v000-00000.array_record"
    raw = bytearray(path.read_bytes())
    raw[3000] ^= 1
    path.write_bytes(raw)
    split = PreparedSplit(split_folder)
    failures = []
    for i in range(100):
        try:
            split.read(i)
        except DataError as error:
            failures.append(str(error))
    assert failures
    assert all("v000-00000.array_record" in f for f in failures)
    with pytest.raises(DataError, match=r"v000-00000\.array_record is damaged"):
        split.verify()


def test_truncated_shard_is_found_at_once(split_folder):
    path = split_folder / "v001-00100.array_record"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"v001-00100\.array_record has \d+ bytes instead of \d+"):
        PreparedSplit(split_folder)


@settings(max_examples=30)
@given(position=st.integers(0, 900), bit=st.integers(0, 7))
def test_damaged_index_is_a_data_error(tmp_path_factory, position, bit):
    folder = tmp_path_factory.mktemp("split")
    _write_split(folder, [_example([1], [2], [True])] * 100)
    path = folder / "v000-00000.lengths.npy"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"v000-00000\.lengths\.npy is damaged"):
        _ = PreparedSplit(folder).lengths


def test_index_of_pickles_is_not_run(split_folder):
    path = split_folder / "v000-00000.lengths.npy"
    made = split_folder / "made"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(made),))

    np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)
    info = read_json(split_folder / "info.json")
    info["shards"][0] |= {"lengths_bytes": path.stat().st_size, "lengths_crc32c": crc32c_of_file(path)}
    write_json(split_folder / "info.json", info)
    with pytest.raises(DataError, match="is damaged"):
        _ = PreparedSplit(split_folder).lengths
    assert not made.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 3},
        {"shards": [{}]},
        {"variants": 5},
        {"num_examples": 7},
        {"tokens": None},
        {"shards": [{"file": "../x.array_record", "variant": 0, "bytes": 0, "lengths_bytes": 0}]},
    ],
)
def test_damaged_info_is_a_data_error(tmp_path, change):
    info = _write_split(tmp_path, [_example([1], [2], [True])])
    write_json(tmp_path / "info.json", info | change)
    with pytest.raises(DataError, match=r"info\.json"):
        PreparedSplit(tmp_path)


@given(name=st.text(min_size=1, max_size=20))
def test_folder_names_stay_in_their_folder(name):
    folder = folder_name(name.encode("utf-8", "replace").decode())
    assert "/" not in folder
    assert not folder.startswith(".")


def test_spec_round_trip_and_errors(tmp_path):
    spec = PrepareSpec(mixture="m", modules=["a"], vocabulary="bytes", root=tmp_path, module_options={"a.X": "1"})
    assert PrepareSpec.from_json(spec.to_json()) == spec
    assert hash(spec) == hash(PrepareSpec.from_json(spec.to_json()))
    with pytest.raises(ConfigError, match="unknown field 'mixtur'.*'mixture'"):
        PrepareSpec.from_json({"mixtur": "m"})
    with pytest.raises(ConfigError, match="hold_out must be a list"):
        PrepareSpec(mixture="m", modules=(), vocabulary="bytes", root=tmp_path, hold_out="x")
    with pytest.raises(ConfigError, match="variants must be from 1"):
        PrepareSpec(mixture="m", modules=(), vocabulary="bytes", root=tmp_path, variants=0)
