"""Chat templates: conversations to text, and in it what the model writes itself.

A conversation is rendered by the model's own template, so that the text that is trained on is the
text that is served. A reply is what follows the exact prompt that a server would give for it (the
messages before it, rendered with the generation prompt), to the end of its end-of-turn token.

A template that writes the date would make the text depend on the day: `strftime_now` always tells
the same day, `ChatTemplate.day`, in training and in serving.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jinja2

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.templates.dialogue import dialogue_prompt
from t5x_instruct.templates.sandbox import compile_template

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

DAY = datetime.date(2025, 1, 1)
"""The day that chat templates are told."""


class Reply(NamedTuple):
    """A turn of the assistant that is trained on.

    Attributes:
        message: the index of its message.
        prompt: the exact text that the model is given to write it.
        text: what the model is to write; from a chat template the end-of-turn token is its end.
    """

    message: int
    prompt: str
    text: str


class ChatTemplate:
    """A model's chat template in Hugging Face's Jinja dialect, run in a sandbox.

    Args:
        source: the template.
        bos_token: text of the token that starts a sequence, for templates that use it.
        eos_token: text of the token that ends one.
        day: the day that `strftime_now` tells. What is trained with one day should be served with the same.

    Raises:
        ConfigError: the template is not valid Jinja, naming the line.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "", day: datetime.date = DAY):
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.day = day
        try:
            self._template = compile_template(source, day)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"chat template, line {error.lineno}: {error.message}") from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides how a conversation is rendered."""
        return _sha256([self.source, self.bos_token, self.eos_token, self.day.isoformat()])

    def render(
        self, messages: Sequence[Message], *, tools: Tools | None = None, add_generation_prompt: bool = False
    ) -> str:
        """Renders a conversation.

        Args:
            messages: dicts with `role` and `content` and what else the template knows, such as `tool_calls` (then
                `content` may be absent). Arguments of a tool call may be a JSON text or an object.
            tools: what the model may call, as JSON schemas of functions.
            add_generation_prompt: whether to end with what opens an answer of the assistant.

        Returns:
            The text.

        Raises:
            DataError: a message without role or content, or the template refuses the conversation or does not
                show the tools.
        """
        for i, message in enumerate(messages):
            _check_message(message, i)
        try:
            text = self._template.render(
                messages=[_as_templates_expect(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            roles = [message["role"] for message in messages]
            raise DataError(f"the chat template cannot render the roles {roles}: {error}") from error
        _check_shown("the tools", _names(tools or ()), text)
        return text

    def replies(self, messages: Sequence[Message], tools: Tools | None = None) -> list[Reply]:
        """The turns of the assistant that are trained on, each as it would be asked for and written.

        Args:
            messages: see `render`. A turn of the assistant with `weight` 0 is not trained on, nor is one that no
                user has asked for.
            tools: see `render`.

        Returns:
            The replies in their order; none where there is nothing to train on.

        Raises:
            DataError: as `render`; the template does not end an assistant turn, changes what it says or leaves a
                tool call out; its generation prompt is not how it renders one.
        """
        return [self._reply(messages, i, tools) for i in trained_turns(messages)]

    def _reply(self, messages: Sequence[Message], i: int, tools: Tools | None) -> Reply:
        prompt = self.render(messages[:i], tools=tools, add_generation_prompt=True)
        turn = self.render(messages[: i + 1], tools=tools)
        if not turn.startswith(prompt):
            raise DataError(
                f"the chat template's generation prompt ({_end(prompt)!r}) is not how it opens"
                f" message {i} ({_end(turn[: len(prompt)])!r}); correct the template"
            )
        return Reply(i, prompt, _written(turn[len(prompt) :], messages[i], i))


def trained_turns(messages: Sequence[Message]) -> list[int]:
    """The indices of the messages that a model learns to write.

    Args:
        messages: a conversation. Turns of the assistant are learned, unless their `weight` is 0, or no turn of a
            user's stands before them: what opens a conversation answers nothing.
    """
    roles = [message.get("role") for message in messages]
    first = roles.index("user") if "user" in roles else len(roles)
    return [i for i in range(first, len(roles)) if roles[i] == "assistant" and messages[i].get("weight", 1)]


def rewrites_history(template: ChatTemplate, messages: Sequence[Message], tools: Tools | None = None) -> str | None:
    """Whether a template shows what the assistant wrote otherwise once the conversation goes on.

    Such a conversation has no one text in which every reply stands behind its own prompt, and becomes several
    examples (`data.chat_examples`). Typical are templates that drop the thoughts of earlier turns.

    Args:
        template: the chat template.
        messages: the conversation.
        tools: what the model may call.

    Returns:
        None, or the reason: the first message that is shown otherwise, and how.

    Raises:
        DataError: as `ChatTemplate.replies`.
    """
    replies = template.replies([{**message, "weight": 1} for message in messages], tools)
    prompts = [reply.prompt for reply in replies[1:]]
    for reply, later in zip(replies, prompts, strict=False):
        written = reply.prompt + reply.text
        if not later.startswith(written):
            same = _shared(written, later)
            return (
                f"message {reply.message} is written as {_from(written, same)!r} and shown as {_from(later, same)!r}"
                " when later messages follow it"
            )
    return None


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

    @property
    def shares_examples(self) -> bool:
        """Whether several replies of a conversation may be trained on in one example."""

    @property
    def ends_replies(self) -> bool:
        """Whether the texts of replies have their end in them; else the end token follows their tokens."""

    def prompt(self, text: str) -> str:
        """The prompt for an instruction."""

    def conversation(self, messages: Sequence[Message], tools: Tools | None = None) -> str:
        """The prompt for the next turn of a conversation; for one user turn alone that of the instruction."""

    def replies(self, messages: Sequence[Message], tools: Tools | None = None) -> list[Reply]:
        """What is trained on in a conversation, each reply with the prompt that `conversation` gives for it."""


class PlainFormat:
    """The instruction itself, for tasks whose own text parts it from the answer; a conversation in a plain frame."""

    name = "plain"
    fingerprint = "plain"
    add_eos = False
    shares_examples = False  # nothing in the frame ends a reply, so that it has to end an example
    ends_replies = False

    def prompt(self, text: str) -> str:
        """Gives the instruction unchanged."""
        return text

    def conversation(self, messages: Sequence[Message], tools: Tools | None = None) -> str:
        """Gives the conversation as `templates.dialogue` writes it.

        Raises:
            DataError: as `dialogue_prompt`, or there are tools.
        """
        if tools:
            raise DataError(f"a model without a chat template cannot be shown tools ({', '.join(_names(tools))})")
        for i, message in enumerate(messages):
            _check_message(message, i)
        return self.prompt(dialogue_prompt(messages))

    def replies(self, messages: Sequence[Message], tools: Tools | None = None) -> list[Reply]:
        """Gives the replies, without any end; errors as `conversation`."""
        self.conversation(messages, tools)  # refuses what has no text anywhere in it
        return [Reply(i, self.conversation(messages[:i]), messages[i]["content"]) for i in trained_turns(messages)]


class LineFormat(PlainFormat):
    """The instruction and a line break: for decoders without chat turns, whose answer then has a line of its own.

    Instruction and answer become tokens by themselves, and nothing else would part "capital of Peru?" from "Lima" in
    the text that is learned. Behind exemplars (`few_shot.Frame`) an answer stands in the same way.
    """

    name = "line"
    fingerprint = "line"

    def prompt(self, text: str) -> str:
        """Gives the instruction, ended by a line break unless it ends with one; an empty one stays empty."""
        return text if not text or text.endswith("\n") else f"{text}\n"


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
        shares_examples: whether several replies of a conversation may be trained on in one example. Only where no
            token of it sees a later one: a model that reads the text before a reply both ways (an encoder, a
            prefix-LM) reads other text before each.
    """

    add_eos = False
    ends_replies = True

    def __init__(self, template: ChatTemplate, system: str | None = None, *, shares_examples: bool = True):
        self.template = template
        self.system = system
        self.shares_examples = shares_examples

    @property
    def name(self) -> str:
        """'chat' or 'chat_each'."""
        return "chat" if self.shares_examples else "chat_each"

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the template, the system message and what examples are."""
        return _sha256([self.template.fingerprint, self.system, self.name])

    @property
    def system_messages(self) -> list[dict[str, str]]:
        """What stands before the user's first turn."""
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def prompt(self, text: str) -> str:
        """Gives the rendered user turn and the generation prompt; errors as `ChatTemplate.render`."""
        return self.conversation([{"role": "user", "content": text}])

    def conversation(self, messages: Sequence[Message], tools: Tools | None = None) -> str:
        """Gives the rendered conversation and the generation prompt; errors as `ChatTemplate.render`."""
        return self.template.render(self._with_system(messages), tools=tools, add_generation_prompt=True)

    def replies(self, messages: Sequence[Message], tools: Tools | None = None) -> list[Reply]:
        """Gives the replies with their end-of-turn tokens; errors as `ChatTemplate.replies`."""
        full = self._with_system(messages)
        added = len(full) - len(messages)
        return [reply._replace(message=reply.message - added) for reply in self.template.replies(full, tools)]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        own = [] if messages and messages[0].get("role") == "system" else self.system_messages
        return [*own, *messages]


