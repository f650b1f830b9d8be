"""TFDS as rows: slices, downloads from a server of this machine, and what is said where data cannot be had."""

from pathlib import Path

import pytest
import requests
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError, SourceUnavailable
from t5x_instruct.data import tfds_source
from t5x_instruct.data.addresses import NO_HOST, look_up, there_is_a_network
from t5x_instruct.data.fingerprints import Describer
from t5x_instruct.data.tasks import add_task
from t5x_instruct.data.tfds_source import SplitSlice, TfdsRows, cap, network_timeouts, plain, split_slice
from tests.data import tiny_tfds
from tests.data.tiny_tfds import NOTES

SPLITS = {
    "train": cap("train[:-4]", 10),
    "validation": "train[-4:]",
    "all": cap("train"),
    "none": "train[40:]",
    "test": "test",
}


def note_row(example):
    if example["label"] == -1:
        return None
    tags = [f"{n} {w}" for n, w in zip(example["tags"]["name"], example["tags"]["weight"], strict=True)]
    return {"text": example["text"], "tags": tags, "answer": ["dull", "fine"][example["label"]]}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with tiny_tfds.server() as address:
        tiny_tfds.register(tmp_path_factory.mktemp("builders"), address, "notes_of_source")
        yield address


@pytest.fixture(scope="module")
def notes(address, tmp_path_factory):
    rows = TfdsRows("notes_of_source_here", SPLITS, note_row, data_dir=str(tmp_path_factory.mktemp("data")))
    assert rows.num_input_examples("train") is None
    with pytest.raises(SourceUnavailable, match="'notes_of_source_here' is not on this machine .*--download"):
        list(rows.rows("train"))
    lines = []
    rows.fetch(lines.append)
    assert len(lines) == 1
    rows.fetch(lines.append)
    assert len(lines) == 1, "what lies ready is not fetched again"
    return rows


def kept(first, last):
    return [note["text"] for note in NOTES[first:last] if note["label"] != -1]


def test_a_slice_is_read_in_the_order_of_the_files_and_left_out_examples_are_counted(notes) -> None:
    order = [row["text"] for row in notes.rows("all")]
    assert sorted(order) == sorted(kept(0, 40))
    assert notes.left_out("all") == 14
    every = TfdsRows("notes_of_source_here", {"all": "train"}, lambda e: {"text": e["text"]}, data_dir=notes._data_dir)
    whole = [row["text"] for row in every.rows("all")]
    wanted = {"train": whole[:10], "validation": whole[36:]}
    for split, texts in wanted.items():
        assert [row["text"] for row in notes.rows(split)] == [text for text in texts if text in order]
        assert notes.num_input_examples(split) == len(texts)
        assert notes.left_out(split) == sum(text not in order for text in texts)
    assert list(notes.rows("none")) == []


def test_examples_are_plain_python(notes) -> None:
    seen = []
    rows = TfdsRows("notes_of_source_here", {"all": "train"}, lambda e: seen.append(e), data_dir=notes._data_dir)
    assert list(rows.rows("all")) == []
    one = max(seen, key=lambda example: len(example["tags"]["name"]))
    assert {name: type(value) for name, value in one.items()} == {
        "label": int,
        "score": float,
        "tags": dict,
        "text": str,
    }
    assert one["tags"] == {"name": ["t0", "t1", "t2"], "weight": [0, 1, 2]}
    assert {example["label"] for example in seen} == {-1, 0, 1}
    assert {"name": [], "weight": []} in [example["tags"] for example in seen]
    assert plain({"a": b"\xc3\xa9"}) == {"a": "é"}


def test_a_fault_names_dataset_split_row_and_example(notes) -> None:
    def wrong(example):
        return {"text": example["txet"]}

    rows = TfdsRows("notes_of_source_here", {"tail": "train[-4:]"}, wrong, data_dir=notes._data_dir)
    place = r"tfds:notes_of_source_here, split 'train', row 36: no row can be made of it"
    with pytest.raises(DataError, match=place + r": unknown field 'txet'; nearest: 'text'.*; it is \{.*Zo"):
        next(rows.rows("tail"))
    with pytest.raises(DataError, match=r"unknown split 'test'; valid: 'train' of TFDS dataset 'notes_of_source_here'"):
        next(notes.rows("test"))
    with pytest.raises(DataError, match="unknown split 'tran'"):
        notes.num_input_examples("tran")


