"""Tokenizer files of Hugging Face folders, in and out."""

import json

import pytest
import sentencepiece

from t5x_instruct.checkpoints.convert.hf_tokenizer import read_hf_vocabulary, write_hf_vocabulary
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.data.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_instruct.data.vocabulary_training import train_vocabulary

from . import tiny_hf as tiny

TEXTS = ["The house is wonderful, and the garden is green.", "Wonderful houses have gardens, greens and more."]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model trained as T5's was."""
    prefix = tmp_path_factory.mktemp("pieces") / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(prefix),
        vocab_size=30,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def test_the_end_token_of_last_resort_and_the_template_of_a_file(tmp_path):
    tiny.write_folder(tmp_path, "llama_tied", eos_token_id=[2, 1])
    tiny.write_tokenizer(tmp_path, eos_token=None, chat_template=None)
    (tmp_path / "chat_template.jinja").write_text(tiny.TEMPLATE)
    vocabulary = open_source(str(tmp_path)).vocabulary
    assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.start_id) == (2, 0, 2)
    assert vocabulary.chat_template.render([{"role": "user", "content": "w3"}]) == "<s>user w3<s>"
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert open_source(str(tmp_path)).vocabulary.eos_id == 1


def test_tokenizers_that_are_missing_or_larger_than_the_model(tmp_path):
    tiny.write_folder(tmp_path, "llama_tied")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="neither tokenizer.json nor spiece.model"):
        open_source(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    with pytest.raises(CheckpointError, match="the tokenizer has 384 ids, the embedding 53 rows"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("beside", "sentinels"),
    [
        ({"extra_ids": 7}, 7),
        ({"additional_special_tokens": [f"<extra_id_{i}>" for i in range(9)]}, 9),
        ({"extra_special_tokens": [{"content": "<extra_id_0>"}]}, 1),
        ({}, 100),
        (None, 100),
    ],
)
def test_sentinels_of_a_sentencepiece_model(tmp_path, pieces, beside, sentinels):
    (tmp_path / "spiece.model").write_bytes(pieces.read_bytes())
    (tmp_path / "tokenizer.json").write_text("not read: the SentencePiece model is what T5 was trained with")
    if beside is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    assert read_hf_vocabulary(tmp_path, {}).extra_ids == sentinels
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": "many"}')
    with pytest.raises(CheckpointError, match="extra_ids is many"):
        read_hf_vocabulary(tmp_path, {})


def test_a_vocabulary_that_transformers_reads_otherwise_is_said(tmp_path, pieces, caplog):
    write_hf_vocabulary(SentencePieceVocabulary(pieces, 3), tmp_path / "as_t5")
    assert not caplog.records
    own = train_vocabulary(TEXTS * 20, tmp_path / "own", vocab_size=285)
    write_hf_vocabulary(own, tmp_path / "exported")
    assert "cuts texts otherwise than T5's" in caplog.text
    assert read_hf_vocabulary(tmp_path / "exported", {}).fingerprint == own.fingerprint


def test_bytes_come_back(tmp_path):
    write_hf_vocabulary(ByteVocabulary(125), tmp_path)
    assert read_hf_vocabulary(tmp_path, {}).fingerprint == ByteVocabulary(125).fingerprint
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert read_hf_vocabulary(tmp_path, {}).vocab_size == 384
