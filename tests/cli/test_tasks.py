"""`tasks` and `prepare`, on a task file of the test's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.data.tasks import task_info

MODULE = """
from t5x_instruct.data.tasks import add_mixture, add_task
from t5x_instruct.evaluation.metrics import exact_match

ROWS = [{"country": c, "answer": a} for c, a in [("France", "Paris"), ("Österreich", "Wien"), ("Peru", "Lima")]]
add_task(
    "cli_capital",
    cluster="cli_geography",
    source={"train": ROWS, "validation": ROWS[:2]},
    templates=["What is the capital of {country}?"],
    metrics=[exact_match],
    dataset="our_atlas",
)
add_task(
    "cli_answer",
    cluster="cli_other",
    source={"train": ROWS},
    templates=["{country}:", "Of {country}:"],
    metrics=[],
)
add_mixture("cli_mixture", ["cli_capital", "cli_answer"], rate=1.0)
"""


def test_without_a_module_the_collections_that_need_no_folder_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {row["task"]: row for row in run_json(capsys, "tasks", "list")}
    assert listed["capital_of_country"]["cluster"] == "geography"
    assert listed["flan2021_rte"]["dataset"] == "tfds:super_glue/rte"
    # Other tests in this process may have registered renderings of them.
    assert sum(name.startswith("flan2021_") and task_info(name).base == name for name in listed) == 69


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tasks") / "cli_tasks.py"
    path.write_text(MODULE, encoding="utf-8")
    return str(path)


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_tasks_of_a_mixture_with_their_facts(module: str, capsys) -> None:
    rows = run_json(capsys, "tasks", "list", "cli_mixture", "--module", module)
    assert [row.pop("source").startswith("rows of ") for row in rows] == [True, True]
    assert rows == [
        {
            "task": "cli_capital",
            "cluster": "cli_geography",
            "base": None,
            "dataset": "our_atlas",
            "status": "ready",
            "templates": 1,
            "train": 3,
            "validation": 2,
            "metrics": ["exact_match"],
        },
        {
            "task": "cli_answer",
            "cluster": "cli_other",
            "base": None,
            "dataset": None,
            "status": "ready",
            "templates": 2,
            "train": 3,
            "validation": None,
            "metrics": [],
        },
    ]


def test_tasks_of_a_cluster(module: str, capsys) -> None:
    rows = run_json(capsys, "tasks", "list", "--cluster", "cli_other", "--module", module)
    assert [row["task"] for row in rows] == ["cli_answer"]
    assert main(["tasks", "list", "--cluster", "cli_othr", "--module", module]) == 2
    assert "unknown cluster 'cli_othr'; nearest: 'cli_other'" in capsys.readouterr().err


def test_examples_are_shown_as_the_model_sees_them(module: str, capsys) -> None:
    words = ["tasks", "show", "cli_capital", "--module", module, "--examples", "2", "--lengths", "inputs=20,targets=9"]
    shown = run_json(capsys, *words)
    assert (shown["task"], shown["cluster"], len(shown["examples"])) == ("cli_capital", "cli_geography", 2)
    example = shown["examples"][1]
    inputs = "What is the capital of Österreich?\n"
    assert example["pieces"] == [{"text": inputs, "trained": False}, {"text": "Wien</s>", "trained": True}]
    assert example["tokens"] == {"inputs": len(inputs.encode()), "targets": 5}
    assert example["trained_tokens"] == 5
    assert example["cut_tokens"] == {"inputs": len(inputs.encode()) - 20, "targets": 0}
    assert main(words) == 0
    text = capsys.readouterr().out
    assert f"{inputs}«Wien</s>»" in text
    assert "16 tokens of inputs would be cut" in text


def test_prompts_of_an_encoder_end_with_the_end_token(module: str, capsys) -> None:
    shown = run_json(capsys, "tasks", "show", "cli_capital", "--module", module, "--prompt_format", "eos")
    assert [piece["text"] for piece in shown["examples"][0]["pieces"]] == [
        "What is the capital of France?</s>",
        "Paris</s>",
    ]


WRONG = [
    (["cli_capitl"], "unknown task 'cli_capitl'; nearest: 'cli_capital'"),
    (["cli_capital", "--split", "tset"], "unknown split 'tset'"),
    (["cli_capital", "--lengths", "input=3"], "unknown feature 'input'; nearest: 'inputs'"),
    (["cli_capital", "--lengths", "inputs=-3"], "inputs=-3: must be a whole number"),
    (["cli_capital", "--examples", "0"], "--examples 0: must be at least 1"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_words_of_show_are_named(module: str, capsys, words: list[str], message: str) -> None:
    assert main(["tasks", "show", *words, "--module", module]) == 2
    assert message in capsys.readouterr().err


def test_a_module_that_is_not_there_is_named(capsys) -> None:
    assert main(["tasks", "list", "--module", "no_such_module"]) == 2
    assert "no_such_module" in capsys.readouterr().err


def test_prepare_writes_what_training_reads(module: str, tmp_path: Path, capsys) -> None:
    from t5x_instruct.data.prepare_spec import PrepareSpec
    from t5x_instruct.data.prepared import load_prepared

    words = ["prepare", "cli_mixture", "--module", module, "--vocabulary", "bytes"]
    rows = run_json(capsys, *words, "--hold_out", "cli_geography", "--prepared_dir", str(tmp_path), "--variants", "2")
    facts = {(row["task"], row["split"]): (row["role"], row["examples"], row["variants"]) for row in rows}
    assert facts == {("cli_capital", "validation"): ("held_out", 2, 1), ("cli_answer", "train"): ("train", 3, 2)}
    assert all(row["refused"] == 0 for row in rows)
    prepared = load_prepared(
        PrepareSpec(
            mixture="cli_mixture",
            modules=(module,),
            vocabulary="bytes",
            prompt_format="line",
            hold_out=("cli_geography",),
            variants=2,
            root=tmp_path,
        )
    )
    assert prepared is not None
    assert [task.name for task in prepared.train_tasks] == ["cli_answer"]
    words += ["--hold_out", "cli_geography", "--prepared_dir", str(tmp_path)]
    more = run_json(capsys, *words, "--exemplars", "--templates=each")
    assert {(row["task"], row["split"]) for row in more} == {*facts, ("cli_capital", "exemplars")}
