import datetime
import json

import pytest
from hypothesis import given, settings

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.templates.chat import (
    DAY,
    ChatFormat,
    ChatTemplate,
    EosFormat,
    LineFormat,
    PlainFormat,
    rewrites_history,
    trained_turns,
)
from tests.templates.chat_templates import BRACKETS, HEADERS, SMOLLM2, TEMPLATES, THINKING, TOOLS_LAST, conversations


def check_replies(template, messages, written):
    replies = template.replies(messages)
    assert [reply.message for reply in replies] == trained_turns(messages)
    for i, prompt, text in replies:
        assert prompt == template.render(messages[:i], add_generation_prompt=True)
        assert text == written(messages[i]["content"])
        assert template.render(messages[: i + 1]).rstrip("\n") == prompt + text


@settings(max_examples=60)
@given(conversations())
def test_replies_of_smollm2(messages):
    check_replies(ChatTemplate(SMOLLM2), messages, lambda content: content + "<|im_end|>")
    assert rewrites_history(ChatTemplate(SMOLLM2), messages) is None


@settings(max_examples=60)
@given(conversations())
def test_replies_where_contents_are_trimmed(messages):
    check_replies(ChatTemplate(HEADERS, bos_token="<s>"), messages, lambda content: content.strip() + "<|eot|>")


@settings(max_examples=60)
@given(conversations(system=False, tools=False))
def test_replies_include_what_the_template_writes_before_the_answer(messages):
    template = ChatTemplate(BRACKETS, bos_token="<s>", eos_token="</s>")
    check_replies(template, messages, lambda content: " " + content + "</s>")


def test_a_single_turn_of_smollm2():
    [reply] = ChatTemplate(SMOLLM2).replies(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    )
    assert reply == (
        1,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "Hello!<|im_end|>",
    )


TALK = [{"role": role, "content": f"<{role}>"} for role in ("user", "assistant", "user", "assistant")]


def test_rewritten_history_is_named():
    forgetful = ChatTemplate(
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}|{% else %}(cut)|{% endif %}"
        "{% endfor %}"
    )
    reason = rewrites_history(forgetful, TALK)
    assert reason == (
        "message 1 is written as '<user>|<assistant>|' and shown as '<user>|(cut)|<user>|'"
        " when later messages follow it"
    )
    assert rewrites_history(forgetful, TALK[:3]) is None  # nothing is asked for after the first reply
    assert [reply.text for reply in forgetful.replies(TALK)] == ["<assistant>|"] * 2


def test_which_templates_rewrite_history():
    long = [*TALK, *TALK]
    assert {name for name, template in TEMPLATES.items() if rewrites_history(template, long)} == {"thinking"}
    assert "'e>\\n\\n</think>\\n\\n<assistant>" not in str(rewrites_history(TEMPLATES["thinking"], long))
    assert "<think>" in str(rewrites_history(ChatTemplate(THINKING), [{**m, "weight": 0} for m in long]))
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    assert rewrites_history(ChatTemplate(TOOLS_LAST), long, tools)
    assert rewrites_history(ChatTemplate(TOOLS_LAST), long[:2], tools) is None


def test_what_is_trained():
    roles = ["assistant", "system", "assistant", "user", "assistant", "assistant", "tool", "assistant"]
    messages = [{"role": role, "content": "x"} for role in roles]
    assert trained_turns(messages) == [4, 5, 7]
    messages[5]["weight"] = 0
    assert trained_turns(messages) == [4, 7]
    assert trained_turns(messages[:3]) == []
    assert "weight" not in ChatTemplate("{{ messages | tojson }}").render(messages)


CALL = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "é"}'}}
CALLS = [
    TALK[0],
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "a letter"},
    {"role": "assistant", "content": "It is a letter."},
]
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]


def test_tool_calls_are_written_by_the_model():
    first, last = TEMPLATES["tools"].replies(CALLS, TOOLS)
    assert json.dumps(TOOLS[0]) in first.prompt
    assert first.text == '<call>{"name": "look_up", "arguments": {"word": "é"}}</call><|im_end|>'
    assert last.prompt.startswith(first.prompt + first.text)
    assert "tool\na letter<|im_end|>" in last.prompt
    parsed = {**CALL, "function": {"name": "look_up", "arguments": {"word": "é"}}}
    again = [CALLS[0], {"role": "assistant", "tool_calls": [parsed]}, *CALLS[2:]]
    assert TEMPLATES["tools"].replies(again, TOOLS) == [first, last]


def test_a_template_that_hides_tools_is_refused():
    smollm2 = ChatTemplate(SMOLLM2)
    with pytest.raises(DataError, match="does not show the tools 'look_up'"):
        smollm2.render(TALK[:1], tools=TOOLS, add_generation_prompt=True)
    with pytest.raises(DataError, match="tool calls of message 1: 'look_up'"):
        smollm2.replies([CALLS[0], {**CALLS[1], "content": ""}])
    with pytest.raises(DataError, match="cannot render"):
        smollm2.replies(CALLS)
    careless = ChatTemplate("{% for m in messages %}{{ m.content }}{{ (m.tool_calls or []) | tojson }}$\n{% endfor %}")
    with pytest.raises(DataError, match="writes 'None' where message 1"):
        careless.replies(CALLS[:2])


