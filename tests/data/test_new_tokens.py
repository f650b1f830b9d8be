"""Special tokens that a run adds to a vocabulary."""

import io
import json

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from t5x_instruct.checkpoints.convert.hf_tokenizer import read_hf_vocabulary, write_hf_vocabulary
from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.new_tokens import with_conversation, with_new_tokens
from t5x_instruct.data.vocabularies import (
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerVocabulary,
    load_vocabulary,
    token_strings,
)
from tests.data.chat_vocabularies import chatty

NEW = ["<tool>", "<tool>s", "[CALL]"]
CORPUS = ["the tool is a tool in the house", "a house, the green house and the call"] * 8


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model like T5's, with seven sentinels."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=24,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "tiny.model"
    path.write_bytes(model.getvalue())
    return SentencePieceVocabulary(path, 7)


@pytest.fixture(params=["tokenizer", "sentencepiece"])
def vocabulary(request, pieces):
    return chatty("smollm2") if request.param == "tokenizer" else pieces


def test_each_is_one_id_at_the_end_and_the_rest_stays(vocabulary, tmp_path):
    grown = with_new_tokens(vocabulary, NEW)
    first = vocabulary.vocab_size
    assert grown.vocab_size == first + 3
    assert (grown.eos_id, grown.pad_id, grown.start_id) == (vocabulary.eos_id, vocabulary.pad_id, vocabulary.start_id)
    assert [grown.encode(token) for token in NEW] == [[first], [first + 1], [first + 2]]
    assert grown.encode("the <tool>s[CALL]house<tool> a") == [
        *vocabulary.encode("the "),
        first + 1,
        first + 2,
        *vocabulary.encode("house"),
        first,
        *vocabulary.encode(" a"),
    ]
    for text in (*CORPUS, "<extra_id_0> and <extra_id_6>", "<tool", "tool>"):
        assert grown.encode(text) == vocabulary.encode(text)
    assert token_strings(grown, range(first, first + 4)) == [*NEW, f"<{first + 3}>"]
    assert grown.decode(grown.encode("the <tool> house")).split() == ["the", "house"]
    assert grown.fingerprint != vocabulary.fingerprint

    grown.save(tmp_path)
    loaded = load_vocabulary(tmp_path)
    assert loaded.fingerprint == grown.fingerprint
    assert loaded.encode("a<tool>s") == grown.encode("a<tool>s")
    more = with_new_tokens(loaded, ["<more>"])
    assert [more.encode(token) for token in (*NEW, "<more>")] == [[first + i] for i in range(4)]
    assert vocabulary.encode("<tool>") != [first]  # is not changed


@settings(max_examples=40)
@given(parts=st.lists(st.sampled_from([*NEW, "the", " ", "house", "<", "[", "é"]), max_size=7))
def test_text_around_them_is_encoded_as_by_itself(pieces, parts):
    grown = with_new_tokens(pieces, NEW)
    text = "".join(parts)
    ids = grown.encode(text)
    assert [i for i in ids if i >= pieces.vocab_size] == [
        pieces.vocab_size + NEW.index(token) for token in _longest_first(text)
    ]
    assert grown.decode(ids) == pieces.decode([i for i in ids if i < pieces.vocab_size])


def _longest_first(text):
    """The tokens in a text, found without a pattern: at each place the longest."""
    found, at = [], 0
    while at < len(text):
        here = [token for token in NEW if text.startswith(token, at)]
        if here:
            found.append(max(here, key=len))
        at += len(found[-1]) if here else 1
    return found


def test_they_are_exported_and_read_as_transformers_lists_them(vocabulary, tmp_path):
    grown = with_new_tokens(vocabulary, NEW)
    write_hf_vocabulary(grown, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["additional_special_tokens"][-3:] == NEW
    assert config["eos_token"] not in config["additional_special_tokens"]
    if isinstance(grown, TokenizerVocabulary):
        file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert [file.token_to_id(token) for token in NEW] == [vocabulary.vocab_size + i for i in range(3)]
        added = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
        assert [one["content"] for one in added if one["id"] >= vocabulary.vocab_size and one["special"]] == NEW
    else:
        (tmp_path / "spiece_config.json").unlink()  # ours; others' folders have none
        listed = config["added_tokens_decoder"]
        assert [listed[str(vocabulary.vocab_size + i)]["content"] for i in range(3)] == NEW
    assert read_hf_vocabulary(tmp_path, {}).fingerprint == grown.fingerprint


def test_all_that_is_wrong_with_them_is_said(pieces):
    with pytest.raises(ConfigError) as caught:
        with_new_tokens(pieces, ["</s>", "<x>", "", " <y>", "<x>", "<extra_id_6>"])
    assert caught.value.problems == [
        "NEW_TOKENS: '</s>' is in the vocabulary already, id 1; leave it out",
        "NEW_TOKENS: '<x>' is given 2 times",
        "NEW_TOKENS: '' has no text",
        "NEW_TOKENS: ' <y>' begins or ends with white space, which tokenizers strip; leave it out",
        "NEW_TOKENS: '<extra_id_6>' is in the vocabulary already, id 24; leave it out",
    ]
    with pytest.raises(ConfigError, match="'<|im_end|>' is in the vocabulary already, id 4"):
        with_new_tokens(chatty("smollm2"), ["<|im_end|>"])
    with pytest.raises(ConfigError, match="an id for each byte and no others; write sentinels"):
        with_new_tokens(ByteVocabulary(), NEW)


def test_ids_with_gaps_take_none():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 5}, unk_token="a"))
    with pytest.raises(ConfigError, match=r"the ids \[\[2\]\], not one each from 6 on: its own ids have gaps"):
        with_new_tokens(TokenizerVocabulary(tokenizer, eos_token="b"), ["<x>"])


@pytest.mark.parametrize("value", ["a", [1], [""]])
def test_a_damaged_list_of_them_is_an_error(pieces, tmp_path, value):
    pieces.save(tmp_path)
    (tmp_path / "spiece_config.json").write_text(json.dumps({"extra_ids": 7, "new_tokens": value}))
    with pytest.raises(DataError, match="new_tokens must be a list of texts"):
        load_vocabulary(tmp_path)


def test_another_end_token_and_chat_template(pieces, tmp_path):
    template = tmp_path / "chatml.jinja"
    template.write_text("{% for m in messages %}<turn>{{ m.content }}{{ eos_token }}{% endfor %}")
    base = chatty("headers")
    grown = with_conversation(with_new_tokens(base, ["<turn>", "<end>"]), "<end>", str(template))
    assert (grown.eos_id, grown.pad_id, grown.start_id) == (base.vocab_size + 1, base.pad_id, base.start_id)
    assert grown.chat_template.render([{"role": "user", "content": "a"}]) == "<turn>a<end>"
    grown.save(tmp_path / "saved")
    assert load_vocabulary(tmp_path / "saved").fingerprint == grown.fingerprint
    assert with_conversation(base, "<|end|>", None).chat_template.source == base.chat_template.source
    assert with_conversation(base, None, str(template)).eos_token == base.eos_token
    with pytest.raises(DataError, match="eos_token '<ende>' is not a token"):
        with_conversation(base, "<ende>", None)
    with pytest.raises(ConfigError, match="cannot read .*none.jinja"):
        with_conversation(base, None, str(tmp_path / "none.jinja"))
    with pytest.raises(ConfigError, match="this one is a SentencePieceVocabulary"):
        with_conversation(pieces, "<x>", None)
