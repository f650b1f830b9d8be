"""Tokens that a run adds are transformers' too: their ids, and the logits of texts with them (``pytest -m parity``)."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import sentencepiece

from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.checkpoints.vocabulary_growth import grown
from t5x_instruct.data.new_tokens import with_new_tokens
from t5x_instruct.data.vocabularies import SentencePieceVocabulary
from t5x_instruct.models.presets import make_model
from tests.checkpoints import tiny_hf as tiny

pytestmark = pytest.mark.parity
NEW = ["<tool>", "<call>", "<end>", *(f"<t{i}>" for i in range(40))]
TEXTS = [
    "<tool>",
    "w3 <tool> w5<call><end> w4",
    " <t19>w7  <tool>. <call>w1",
    "a house<tool> the <end>\n<t3> house <t1>9",
]


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("torch", reason="torch is not installed: extra `parity`")
    return pytest.importorskip("transformers", reason="transformers is not installed: extra `parity`")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: Any) -> SentencePieceVocabulary:
    """A SentencePiece model trained as T5's was, with sentinels."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the house is a green house", "w1 w2 w3 w4 w5 w7 9 . in the house"] * 8),
        model_writer=model,
        vocab_size=32,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "tiny.model"
    path.write_bytes(model.getvalue())
    return SentencePieceVocabulary(path, 5)


@pytest.mark.parametrize("case", ["llama_tied", "llama_untied", "t5_1_0", "t5_1_1"])
def test_ids_and_logits(transformers: Any, pieces: SentencePieceVocabulary, tmp_path: Path, case: str) -> None:
    import torch

    tiny.write_folder(tmp_path / "in", case)
    source = open_source(str(tmp_path / "in"))
    encodes = case.startswith("t5")
    own = pieces if encodes else source.vocabulary
    assert own is not None
    vocabulary = with_new_tokens(own, NEW)
    larger = grown(source, own.vocab_size, vocabulary)
    assert larger.model_config.vocab_size == vocabulary.vocab_size > source.model_config.vocab_size
    folder = tmp_path / "out"
    export_hf(larger.tensors, larger.model_config, vocabulary, folder)

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert [tokenizer.convert_tokens_to_ids(token) for token in NEW] == [vocabulary.encode(token)[0] for token in NEW]
    assert len(tokenizer) == vocabulary.vocab_size
    auto = transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(str(folder), output_loading_info=True, attn_implementation="eager")
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ours, params = make_model(larger.model_config), larger.params_fn(None)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert tokenizer(text, add_special_tokens=False).input_ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=True).split() == vocabulary.decode(ids).split()
        tokens = np.asarray([ids], np.int32)
        batch = {"decoder_input_tokens": tokens}
        theirs = {"input_ids": torch.tensor(tokens).long()}
        if encodes:
            batch["encoder_input_tokens"] = tokens
            theirs["decoder_input_ids"] = theirs["input_ids"]
        with torch.no_grad():
            logits = model.eval()(**theirs).logits.numpy()
        mine = np.asarray(ours.logits(params, jax.jit(ours.hidden)(params, batch)))[..., : logits.shape[-1]]
        assert logits.shape[-1] == vocabulary.vocab_size
        np.testing.assert_allclose(mine, logits, rtol=0, atol=1e-4)