def test_a_task_of_it_is_a_seqio_task(notes) -> None:
    name = "tfds_source_notes"
    add_task(name, cluster="notes", source=notes, templates=["{text} is"], metrics=[], dataset="tfds:notes")
    try:
        examples = list(seqio.TaskRegistry.get(name).get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
        wanted = [f"{row['text']} is" for row in notes.rows("validation")]
        assert [example["inputs_pretokenized"].decode() for example in examples] == wanted
        assert {e["targets_pretokenized"] for e in examples} <= {b"dull", b"fine"}
    finally:
        seqio.TaskRegistry.remove(name)


def test_what_it_is_does_not_depend_on_where_it_lies(notes) -> None:
    here, there = Describer(), Describer()
    other = TfdsRows("notes_of_source_here", SPLITS, note_row, data_dir="/nowhere")
    assert here.describe(notes) == there.describe(other)
    changed = TfdsRows("notes_of_source_here", SPLITS | {"train": "train"}, note_row)
    assert here.describe(notes) != there.describe(changed)


def test_a_dataset_that_is_not_there_is_told_when_it_is_asked_for_and_not_before() -> None:
    rows = TfdsRows("no_such_dataset/config", {"train": "train"}, note_row, pinned="1.0.0")
    assert rows.splits == ("train",)
    assert (rows.num_input_examples("train"), rows.shipped_version()) == (None, None)
    with pytest.raises(SourceUnavailable, match="TFDS .* has no dataset 'no_such_dataset/config'") as caught:
        next(rows.rows("train"))
    assert caught.value.fix.startswith("install a version of tensorflow-datasets that has it")


def test_a_download_that_fails_is_told_with_the_fix(address, tmp_path: Path) -> None:
    rows = TfdsRows("notes_of_source_lost", SPLITS, note_row, data_dir=str(tmp_path))
    with pytest.raises(SourceUnavailable, match=r"cannot download and prepare 'notes_of_source_lost': .*404") as caught:
        rows.fetch(lambda line: None)
    assert "tasks doctor" in caught.value.fix
    assert not rows.is_prepared()


def test_a_hand_download_is_asked_for_and_then_used(address, tmp_path: Path) -> None:
    rows = TfdsRows("notes_of_source_by_hand", SPLITS, note_row, data_dir=str(tmp_path))
    with pytest.raises(SourceUnavailable, match="needs a download by hand into .*/manual") as caught:
        rows.fetch(lambda line: None)
    assert caught.value.fix == "write to the archive and put notes.json into the folder"
    rows.manual_dir().mkdir(parents=True)
    (rows.manual_dir() / "other.json").write_text("[]")
    with pytest.raises(SourceUnavailable, match="write to the archive"):
        rows.fetch(lambda line: None)
    (rows.manual_dir() / "notes.json").write_bytes(requests.get(f"{address}/notes.json", timeout=10).content)
    rows.fetch(lambda line: None)
    assert len(list(rows.rows("all"))) == 26


def test_a_silent_server_does_not_hang_a_library_without_timeouts(address) -> None:
    with network_timeouts(connect=5, read=0.2), requests.Session() as session:
        with pytest.raises(requests.exceptions.ReadTimeout):
            session.get(f"{address}/silent")
        assert session.get(f"{address}/notes.json").ok
    assert requests.Session.send.__qualname__ == "Session.send"


def test_a_server_that_does_not_answer_is_given_up(address, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tfds_source, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(tfds_source, "_SILENT", set())
    rows = TfdsRows("notes_of_source_silent", SPLITS, note_row, data_dir=str(tmp_path))
    host = address.removeprefix("http://")
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match=f"none of the servers of .*silent' answers \\({host}\\)") as caught:
            rows.fetch(lambda line: None)
        assert caught.value.fix == "check the network and run it again"
    assert {host} == tfds_source._SILENT


def test_the_addresses_of_a_config_are_those_that_name_it() -> None:
    pytest.importorskip("importlib_resources", reason="TFDS needs it for its recorded addresses; setup.py requires it")
    rows = TfdsRows("glue/rte", {"train": "train"}, note_row)
    assert [url.rpartition("/")[2] for url in rows.addresses()] == ["RTE.zip"]
    assert 1 <= len(TfdsRows("snli", {"train": "train"}, note_row).addresses()) <= 6


def test_addresses_are_looked_up(address) -> None:
    urls = [f"{address}/notes", f"{address}/moved", f"{address}/silent", "http://no-such-host.invalid/x"]
    answers = look_up(urls, seconds=0.3, in_all=20)
    assert [answers[url] for url in urls[:3]] == [200, 404, None]
    assert answers[urls[3]] in (NO_HOST, None), "without any name server there is no answer at all"
    assert there_is_a_network(answers)
    assert not there_is_a_network({urls[2]: None, urls[3]: NO_HOST})


BOUNDS = [("train", 7, (0, 7)), ("train[:-2]", 7, (0, 5)), ("train[-2:]", 7, (5, 7)), ("train[2:5]", 4, (2, 4))]


@pytest.mark.parametrize(("text", "count", "bounds"), BOUNDS)
def test_slices(text: str, count: int, bounds: tuple[int, int]) -> None:
    assert split_slice(text).bounds(count) == bounds
    assert str(split_slice(text)) == text


@pytest.mark.parametrize("text", ["train[:10%]", "train[5]", "train[:3]+test", "", "train[1:2:3]"])
def test_other_notations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no slice of a split"):
        split_slice(text)


@settings(max_examples=60)
@given(
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(-60, 60)),
    st.one_of(st.none(), st.integers(-60, 60)),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_a_slice_is_that_of_a_list_and_never_an_error(count, start, stop, most) -> None:
    first, last = SplitSlice("train", start, stop, most).bounds(count)
    assert list(range(first, last)) == list(range(count))[start:stop][:most]
