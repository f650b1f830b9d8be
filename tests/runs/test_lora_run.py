"""A run that trains adapters: what it saves, how it goes on, and that every reader finds the whole model."""

import json

import jax
import numpy as np
import pytest

import t5x_instruct
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.cli.main import main
from t5x_instruct.common.trees import flatten_with_names

BATCH = {"decoder_input_tokens": np.arange(3, 13, dtype=np.int32)[None]}


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared_root):
    """Trains, with the given settings, in a folder of its own name."""
    root = tmp_path_factory.mktemp("lora")

    def train(name: str, *recipe: str, **settings) -> int:
        values = {
            "MODEL_DIR": root / name,
            "PREPARED_DIR": prepared_root,
            "MIXTURE_OR_TASK_NAME": "small",
            "MIXTURE_OR_TASK_MODULE": "tests.small_tasks",
            "TASK_FEATURE_LENGTHS": "inputs=24,targets=16",
            "HOLD_OUT": "()",
            "BATCH_SIZE": 8,
            "WARMUP_STEPS": 0,
            "TRAIN_STEPS": 4,
            "CHECKPOINT_PERIOD": 2,
        } | settings
        return main(["train", f"--gin_file={recipe[0]}", *(f"--gin.{key}={value}" for key, value in values.items())])

    train("base", "recipes/tiny.gin", TRAIN_STEPS=2)
    lora = {"INITIAL_CHECKPOINT_PATH": root / "base", "LORA_RANK": 4, "LORA_DROPOUT": 0.1, "LEARNING_RATE": 1e-2}
    return root, lambda name, **settings: train(name, "runs/train.gin", **(lora | settings))


def test_a_run_of_adapters(run, capsys, tmp_path):
    root, train = run
    assert train("lora") == 0
    with Checkpoints(root / "lora" / "checkpoints") as checkpoints:
        saved = checkpoints.saved_tree(4)
        assert checkpoints.steps() == [2, 4]
    assert {name.rsplit("/")[-1] for name in saved if name.startswith("params/")} == {"lora_a", "lora_b"}
    identity = json.loads((root / "lora" / "adapter.json").read_text())
    assert identity["base"]["name"] == str(root / "base" / "checkpoints" / "2")

    # Going on from step 2 ends where the unbroken run did.
    broken = root / "broken"
    assert train("broken", TRAIN_STEPS=4) == 0
    for step in ("4",):
        (broken / "checkpoints" / step).rename(tmp_path / step)
    assert train("broken") == 0
    whole = [open_source(str(root / name)).adapters.tensors for name in ("lora", "broken")]
    for name, tensor in whole[0].items():
        np.testing.assert_array_equal(tensor.read(), whole[1][name].read())

    # The base with adapters reads as one model, which is another than the base, and is what is converted.
    assert main(["convert", f"--from={root / 'lora'}", f"--to={tmp_path / 'peft'}", "--adapters"]) == 0
    lms = [t5x_instruct.load(str(path)) for path in (root / "lora", tmp_path / "peft", root / "base")]
    logits = [np.asarray(lm.logits(BATCH)) for lm in lms]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3
    base = flatten_with_names(jax.device_get(lms[2].params))
    assert base.keys() == flatten_with_names(lms[0].params).keys()

    capsys.readouterr()
    assert train("lora", LORA_ALPHA=3) == 1
    assert "alpha: was 16.0, is 3.0" in capsys.readouterr().err
    identity["base"]["fingerprint"] = "1:00000000"
    (root / "lora" / "adapter.json").write_text(json.dumps(identity))
    assert main(["inspect", str(root / "lora")]) == 0
    assert main(["convert", f"--from={root / 'lora'}", f"--to={tmp_path / 'no'}"]) == 1
    assert "is not the model that the adapters" in capsys.readouterr().err
