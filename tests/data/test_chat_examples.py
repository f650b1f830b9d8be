"""What is trained on is, token for token, what a server gives the model and what the model is to write."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.chat_examples import examples_of
from t5x_instruct.data.prompt_formats import encode_conversation, encode_prompt, make_prompt_format, with_eos
from t5x_instruct.data.vocabularies import ByteVocabulary, TokenizerVocabulary
from t5x_instruct.templates.chat import ChatFormat, ChatTemplate, trained_turns
from tests.data.chat_vocabularies import chatty, smollm2
from tests.templates.chat_templates import TEMPLATES, TOOLS_LAST, conversations

TALK = [
    {"role": role, "content": text}
    for role, text in (("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "See you."))
]


def trained_runs(example):
    """(start, end) of the trained stretches in inputs + targets."""
    start = len(example.inputs)
    for trained, run in itertools.groupby(example.mask):
        end = start + len(list(run))
        if trained:
            yield start, end
        start = end


def check(messages, vocabulary, form, tools=None):
    """Checks every reply against what a server would do; gives the numbers of replies in the examples."""
    examples = examples_of(messages, tools, vocabulary, form)
    assert [i for example in examples for i in example.messages] == trained_turns(messages)
    for example in examples:
        tokens = example.inputs + example.targets
        assert len(example.mask) == len(example.targets)
        runs = list(trained_runs(example))
        for i, (start, end) in zip(example.messages, runs, strict=True):
            served = encode_conversation(vocabulary, form, messages[:i], tools)
            assert tokens[:start] == served
            assert tokens[end - 1] == vocabulary.eos_id
            text = form.conversation(messages[:i], tools) + form.replies(messages[: i + 1], tools)[-1].text
            whole = vocabulary.encode(text)
            if whole[:start] == served:
                assert tokens[:end] == whole
            else:
                assert tokens[start:end] == vocabulary.encode(text.removeprefix(form.conversation(messages[:i], tools)))
        assert runs[-1][1] == len(tokens)
        assert example.answer == vocabulary.decode(tokens[runs[0][0] : runs[0][1]])
    for one, other in itertools.pairwise(examples):
        written = one.inputs + one.targets
        assert other.inputs[: len(written)] != written  # else they would be one example
    return [len(example.messages) for example in examples]


@settings(max_examples=40, deadline=None)
@given(conversations())
def test_smollm2_trains_on_what_it_is_served(messages):
    check(messages, smollm2(), make_prompt_format("chat", smollm2()))


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_template_trains_on_what_it_is_served(name, data):
    plain = {"brackets": False}.get(name, True)
    vocabulary = chatty(name)
    check(data.draw(conversations(plain, plain)), vocabulary, make_prompt_format("chat", vocabulary))


def test_conversations_become_as_few_examples_as_can_be():
    talk = [*TALK, *TALK]
    for name in TEMPLATES:
        vocabulary = chatty(name)
        # In 'brackets' the space that opens a reply melts with the bracket before it.
        expected = [1] * 4 if name in ("thinking", "brackets") else [4]
        assert check(talk, vocabulary, make_prompt_format("chat", vocabulary)) == expected, name
    # Between a question and the next the thoughts stay.
    found = [*TALK[:2], {"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3."}, *TALK]
    assert check(found, chatty("thinking"), make_prompt_format("chat", chatty("thinking"))) == [2, 1, 1]
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    assert check(talk, chatty("smollm2"), ChatFormat(ChatTemplate(TOOLS_LAST)), tools) == [1] * 4


def test_a_token_that_would_straddle_a_border_starts_another_example():
    vocabulary = chatty("smollm2")
    form = make_prompt_format("chat", vocabulary)
    talk = [*TALK[:2], TALK[2], {"role": "assistant", "content": "\nb"}, *TALK]
    melted = vocabulary.encode("<|im_start|>assistant\n\nb<|im_end|>")
    assert melted != vocabulary.encode("<|im_start|>assistant\n") + vocabulary.encode("\nb<|im_end|>")
    assert check(talk, vocabulary, form) == [2, 2]


def test_what_a_reply_is_in_the_record():
    vocabulary = chatty("thinking")
    first, second = examples_of(TALK, None, vocabulary, make_prompt_format("chat", vocabulary))
    assert second.targets_text == "<think>\n\n</think>\n\nSee you.<|im_end|>"
    assert second.inputs_text.endswith("Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n")
    assert (first.answer, second.answer) == ("<think>\n\n</think>\n\nHello!", "<think>\n\n</think>\n\nSee you.")
    [whole] = examples_of(TALK, None, chatty("smollm2"), make_prompt_format("chat", chatty("smollm2")))
    assert whole.targets_text == (
        "Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you.<|im_end|>"
    )
    assert (whole.answer, whole.messages) == ("Hello!", [1, 3])


def test_weight_0_is_context():
    vocabulary = chatty("smollm2")
    form = make_prompt_format("chat", vocabulary)
    talk = [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]]
    [example] = examples_of(talk, None, vocabulary, form)
    assert all(example.mask)
    assert example.inputs == encode_conversation(vocabulary, form, TALK[:3])


def test_one_example_a_reply_where_it_is_asked_for():
    vocabulary = chatty("smollm2")
    for form, each in (("chat", True), ("chat_each", False)):
        first, second = examples_of(TALK, None, vocabulary, make_prompt_format(form, vocabulary), each=each)
        assert all(first.mask + second.mask)
        assert vocabulary.decode(second.targets) == "See you."


def test_an_encoder_reads_the_dialogue_so_far():
    vocabulary = ByteVocabulary()
    form = make_prompt_format("eos", vocabulary)
    first, second = examples_of(TALK, None, vocabulary, form)
    assert (first.inputs_text, first.targets_text) == ("Hi", "Hello!")
    assert second.inputs_text == "User:\nHi\n\nAssistant:\nHello!\n\nUser:\nBye\n\nAssistant:\n"
    for i, example in ((1, first), (3, second)):
        assert with_eos(example.inputs, vocabulary.eos_id) == encode_conversation(vocabulary, form, TALK[:i])
        assert example.targets == [*vocabulary.encode(TALK[i]["content"]), vocabulary.eos_id]
        assert all(example.mask)
    assert encode_conversation(vocabulary, form, TALK[:1]) == encode_prompt(vocabulary, form, "Hi")


@pytest.mark.parametrize("name", ["plain", "line", "eos", "chat"])
def test_a_task_of_one_turn_trains_on_the_tokens_of_a_chat_of_one_turn(name):
    vocabulary = smollm2()
    form = make_prompt_format(name, vocabulary)
    for asked, answer in (("What is 2 + 2?", "4"), (" a\n\nb ", "Café\n 東京"), ("x", "")):
        talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        [example] = examples_of(talk, None, vocabulary, form)
        inputs = with_eos(example.inputs, vocabulary.eos_id) if form.add_eos else example.inputs
        assert inputs == encode_prompt(vocabulary, form, asked)
        assert example.targets == [*vocabulary.encode(answer), vocabulary.eos_id]


def test_nothing_to_train_on_is_an_error_that_shows_the_conversation():
    form = make_prompt_format("chat", chatty("smollm2"))
    for talk in ([TALK[0]], [TALK[1], TALK[0]], [TALK[0], {**TALK[1], "weight": 0}], []):
        with pytest.raises(DataError, match="no token of the conversation would be trained on") as raised:
            examples_of(talk, None, chatty("smollm2"), form)
        assert all(message["content"] in str(raised.value) for message in talk)
    long = [{"role": "user", "content": "x" * 5000}]
    with pytest.raises(DataError, match=r"xxx\.\.\. \(\d+ characters\)"):
        examples_of(long, None, chatty("smollm2"), form)


def test_an_end_of_turn_that_does_not_stop_the_model_is_an_error():
    source = TEMPLATES["smollm2"].source
    wrong = TokenizerVocabulary(chatty("smollm2")._tokenizer, eos_token="</s>", chat_template=source)
    with pytest.raises(DataError, match=r"ends message 1 with '<\|im_end\|>'.*'</s>'.*eos_token.*\"Hello!\""):
        examples_of(TALK, None, wrong, make_prompt_format("chat", wrong))
