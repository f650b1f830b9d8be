"""Chat templates: conversations to text, with the spans that the model writes itself.

A conversation is rendered once, in one pass, by the model's own template, so that the text that is
trained on is the text that is served.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from t5x_instruct.common.errors import ConfigError, DataError

Message = Mapping[str, str]


class _GenerationBlocks(Extension):
    """Lets '{% generation %}' pass: spans are found from the text, whether it is there or not."""

    tags = {"generation"}  # noqa: RUF012 - the attribute is jinja2's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A model's chat template in Hugging Face's Jinja dialect, run in a sandbox.

    Args:
        source: the template.
        bos_token: text of the token that starts a sequence, for templates that use it.
        eos_token: text of the token that ends one.

    Raises:
        ConfigError: the template is not valid Jinja, naming the line.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = ""):
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"chat template, line {error.lineno}: {error.message}") from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides how a conversation is rendered."""
        return _sha256([self.source, self.bos_token, self.eos_token])

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Renders a conversation.

        Args:
            messages: dicts with `role` and `content`.
            add_generation_prompt: whether to end with what opens an answer of the assistant.

        Returns:
            The text.

        Raises:
            DataError: a message without role or content, or the template refuses the conversation.
        """
        for i, message in enumerate(messages):
            _check_message(message, i)
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            roles = [message["role"] for message in messages]
            raise DataError(f"the chat template cannot render the roles {roles}: {error}") from error

    def spans(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """Renders a conversation once and finds what the assistant writes in it.

        The span of a turn goes from the end of the prompt that asks for it (the messages before it
        and the generation prompt) to the end of the token that ends the turn.

        Args:
            messages: dicts with `role` and `content`.

        Returns:
            The text and, for each assistant turn, (start, end) in characters, end exclusive.

        Raises:
            DataError: as `render`; the template changes earlier turns when later ones follow; it
                does not end an assistant turn; its generation prompt is not how it renders one.
        """
        text = self.render(messages)
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(messages[:i], add_generation_prompt=True)
            turn = self.render(messages[: i + 1])
            if not text.startswith(turn):
                raise DataError(
                    f"the chat template rewrites message {i} when later messages follow it, so that"
                    " no part of the text is what the model would have written; train on the"
                    " conversation up to that message instead"
                )
            if not turn.startswith(prompt):
                raise DataError(
                    f"the chat template's generation prompt ({_end(prompt)!r}) is not how it opens"
                    f" message {i} ({_end(turn[: len(prompt)])!r}); correct the template"
                )
            spans.append((len(prompt), len(prompt) + _turn_length(turn[len(prompt) :], message, i)))
        return text, spans


class PromptFormat(Protocol):
    """How an instruction becomes the exact text that the model is given before it answers."""

    @property
    def name(self) -> str:
        """A short name."""

    @property
    def fingerprint(self) -> str:
        """Equal for formats that give the same prompts."""

    @property
    def add_eos(self) -> bool:
        """Whether the end token follows the prompt's own tokens (it need not have a text)."""

    def prompt(self, text: str) -> str:
        """The prompt for an instruction."""


class PlainFormat:
    """The instruction itself, for models that were trained without chat turns."""

    name = "plain"
    fingerprint = "plain"
    add_eos = False

    def prompt(self, text: str) -> str:
        """Gives the instruction unchanged."""
        return text


class EosFormat(PlainFormat):
    """The instruction itself and the end token: what the encoders of T5 and its kin read."""

    name = "eos"
    fingerprint = "eos"
    add_eos = True


class ChatFormat:
    """The instruction as one user turn, with the answer of the assistant opened.

    Args:
        template: the model's chat template.
        system: a system message before the user's; without it whatever the template does by itself.
    """

    name = "chat"
    add_eos = False

    def __init__(self, template: ChatTemplate, system: str | None = None):
        self.template = template
        self.system = system

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the template and the system message."""
        return _sha256([self.template.fingerprint, self.system])

    @property
    def system_messages(self) -> list[dict[str, str]]:
        """What stands before the user's first turn."""
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def prompt(self, text: str) -> str:
        """Gives the rendered user turn and the generation prompt; errors as `ChatTemplate.render`."""
        messages = [*self.system_messages, {"role": "user", "content": text}]
        return self.template.render(messages, add_generation_prompt=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _GenerationBlocks],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes '<' and '&' for web pages; chat templates want the text as it is.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _check_message(message: Message, i: int) -> None:
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise DataError(f"message {i}: {key!r} has to be a text, got {message.get(key)!r} in {message!r}")


def _turn_length(turn: str, message: Message, i: int) -> int:
    """Length of a rendered turn without the white space after its end-of-turn token."""
    content = message["content"]
    if content not in turn:
        content = content.strip()  # many templates trim what they are given
    before, found, tail = turn.partition(content) if content else ("", "", turn)
    if content and not found:
        raise DataError(
            f"the chat template changes the content of message {i}, {_end(content)!r}:"
            " the text would not be what the model is to write"
        )
    if not tail.strip():
        raise DataError(
            f"the chat template does not end the assistant's turn (message {i} is followed by"
            f" {tail!r}): a model trained on it would never stop; add an end-of-turn token to it"
        )
    return len(before) + len(found) + len(tail.rstrip())


def _end(text: str) -> str:
    return text[-40:]


def _sha256(parts: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
