"""Prompt formats with a vocabulary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.prompt_formats import (
    default_prompt_format,
    encode_prompt,
    make_prompt_format,
    prompt_tail,
    with_eos,
)
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.templates.chat import ChatTemplate


class ChattyBytes(ByteVocabulary):
    chat_template = ChatTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}=")


BYTES, CHATTY = ByteVocabulary(), ChattyBytes()


@given(st.text(max_size=20))
def test_each_format_gives_its_ids(text):
    encoded = BYTES.encode(text)
    assert encode_prompt(BYTES, make_prompt_format("plain", BYTES), text) == encoded
    lined = text if text[-1:] in ("", "\n") else f"{text}\n"
    assert encode_prompt(BYTES, make_prompt_format("line", BYTES), text) == BYTES.encode(lined)
    assert encode_prompt(BYTES, make_prompt_format("eos", BYTES), text) == [*encoded, BYTES.eos_id]
    assert encode_prompt(CHATTY, make_prompt_format("chat", CHATTY), text) == BYTES.encode(f"[{text}]=")


@given(st.lists(st.integers(0, 2), max_size=8))
def test_the_end_token_ends_once(ids):
    ended = with_eos(ids, 1)
    assert ended[-1] == 1
    assert ended[-2:] != [1, 1]
    assert ids[: len(ended) - 1] == ended[:-1]
    assert set(ids[len(ended) - 1 :]) <= {1}


def test_what_a_format_puts_after_every_text_is_its_tail():
    tails = {name: prompt_tail(BYTES, make_prompt_format(name, BYTES)) for name in ("plain", "line", "eos")}
    assert tails == {"plain": 0, "line": 1, "eos": 1}
    assert prompt_tail(CHATTY, make_prompt_format("chat", CHATTY)) == 2


def test_auto_is_what_the_model_reads():
    assert [default_prompt_format(BYTES, reads) for reads in ("causal", "prefix", "encoder")] == [
        "line",
        "line",
        "eos",
    ]
    assert [default_prompt_format(CHATTY, reads) for reads in ("causal", "prefix", "encoder")] == [
        "chat",
        "chat_each",
        "chat_each",
    ]
    for name in ("chat", "chat_each"):
        assert make_prompt_format(name, CHATTY).name == name


def test_formats_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="no chat template; use 'line' or 'eos'"):
        make_prompt_format("chat", BYTES)
    with pytest.raises(ConfigError, match="unknown prompt format 'caht'.*'chat'"):
        make_prompt_format("caht", BYTES)
