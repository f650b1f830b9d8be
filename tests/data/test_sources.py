"""Rows from files: what is read, what is refused, and how validation is taken from train."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data import lines
from t5x_instruct.data.file_sources import Csv, Json, Parquet, read_csv
from t5x_instruct.data.sources import Jsonl, Tsv


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(source, split="train"):
    return list(source.rows(split))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"q": NaN, "answer": "a"}', "rows.jsonl:2: the field 'q' is nan, which is no number"),
        ('{"q": 1e999, "answer": "a"}', "rows.jsonl:2: the field 'q' is inf, which is no number"),
        ('{"q": "\\ud800", "answer": "a"}', "rows.jsonl:2: the field 'q' is no text: it has half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("percent", [0, 50])
def test_values_that_are_no_text_are_refused_by_their_line(tmp_path, line, problem, percent):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "x", "answer": "a"}\n' + line + "\n")
    source = Jsonl({"train": str(path)}, validation_percent=percent)
    with pytest.raises(DataError, match=problem):
        [rows_of(source, split) for split in source.splits]


def test_csv_is_quoted_and_its_rows_may_have_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffq,answer\r\n"a, ""b""\nc",d\r\n\r\n"",é\r\n'.encode())
    source = Csv({"train": str(path)})
    assert rows_of(source) == [{"q": 'a, "b"\nc', "answer": "d"}, {"q": "", "answer": "é"}]
    assert [item.place for item in source.placed("train")] == [f"{path}:2", f"{path}:5"]
    path.write_text("a;b\nc;d\n")
    assert rows_of(Csv({"train": str(path)}, ["q", "answer"], delimiter=";"))[1] == {"q": "c", "answer": "d"}


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_what_csv_writes_is_read(tmp_path_factory, rows):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("q", "answer"), *rows])
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    assert [tuple(item.row.values()) for item in read_csv(str(path))] == rows


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q,answer\na\n", r":2: 1 cells, expected 2: \('q', 'answer'\); the row is \[\"a\"\]"),
        ('q\na\n"b" c\n', ":3: not a row of CSV"),
        ('q\n"never\nclosed\n', ":2: not a row of CSV: unexpected end of data"),
        ("q,q\n", ":1: the first line names the columns .* 'q' is empty or comes twice"),
        ("q,\n", ":1: the first line names the columns .* '' is empty"),
        ("q\n\udcff\n", ":2: not UTF-8"),
    ],
)
def test_a_bad_row_of_csv_is_told_with_its_line(tmp_path, text, problem):
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=f"{path}{problem}"):
        rows_of(Csv({"train": str(path)}))


def test_a_delimiter_is_one_character(tmp_path):
    with pytest.raises(ConfigError, match="the delimiter of CSV is ';;'"):
        Csv({"train": "x.csv"}, delimiter=";;")


def test_tsv_with_a_header_and_escaped_line_breaks(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('q\tanswer\na\\nb\t"c\n')
    assert rows_of(Tsv({"train": str(path)})) == [{"q": "a\\nb", "answer": '"c'}]
    assert rows_of(Tsv({"train": str(path)}, unescape=True)) == [{"q": "a\nb", "answer": '"c'}]


def test_compressed_files(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": "a"}\n{"q": "b"}\n'))
    assert rows_of(Jsonl({"train": str(path)})) == [{"q": "a"}, {"q": "b"}]
    monkeypatch.setattr(lines, "BLOCK_BYTES", 3)
    assert rows_of(Jsonl({"train": str(path)})) == [{"q": "a"}, {"q": "b"}]
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 5)
    with pytest.raises(DataError, match=f"{path}:1: the line has more than 5 bytes"):
        rows_of(Jsonl({"train": str(path)}))
    for broken in (gzip.compress(b"{}\n" * 99)[:-9], b"not compressed"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=f"{path} cannot be read"):
            rows_of(Jsonl({"train": str(path)}))
    packed = tmp_path / "rows.json.gz"
    packed.write_bytes(gzip.compress(b'[{"q": "a"}]'))
    assert rows_of(Json({"train": str(packed)})) == [{"q": "a"}]


def test_json_is_a_list_or_one_row(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"q": "a"}, {"q": "b"}]')
    source = Json({"train": str(path)})
    assert [(item.row["q"], item.place) for item in source.placed("train")] == [
        ("a", f"{path}, item 0"),
        ("b", f"{path}, item 1"),
    ]
    path.write_text('{"Definition": ["D"], "Instances": [{"input": "a", "output": ["b"]}]}')
    assert rows_of(Json({"train": str(path)}, shape="natural_instructions"))[0]["prompt"] == "D\n\na"
    for text, problem in [("[1]", "item 0: expected an object, got int 1"), ("3", "got int"), ("[", "is not JSON")]:
        path.write_text(text)
        with pytest.raises(DataError, match=problem):
            rows_of(source)


@pytest.fixture
def parquet_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="comes with tensorflow-datasets")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    numbers = range(3000)
    table = {"q": [str(n) for n in numbers], "n": list(numbers), "tags": [["a", "b"]] * 3000, "odd": [None] * 3000}
    parquet.write_table(pyarrow.table(table), path, row_group_size=1100)
    return str(path)


def test_parquet_columns_are_read_in_order(parquet_file):
    source = Parquet({"train": parquet_file}, fields={"question": "q", "answer": "n", "tags": "tags"})
    rows = rows_of(source)
    assert [row["question"] for row in rows] == [row["answer"] for row in rows] == [str(n) for n in range(3000)]
    assert rows[7]["tags"] == ["a", "b"]
    with pytest.raises(DataError, match=f"{parquet_file}, row 0: the field 'odd' is NoneType null; .*`fields=`"):
        rows_of(Parquet({"train": parquet_file}))
    with pytest.raises(DataError, match="unknown column 'tag'; nearest: 'tags'"):
        rows_of(Parquet({"train": parquet_file}, fields=["tag"]))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        rows_of(Parquet({"train": __file__}))


def test_fields_are_kept_under_other_names(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "x", "label": 3, "meta": {"a": None}}])
    assert rows_of(Jsonl({"train": path}, {"text": "text", "answer": "label"})) == [{"text": "x", "answer": "3"}]
    with pytest.raises(DataError, match=r'rows.jsonl:1: unknown field \'labl\'; nearest: \'label\', in {"text": "x"'):
        rows_of(Jsonl({"train": path}, {"answer": "labl"}))


def split_rows(path, **options):
    source = Jsonl({"train": path}, **options)
    assert source.splits == ("train", "validation")
    return rows_of(source, "train"), rows_of(source, "validation")


def test_rows_that_ask_the_same_land_on_the_same_side(tmp_path):
    rows = [{"q": f"Q{i % 100}" + " " * (i % 3), "answer": str(i)} for i in range(1000)]
    train, validation = split_rows(write_jsonl(tmp_path / "rows.jsonl", rows), validation_percent=20)
    assert sorted([*train, *validation], key=lambda row: int(row["answer"])) == rows
    assert not {row["q"].strip() for row in train} & {row["q"].strip() for row in validation}
    assert 100 < len(validation) < 300
    # By content alone: in another order the same rows are held out.
    again = split_rows(write_jsonl(tmp_path / "again.jsonl", rows[::-1]), validation_percent=20)[1]
    assert again == validation[::-1]


def test_what_a_row_asks_is_known_of_a_shape_or_told(tmp_path):
    rows = [{"id": i, "instruction": f"Q{i % 50}", "output": str(i), "why": str(i)} for i in range(500)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    train, validation = split_rows(path, validation_percent=30, shape="alpaca")
    assert validation
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in validation}
    named = {"answer": "output", "instruction": "instruction", "why": "why"}
    parts = split_rows(path, fields=named, validation_percent=30, split_by=["instruction"])
    assert [row["answer"] for row in parts[1]] == [row["answer"] for row in validation]
    with pytest.raises(DataError, match="split_by: unknown field 'instructions'; nearest: 'instruction'"):
        split_rows(path, validation_percent=30, split_by=["instructions"])


def test_trees_and_copies_of_conversations_stay_together(tmp_path):
    def chat(number, reply):
        return {"messages": [{"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": reply}]}

    path = write_jsonl(tmp_path / "chats.jsonl", [chat(i % 40, str(i)) for i in range(200)])
    source = Jsonl({"train": path}, shape="messages", validation_percent=30)
    asked = {
        split: {item.row["messages"][0]["content"] for item in source.placed(split)}
        for split in ("train", "validation")
    }
    assert asked["validation"]
    assert not asked["train"] & asked["validation"]


def test_a_share_needs_train_alone(tmp_path):
    for files in ({"test": "a"}, {"train": "a", "validation": "b"}):
        with pytest.raises(ConfigError, match="validation_percent takes a share of 'train'"):
            Jsonl(files, validation_percent=5)
    with pytest.raises(ConfigError, match="validation_percent is 100; it must be from 1 to 99"):
        Jsonl({"train": "a"}, validation_percent=100)
    with pytest.raises(ConfigError, match="unknown shape 'alpacas'"):
        Jsonl({"train": "a"}, shape="alpacas")


def test_half_a_surrogate_pair_is_refused_with_its_place(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "a"}\n{"q": "\\ud800"}\n')
    with pytest.raises(DataError, match=f"{path}:2: the field 'q' is no text: it has half of a surrogate pair"):
        rows_of(Jsonl({"train": str(path)}))


def test_options_are_a_list(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"q": "x", "options": "A) yes B) no"}])
    with pytest.raises(DataError, match=r"rows.jsonl:1: the field 'options' is the text .*a list of texts, or another"):
        rows_of(Jsonl({"train": path}))
