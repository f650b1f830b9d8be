"""`tasks doctor`, on datasets of the test's own and a server of this machine."""

import json
from typing import Any

import pytest

from t5x_instruct.cli.main import main
from tests.data import tiny_tfds

MODULE = """
import seqio
from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.sources import Jsonl
from t5x_instruct.data.tasks import add_mixture, add_task
from t5x_instruct.data.tfds_source import TfdsRows

def row(example):
    return {{"text": example["text"], "answer": str(example["label"])}}

def add(name, source, dataset=None):
    add_task(name, cluster="doctor", source=source, templates=["{{text}}"], metrics=[], dataset=dataset)

for kind in ("here", "silent", "lost", "by_hand", "unknown"):
    dataset = f"doctor_notes_{{kind}}"
    source = TfdsRows(dataset, {{"train": "train"}}, row, pinned="1.0.0", data_dir={data!r})
    add(f"doctor_{{kind}}", source, f"tfds:{{dataset}}")
add("doctor_rows", {{"train": [{{"text": "a", "answer": "b"}}]}})
add("doctor_missing", Jsonl({{"train": {data!r} + "/nothing.jsonl"}}))
seqio.TaskRegistry.add(
    "doctor_seqio",
    source=seqio.TfdsDataSource("doctor_notes_here:1.2.0", splits=["train"], tfds_data_dir={data!r}),
    preprocessors=[],
    output_features=model_features(),
)
add_mixture("doctor", [f"doctor_{{name}}" for name in {names!r}], rate=1.0)
"""
NAMES = ["here", "silent", "lost", "by_hand", "unknown", "rows", "missing", "seqio"]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("doctor")
    with tiny_tfds.server() as address:
        tiny_tfds.register(folder, address, "doctor_notes")
        path = folder / "doctor_tasks.py"
        path.write_text(MODULE.format(data=str(folder / "data"), names=NAMES), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("t5x_instruct.data.addresses.ANSWER_SECONDS", 1.0)
            yield str(path)


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["tasks", "doctor", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_state_with_its_fix_and_then_downloads(module: str, capsys) -> None:
    words = ("doctor", "--module", module)
    said = run_json(capsys, *words)
    rows = {row["task"].removeprefix("doctor_"): row for row in said["tasks"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "here": "downloadable",
        "seqio": "downloadable",
        "silent": "downloadable",
        "lost": "gone",
        "by_hand": "manual",
        "unknown": "gone",
        "rows": "ready",
        "missing": "gone",
    }
    assert said["notes"] == []
    assert (rows["here"]["version"], rows["here"]["pinned"], rows["unknown"]["version"]) == ("1.2.0", "1.0.0", None)
    assert rows["here"]["dataset"] == "tfds:doctor_notes_here"
    assert rows["by_hand"]["fix"] == "write to the archive and put notes.json into the folder"
    assert rows["by_hand"]["why"].endswith("/downloads/manual")
    assert "is there any more" in rows["lost"]["why"]
    assert "nothing.jsonl" in rows["missing"]["why"]
    assert all(row["fix"] for row in rows.values() if row["status"] != "ready")
    assert [row["status"] for row in said["tasks"]] == ["ready"] + ["downloadable"] * 3 + ["manual"] + ["gone"] * 3

    assert main(["tasks", "doctor", "doctor_here", "--module", module, "--download"]) == 0
    captured = capsys.readouterr()
    assert "downloads and prepares doctor_notes_here" in captured.err
    assert "1 ready, 0 downloadable, 0 manual, 0 gone" in captured.out
    assert main(["tasks", "doctor", "doctor_by_hand", "--module", module, "--download"]) == 1
    captured = capsys.readouterr()
    assert "doctor_by_hand: TFDS dataset 'doctor_notes_by_hand' needs a download by hand" in captured.err
    assert "\n  TFDS reads it from " in captured.out
    listed = {row["task"]: row["status"] for row in _listed(capsys, module)}
    assert (listed["doctor_here"], listed["doctor_by_hand"]) == ("ready", "manual")
    assert listed["doctor_lost"] == "downloadable", "a listing looks nothing up"


def _listed(capsys: pytest.CaptureFixture[str], module: str) -> Any:
    assert main(["tasks", "list", "--cluster", "doctor", "--module", module, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_network_it_is_said_once(module: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "")
    said = run_json(capsys, "doctor", "--module", module)
    assert len(said["notes"]) == 1
    assert said["notes"][0].startswith("no network")
    states = {row["task"]: row["status"] for row in said["tasks"]}
    assert states["doctor_lost"] == "downloadable"


def test_a_mixture_that_is_not_there_is_named(module: str, capsys) -> None:
    assert main(["tasks", "doctor", "docter", "--module", module]) == 2
    assert "unknown task or mixture 'docter'; nearest: 'doctor'" in capsys.readouterr().err


def test_help_names_it(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["tasks", "--help"])
    assert "doctor" in capsys.readouterr().out
