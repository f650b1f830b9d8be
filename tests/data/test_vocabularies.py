import io
import json

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from t5x_instruct.common.buckets import BucketPath
from t5x_instruct.common.errors import DataError
from t5x_instruct.common.paths import as_path
from t5x_instruct.data.vocabularies import (
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerVocabulary,
    load_vocabulary,
    token_strings,
)
from tests import bucket_server

CORPUS = ["the capital of France is Paris", "What is 2 + 2? It is 4.", "naïve café 東京 👍"] * 4
CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def _byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def bpe():
    return TokenizerVocabulary(_byte_level_bpe(), eos_token="<|end|>", pad_token="<pad>")


@pytest.fixture(scope="module")
def spm_file(tmp_path_factory):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=36,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("spm") / "tiny.model"
    path.write_bytes(model.getvalue())
    return path


def test_a_model_in_a_bucket_is_copied_once(bucket, spm_file, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path))
    path = as_path("gs://test/vocabs/cc.100extra/sentencepiece.model")
    path.write_bytes(spm_file.read_bytes())
    monkeypatch.setattr(bucket_server, "PUBLIC", {"test"})
    wanted = load_vocabulary(f"{spm_file}+9")
    assert load_vocabulary(f"{path}+9").fingerprint == wanted.fingerprint
    assert load_vocabulary(f"{path}+9").encode("the <extra_id_8>") == wanted.encode("the <extra_id_8>")
    assert load_vocabulary(str(path)).vocab_size == wanted.vocab_size - 9
    with monkeypatch.context() as patch:
        patch.setattr(BucketPath, "blocks", lambda *_: pytest.fail("it is read again"))
        assert load_vocabulary(f"{path}+9").vocab_size == wanted.vocab_size
    monkeypatch.setattr(bucket_server, "PUBLIC", set())
    path.write_bytes(b"another")
    with pytest.raises(DataError, match=r"sentencepiece\.model is not a SentencePiece model"):
        load_vocabulary(f"{path}+9")
    with pytest.raises(DataError, match="no vocabulary at 'gs://test/vocabs/none.model.100'"):
        load_vocabulary("gs://test/vocabs/none.model+100")


@settings(max_examples=60)
@given(text=st.text())
def test_byte_level_bpe_returns_any_text(bpe, text):
    for special in ("<pad>", "<|start|>", "<|end|>"):
        text = text.replace(special, "")
    clean = text.encode("utf-8", "replace").decode()
    assert bpe.decode(bpe.encode(text)) == clean


@settings(max_examples=60)
@given(text=st.text())
def test_bytes_return_any_text(text):
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(text)
    assert ids == [b + 3 for b in text.encode("utf-8", "replace")]
    assert vocabulary.decode(ids) == text.encode("utf-8", "replace").decode()


@settings(max_examples=60)
@given(parts=st.lists(st.text(max_size=8) | st.integers(0, 130).map("<extra_id_{}>".format), max_size=6))
def test_bytes_with_sentinels_return_any_text(parts):
    vocabulary = load_vocabulary("bytes+125")
    text = "".join(parts).encode("utf-8", "replace").decode()
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert all(3 <= token < 384 for token in ids)
    assert ByteVocabulary().decode(ByteVocabulary().encode(text)) == text


def test_sentinels_of_bytes_follow_the_bytes(tmp_path):
    vocabulary = ByteVocabulary(extra_ids=125)
    assert vocabulary.vocab_size == 384
    assert vocabulary.encode("a<extra_id_0> <extra_id_124><extra_id_01>")[:4] == [100, 259, 35, 383]
    assert vocabulary.encode("<extra_id_125>") == ByteVocabulary().encode("<extra_id_125>")
    assert vocabulary.decode([100, 260, 1, 259]) == "a<extra_id_1>"
    assert token_strings(vocabulary, [258, 259, 383, 384]) == ["<0xFF>", "<extra_id_0>", "<extra_id_124>", "<384>"]
    vocabulary.save(tmp_path)
    loaded = load_vocabulary(tmp_path)
    assert loaded.fingerprint == vocabulary.fingerprint != ByteVocabulary().fingerprint
    assert loaded.vocab_size == 384


@settings(max_examples=60)
@given(ids=st.lists(st.integers(-5, 500)))
def test_decoding_takes_any_ids(bpe, spm_file, ids):
    for vocabulary in (bpe, ByteVocabulary(), ByteVocabulary(125), load_vocabulary(f"{spm_file}+100")):
        cut = ids[: ids.index(vocabulary.eos_id)] if vocabulary.eos_id in ids else ids
        assert vocabulary.decode(ids) == vocabulary.decode(cut)


def test_bytes_replace_what_is_not_utf8():
    assert ByteVocabulary().decode([0, 3 + 0xFF, 3 + ord("a"), 2, 1, 3 + ord("b")]) == "\ufffda"


