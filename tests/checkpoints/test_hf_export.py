"""Hugging Face folders out: what is written is what was read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from t5x_instruct.checkpoints.convert.hf_config import config_from_hf, config_to_hf
from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import Source, open_source, save_run_identity
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.models.presets import make_model
from tests.parity.goldens import config_of, load, tensors

from . import tiny_hf as tiny
from .states import bits


def export(source: Source, folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """Exports and gives back all tensors that were written."""
    export_hf(source.tensors, source.model_config, source.vocabulary, folder, **options)
    return {name: array for path in sorted(folder.glob("*.safetensors")) for name, array in load_file(path).items()}


@pytest.mark.parametrize("case", [*tiny.LLAMA, *tiny.T5, *tiny.T5GEMMA])
def test_what_was_read_is_written_bit_for_bit(tmp_path, case):
    golden = tiny.write_folder(tmp_path / "in", case)
    source = open_source(str(tmp_path / "in"))
    written = export(source, tmp_path / "out")
    expected = tensors(golden, "tensor")
    if case == "t5_tied_gated":  # tied and not scaled: the head is written out
        expected["lm_head.weight"] = expected["shared.weight"]
    assert bits(written) == bits(expected)
    again = open_source(str(tmp_path / "out"))
    assert again.model_config == source.model_config
    assert bits(again.params_fn(None)) == bits(source.params_fn(None))
    assert again.vocabulary.fingerprint == source.vocabulary.fingerprint
    if case != tiny.BYT5:  # of bytes there is no template
        assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == tiny.TEMPLATE
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_bfloat16_is_the_nearest(tmp_path):
    golden = tiny.write_folder(tmp_path / "in", "llama_untied")
    written = export(open_source(str(tmp_path / "in")), tmp_path / "out", dtype="bfloat16")
    expected = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors(golden, "tensor").items()}
    assert bits(written) == bits(expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_large_models_are_split_with_an_index(tmp_path):
    golden = tiny.write_folder(tmp_path / "in", "t5_1_1")
    source = open_source(str(tmp_path / "in"))
    written = export(source, tmp_path / "out", max_file_bytes=20_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert bits(written) == bits(tensors(golden, "tensor"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: path.name for path in files for name in load_file(path)}
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in written.values())
    assert bits(open_source(str(tmp_path / "out")).params_fn(None)) == bits(source.params_fn(None))


@pytest.mark.parametrize("changes", [{}, {"scan_layers": False}, {"vocab_multiple": 32}])
def test_a_run_is_exported(tmp_path, changes):
    config = dataclasses.replace(config_of(load("llama_untied"), **changes), vocab_size=300)
    random = np.random.default_rng(0)
    like = jax.eval_shape(make_model(config).init, jax.random.key(0))
    params = jax.tree.map(lambda x: random.standard_normal(x.shape, np.float32), like)
    vocabulary = ByteVocabulary(41)
    save_run_identity(tmp_path / "run", config, vocabulary, "plain")
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(3, {"params": jax.tree.map(jax.numpy.asarray, params), "opt_state": jax.numpy.ones(3)}, {})
    export(open_source(str(tmp_path / "run")), tmp_path / "out")
    again = open_source(str(tmp_path / "out"))
    assert again.model_config == dataclasses.replace(config, scan_layers=True, vocab_multiple=1)
    assert again.vocabulary.fingerprint == vocabulary.fingerprint
    kernel = again.tensors["decoder/layers/mlp/wo/kernel"].read()
    if config.scan_layers:
        ours = params["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    else:
        ours = np.stack([params["decoder"][f"layers_{i}"]["mlp"]["wo"]["kernel"] for i in range(config.num_layers)])
    np.testing.assert_array_equal(kernel, ours)
    embedding = again.tensors["token_embedder/embedding"].read()
    np.testing.assert_array_equal(embedding, params["token_embedder"]["embedding"][:300])


def test_parameters_of_another_configuration_are_refused(tmp_path):
    tiny.write_folder(tmp_path / "in", "llama_untied")
    source = open_source(str(tmp_path / "in"))
    for changes, message in (
        ({"mlp_dim": 40}, r"mlp/wi_0/kernel has the shape \(3, 24, 36\), the configuration asks for \(3, 24, 40\)"),
        ({"tie_embeddings": True}, "the model lacks: decoder/logits_dense/kernel"),
    ):
        config = dataclasses.replace(source.model_config, **changes)
        with pytest.raises(CheckpointError, match=message):
            export_hf(source.tensors, config, source.vocabulary, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_nothing_half_done_stays(tmp_path, monkeypatch):
    tiny.write_folder(tmp_path / "in", "llama_untied")
    source = open_source(str(tmp_path / "in"))
    with pytest.raises(CheckpointError, match="in exists already"):
        export(source, tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").write_bytes(b"")  # read late: the export fails in its middle
    with pytest.raises(CheckpointError, match="no intact safetensors file"):
        export(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_models_that_transformers_does_not_have_are_refused(tmp_path):
    llama, t5 = config_of(load("llama_untied")), config_of(load("t5_1_1"))
    for config, message in (
        (dataclasses.replace(llama, prefix_lm=True), "a prefix-LM cannot be exported"),
        (dataclasses.replace(t5, scale_decoder_outputs=True), "whose head is its own and whose outputs are scaled"),
    ):
        with pytest.raises(CheckpointError, match=message):
            export_hf({}, config, ByteVocabulary(), tmp_path / "out")
    with pytest.raises(CheckpointError, match="unknown dtype 'float23'; nearest: 'float32'"):
        export_hf({}, llama, ByteVocabulary(), tmp_path / "out", dtype="float23")


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("case", ["llama_tied", "t5_1_0", "t5_1_1"])
def test_configurations_come_back(case, activation):
    config = dataclasses.replace(config_of(load(case), vocab_multiple=128), activation=activation)
    if case == "llama_tied":
        config = dataclasses.replace(config, vocab_multiple=1)
    values = json.loads(json.dumps(config_to_hf(config, 4096)))
    assert config_from_hf(values, own_head=not config.tie_embeddings, where="here") == config
