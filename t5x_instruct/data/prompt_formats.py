"""Prompt formats with a vocabulary: from an instruction to the token ids that a model is given."""

import itertools
from collections.abc import Sequence

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.data.vocabularies import TOKENIZER_CONFIG_FILE, Vocabulary
from t5x_instruct.templates.chat import ChatFormat, EosFormat, LineFormat, Message, PlainFormat, PromptFormat, Tools

PROMPT_FORMATS = ("plain", "line", "eos", "chat", "chat_each")
_OF_TEXT: dict[str, type[PlainFormat]] = {form.name: form for form in (PlainFormat, LineFormat, EosFormat)}
PROBES = ("a", "Z.", "7 !", "of the\n", "(é)")


def default_prompt_format(vocabulary: Vocabulary, reads_inputs: str) -> str:
    """The name of the format that 'auto' means.

    Args:
        vocabulary: the model's.
        reads_inputs: how the model reads inputs, see `models.api.Model`.

    Returns:
        'chat' if the vocabulary has a chat template ('chat_each' for models that read inputs both ways), else 'eos'
        for an encoder, else 'line'.
    """
    if vocabulary.chat_template is not None:
        return "chat" if reads_inputs == "causal" else "chat_each"
    return "eos" if reads_inputs == "encoder" else "line"


def make_prompt_format(name: str, vocabulary: Vocabulary) -> PromptFormat:
    """The way an instruction becomes what a model is given.

    Args:
        name: 'plain' (the text itself), 'line' (the text and a line break), 'eos' (the text and the end token), 'chat'
            (one user turn of the vocabulary's chat template) or 'chat_each' (the same prompts; of a conversation one
            example for each reply, see `ChatFormat.shares_examples`).
        vocabulary: the model's.

    Raises:
        ConfigError: another name, or 'chat' with a vocabulary that has no chat template.
    """
    if name not in PROMPT_FORMATS:
        raise ConfigError(unknown("prompt format", name, PROMPT_FORMATS))
    if name in _OF_TEXT:
        return _OF_TEXT[name]()
    if vocabulary.chat_template is None:
        raise ConfigError(
            f"prompt_format is {name!r}, but the vocabulary has no chat template; use 'line' or 'eos', or put "
            f'"chat_template" into its {TOKENIZER_CONFIG_FILE}'
        )
    return ChatFormat(vocabulary.chat_template, shares_examples=name == "chat")


def encode_prompt(vocabulary: Vocabulary, prompt_format: PromptFormat, text: str) -> list[int]:
    """The ids that the model is given for an instruction, as `prepare` makes them from a task's text."""
    return _encode(vocabulary, prompt_format, prompt_format.prompt(text))


def encode_conversation(
    vocabulary: Vocabulary, prompt_format: PromptFormat, messages: Sequence[Message], tools: Tools | None = None
) -> list[int]:
    """The ids that the model is given for the next turn of a conversation.

    Args:
        vocabulary: the model's.
        prompt_format: the model's.
        messages: the turns so far, see `templates.chat.ChatTemplate.render`.
        tools: what the model may call.

    Raises:
        DataError: the format has no text for the conversation.
    """
    return _encode(vocabulary, prompt_format, prompt_format.conversation(messages, tools))


def _encode(vocabulary: Vocabulary, prompt_format: PromptFormat, prompt: str) -> list[int]:
    ids = vocabulary.encode(prompt)
    return with_eos(ids, vocabulary.eos_id) if prompt_format.add_eos else ids


def with_eos(ids: Sequence[int], eos_id: int) -> list[int]:
    """The ids with exactly one EOS at their end, however many they end with; [EOS] for no ids."""
    end = len(ids)
    while end and ids[end - 1] == eos_id:
        end -= 1
    return [*ids[:end], eos_id]


def prompt_tail(vocabulary: Vocabulary, prompt_format: PromptFormat) -> int:
    """How many tokens the prompt format puts after every text: the end that different texts share."""
    if prompt_format.prompt(PROBES[0]) == PROBES[0]:  # nothing but the end token, if that; texts may end alike
        return int(prompt_format.add_eos)
    prompts = [encode_prompt(vocabulary, prompt_format, text)[::-1] for text in PROBES]
    same = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
    return sum(1 for _ in same)
