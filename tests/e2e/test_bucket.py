"""A whole run in a bucket: train, go on, read it from another machine, evaluate."""

import json
import shutil

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.common.paths import as_path, staged_place
from tests.e2e.test_train import settings

RUN, PREPARED = "gs://test/e2e/run", "gs://test/e2e/prepared"


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def gin(values):
    return [f"--gin.{name}={value}" for name, value in values.items()]


def test_train_go_on_and_evaluate_in_a_bucket(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path / "one"))
    recipe = as_path("gs://test/e2e/own.gin")
    recipe.write_text("include 'recipes/tiny.gin'\nWARMUP_STEPS = 1\n")

    def train(steps):
        asked = settings(
            RUN, PREPARED, TRAIN_STEPS=steps, CHECKPOINT_PERIOD=2, EVAL_PERIOD=2, HOLD_OUT="()", BATCH_SIZE=8
        )
        own = [word for word in asked[1:] if "WARMUP" not in word]
        assert main(["train", f"--gin_file={recipe}", *own]) == 0

    train(2)
    folder = as_path(RUN)
    for name in ("config.gin", "manifest.json", "model.json", "report.json", "report.html", "metrics.jsonl"):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents.*"))
    assert not (folder / "run.lock").exists()
    info = as_path(PREPARED).glob("tasks/small_copy/*/train/info.json")
    assert json.loads(next(info).read_text())["num_examples"] == 24

    # The process was killed after its save: records that no step has are dropped, and the run goes on from the step.
    grown = (folder / "metrics.jsonl").read_text() + '{"step": 3, "kind": "train"}\n{"step":'
    (folder / "metrics.jsonl").write_text(grown)
    shutil.rmtree(tmp_path / "one")  # and its machine with it
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path / "two"))
    capsys.readouterr()
    train(4)
    said = capsys.readouterr().err
    assert "going on from the checkpoint of step 2" in said
    assert f"files from {PREPARED}" in said, "shards are copied to the new machine's disk"
    assert "examples in" not in said, "and not rendered again"
    assert [r["step"] for r in records(folder) if r["kind"] == "train"] == [1, 2, 3, 4]
    assert next(staged_place(PREPARED).glob("tasks/small_copy/*/train/*.array_record")).is_file()

    output = "gs://test/e2e/figures.json"
    asked = {"INITIAL_CHECKPOINT_PATH": RUN, "PREPARED_DIR": PREPARED, "MIXTURE_OR_TASK_NAME": "small"}
    asked |= {"MIXTURE_OR_TASK_MODULE": "tests.small_tasks", "TASK_FEATURE_LENGTHS": "inputs=40,targets=8"}
    assert main(["eval", *gin(asked | {"ALLOW_OVERLAP": True, "EVAL_EXAMPLES": 2}), f"--output={output}"]) == 0
    assert {task["task"] for task in json.loads(as_path(output).read_text())["tasks"]} == {
        "small_copy",
        "small_first",
        "small_last",
    }
    assert main(["inspect", RUN]) == 0
    assert "params/" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gs://test/nothing", "gs://absent/run"])
def test_a_checkpoint_that_is_not_there(bucket, name, capsys):
    assert main(["inspect", name]) == 1
    said = capsys.readouterr().err
    assert f"no checkpoint at '{name}': nothing lies there, or there is no such bucket" in said
