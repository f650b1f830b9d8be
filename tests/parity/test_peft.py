"""PEFT's adapters in and out, from stored files: no torch and no peft is needed (see golden_peft.py)."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t5x_instruct.checkpoints.adapters import Adapters, BaseReference, merged_tensors
from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.checkpoints.convert.peft import export_peft, read_peft
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.trees import flatten_with_names, unflatten
from t5x_instruct.models.lora import LoraModel
from t5x_instruct.models.presets import make_model
from tests.parity.goldens import GOLDEN, config_of, load, tensors

CASES = ("llama_untied", "t5_1_1")


def stored(case: str, folder: Path, **changes: Any) -> np.ndarray:
    """Writes a golden file's adapters as PEFT has them; gives the logits."""
    with np.load(GOLDEN / "peft" / f"{case}.npz", allow_pickle=False) as golden:
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(
            json.dumps(json.loads(str(golden["config"])) | {"base_model_name_or_path": "base"} | changes)
        )
        names = [name for name in golden if name.startswith("adapter/")]
        save_file({name.removeprefix("adapter/"): golden[name] for name in names}, folder / "adapter_model.safetensors")
        return golden["logits"]


def batch_of(golden: dict[str, np.ndarray], start: int | None) -> dict[str, np.ndarray]:
    if start is None:
        return {"decoder_input_tokens": golden["tokens"], "decoder_positions": golden["positions"]}
    targets, inputs = golden["targets"], golden["inputs"]
    fed = np.concatenate([np.full((len(targets), 1), start, np.int32), targets[:, :-1]], axis=1)
    segments = (np.arange(inputs.shape[1])[None] < golden["input_lengths"][:, None]).astype(np.int32)
    return {"encoder_input_tokens": inputs, "encoder_segment_ids": segments, "decoder_input_tokens": fed}


@pytest.mark.parametrize(("case", "scan_layers"), [("llama_untied", True), ("llama_untied", False), ("t5_1_1", True)])
def test_read_and_written_again(case: str, scan_layers: bool, tmp_path: Path) -> None:
    expected = stored(case, tmp_path / "theirs")
    golden = load(case)
    config = config_of(golden, scan_layers=scan_layers)
    model = make_model(config)
    base = flatten_with_names(params_from_hf(tensors(golden, "tensor"), config))
    lora, factors = read_peft(tmp_path / "theirs", config, lambda lora: LoraModel(model, lora).adapted)
    adapters = Adapters(lora, BaseReference("base", ""), factors, LoraModel(model, lora).adapted)
    lazy = {name: LazyTensor(array.shape, [lambda a=array: a], stacked=False) for name, array in base.items()}
    params = unflatten({name: tensor.read() for name, tensor in merged_tensors(lazy, adapters).items()})
    batch = batch_of(golden, None if case.startswith("llama") else config.decoder_start_id)
    logits = jax.jit(lambda params: model.logits(params, model.hidden(params, batch)))(params)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.abs(expected - golden["logits"]).max() > 0.1

    export_peft(adapters, config, tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("theirs", "ours"))
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    settings = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert settings["lora_alpha"] / settings["r"] == pytest.approx(lora.scale)
    again = read_peft(tmp_path / "ours", config, lambda lora: LoraModel(model, lora).adapted)[0]
    assert again == lora


def test_what_is_not_plain_lora_is_refused_at_once(tmp_path: Path) -> None:
    stored("llama_untied", tmp_path, use_dora=True, bias="all", r=0)
    with pytest.raises(CheckpointError, match=r"use_dora is True\n.*bias is 'all'.*\n.*r is 0"):
        read_peft(tmp_path, config_of(load("llama_untied")), lambda lora: {})


def test_adapters_of_another_model(tmp_path: Path) -> None:
    stored("llama_untied", tmp_path)
    with pytest.raises(CheckpointError, match="has shape .* the model asks for"):
        read_peft(tmp_path, config_of(load("llama_tied")), lambda lora: {})
