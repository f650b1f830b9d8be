"""Rows for new tokens: what they begin as, and that nothing else changes."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.checkpoints.vocabulary_growth import grown, grown_config
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.data.new_tokens import with_new_tokens
from t5x_instruct.models.presets import make_model
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import tree_shardings
from tests.parity.goldens import load

from . import tiny_hf as tiny
from .states import bits
from .test_hf import logits_of

NEW = ["<tool>", "<call>", "<end>"]
TABLES = {"token_embedder/embedding": 0, "encoder_embedder/embedding": 0, "decoder/logits_dense/kernel": 1}


def opened(folder, case, words_to=None):
    """A golden model whose tokenizer has all of its ids, or special tokens and so many words."""
    tiny.write_folder(folder, case)
    size = open_source(str(folder)).model_config.vocab_size
    tiny.write_tokenizer(folder, words_to=size - len(tiny.SPECIAL) if words_to is None else words_to)
    return open_source(str(folder))


def with_rows(source, tokens=NEW):
    return grown(source, source.vocabulary.vocab_size, with_new_tokens(source.vocabulary, tokens))


@pytest.mark.parametrize("case", ["llama_untied", "t5_1_0", "t5gemma_untied"])
def test_rows_begin_as_the_mean_and_the_model_as_it_was(tmp_path, case):
    source = opened(tmp_path / "in", case)
    larger, known = with_rows(source), source.model_config.vocab_size
    assert larger.model_config.vocab_size == known + 3
    assert larger.model_config.vocab_rows == 128
    own, rows = (flatten_with_names(jax.device_get(one.params_fn(None))) for one in (source, larger))
    assert own.keys() == rows.keys()
    assert {name for name in own if bits(own[name]) != bits(rows[name])} == TABLES.keys() & own.keys()
    for name in TABLES.keys() & own.keys():
        before, after = (np.moveaxis(one[name], TABLES[name], 0) for one in (own, rows))
        np.testing.assert_array_equal(after[:known], before[:known])
        np.testing.assert_allclose(after[known : known + 3], np.tile(before[:known].mean(0), (3, 1)), rtol=1e-5)
        assert len(after) == 128
        assert not after[known + 3 :].any()

    golden = load(case)
    before = logits_of(source, golden)
    after = logits_of(larger, golden | {"logits": np.zeros((1, 1, known + 3))})
    np.testing.assert_allclose(after[..., :known], before, atol=1e-5)
    if larger.model_config.family != "t5gemma":  # whose logits have a soft cap
        np.testing.assert_allclose(after[..., known:], np.tile(before.mean(-1, keepdims=True), 3), atol=1e-4)
        added = np.logaddexp.reduce(after[..., known:], axis=-1) - np.logaddexp.reduce(before, axis=-1)
        assert added.max() < np.log(3 / known)

    export_hf(larger.tensors, larger.model_config, larger.vocabulary, tmp_path / "out")
    again = open_source(str(tmp_path / "out"))
    assert again.model_config.vocab_size == known + 3
    for name, axis in TABLES.items():
        if name in rows:
            written = np.moveaxis(again.tensors[name].read(), axis, 0)[: known + 3]
            np.testing.assert_array_equal(written, np.moveaxis(rows[name], axis, 0)[: known + 3])


def test_free_rows_are_taken_first(tmp_path):
    source = opened(tmp_path, "llama_untied", words_to=56)  # 59 ids of 61 rows
    two = with_rows(source, NEW[:2])
    assert two.model_config == source.model_config
    kernel, before = (one.tensors["decoder/logits_dense/kernel"].read() for one in (two, source))
    np.testing.assert_array_equal(kernel[:, :59], before[:, :59])
    np.testing.assert_allclose(kernel[:, 59:], np.tile(before[:, :59].mean(1, keepdims=True), 2), rtol=1e-5)
    three = with_rows(source).model_config
    assert (three.vocab_size, three.vocab_rows) == (62, 128)
    assert dataclasses.replace(three, vocab_size=61, vocab_multiple=1) == source.model_config
    assert grown_config(dataclasses.replace(three, vocab_multiple=96), 400).vocab_rows == 768


def test_a_grown_model_is_placed_on_a_mesh_each_tensor_read_once(tmp_path):
    source = opened(tmp_path, "llama_untied")
    reads = dict.fromkeys(source.tensors, 0)

    def counted(name, piece):
        def read():
            reads[name] += 1
            return piece()

        return read

    tensors = {
        name: tensor._replace(pieces=[counted(name, piece) for piece in tensor.pieces])
        for name, tensor in source.tensors.items()
    }
    larger = with_rows(source._replace(tensors=tensors))
    model = make_model(larger.model_config)
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    shardings = tree_shardings(abstract, model.param_axes(), make_mesh(MeshConfig(fsdp=4, model=2)))
    placed = larger.params_fn(shardings)
    assert reads == {name: len(tensor.pieces) for name, tensor in tensors.items()}
    assert placed["token_embedder"]["embedding"].sharding.shard_shape((128, 24)) == (64, 6)
    assert bits(jax.device_get(placed)) == bits(jax.device_get(larger.params_fn(None)))


def test_tables_of_another_size_are_refused(tmp_path):
    source = opened(tmp_path, "llama_untied")
    name = "token_embedder/embedding"
    cut = LazyTensor((60, 24), source.tensors[name].pieces, stacked=False)
    message = r"vocab_size is 61, .*\n  token_embedder/embedding has the shape \(60, 24\), of which axis 0 must be 61"
    with pytest.raises(CheckpointError, match=message):
        with_rows(source._replace(tensors={**source.tensors, name: cut}))
