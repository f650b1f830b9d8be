"""A run that adds tokens to a pretrained vocabulary: trained, resumed, asked, exported, and begun from again."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import t5x_instruct
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.models.lora import LoraConfig
from t5x_instruct.runs.opening import open_model, planned_model
from t5x_instruct.runs.settings import ModelSettings
from tests.checkpoints import tiny_hf
from tests.checkpoints.states import bits
from tests.runs.test_opening import config

NEW = ("<|im_start|>", "<|im_end|>", "<tool>")
FIRST = 61  # ids of the golden model, all of which its tokenizer has here
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
EMBEDDING = "token_embedder/embedding"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a pretrained model and a chat template."""
    root = tmp_path_factory.mktemp("new_tokens")
    tiny_hf.write_folder(root / "base", "llama_untied")
    tiny_hf.write_tokenizer(root / "base", words_to=FIRST - len(tiny_hf.SPECIAL), chat_template=None)
    (root / "chatml.jinja").write_text(TURNS)
    return root


@pytest.fixture(scope="module")
def train(root, prepared_root):
    def start(**settings) -> int:
        values = {
            "MODEL_DIR": root / "run",
            "INITIAL_CHECKPOINT_PATH": root / "base",
            "NEW_TOKENS": ",".join(NEW),
            "ModelSettings.eos_token": "<|im_end|>",
            "ModelSettings.chat_template": root / "chatml.jinja",
            "PREPARED_DIR": prepared_root,
            "MIXTURE_OR_TASK_NAME": "token_mixture",
            "MIXTURE_OR_TASK_MODULE": "tests.runs.token_tasks",
            "TASK_FEATURE_LENGTHS": "inputs=12,targets=8",
            "BATCH_SIZE": 8,
            "TRAIN_STEPS": 2,
            "CHECKPOINT_PERIOD": 1,
            "LEARNING_RATE": 1e-2,
        } | settings
        return main(["train", "--gin_file=runs/train.gin", *(f"--gin.{name}={v}" for name, v in values.items())])

    return start


def test_a_run_with_new_tokens(root, train, tmp_path):
    assert train() == 0
    manifest = json.loads((root / "run" / "manifest.json").read_text())
    assert f"with the new tokens {', '.join(NEW)} (ids 61 to 63)" in manifest["model"]
    run = open_source(str(root / "run"))
    assert (run.model_config.vocab_size, run.model_config.vocab_rows, run.prompt_format) == (64, 128, "chat")
    table, kernel = run.tensors[EMBEDDING].read(), run.tensors["decoder/logits_dense/kernel"].read()
    before = open_source(str(root / "base")).tensors[EMBEDDING].read()
    assert (np.abs(table[FIRST:64] - before.mean(0)).max(1) > 1e-3).all()  # all three were trained on
    assert np.abs(table[61] - table[62]).max() > 1e-3

    # Gone on with from step 1 it is the same.
    (root / "run" / "checkpoints" / "2").rename(tmp_path / "2")
    assert train() == 0
    again = open_source(str(root / "run"))
    assert again.step == 2
    assert bits(again.tensors[EMBEDDING].read()) == bits(table)

    lm = t5x_instruct.load(str(root / "run"))
    turn = lm.prompt_ids("w3 <tool>").tolist()
    assert turn[0] == 61
    assert turn.count(62) == turn.count(63) == 1
    assert isinstance(lm.generate(["w3"], max_new_tokens=2)[0], str)

    _check_export(root / "run", tmp_path / "out", turn, table, kernel)


def _check_export(run, folder, turn, table, kernel):
    assert main(["convert", f"--from={run}", f"--to={folder}"]) == 0
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "<|im_start|>user w3 <tool><|im_end|><|im_start|>assistant "
    assert tokenizer.encode(text, add_special_tokens=False).ids == turn
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["vocab_size"], settings["eos_token_id"]) == (64, 62)
    beside = json.loads((folder / "tokenizer_config.json").read_text())
    assert (beside["eos_token"], beside["chat_template"]) == ("<|im_end|>", TURNS)
    assert {"<|im_start|>", "<tool>"} <= set(beside["additional_special_tokens"])
    exported = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(exported["model.embed_tokens.weight"], table[:64])
    np.testing.assert_array_equal(exported["lm_head.weight"], kernel.T[:64])


def test_a_run_is_begun_from_again_with_more_tokens(root, train):
    if not (root / "run" / "model.json").exists():
        train()
    run, more = str(root / "run"), ("<more>",)
    before = open_source(run).tensors[EMBEDDING].read()
    opened = open_model(ModelSettings(run, new_tokens=more))
    assert (opened.model.config.vocab_size, opened.model.config.vocab_rows) == (65, 128)
    table = np.asarray(opened.params_fn(None)["token_embedder"]["embedding"])
    np.testing.assert_array_equal(table[:64], before[:64])
    np.testing.assert_allclose(table[64], before[:64].mean(0), rtol=1e-5)
    assert opened.vocabulary.encode("<tool><more>") == [63, 64]
    with pytest.raises(ConfigError, match="'<tool>' is in the vocabulary already, id 63"):
        open_model(ModelSettings(run, new_tokens=NEW[2:]))


def test_where_new_tokens_fit_and_where_not(root):
    base = str(root / "base")
    assert planned_model(ModelSettings(base, new_tokens=NEW)).config.vocab_rows == 128
    own = open_source(base).model_config
    assert open_model(ModelSettings(base, config=own, new_tokens=NEW)).model.config.vocab_size == 64
    with pytest.raises(ConfigError, match="adapters leave the embedding frozen"):
        ModelSettings(base, new_tokens=NEW, lora=LoraConfig(rank=2))
    scratch = ModelSettings(config=config(8), vocabulary=base, new_tokens=NEW)
    assert open_model(scratch).vocabulary.encode("<tool>") == [63]
    with pytest.raises(ConfigError, match="an id for each byte"):
        open_model(ModelSettings(config=config(8), vocabulary="bytes", new_tokens=NEW))
