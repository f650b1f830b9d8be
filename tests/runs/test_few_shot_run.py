"""One small run through the command line's own process: exemplars, every template, the best checkpoint."""

import json

import pytest

import t5x_instruct
from t5x_instruct.cli import main as cli
from t5x_instruct.common.errors import DataError
from t5x_instruct.runs.evaluate import trained_tasks

SHARED = {
    "MIXTURE_OR_TASK_NAME": "small",
    "MIXTURE_OR_TASK_MODULE": "tests.small_tasks",
    "HOLD_OUT": "small_ends",
    "TASK_FEATURE_LENGTHS": "inputs=80,targets=8",
    "MAX_NEW_TOKENS": 4,
    "EVAL_EXAMPLES": 4,
    "SHOTS": 2,
    "EVAL_TEMPLATES": "each",
}
TRAIN = {"BATCH_SIZE": 8, "TRAIN_STEPS": 6, "CHECKPOINT_PERIOD": 1, "EVAL_PERIOD": 2, "WARMUP_STEPS": 0}
EXEMPLARS = ["--exemplars=small_last", "--module=tests.small_tasks"]


def words(verb, settings):
    return [verb, *(f"--gin.{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared_root):
    """A run in another format than its model's default.

    Its learning rate grows until it ruins the model, so that the best step is not the last.
    """
    folder = tmp_path_factory.mktemp("run")
    settings = SHARED | TRAIN | {"PREPARED_DIR": prepared_root, "MODEL_DIR": folder, "KEEP_BEST": "validation/loss"}
    settings |= {"LEARNING_RATE": 3.0, "WARMUP_STEPS": 5, "LoopConfig.eval_steps": 2}
    settings |= {"DataSettings.prompt_format": "eos"}
    assert cli.main([*words("train", settings), "--gin_file=recipes/tiny.gin"]) == 0
    return folder


def validation(run):
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record for record in records if record["kind"] == "validation"}


def test_the_manifest_says_what_was_trained_on_so_far(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["trained_on"] == [
        {"name": name, "base": name, "dataset": None} for name in ("small_copy", "small_first")
    ]
    consumed, epoch = (manifest[name]["tasks"] for name in ("consumed", "realised"))
    assert manifest["consumed"]["rows"] == TRAIN["BATCH_SIZE"] * TRAIN["TRAIN_STEPS"]
    assert {name: row["epochs"] for name, row in epoch.items()} == {"small_copy": 1, "small_first": 1}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = sum(record["target_tokens"] for record in records if record["kind"] == "train")
    assert sum(row["trained_tokens"] for row in consumed.values()) == trained
    assert sum(row["share"] for row in consumed.values()) == pytest.approx(1)


def test_an_evaluation_on_what_the_model_was_trained_on_is_refused_unless_allowed(run, prepared_root, capsys):
    model = {"INITIAL_CHECKPOINT_PATH": run, "PREPARED_DIR": prepared_root, "HOLD_OUT": "()", "EVAL_EXAMPLES": 1}
    asked = SHARED | model | {"SHOTS": 0, "EVAL_TEMPLATES": "drawn"}
    assert cli.main(words("eval", asked)) == 2
    refused = capsys.readouterr().err
    assert "evaluated 'small_copy' and 'small_copy', which is trained on, are the same task" in refused
    assert "set ALLOW_OVERLAP=True" in refused
    assert "small_last" not in refused
    assert cli.main(words("eval", asked | {"ALLOW_OVERLAP": True})) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("trained on")
    ends = {line.split()[0]: line.split()[-1] for line in shown if line.startswith("small_")}
    assert ends == {"small_copy": "yes", "small_first": "yes", "small_last": "no"}
    assert "warning: small_copy: the model was trained on the same data (small_copy)" in shown


def test_a_manifest_that_does_not_tell_what_was_trained_on_is_an_error_with_its_fix(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    for manifest in ({}, {"trained_on": [{"name": "a"}]}, {"trained_on": "a"}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match="manifest.json does not tell .*trained on.*put it back, start the run's"):
            trained_tasks(str(tmp_path))


def test_a_run_whose_responses_are_cut_is_stopped_before_its_first_step(prepared_root, tmp_path, capsys):
    settings = SHARED | TRAIN | {"PREPARED_DIR": prepared_root, "MODEL_DIR": tmp_path / "run"}
    settings |= {"TASK_FEATURE_LENGTHS": "inputs=80,targets=3", "LEARNING_RATE": 0.1}
    assert cli.main([*words("train", settings), "--gin_file=recipes/tiny.gin"]) == 2
    shown = capsys.readouterr().err
    assert "task 'small_copy', split 'train': 24 of 24 examples have responses that are cut (100.0 %)" in shown
    assert "the limit is 50 % (AuditLimits.cut_responses)" in shown
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_best_checkpoint_is_kept_and_reported(run):
    losses = {step: record["loss"] for step, record in validation(run).items() if step}
    best = min(losses, key=losses.get)
    assert best != 6, losses
    assert sorted(int(path.name) for path in (run / "checkpoints").iterdir()) == sorted({best, 5, 6})
    report = json.loads((run / "report.json").read_text())
    assert report["best_checkpoint"] == {"step": best, "metric": "validation/loss", "value": losses[best]}
    assert f"step {best}" in (run / "report.html").read_text()


def test_the_best_checkpoint_can_be_loaded(run):
    best = json.loads((run / "report.json").read_text())["best_checkpoint"]["step"]
    lm, newest = t5x_instruct.load(f"{run}/checkpoints/best"), t5x_instruct.load(str(run))
    (named,) = t5x_instruct.load(f"{run}/checkpoints/{best}").score(["Say ant."], ["ant"])
    assert lm.score(["Say ant."], ["ant"])[0] == named != newest.score(["Say ant."], ["ant"])[0]


def test_held_out_tasks_are_asked_with_exemplars_and_every_template(run):
    held_out = json.loads((run / "report.json").read_text())["held_out"]
    assert (held_out["shots"], held_out["templates"]) == (2, "each")
    (cluster,) = held_out["clusters"]
    (task,) = cluster["tasks"]
    for moment in ("before", "after"):
        figures = task[moment]
        assert (figures["shots"], figures["exemplars_dropped"], len(figures["templates"])) == (2.0, 0, 2)
        assert figures["rank_accuracy"] == pytest.approx(sum(t["rank_accuracy"] for t in figures["templates"]) / 2)
        assert figures["rank_accuracy_normalized"] is not None
        assert figures["best_rank_template"]["template"] in (0, 1)
    samples = [json.loads((run / "samples" / f"held_out_{m}.json").read_text()) for m in ("before", "after")]
    asked = [[(e["prompt"], e["exemplars"]) for e in sample["tasks"][0]["examples"]] for sample in samples]
    assert asked[0] == asked[1]


def test_every_trained_task_is_validated(run):
    for record in validation(run).values():
        assert set(record["task_loss"]) == set(record["task_accuracy"]) == {"small_copy", "small_first"}
    tasks = json.loads((run / "report.json").read_text())["train"]["validation_tasks"]
    assert tasks["small_copy"]["last_loss"] == validation(run)[6]["task_loss"]["small_copy"]


def test_eval_asks_the_same_questions_and_shows_them(run, prepared_root, capsys, tmp_path):
    model = {"INITIAL_CHECKPOINT_PATH": run, "PREPARED_DIR": prepared_root}
    output = tmp_path / "figures.json"
    held_out = prepared_root / "tasks" / "small_last"
    rendered = set(held_out.iterdir())
    assert cli.main([*words("eval", SHARED | model), f"--output={output}"]) == 0
    assert set(held_out.iterdir()) == rendered  # another prompt format would be another rendering
    shown = capsys.readouterr().out
    assert "asked 2-shot, every template" in shown
    assert shown.splitlines()[0].split()[-4:] == ["template", "best", "best", "rank"]
    after = json.loads((run / "samples" / "held_out_after.json").read_text())
    assert json.loads(output.read_text())["tasks"] == after["tasks"]


@pytest.mark.parametrize("length", [200, 40])
def test_infer_puts_exemplars_in_front(run, prepared_root, capsys, length):
    model = words("infer", {"INITIAL_CHECKPOINT_PATH": run, "MAX_NEW_TOKENS": 2})
    more = ["--prompt=Last letter of owl?", f"--inputs_length={length}", f"--prepared_dir={prepared_root}"]
    assert cli.main([*model, *EXEMPLARS, *more, "--shots=3"]) == 0
    noted = capsys.readouterr().err
    assert ("of 3 exemplars, more do not fit into 40 tokens: 'Last letter of owl?'" in noted) == (length == 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots=2"], "exemplars need a task"),
        (EXEMPLARS, "exemplars need a task"),
        (["--shots=1", *EXEMPLARS, "--exemplars=small"], "is a mixture"),
        (["--shots=1", *EXEMPLARS, "--inputs_length=0"], "--inputs_length 0: must be at least 1"),
    ],
)
def test_exemplars_that_cannot_be_had_are_explained(run, prepared_root, capsys, arguments, message):
    model = words("infer", {"INITIAL_CHECKPOINT_PATH": run})
    assert cli.main([*model, "--prompt=a", f"--prepared_dir={prepared_root}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_metric_that_no_checkpoint_has_ends_the_run_before_it_begins(prepared_root, tmp_path, capsys):
    settings = SHARED | TRAIN | {"PREPARED_DIR": prepared_root, "MODEL_DIR": tmp_path / "run"}
    words_of = words("train", settings | {"KEEP_BEST": "validation/task_loss/small_cop"})
    for extra in ([], ["--dry_run"]):
        assert cli.main([*words_of, "--gin_file=recipes/tiny.gin", *extra]) == 2
        assert "nearest: 'validation/task_loss/small_copy'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
