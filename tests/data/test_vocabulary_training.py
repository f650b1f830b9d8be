"""Vocabularies that are trained on a mixture's texts."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.vocabularies import load_vocabulary
from t5x_instruct.data.vocabulary_training import texts_of, train_vocabulary

WORDS = ["the", "capital", "of", "France", "is", "Paris", "What", "naïve", "café", "東京", "👍", "12", "+", "7"]
WORDS += ["population", "language", "river", "mountain", "question", "answer", "number", "letter", "country", "because"]
TEXTS = [f"{a} {b}\n  {c}, {a}?" for a in WORDS for b in WORDS for c in WORDS[::5]]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "vocabulary"
    return train_vocabulary(TEXTS, folder, vocab_size=315, extra_ids=10, model_type=request.param), folder


@settings(max_examples=150)
@given(text=st.text())
@example(text="  two  spaces \n\n\tand\x00 ends \r\n")
@example(text="ﬁ ½ ｆｕｌｌ é e\u0301 \u200b")
def test_any_text_comes_back(trained, text):
    vocabulary, _ = trained
    clean = text.encode("utf-8", "replace").decode().replace("\u2581", " ")
    assert vocabulary.decode(vocabulary.encode(text)) == clean
    assert all(2 < token < vocabulary.vocab_size for token in vocabulary.encode(text))


def test_ids_are_those_of_t5(trained):
    vocabulary, folder = trained
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.start_id, vocabulary.vocab_size) == (0, 1, 1, 325)
    assert [vocabulary.token_string(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    assert vocabulary.encode("of <extra_id_0>")[-1] == 324
    assert vocabulary.encode("a\nb").count(vocabulary.encode("\n")[-1]) == 1
    loaded = load_vocabulary(folder)
    assert loaded.fingerprint == vocabulary.fingerprint
    assert len(loaded.encode("the capital of France")) < len("the capital of France")


def test_the_same_texts_give_the_same_bytes(trained, tmp_path):
    vocabulary, _ = trained
    again = {
        train_vocabulary(TEXTS, tmp_path / kind, vocab_size=315, extra_ids=10, model_type=kind).fingerprint
        for kind in ("unigram", "bpe")
    }
    assert len(again) == 2
    assert vocabulary.fingerprint in again


def test_sizes_that_the_texts_do_not_allow_are_named_with_the_limit(tmp_path):
    with pytest.raises(ConfigError, match=r"vocab_size 9000 is too large.*largest possible is \d+") as high:
        train_vocabulary(TEXTS, tmp_path / "v", vocab_size=9000)
    largest = int(str(high.value).partition("possible is ")[2].partition(":")[0])
    with pytest.raises(ConfigError, match=r"vocab_size 100 is too small.*smallest possible is 2\d\d"):
        train_vocabulary(TEXTS, tmp_path / "v", vocab_size=100)
    assert train_vocabulary(TEXTS, tmp_path / "v", vocab_size=largest).vocab_size == largest
    with pytest.raises(ConfigError, match="spiece.model exists"):
        train_vocabulary(TEXTS, tmp_path / "v", vocab_size=largest)
    with pytest.raises(ConfigError, match="no text"):
        train_vocabulary([], tmp_path / "w", vocab_size=300)


def test_without_byte_fallback_unknown_characters_are_unknown(tmp_path):
    vocabulary = train_vocabulary(TEXTS, tmp_path / "v", vocab_size=60, byte_fallback=False)
    assert 2 in vocabulary.encode("Ж")
    assert vocabulary.decode(vocabulary.encode("the\ncafé")) == "the\ncafé"


def test_texts_are_those_that_are_trained_on(tmp_path, register):
    register("vocab_out", [("Ж", "Щ")] * 3)
    spec = PrepareSpec(mixture="vocab_out", modules=(), vocabulary="bytes", root=tmp_path)
    mixture = prepare(spec, lambda line: None)
    assert sorted(texts_of(mixture, 100)) == ["Ж"] * 3 + ["Щ"] * 3
    held_out = PrepareSpec(mixture="vocab_out", modules=(), vocabulary="bytes", root=tmp_path, hold_out=("vocab_out",))
    with pytest.raises(DataError, match="no task that is trained on"):
        texts_of(prepare(held_out, lambda line: None), 100)


def test_the_seed_decides_which_texts_are_taken(tmp_path, register):
    register("vocab_many", [("" if i % 2 else f"question {i}", f"answer {i}") for i in range(40)])
    mixture = prepare(
        PrepareSpec(mixture="vocab_many", modules=(), vocabulary="bytes", root=tmp_path), lambda line: None
    )
    assert len(texts_of(mixture, 1000)) == 60
    few = texts_of(mixture, 10, seed=0)
    assert 10 <= len(few) <= 20
    assert few == texts_of(mixture, 1000, seed=0)[: len(few)] == texts_of(mixture, 10, seed=0)
    assert few != texts_of(mixture, 10, seed=1)
