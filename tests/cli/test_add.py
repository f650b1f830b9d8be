"""`tasks add`: rows to a registered task in one command."""

import json
from pathlib import Path

import pytest

from t5x_instruct.cli.main import main

ALPACA = [{"instruction": f"Say {n}", "input": "", "output": f"It is {n}."} for n in range(40)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Hi {n}"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": f"See you {n}"},
        ]
    }
    for n in range(40)
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder; what a test registers is gone after it."""
    import seqio

    monkeypatch.chdir(tmp_path)
    before = set(seqio.TaskRegistry.names())
    yield tmp_path
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)


def forget(*names):
    """As a new process would begin."""
    import seqio

    for name in names:
        seqio.TaskRegistry.remove(name)


def write(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def fails(capsys, *words, code=2):
    """The message of an `add` that fails and leaves nothing behind."""
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(["tasks", "add", *words]) == code
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    return capsys.readouterr().err


def test_a_file_of_a_known_shape_needs_nothing_else(folder, capsys):
    write("faq.jsonl", ALPACA)
    assert main(["tasks", "add", "add_faq", "--from", "faq.jsonl", "--cluster", "help desk"]) == 0
    shown = capsys.readouterr().out
    assert "add_faq (cluster help desk, my_tasks.py:7)" in shown
    assert "Say 0\n«It is 0.</s>»" in shown
    assert "rows of train" in shown
    assert "t5x-instruct tasks show add_faq --module my_tasks.py" in shown
    assert "--gin.MIXTURE_OR_TASK_MODULE=my_tasks.py" in shown
    assert sorted(path.name for path in folder.iterdir()) == ["faq.jsonl", "my_tasks.py"]
    assert (
        Path("my_tasks.py")
        .read_text()
        .endswith(
            "\nadd_task(\n"
            '    "add_faq",\n'
            '    cluster="help desk",\n'
            '    source=Jsonl({"train": "faq.jsonl"}, shape="alpaca", validation_percent=5),\n'
            '    templates=["{prompt}"],\n'
            "    metrics=[rouge_l],\n"
            ")\n"
        )
    )
    forget("add_faq")
    assert main(["tasks", "show", "add_faq", "--module", "my_tasks.py", "--examples", "1"]) == 0
    assert "add_faq" in capsys.readouterr().out


def test_more_is_added_to_a_module_of_ones_own(capsys):
    mine = "# Mine.\nfrom t5x_instruct.data.sources import RowSource\n\nROWS = RowSource\n"
    Path("mine.py").write_text(mine)
    write("chats.jsonl", CHATS)
    assert main(["tasks", "add", "add_chats", "--from", "chats.jsonl", "--module", "mine.py"]) == 0
    shown = capsys.readouterr().out
    assert "added to mine.py" in shown
    assert "«Hello" in shown
    forget("add_chats")
    Path("rows.csv").write_text("text;kind\n" + "".join(f'"Nr; {n}";{n % 3}\n' for n in range(40)))
    words = ["--field", "answer=kind", "--template", "Which kind?\\n{text}", "--metric", "token_f1"]
    assert main(["tasks", "add", "add_kinds", "--from", "rows.csv", "--module", "mine.py", *words]) == 0
    assert "Which kind?\nNr; 1\n«1</s>»" in capsys.readouterr().out
    text = Path("mine.py").read_text()
    assert text.startswith("# Mine.\nfrom t5x_instruct.data.chat_tasks import add_chat_task\n")
    assert "\nfrom t5x_instruct.data.sources import Jsonl, RowSource\n" in text
    assert "\nROWS = RowSource\n" in text
    assert text.count("\nadd_") == 2
    assert 'fields={"text": "text", "answer": "kind"}' in text
    assert 'delimiter=";"' in text
    forget("add_kinds", "add_chats")
    message = fails(capsys, "add_kinds", "--from", "rows.csv", "--module", "mine.py", *words)
    assert "the name 'add_kinds' is taken by a task, first at: " in message
    assert "being_added" not in message


def test_tsv_with_reasons_that_are_learned(capsys):
    Path("sums.tsv").write_text("".join(f"{n}+1?\t{n + 1}\tCount on\\nfrom {n}.\n" for n in range(30)))
    words = ["--columns", "question,answer,why", "--unescape", "--validation", "sums.tsv"]
    templates = ["--template", "{question}\\nThink.", "{why}\\nSo {answer}", "--template", "{question}"]
    assert main(["tasks", "add", "add_sums", "--from", "sums.tsv", *words, *templates]) == 0
    assert "«" in capsys.readouterr().out
    text = Path("my_tasks.py").read_text()
    assert 'Template("{question}\\nThink.", "{why}\\nSo {answer}")' in text
    assert '{"train": "sums.tsv", "validation": "sums.tsv"}' in text
    import seqio

    assert seqio.TaskRegistry.get("add_sums").num_input_examples("validation") == 30


def test_a_few_rows_are_still_parted(capsys):
    write("faq.jsonl", ALPACA[:4])
    assert main(["tasks", "add", "add_few", "--from", "faq.jsonl"]) == 0
    import seqio

    task = seqio.TaskRegistry.get("add_few")
    counts = [task.num_input_examples(split) for split in ("train", "validation")]
    assert sum(counts) == 4
    assert all(counts)
    write("one.jsonl", ALPACA[:1])
    assert main(["tasks", "add", "add_one", "--from", "one.jsonl", "--module", "one.py"]) == 0
    assert "no row is kept for validation" in capsys.readouterr().out
    assert "validation_percent" not in Path("one.py").read_text()


PLAIN = {"text": "a b", "label": "x"}

WRONG = [
    (PLAIN, ["--template", "{txt}"], 2, "--template: unknown field 'txt'; nearest: 'text'"),
    (PLAIN, ["--template", "{text}"], 2, "name the field that has it by --field answer=THEIRS"),
    (PLAIN, [], 2, "the rows are of no known shape; give a --template"),
    (PLAIN, ["--shape", "alpacca"], 2, "unknown shape 'alpacca'; nearest: 'alpaca'"),
    (PLAIN, ["--shape", "alpaca"], 1, "rows.jsonl:1: the row is not of the shape 'alpaca': 'instruction' is missing"),
    (PLAIN, ["--field", "answer=labl", "--template", "{text}"], 2, "rows.jsonl:1: unknown field 'labl'"),
    (PLAIN, ["--field", "answer", "--template", "{text}"], 2, "write NAME=VALUE"),
    (PLAIN, ["--template", "{text"], 2, "write '{{' and '}}' for literal braces"),
    (PLAIN, ["--template", "a", "b", "c"], 2, "an instruction and perhaps a text to learn, got 3"),
    (
        {**PLAIN, "answers": "x"},
        ["--template", "{text}"],
        1,
        "'answers' is the text \"x\"; it has to be a list of texts",
    ),
    (ALPACA[0], ["--template", "{instructoin}"], 2, "unknown field 'instructoin'; nearest: 'instruction'"),
    (ALPACA[0], ["--metric", "exactmatch"], 2, "unknown metric 'exactmatch'; nearest: 'exact_match'"),
    (
        ALPACA[0],
        ["--metric", "paired"],
        2,
        "unknown metric 'paired'; valid: 'exact_match', 'rouge_l', 'sequence_accuracy'",
    ),
    (
        {"text": "x", "answers": []},
        ["--template", "{text}"],
        1,
        "task 'add_wrong', example 0: 'answers' is an empty list; give the row an answer, or leave it out",
    ),
    (ALPACA[0], ["--columns", "a,b"], 2, "--columns is for CSV and TSV"),
    (ALPACA[0], ["--split-percent", "100"], 2, "--split-percent 100: must be from 0"),
    (ALPACA[0], ["--module", "tasks"], 2, "name a file that ends in .py"),
    (ALPACA[0], ["--module", "nowhere/x.py"], 2, "there is no folder nowhere"),
    (CHATS[0], ["--template", "{messages}"], 2, "conversations (messages) are learned as they are"),
    ({**CHATS[0], "conversations": []}, [], 2, "may be of the shape messages or sharegpt; choose by --shape"),
]


@pytest.mark.parametrize(
    ("row", "words", "code", "message"), WRONG, ids=[" ".join(w) or m[-9:] for _, w, _, m in WRONG]
)
def test_what_is_wrong_is_told_and_nothing_is_written(capsys, row, words, code, message):
    write("rows.jsonl", [row])
    assert message in fails(capsys, "add_wrong", "--from", "rows.jsonl", *words, code=code)


def test_files_that_cannot_be_read_are_told(capsys):
    write("rows.jsonl", ALPACA)
    Path("rows.csv").write_text("q\n")
    Path("rows.xlsx").write_text("")
    Path("empty.jsonl").write_text("\n")
    for names, message in [
        (["absent.jsonl"], "absent.jsonl cannot be read"),
        (["rows.xlsx"], "--from rows.xlsx: it is not known what this is"),
        (["rows.jsonl", "rows.csv"], "files of one kind make a task"),
        (["empty.jsonl"], "empty.jsonl: there are no rows"),
    ]:
        code = 1 if "no rows" in message or "read" in message else 2
        assert message in fails(capsys, "add_wrong", "--from", *names, code=code)


def test_a_bad_row_far_down_is_found_before_anything_is_written(capsys):
    write("rows.jsonl", [*ALPACA, {"instruction": "Say it"}])
    message = fails(capsys, "add_wrong", "--from", "rows.jsonl", code=1)
    assert "rows.jsonl:41: the row is not of the shape 'alpaca': 'output' is missing" in message
    assert 'the row: {"instruction": "Say it"}' in message
    Path("my_tasks.py").write_text("def broken(:\n")
    write("rows.jsonl", ALPACA)
    assert "my_tasks.py is not Python" in fails(capsys, "add_wrong", "--from", "rows.jsonl")


def test_names_and_texts_are_never_code(capsys):
    write("rows.jsonl", [{"q'\"": "{x}", "text": "'''\"; raise SystemExit(3) #", "answer": "a"}] * 3)
    words = ["--cluster", '"); raise SystemExit(3) #', "--template", "\"\"\"{text}\\n'''"]
    assert main(["tasks", "add", "add_quotes", "--from", "rows.jsonl", *words]) == 0
    assert "'''\"; raise SystemExit(3) #" in capsys.readouterr().out
    forget("add_quotes")
    assert "bad name" in fails(capsys, "bad name", "--from", "rows.jsonl", "--template", "{text}")
