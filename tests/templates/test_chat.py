import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.templates.chat import ChatFormat, ChatTemplate, PlainFormat

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# In the manner of Llama 3: a start token, header tokens, trimmed contents, no line break after a turn.
HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
# In the manner of Mistral: the assistant's turn opens with a space that the model writes itself.
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('no ' + message['role'] + ' here') }}"
    "{% endif %}{% endfor %}"
)

CONTENT = st.one_of(
    st.text(max_size=20), st.sampled_from(["<|im_end|>", "im_end", " a\n", "\n", "", "{{ x }}", "é 👍"])
)


@st.composite
def conversations(draw, system=True):
    messages = []
    if system and draw(st.booleans()):
        messages.append({"role": "system", "content": draw(CONTENT)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(CONTENT)})
        messages.append({"role": "assistant", "content": draw(CONTENT)})
    if draw(st.booleans()):
        messages.append({"role": "user", "content": draw(CONTENT)})
    return messages


def check_spans(template, messages, written):
    text, spans = template.spans(messages)
    assert text == template.render(messages)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(spans) == len(turns)
    for i, (start, end) in zip(turns, spans, strict=True):
        assert text[:start] == template.render(messages[:i], add_generation_prompt=True)
        assert text[start:end] == written(messages[i]["content"])
        assert template.render(messages[: i + 1]).rstrip("\n") == text[:end]


@settings(max_examples=60)
@given(conversations())
def test_spans_of_smollm2(messages):
    check_spans(ChatTemplate(SMOLLM2), messages, lambda content: content + "<|im_end|>")


@settings(max_examples=60)
@given(conversations())
def test_spans_where_contents_are_trimmed(messages):
    check_spans(ChatTemplate(HEADERS, bos_token="<s>"), messages, lambda content: content.strip() + "<|eot|>")


@settings(max_examples=60)
@given(conversations(system=False))
def test_spans_include_what_the_template_writes_before_the_answer(messages):
    template = ChatTemplate(BRACKETS, bos_token="<s>", eos_token="</s>")
    check_spans(template, messages, lambda content: " " + content + "</s>")


def test_a_single_turn_of_smollm2():
    text, spans = ChatTemplate(SMOLLM2).spans(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    )
    assert [text[a:b] for a, b in spans] == ["Hello!<|im_end|>"]


TALK = [{"role": role, "content": f"<{role}>"} for role in ("user", "assistant", "user", "assistant")]


def test_a_template_that_rewrites_history_is_refused():
    forgetful = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}|{% else %}(cut)|{% endif %}"
        "{% endfor %}"
    )
    with pytest.raises(DataError, match="rewrites message 1"):
        ChatTemplate(forgetful).spans(TALK)
    assert ChatTemplate(forgetful).spans(TALK[:2])[1] == [(7, 19)]


def test_a_template_without_end_of_turn_is_refused():
    endless = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(DataError, match="never stop"):
        ChatTemplate(endless).spans(TALK)


def test_a_generation_prompt_that_does_not_fit_is_refused():
    other = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}$\n{% endfor %}"
        "{% if add_generation_prompt %}bot: {% endif %}"
    )
    with pytest.raises(DataError, match=r"bot: .*message 1"):
        ChatTemplate(other).spans(TALK)


def test_a_template_that_changes_contents_is_refused():
    loud = "{% for m in messages %}{{ m.content | upper }}$\n{% endfor %}"
    with pytest.raises(DataError, match="changes the content of message 1"):
        ChatTemplate(loud).spans(TALK)


def test_the_template_can_refuse():
    with pytest.raises(DataError, match="no system here"):
        ChatTemplate(BRACKETS).render([{"role": "system", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['jinja2'] }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 // 0 }}",
        "{{ messages[0]['content'] + 1 }}",
        "{% for i in range(999999999) %}x{% endfor %}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(DataError, match="cannot render the roles \\['user', 'assistant'"):
        ChatTemplate(source).render(TALK)


def test_a_template_with_a_syntax_error_names_the_line():
    with pytest.raises(ConfigError, match="line 2"):
        ChatTemplate("{{ bos_token }}\n{% for %}")


@pytest.mark.parametrize("message", [{"role": "user"}, {"content": "x"}, {"role": "user", "content": None}])
def test_messages_need_role_and_content(message):
    with pytest.raises(DataError, match="message 1"):
        ChatTemplate(SMOLLM2).render([TALK[0], message])


def test_the_dialect_of_hugging_face():
    source = (
        "{%- for m in messages %}\n    {% if loop.index == 2 %}{% break %}{% endif %}\n"
        "{% generation %}{{ {'a': '<é>'} | tojson }}{% endgeneration %}\n{% endfor %}\n{{ strftime_now('%Y') }}"
    )
    # Line breaks after blocks and white space before them go, HTML is not escaped.
    assert ChatTemplate(source).render(TALK) == '{"a": "<é>"}' + str(datetime.datetime.now().year)


def test_prompt_formats():
    template = ChatTemplate(SMOLLM2)
    chat = ChatFormat(template, system="Be brief.")
    assert chat.prompt("Hi") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert PlainFormat().prompt(" Hi {x}") == " Hi {x}"
    formats = [PlainFormat(), chat, ChatFormat(template), ChatFormat(ChatTemplate(SMOLLM2, eos_token="</s>"))]
    assert len({f.fingerprint for f in formats}) == 4
    assert ChatFormat(ChatTemplate(SMOLLM2)).fingerprint == ChatFormat(template).fingerprint


def test_training_text_is_serving_text():
    template = ChatTemplate(SMOLLM2)
    text, [(start, _)] = template.spans(TALK[:2])
    assert text[:start] == ChatFormat(template).prompt(TALK[0]["content"])
