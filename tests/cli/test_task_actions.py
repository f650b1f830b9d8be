"""`tasks audit`, `stats` and `overlap`, on a task file of the test's own that is prepared once."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from t5x_instruct.cli.main import main

MODULE = """
from t5x_instruct.data.tasks import add_mixture, add_task

SENTENCE = "in the year {} a ship left the harbour with {} barrels of oil and came back after {} days at sea"
ROWS = [{"text": SENTENCE.format(1800 + i, i, i * i), "answer": "x" * (1 + i % 12)} for i in range(60)]
add_task(
    "action_ships",
    cluster="action_ships",
    source={"train": [*ROWS[:40], ROWS[3]], "validation": [ROWS[7], *ROWS[40:]]},
    templates=["{text}"],
    metrics=[],
)
add_task(
    "action_bells",
    cluster="action_bells",
    source={"train": [{"text": f"Ring {i}\\a.", "answer": " "} for i in range(10)]},
    templates=["{text}"],
    metrics=[],
)
add_mixture("action_mixture", ["action_ships", "action_bells"], rate=1.0)
"""


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that every call has."""
    folder = tmp_path_factory.mktemp("actions")
    (folder / "action_tasks.py").write_text(MODULE, encoding="utf-8")
    return ["--module", str(folder / "action_tasks.py"), "--prepared_dir", str(folder / "prepared")]


def run_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_an_audit_counts_and_ends_with_2_past_a_limit(common: list[str], capsys) -> None:
    words = ["tasks", "audit", "action_mixture", *common, "--lengths", "inputs=200,targets=10"]
    report = run_json(capsys, *words, code=2)
    findings = {
        (one["task"], one["split"]): {name: f["failed"] for name, f in one["findings"].items()}
        for one in report["splits"]
    }
    assert findings == {
        ("action_bells", "train"): {"empty_targets": 10, "control_characters": 10},
        ("action_ships", "train"): {"cut_responses": 9, "duplicates": 1},
        ("action_ships", "validation"): {"cut_responses": 6, "leaked": 1},
    }
    (fault,) = report["faults"]
    assert fault.startswith("task 'action_bells', split 'train': 10 of 10 examples have an empty target (100.0 %)")
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "error: task 'action_bells'" in shown.err
    assert "'action_ships', split 'validation': 1 of 21 examples stand in what is trained on as well" in shown.out
    assert "empty_targets" not in shown.out
    assert main([*words, "--limit", "empty_targets=1"]) == 0


def test_stats_recommend_what_they_would_pack(common: list[str], capsys, tmp_path: Path) -> None:
    drawing = tmp_path / "lengths.svg"
    words = ["tasks", "stats", "action_mixture", *common, "--lengths", "inputs=400,targets=8", "--svg", str(drawing)]
    figures = run_json(capsys, *words, "--sample", "512", "--most_cut", "0")
    assert [(task["task"], task["examples"]) for task in figures["tasks"]] == [
        ("action_bells", 10),
        ("action_ships", 41),
    ]
    assert sum(bar["examples"] for bar in figures["histograms"]["inputs"]) == 51
    best = figures["shapes"]["encoder-decoder"][0]
    assert (best["cut_inputs"], best["cut_targets"]) == (0, 0)
    assert figures["asked"]["encoder-decoder"]["cost"] > best["cost"]
    bars = [node for node in ElementTree.parse(drawing).iter() if node.get("class") == "bar"]
    assert len(bars) == sum(len(one) for one in figures["histograms"].values())
    assert main([*words, "--sample", "512"]) == 0
    shown = capsys.readouterr().out
    assert f"TASK_FEATURE_LENGTHS = {{'inputs': {best['inputs']}" in shown
    assert "x the cost of the best" in shown


def test_overlap_names_examples_on_both_sides(common: list[str], capsys) -> None:
    words = ["tasks", "overlap", "action_mixture", "action_ships", *common, "--n", "5"]
    found = run_json(capsys, *words)
    first = found["matches"][0]
    assert (first["example"], first["same"], first["train_task"], first["train_example"]) == (0, "instance", *HELD)
    assert [one["what"] for one in found["shared"]] == ["are the same task"]
    assert main([*words, "--examples", "1"]) == 0
    shown = capsys.readouterr().out
    assert "in action_ships, example 7: the same instance" in shown
    assert "'action_ships' and 'action_ships', which is trained on, are the same task" in shown


HELD = ("action_ships", 7)
WRONG = [
    (["audit", "action_mixture", "--lengths", "inputs=3"], "targets is missing"),
    (["audit", "action_mixture", "--limit", "cut_response=1"], "unknown limit 'cut_response'; nearest"),
    (["audit", "action_mixture", "--limit", "cut_responses=7"], "must be a share from 0 to 1"),
    (["audit", "action_mixture", "--limit", "cut_responses=few"], "write NAME=SHARE"),
    (["audit", "action_mixture", "--examples", "0"], "--examples 0: must be at least 1"),
    (["stats", "action_mixture", "--most_cut", "2"], "--most_cut 2.0: must be a share"),
    (["overlap", "action_mixture", "action_ships", "--n", "0"], "--n 0: must be at least 1"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_words_are_named(common: list[str], capsys, words: list[str], message: str) -> None:
    assert main(["tasks", *words, *common]) == 2
    assert message in capsys.readouterr().err