def _check_message(message: Message, i: int) -> None:
    if not isinstance(message.get("role"), str):
        raise DataError(f"message {i}: 'role' has to be a text, got {message.get('role')!r} in {message!r}")
    content, calls = message.get("content"), message.get("tool_calls")
    if not isinstance(content, str) and not (content is None and calls):
        raise DataError(f"message {i}: 'content' has to be a text, got {content!r} in {message!r}")
    if calls is not None and not (isinstance(calls, Sequence) and all(map(_function_of, calls))):
        raise DataError(
            f"message {i}: 'tool_calls' has to be a list of {{'function': {{'name': ..., 'arguments': ...}}}},"
            f" got {calls!r}"
        )


def _function_of(call: Any) -> Mapping[str, Any] | None:
    """The part of a tool call, or of a tool, that has the function's name."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    return function if isinstance(function, Mapping) and isinstance(function.get("name"), str) else None


def _names(calls: Iterable[Any]) -> list[str]:
    return [function["name"] for call in calls if (function := _function_of(call)) is not None]


def _check_shown(what: str, names: Sequence[str], text: str) -> None:
    hidden = [name for name in names if name not in text]
    if hidden:
        raise DataError(
            f"the chat template does not show {what} {', '.join(map(repr, hidden))}; use a model whose template knows"
            " tools, or take them out of the conversation"
        )


def _as_templates_expect(message: Message) -> dict[str, Any]:
    """A copy that has `content`, no `weight`, and the arguments of tool calls as objects."""
    own = {"content": None} | {name: value for name, value in message.items() if name != "weight"}
    if own.get("tool_calls"):
        own["tool_calls"] = [_with_parsed_arguments(call) for call in own["tool_calls"]]
    return own


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    # OpenAI writes arguments as a JSON text, which templates would quote once more.
    if "function" in call:
        return {**call, "function": _with_parsed_arguments(call["function"])}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return dict(call)
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return dict(call)
    return {**call, "arguments": parsed if isinstance(parsed, dict) else arguments}


def _written(turn: str, message: Message, i: int) -> str:
    """A rendered turn without the white space after its end-of-turn token."""
    content = (message.get("content") or "").strip()  # many templates trim what they are given
    calls = message.get("tool_calls") or ()
    _check_shown(f"the tool calls of message {i}:", _names(calls), turn)
    if message.get("content") is None and "None" in turn and "None" not in json.dumps(calls):
        raise DataError(
            f"the chat template writes 'None' where message {i} has no content beside its tool call; give it"
            " the content ''"
        )
    _, found, tail = turn.partition(content) if content else ("", "", turn)
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
    return turn.rstrip()


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _from(text: str, start: int) -> str:
    return text[max(start - 20, 0) : start + 20]


def _end(text: str) -> str:
    return text[-40:]


def _sha256(parts: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
