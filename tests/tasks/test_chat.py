"""Open Assistant trees and Taskmaster dialogues, from small files in their layouts."""

import json
import logging
import sys

import pytest
import seqio

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.sources import in_validation
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import clusters_of, task_info
from t5x_instruct.templates.chat import trained_turns


def node(text, *replies, role=None, **more):
    """A message of a tree; roles alternate with the depth where none is given."""
    message = {"message_id": text, "text": text, "role": role, "lang": "en", "deleted": False, "synthetic": False}
    return {**message, "replies": list(replies), **more}


def tree(tree_id, root):
    def with_roles(message, depth=0):
        role = message["role"] or ("prompter", "assistant")[depth % 2]
        replies = [with_roles(reply, depth + 1) for reply in message["replies"]]
        return {**message, "role": role, "replies": replies}

    return {"message_tree_id": tree_id, "tree_state": "ready_for_export", "prompt": with_roles(root)}


# Q1 has the replies A1 (rank 1), B1 (rank 0) and an unranked one; B1 the questions Q2 (no reply), Q3 and Q4.
ROOT = node(
    "Q1",
    node("A1", node("Q5", node("A5")), rank=1),
    node("C1", rank=None),
    node(
        "B1",
        node("Q2"),
        node("Q3", node("A3", rank=1), node("B3", node("Q6"), rank=0)),
        node("Q4", node("A4")),
        rank=0,
    ),
    node("D1", rank=0, deleted=True),
    node("E1", rank=0, review_result=False),
)
BROKEN = [
    {"tree_state": "ready_for_export", "prompt": {}},
    {"message_tree_id": "x", "prompt": {"text": "no role", "replies": []}},
    tree("y", node("Q", node("A", role="bot"))),
]


def utterances(*parts):
    return [{"index": i, "speaker": s, "text": t, "segments": []} for i, (s, t) in enumerate(parts)]


