"""The command line as a user runs it: train, be killed, go on, evaluate, ask."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_instruct.checkpoints.lock import lock_model_dir
from t5x_instruct.checkpoints.manager import Checkpoints

CHECKOUT = Path(__file__).parents[2]
STEPS = 12


def command(verb, *arguments):
    return [sys.executable, "-m", "t5x_instruct.cli.main", verb, *map(str, arguments)]


def environment():
    return os.environ | {
        "PYTHONPATH": str(CHECKOUT),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }


def cli(verb, *arguments, expect=0):
    done = subprocess.run(
        command(verb, *arguments), env=environment(), cwd=CHECKOUT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == expect, done.stdout[-1500:] + done.stderr[-3000:]
    return done


def settings(model_dir, prepared_root, **more):
    values = {
        "MODEL_DIR": model_dir,
        "PREPARED_DIR": prepared_root,
        "MIXTURE_OR_TASK_NAME": "small",
        "MIXTURE_OR_TASK_MODULE": "tests.small_tasks",
        "HOLD_OUT": "small_ends",
        "TASK_FEATURE_LENGTHS": "inputs=40,targets=8",
        "BATCH_SIZE": 4,
        "TRAIN_STEPS": STEPS,
        "CHECKPOINT_PERIOD": 3,
        "EVAL_PERIOD": 6,
        "WARMUP_STEPS": 2,
    } | more
    return ["--gin_file=recipes/tiny.gin", *(f"--gin.{name}={value}" for name, value in values.items())]


def final_state(model_dir, step=STEPS):
    """Every array of a checkpoint, by name."""
    with Checkpoints(model_dir / "checkpoints") as checkpoints:
        specs = checkpoints.saved_tree(step)
        abstract = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in specs.items()}
        state, data_state = checkpoints.restore(step, abstract)
    return {name: np.asarray(value) for name, value in state.items()}, data_state


def assert_same_run(one, other):
    (state, data), (state_other, data_other) = final_state(one), final_state(other)
    assert data == data_other
    assert state.keys() == state_other.keys()
    assert any(name.startswith("opt_state") for name in state)
    for name, value in state.items():
        np.testing.assert_array_equal(value, state_other[name], err_msg=name)
    timeless = [
        [
            {k: v for k, v in record.items() if "second" not in k}
            for record in map(json.loads, open(d / "metrics.jsonl"))
        ]
        for d in (one, other)
    ]
    assert timeless[0] == timeless[1]
    held_out = [json.loads((d / "report.json").read_text())["held_out"] for d in (one, other)]
    assert held_out[0] == held_out[1]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, prepared_root):
    model_dir = tmp_path_factory.mktemp("unbroken")
    cli("train", *settings(model_dir, prepared_root))
    return model_dir


def test_a_run_s_folder_tells_the_run(unbroken):
    names = {path.name for path in unbroken.iterdir()}
    assert {"config.gin", "manifest.json", "checkpoints", "metrics.jsonl", "report.json", "report.html"} <= names
    assert "TRAIN_STEPS = 12" in (unbroken / "config.gin").read_text()
    manifest = json.loads((unbroken / "manifest.json").read_text())
    assert set(manifest["realised"]["tasks"]) == {"small_copy", "small_first"}
    assert manifest["held_out"] == ["small_last"]
    report = json.loads((unbroken / "report.json").read_text())
    for when in ("before", "after"):
        assert 0 <= report["held_out"][when]["exact_match"] <= 100
    train = [r for r in map(json.loads, open(unbroken / "metrics.jsonl")) if r["kind"] == "train"]
    assert [r["step"] for r in train] == list(range(1, STEPS + 1))
    assert train[-1]["loss"] < train[0]["loss"]


def kill_and_resume(model_dir, prepared_root, kills, seed, **more):
    """Starts the run again and again, each time killed at a random moment, then lets it end."""
    draw = random.Random(seed)
    arguments = settings(model_dir, prepared_root, **more)
    for _ in range(kills):
        child = subprocess.Popen(
            command("train", *arguments), env=environment(), cwd=CHECKOUT, stderr=subprocess.PIPE, text=True
        )
        # From the first step on, so that kills fall into steps, saves and evaluation and not all into imports.
        for line in child.stderr:
            if line.startswith("step") or "going on" in line or "scoring" in line:
                break
        time.sleep(draw.uniform(0, 4))
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
    cli("train", *arguments)


def test_killed_and_started_again_it_is_the_unbroken_run_to_the_bit(unbroken, prepared_root, tmp_path):
    kill_and_resume(tmp_path, prepared_root, kills=2, seed=1)
    assert_same_run(unbroken, tmp_path)


@pytest.mark.slow
def test_twenty_kills(unbroken, prepared_root, tmp_path):
    kill_and_resume(tmp_path, prepared_root, kills=20, seed=2)
    assert_same_run(unbroken, tmp_path)


def test_sigterm_saves_exits_42_and_goes_on_to_the_same_end(unbroken, prepared_root, tmp_path):
    arguments = settings(tmp_path, prepared_root)
    child = subprocess.Popen(
        command("train", *arguments), env=environment(), cwd=CHECKOUT, stderr=subprocess.PIPE, text=True
    )
    for line in child.stderr:
        if line.startswith("step"):
            break
    child.terminate()
    error = child.communicate(timeout=200)[1]
    assert child.returncode == 42, error
    assert "stopped by SIGTERM" in error
    cli("train", *arguments)
    assert_same_run(unbroken, tmp_path)


def test_a_second_process_is_refused_and_told_who_is_first(prepared_root, tmp_path):
    with lock_model_dir(tmp_path):
        refused = cli("train", *settings(tmp_path, prepared_root), expect=1)
    assert str(os.getpid()) in refused.stderr


def test_another_mixture_seed_cannot_continue_a_run(unbroken, prepared_root):
    refused = cli("train", *settings(unbroken, prepared_root, SEED=3, TRAIN_STEPS=20), expect=1)
    assert "seed" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_eval_and_infer_take_the_run_s_folder(unbroken, prepared_root, tmp_path):
    model = f"--gin.INITIAL_CHECKPOINT_PATH={unbroken}"
    shared = ["MIXTURE_OR_TASK_NAME=small", "MIXTURE_OR_TASK_MODULE=tests.small_tasks", f"PREPARED_DIR={prepared_root}"]
    shared += [
        "TASK_FEATURE_LENGTHS=inputs=40,targets=8",
        "HOLD_OUT=small_ends",
        "MAX_NEW_TOKENS=12",
        "EVAL_EXAMPLES=4",
    ]
    done = cli("eval", model, *(f"--gin.{setting}" for setting in shared), "--json")
    after = json.loads((unbroken / "report.json").read_text())["held_out"]["after"]
    assert json.loads(done.stdout)["overall"]["exact_match"] == after["exact_match"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say ant.", "id": 7}\n\n{"prompt": "Say bee."}\n')
    answers = tmp_path / "answers.jsonl"
    cli("infer", model, "--gin.MAX_NEW_TOKENS=4", f"--input={prompts}", f"--output={answers}")
    records = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [record["prompt"] for record in records] == ["Say ant.", "Say bee."]
    assert records[0]["id"] == 7
    assert all(isinstance(record["response"], str) for record in records)
    prompts.write_text('{"prompt": "Say ant."}\n{"text": 1}\n')
    refused = cli("infer", model, f"--input={prompts}", expect=1)
    assert f"{prompts}:2" in refused.stderr


def test_dry_run_shows_what_would_be_trained_and_writes_nothing(prepared_root, tmp_path):
    shown = cli("train", *settings(tmp_path / "run", prepared_root), "--dry_run").stdout
    assert "BATCH_SIZE = 4" in shown
    assert "mesh: replica=1 x data=1 x fsdp=2" in shown
    assert "123,200 parameters" in shown
    assert "1 held out (small_ends)" in shown
    assert "«" in shown
    assert not (tmp_path / "run").exists()
