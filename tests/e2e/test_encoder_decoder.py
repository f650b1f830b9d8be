"""An encoder-decoder with a vocabulary of its own, through the verbs: a few steps, evaluation, answers."""

import json

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.data.vocabulary_training import train_vocabulary
from tests.small_tasks import WORDS

SIZES = {"emb_dim": 32, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "head_dim": 16, "mlp_dim": 32}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    texts = [f"{how} {word}" for word in WORDS for how in ("Say", "Repeat:", "First letter of", "Last letter of")]
    folder = tmp_path_factory.mktemp("vocabulary") / "small"
    train_vocabulary(texts, folder, vocab_size=290)
    return folder


def settings(model_dir, prepared_root, vocabulary):
    values = {
        "MODEL_DIR": model_dir,
        "PREPARED_DIR": prepared_root,
        "MIXTURE_OR_TASK_NAME": "small",
        "MIXTURE_OR_TASK_MODULE": "tests.small_tasks",
        "HOLD_OUT": "small_ends",
        "TASK_FEATURE_LENGTHS": "inputs=24,targets=16",
        "BATCH_SIZE": 8,
        "TRAIN_STEPS": 6,
        "CHECKPOINT_PERIOD": 6,
        "EVAL_PERIOD": 6,
        "WARMUP_STEPS": 2,
        "ModelSettings.vocabulary": repr(str(vocabulary)),
        "T5Config.vocab_size": 300,
    }
    values |= {f"T5Config.{name}": size for name, size in SIZES.items()}
    return ["--gin_file=recipes/tiny_t5.gin", *(f"--gin.{name}={value}" for name, value in values.items())]


def test_trained_from_scratch_it_scores_and_answers(prepared_root, vocabulary, tmp_path, capfd):
    run = tmp_path / "run"
    assert main(["train", *settings(run, prepared_root, vocabulary), "--dry_run"]) == 0
    shown = capfd.readouterr().out
    assert "</s><pad>«" in shown
    assert "</s>»" in shown
    assert not run.exists()

    assert main(["train", *settings(run, prepared_root, vocabulary)]) == 0
    records = [json.loads(line) for line in open(run / "metrics.jsonl")]
    train = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in train] == list(range(1, 7))
    assert train[-1]["loss"] < train[0]["loss"]
    held_out = json.loads((run / "report.json").read_text())["held_out"]
    assert all(0 <= held_out[when]["exact_match"] <= 100 for when in ("before", "after"))

    answers = tmp_path / "answers.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Say ant.\nRepeat: bee\n")
    model = f"--gin.INITIAL_CHECKPOINT_PATH={run}"
    assert main(["infer", model, "--gin.MAX_NEW_TOKENS=3", f"--input={prompts}", f"--output={answers}"]) == 0
    assert [json.loads(line)["prompt"] for line in answers.read_text().splitlines()] == ["Say ant.", "Repeat: bee"]