def test_special_token_text_is_recognised_and_skipped(bpe):
    ids = bpe.encode("a<|start|>b")
    assert len(ids) == 3
    assert ids[1] == 1
    assert bpe.decode([*ids, bpe.eos_id, *ids]) == "ab"


def test_pad_may_equal_eos_and_bos_starts():
    tokenizer = _byte_level_bpe()
    no_pad = TokenizerVocabulary(tokenizer, eos_token="<|end|>", bos_token="<|start|>")
    assert (no_pad.pad_id, no_pad.eos_id, no_pad.start_id) == (2, 2, 1)


def test_truncation_of_the_file_is_switched_off():
    tokenizer = _byte_level_bpe()
    tokenizer.enable_truncation(max_length=2)
    assert len(TokenizerVocabulary(tokenizer, eos_token="<|end|>").encode("a b c d e f")) > 2
    assert tokenizer.truncation is not None  # the caller's object is not changed


def test_unknown_special_token_names_the_nearest():
    with pytest.raises(DataError, match=r"eos_token '<\|ende\|>'.*<\|end\|>"):
        TokenizerVocabulary(_byte_level_bpe(), eos_token="<|ende|>")


def test_saved_tokenizer_is_the_same(tmp_path):
    vocabulary = TokenizerVocabulary(_byte_level_bpe(), eos_token="<|end|>", chat_template=CHAT)
    vocabulary.save(tmp_path / "v")
    loaded = load_vocabulary(tmp_path / "v")
    assert loaded.fingerprint == vocabulary.fingerprint
    assert loaded.encode("Paris 👍") == vocabulary.encode("Paris 👍")
    messages = [{"role": "user", "content": "x"}]
    assert loaded.chat_template.render(messages) == "<|start|>user\nx<|end|>\n"
    other = TokenizerVocabulary(_byte_level_bpe(), eos_token="<|end|>", chat_template=CHAT + " ")
    assert other.fingerprint != vocabulary.fingerprint


def test_hugging_face_spellings_are_read(tmp_path):
    TokenizerVocabulary(_byte_level_bpe(), eos_token="<|end|>").save(tmp_path)
    config = {"eos_token": {"content": "<|end|>"}, "bos_token": None, "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<|start|>"}')
    (tmp_path / "chat_template.jinja").write_text(CHAT)
    loaded = load_vocabulary(tmp_path)
    assert (loaded.pad_id, loaded.start_id, loaded.eos_id) == (0, 1, 2)
    assert loaded.chat_template is not None


def test_sentinels_count_from_the_end(spm_file, tmp_path):
    plain = load_vocabulary(spm_file)
    vocabulary = load_vocabulary(f"{spm_file}+100")
    assert vocabulary.vocab_size == plain.vocab_size + 100
    ids = vocabulary.encode("the <extra_id_0> of <extra_id_99>")
    assert vocabulary.vocab_size - 1 in ids
    assert vocabulary.vocab_size - 100 in ids
    assert vocabulary.decode(ids) == "the <extra_id_0> of <extra_id_99>"
    shown = token_strings(vocabulary, [vocabulary.vocab_size - 1, vocabulary.vocab_size])
    assert shown == ["\u2581<extra_id_0>", f"<{vocabulary.vocab_size}>"]
    assert vocabulary.decode(vocabulary.encode("the capital of France")) == "the capital of France"
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.start_id) == (0, 1, 1)
    vocabulary.save(tmp_path / "v")
    assert load_vocabulary(tmp_path / "v").fingerprint == vocabulary.fingerprint
    assert plain.fingerprint != vocabulary.fingerprint


def test_saved_bytes_are_the_same(tmp_path):
    ByteVocabulary().save(tmp_path)
    assert load_vocabulary(tmp_path).fingerprint == load_vocabulary("bytes").fingerprint


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": 3}'])
def test_damaged_files_are_data_errors(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        load_vocabulary(tmp_path)
    (tmp_path / "x.model").write_bytes(content + b"\x80")
    with pytest.raises(DataError, match=r"x\.model"):
        load_vocabulary(tmp_path / "x.model")


def test_errors_say_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"looked for tokenizer\.json, spiece\.model"):
        load_vocabulary(tmp_path)
    with pytest.raises(DataError, match=r"does not exist.*'bytes'"):
        load_vocabulary(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot read"):
        SentencePieceVocabulary(tmp_path / "nothing.model")


def test_token_strings_show_every_token(bpe):
    assert token_strings(ByteVocabulary(), [0, 1, 3 + ord("a"), 3 + 200]) == [
        "<pad>",
        "</s>",
        "a",
        "<0xC8>",
    ]
    assert token_strings(bpe, bpe.encode("<|start|>")) == ["<|start|>"]