@pytest.mark.parametrize("calls", ["look_up", [5], [{"function": {"arguments": "{}"}}], [{"name": 5}]])
def test_tool_calls_have_a_form(calls):
    with pytest.raises(DataError, match="message 0: 'tool_calls' has to be a list of"):
        TEMPLATES["tools"].render([{"role": "assistant", "tool_calls": calls}])


def test_a_template_without_end_of_turn_is_refused():
    endless = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(DataError, match="never stop"):
        ChatTemplate(endless).replies(TALK)


def test_a_generation_prompt_that_does_not_fit_is_refused():
    other = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}$\n{% endfor %}"
        "{% if add_generation_prompt %}bot: {% endif %}"
    )
    with pytest.raises(DataError, match=r"bot: .*message 1"):
        ChatTemplate(other).replies(TALK)


def test_a_template_that_changes_contents_is_refused():
    loud = "{% for m in messages %}{{ m.content | upper }}$\n{% endfor %}"
    with pytest.raises(DataError, match="changes the content of message 1"):
        ChatTemplate(loud).replies(TALK)


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
    assert ChatTemplate(source).render(TALK) == '{"a": "<é>"}' + str(DAY.year)
    assert ChatTemplate(source, day=datetime.date(1999, 12, 31)).render(TALK).endswith("1999")
    compact = "{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}"
    assert ChatTemplate(compact).render(TALK) == r'{"a":1,"b":"\u00e9"}'


def test_the_day_is_part_of_what_a_template_is():
    source = "{{ strftime_now('%d %b %Y %H:%M') }}"
    assert ChatTemplate(source).render([]) == "01 Jan 2025 00:00"
    assert ChatTemplate(source, day=datetime.date(1999, 12, 31)).fingerprint != ChatTemplate(source).fingerprint


def test_prompt_formats():
    template = ChatTemplate(SMOLLM2)
    chat = ChatFormat(template, system="Be brief.")
    assert chat.prompt("Hi") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert PlainFormat().prompt(" Hi {x}") == EosFormat().prompt(" Hi {x}") == " Hi {x}"
    assert [LineFormat().prompt(text) for text in (" Hi {x}", "Hi\n", "")] == [" Hi {x}\n", "Hi\n", ""]
    formats = [
        PlainFormat(),
        LineFormat(),
        EosFormat(),
        chat,
        ChatFormat(template),
        ChatFormat(ChatTemplate(SMOLLM2, eos_token="</s>")),
    ]
    formats.append(ChatFormat(template, shares_examples=False))
    assert len({f.fingerprint for f in formats}) == 7
    assert [f.name for f in formats] == ["plain", "line", "eos", "chat", "chat", "chat", "chat_each"]
    assert ChatFormat(ChatTemplate(SMOLLM2)).fingerprint == ChatFormat(template).fingerprint


@pytest.mark.parametrize("form", [PlainFormat(), LineFormat(), EosFormat(), *map(ChatFormat, TEMPLATES.values())])
def test_a_task_of_one_turn_reads_like_the_first_turn_of_a_chat(form):
    for text in ("Hi", "", " a\n\nb "):
        asked = [{"role": "user", "content": text}]
        assert form.prompt(text) == form.conversation(asked)
        [reply] = form.replies([*asked, {"role": "assistant", "content": "Hello!"}])
        assert reply.prompt == form.prompt(text)


def test_a_system_message_of_the_format_comes_where_a_conversation_has_none():
    form = ChatFormat(ChatTemplate(SMOLLM2), system="Be brief.")
    own = [{"role": "system", "content": "Be long."}, *TALK]
    assert form.replies(own) == ChatTemplate(SMOLLM2).replies(own)
    replies = form.replies(TALK)
    assert [reply.message for reply in replies] == [1, 3]
    assert all(reply.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>") for reply in replies)


def test_a_conversation_without_a_chat_template():
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    so_far = "Be brief.\n\nUser:\n<user>\n\nAssistant:\n<assistant>\n\nUser:\n<user>\n\nAssistant:\n"
    for form, end in ((PlainFormat(), ""), (LineFormat(), "\n")):
        first = f"Be brief.\n\n<user>{end}"
        assert form.replies(talk) == [(2, first, "<assistant>"), (4, so_far, "<assistant>")]
    found = [*TALK[:2], {"role": "tool", "content": "3"}]
    assert PlainFormat().conversation(found).endswith("<assistant>\n\nTool:\n3\n\nAssistant:\n")
    for messages, tools, why in (
        (CALLS, None, "message 1 calls a tool"),
        (TALK, TOOLS, r"cannot be shown tools \(look_up\)"),
        ([{"role": "bot", "content": "x"}], None, "unknown role 'bot'"),
        ([], None, "no message"),
    ):
        with pytest.raises(DataError, match=why):
            PlainFormat().replies(messages, tools)
