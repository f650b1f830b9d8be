import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from t5x_instruct.evaluation.worker import run

MODULE = "tests.evaluation.eval_tasks"


def record(target: str, prediction: str, **meta: Any) -> dict[str, Any]:
    ids = [byte + 3 for byte in prediction.encode()]
    targets = [*(byte + 3 for byte in target.encode()), 1]
    fields = {"inputs_pretokenized": "x", "targets_pretokenized": target}
    return {
        "target": target,
        "prediction": prediction,
        "prediction_ids": [*ids, 1],
        "inputs": [123],
        "targets": targets,
        "meta": fields | meta,
    }


def judge(task: str, *records: dict[str, Any]) -> dict[str, Any]:
    answer = judge_groups(task, list(records))
    (metrics,) = answer["metrics"]
    return {"metrics": metrics, "problems": answer["problems"]}


def judge_groups(task: str, *groups: list[dict[str, Any]]) -> dict[str, Any]:
    request = {"modules": [MODULE], "module_options": {}, "vocabulary": "bytes", "tasks": {task: list(groups)}}
    return run(request)[task]


def test_metrics_of_a_task_keep_their_order_and_go_on_after_a_fault() -> None:
    answer = judge("eval_letters", record("xyz", "XYZ"), record("a", "b"))
    assert list(answer["metrics"].items()) == [("exact_match", 50.0), ("wrapped", 12.5)]
    broken, repeated, text = (
        next(p for p in answer["problems"] if word in p) for word in ("ZeroDivision", "earlier", "'text'")
    )
    assert broken.startswith("task 'eval_letters': metric 'broken_metric', given 2 pairs, the first ('xyz', 'XYZ')")
    assert "ZeroDivisionError: no way with 2" in broken
    assert "eval_tasks.py:" in broken
    assert "'exact_match'" in repeated
    assert "not a finite number" in text
    assert any("'not_a_number' is nan" in problem for problem in answer["problems"])
    assert len(answer["problems"]) == 4


def test_each_group_has_its_metrics_and_a_fault_of_several_is_told_once() -> None:
    right, wrong = record("xyz", "xyz"), record("a", "b")
    answer = judge_groups("eval_letters", [right, wrong], [right], [], [wrong])
    assert [group.get("exact_match") for group in answer["metrics"]] == [50.0, 100.0, None, 0.0]
    assert answer["problems"] == judge("eval_letters", right, wrong)["problems"]
    assert "given 2 pairs" in answer["problems"][0]


def test_functions_are_called_as_seqio_calls_them() -> None:
    answer = judge("eval_convention", record("yz", "y", ids=[4, 5], words=["a", "é"]))
    assert answer == {"metrics": {"right_targets": 100.0, "right_predictions": 100.0}, "problems": []}


def test_accepted_answers_reach_the_metric() -> None:
    answer = judge("eval_choice", record("xyz", "abc", accepted_targets=["xyz", "ABC"]))
    assert answer["metrics"] == {"exact_match": 100.0}


def test_a_postprocessor_that_raises_is_reported_with_the_value() -> None:
    answer = judge("eval_unreadable", record("a", "b"))
    assert answer["metrics"] == {}
    (problem,) = answer["problems"]
    assert "task 'eval_unreadable': postprocess_fn of the prediction 'b'" in problem
    assert "ValueError: what is 'b'?" in problem


def test_metric_objects_decode_predicted_ids() -> None:
    answer = judge("eval_objects", record("grün", "grün"), record("a", "b"), record("a", ""), record("c", "C"))
    assert answer == {"metrics": {"exact_match": 50.0}, "problems": []}


def test_metrics_of_scores_are_named_not_run() -> None:
    answer = judge("eval_scores", record("a", "b"))
    assert answer["metrics"] == {}
    assert "'mean_score' judges scores" in answer["problems"][0]


def test_a_task_without_metrics_is_said_to_have_none() -> None:
    assert judge("eval_silent", record("a", "b")) == {
        "metrics": {},
        "problems": ["task 'eval_silent': it has no metrics; give it metric_fns to have its answers judged"],
    }


def test_empty_texts_and_no_examples() -> None:
    assert judge("eval_choice", record("", ""), record("a", ""))["metrics"] == {"exact_match": 50.0}
    assert judge("eval_choice") == {"metrics": {}, "problems": []}


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    assert "unknown task 'eval_letter'; nearest: 'eval_letters'" in judge("eval_letter")["problems"][0]


@pytest.mark.parametrize("value", [b"\xff\xfe", float("nan"), None, [], [[1], [2, 3]], [1, 2], ["a", 1], 2**40])
def test_any_field_of_an_example_is_carried(tmp_path: Path, value: Any) -> None:
    records = msgpack.unpackb(msgpack.packb([record("xyz", "xyz", field=value)]))
    assert judge("eval_choice", *records)["metrics"] == {"exact_match": 100.0}


def test_as_a_process_it_tells_what_the_caller_did_wrong(tmp_path: Path) -> None:
    request = {"modules": ["no_such_module_xyz"], "module_options": {}, "vocabulary": "bytes", "tasks": {}}
    (tmp_path / "request").write_bytes(msgpack.packb(request))
    command = [sys.executable, "-m", "t5x_instruct.evaluation.worker", tmp_path / "request", tmp_path / "answer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no_such_module_xyz" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "answer").exists()


def test_the_answer_is_json() -> None:
    assert json.loads(json.dumps(judge("eval_letters", record("a", "a")), allow_nan=False))