ORDER = [("user", "one latte "), ("user", "please"), ("assistant", "ready?"), ("assistant", " "), ("user", "yes")]
DIALOGUES = [
    {"conversation_id": "dlg-1", "vertical": "Coffee", "utterances": utterances(*ORDER)},
    {"conversation_id": "dlg-2", "utterances": utterances(("ASSISTANT", "hello"), ("USER", "hi"), ("ASSISTANT", "?"))},
    {"conversation_id": "dlg-3", "utterances": utterances(("assistant", "nobody asks"), ("user", "bye"))},
    {"conversation_id": "dlg-4", "utterances": [{"index": 0}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trees 0 to 59 with texts of their own, broken lines, and dialogues."""
    folder = tmp_path_factory.mktemp("chat")
    trees = [tree(f"tree-{n}", ROOT) for n in range(60)]
    trees[7] = tree("tree-7", node("a question that nobody answered"))
    lines = [json.dumps(one) for one in [*trees, *BROKEN]]
    (folder / "small_oasst_trees.jsonl").write_text("\n".join([*lines, "{"]))
    many = [{**DIALOGUES[0], "conversation_id": f"dlg-1{n}"} for n in range(40)]
    (folder / "taskmaster4.json").write_text(json.dumps([*DIALOGUES, *many]))
    return folder


@pytest.fixture(scope="module")
def chat(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FOLDER", "PATHS"):
            patch.delenv(f"T5X_INSTRUCT_CHAT_{name}", raising=False)
        with pytest.raises(ConfigError, match="T5X_INSTRUCT_CHAT_FOLDER") as raised:
            import_task_modules(["tasks.chat"], {"tasks.chat.PATHS": "bets"})
        assert "tasks.chat.PATHS: unknown value 'bets'; nearest: 'best'" in str(raised.value)
        with pytest.raises(ConfigError, match=r"has none of \*oasst\*\.jsonl"):
            import_task_modules(["tasks.chat"], {"tasks.chat.FOLDER": str(tmp_path_factory.mktemp("empty"))})
        import_task_modules(["tasks.chat"], {"tasks.chat.FOLDER": str(folder)})
    return sys.modules["tasks.chat"]


def of_tree(rows, name):
    return [row for row in rows if row["id"].startswith(f"{name}/")]


def told(row):
    """A row's conversation as (text, trained or not) of each message."""
    trained = trained_turns(row["messages"])
    return [(message["content"], i in trained) for i, message in enumerate(row["messages"])]


def test_tasks_and_mixture(chat):
    assert clusters_of("chat") == {name: [name] for name in ("chat_oasst", "chat_taskmaster")}
    assert task_info("chat_oasst").dataset == "oasst"
    assert "small_oasst_trees.jsonl" in task_info("chat_oasst").source
    row = next(seqio.TaskRegistry.get("chat_oasst").source.rows("train"))
    assert set(row) == {"messages", "tools", "id"}


def test_the_best_path(chat, folder):
    path = str(folder / "small_oasst_trees.jsonl")
    rows = [placed.row for split in ("train", "validation") for placed in chat.oasst_rows([path], split)]
    assert len(rows) == 59  # tree 7 has no reply
    [row] = of_tree(rows, "tree-0")
    assert told(row) == [("Q1", False), ("B1", True), ("Q3", False), ("B3", True)]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2


def test_all_paths_train_on_each_reply_once(chat, folder):
    path = str(folder / "small_oasst_trees.jsonl")
    splits = {split: [p.row for p in chat.oasst_rows([path], split, "all")] for split in ("train", "validation")}
    rows = of_tree(splits["train"] + splits["validation"], "tree-3")
    assert [told(row) for row in rows] == [
        [("Q1", False), ("B1", True)],
        [("Q1", False), ("B1", False), ("Q3", False), ("B3", True)],
        [("Q1", False), ("B1", False), ("Q3", False), ("A3", True)],
        [("Q1", False), ("B1", False), ("Q4", False), ("A4", True)],
        [("Q1", False), ("A1", True), ("Q5", False), ("A5", True)],
        [("Q1", False), ("C1", True)],
    ]
    assert len({row["id"] for row in rows}) == 6
    trees = {split: {row["id"].split("/")[0] for row in rows} for split, rows in splits.items()}
    assert not trees["train"] & trees["validation"]
    assert (
        trees["validation"] == {f"tree-{n}" for n in range(60) if in_validation(f"tree-{n}", 5)} - {"tree-7"} != set()
    )


def test_broken_trees_are_told_and_skipped(chat, folder, caplog):
    with caplog.at_level(logging.WARNING):
        list(chat.oasst_rows([str(folder / "small_oasst_trees.jsonl")], "train"))
    assert [place in caplog.text for place in (".jsonl:60:", ".jsonl:61:", ".jsonl:64:")] == [False, True, True]
    assert "'message_tree_id' is missing" in caplog.text
    assert "4 rows were skipped" in caplog.text


def test_dialogues(chat, folder, caplog):
    path = str(folder / "taskmaster4.json")
    with caplog.at_level(logging.WARNING):
        splits = {
            split: [placed.row for placed in chat.taskmaster_rows([path], split)] for split in ("train", "validation")
        }
    assert splits["validation"]
    rows = {row["id"]: row for row in splits["train"] + splits["validation"]}
    assert len(rows) == 42
    assert told(rows["dlg-1"]) == [("one latte\nplease", False), ("ready?", True)]
    assert told(rows["dlg-2"]) == [("hello", False), ("hi", False), ("?", True)]
    assert "dlg-3" not in rows  # its only reply opens the dialogue
    assert "1 rows were skipped" in caplog.text


def test_they_are_prepared(chat, tmp_path):
    spec = PrepareSpec(mixture="chat", modules=(), vocabulary="bytes", prompt_format="eos", root=tmp_path)
    mixture = prepare(spec, lambda line: None)
    oasst, taskmaster = (task.splits["train"] for task in mixture.tasks)
    first = oasst.read(1)
    assert first.meta["inputs_pretokenized"] == "User:\nQ1\n\nAssistant:\nB1\n\nUser:\nQ3\n\nAssistant:\n"
    assert (first.meta["targets_pretokenized"], first.meta["id"]) == ("B3", "tree-0/0")
    assert all("validation" in task.splits for task in mixture.tasks)
    assert taskmaster.read(0).meta["targets_pretokenized"] == "ready?"
