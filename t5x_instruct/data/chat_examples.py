"""Conversations as training examples whose tokens are those that a server gives the model.

A server renders the messages so far, encodes the text, and lets the model write. So a reply has one right prompt, the
ids of that text, and behind it the ids of what the model writes. Replies follow one another in one example as long
as the prompt of the next starts with exactly the tokens of this one and its prompt; where it does not, a new example
begins. That is so if a template rewrites history (drops the thoughts of earlier turns, say, or shows tools beside
the last question only), or if a text that follows a border between turns melts into one token with what stands
before it. Each reply is trained on once, behind the tokens that it would be served with.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.prompt_formats import with_eos
from t5x_instruct.data.vocabularies import TOKENIZER_CONFIG_FILE, Vocabulary
from t5x_instruct.templates.chat import Message, PromptFormat, Reply, Tools

SHOWN = 600  # characters of a conversation in a message


class ConversationExample(NamedTuple):
    """One or more replies of a conversation.

    Attributes:
        inputs: ids of the first reply's prompt, without the prompt format's EOS.
        targets: ids of that reply and of all that follows to the end of the last reply.
        mask: for each target whether it is trained on: the replies with their ends.
        inputs_text: the text of `inputs`.
        targets_text: the text of `targets`.
        answer: the first reply as a decoder would give it.
        messages: indices of the replies' messages.
    """

    inputs: list[int]
    targets: list[int]
    mask: list[bool]
    inputs_text: str
    targets_text: str
    answer: str
    messages: list[int]


class _Tokens(NamedTuple):
    """A reply as ids."""

    prompt: list[int]
    written: list[int]

    @property
    def all(self) -> list[int]:
        return self.prompt + self.written


def examples_of(
    messages: Sequence[Message],
    tools: Tools | None,
    vocabulary: Vocabulary,
    prompt_format: PromptFormat,
    *,
    each: bool = False,
) -> list[ConversationExample]:
    """What is trained on in a conversation.

    Args:
        messages: the conversation, see `templates.chat.ChatTemplate.replies`.
        tools: what the model may call.
        vocabulary: the model's.
        prompt_format: the model's.
        each: one example for each reply, also where several could share one.

    Returns:
        Examples in the order of their replies, at least one.

    Raises:
        DataError: there is no reply to train on, or the conversation cannot be rendered; shows the conversation.
    """
    try:
        replies = prompt_format.replies(messages, tools)
        tokens = [_encoded(reply, vocabulary, prompt_format) for reply in replies]
    except DataError as error:
        raise DataError(f"{error}; the conversation is {shown(messages)}") from error
    if not replies:
        raise DataError(
            "no token of the conversation would be trained on: it has no turn of the assistant that follows a user's"
            f" (and has not the weight 0); leave it out, or correct its roles: {shown(messages)}"
        )
    groups: list[list[int]] = []
    for i, one in enumerate(tokens):
        before = tokens[i - 1].all if i else []
        if i and prompt_format.shares_examples and not each and one.prompt[: len(before)] == before:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [_example([replies[i] for i in g], [tokens[i] for i in g], vocabulary) for g in groups]


def _encoded(reply: Reply, vocabulary: Vocabulary, prompt_format: PromptFormat) -> _Tokens:
    prompt = vocabulary.encode(reply.prompt)
    if not prompt_format.ends_replies:
        return _Tokens(prompt, with_eos(vocabulary.encode(reply.text), vocabulary.eos_id))
    both = vocabulary.encode(reply.prompt + reply.text)
    # Where a token would straddle the border, the prompt is what the model has been given, and it goes on from there.
    written = both[len(prompt) :] if both[: len(prompt)] == prompt else vocabulary.encode(reply.text)
    if written[-1:] != [vocabulary.eos_id]:
        found, wanted = (vocabulary.token_string(token) for token in (written[-1], vocabulary.eos_id))
        raise DataError(
            f"the chat template ends message {reply.message} with {found!r}, but an answer ends where the model gives"
            f" its end token, {wanted!r}: a model that is"
            f' trained on it would not stop; name the token that ends a turn as "eos_token" in {TOKENIZER_CONFIG_FILE}'
        )
    return _Tokens(prompt, written)


def _example(replies: Sequence[Reply], tokens: Sequence[_Tokens], vocabulary: Vocabulary) -> ConversationExample:
    first, last = replies[0], replies[-1]
    inputs = tokens[0].prompt
    targets = tokens[-1].all[len(inputs) :]
    mask = [False] * len(targets)
    for one in tokens:
        start = len(one.prompt) - len(inputs)
        mask[start : start + len(one.written)] = [True] * len(one.written)
    return ConversationExample(
        inputs=inputs,
        targets=targets,
        mask=mask,
        inputs_text=first.prompt,
        targets_text=(last.prompt + last.text)[len(first.prompt) :],
        answer=vocabulary.decode(tokens[0].written),
        messages=[reply.message for reply in replies],
    )


def shown(messages: Sequence[Any]) -> str:
    """A conversation for a message, cut to a readable length."""
    text = json.dumps(list(messages), ensure_ascii=False, default=repr).encode(errors="replace").decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
