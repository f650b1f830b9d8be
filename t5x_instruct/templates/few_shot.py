"""Prompts with exemplars: answered questions of the same task that stand before the one that is asked."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from t5x_instruct.templates.chat import ChatFormat, Message, PromptFormat
from t5x_instruct.templates.prompts import draw


class Exemplar(NamedTuple):
    """A question with its answer, as text."""

    inputs: str
    targets: str


@dataclass(frozen=True)
class Frame:
    """How exemplars and a question become one text, for models that know no turns.

    With exemplars the question has around it what they have, up to `before_answer`, so that its answer starts where
    theirs do; without exemplars the text is the question alone.

    Attributes:
        before_answer: between an instruction and its answer.
        between: between an answer and the next instruction.
        before_question: before each instruction.
        opening: before everything.
    """

    before_answer: str = "\n"
    between: str = "\n\n"
    before_question: str = ""
    opening: str = ""

    def shown(self, exemplar: Exemplar) -> str:
        """An exemplar with its answer and what parts it from what follows."""
        return f"{self.before_question}{exemplar.inputs}{self.before_answer}{exemplar.targets}{self.between}"

    def text(self, exemplars: Sequence[Exemplar], question: str) -> str:
        """The exemplars in their order, then the question."""
        if not exemplars:
            return question
        before = "".join(map(self.shown, exemplars))
        return f"{self.opening}{before}{self.before_question}{question}{self.before_answer}"


FRAMES: tuple[Frame, ...] = (
    Frame(),
    Frame("\n\n", "\n\n\n"),
    Frame("\n", "\n\n---\n\n"),
    Frame("\n=>\n", "\n\n"),
    Frame("\n\n", "\n\n* * *\n\n"),
    Frame("\nAnswer:\n", "\n\n"),
    Frame("\nA:\n", "\n\n", "Q:\n"),
    Frame("\nReply:\n", "\n\n", "Request:\n"),
    Frame("\nOutput:\n", "\n\n", "Input:\n"),
    Frame("\n", "\n\n", opening="Some solved cases come first, then one that is yours.\n\n"),
    Frame("\n\n", "\n\n", opening="Look at how these are done and do the last one in the same way.\n\n"),
    Frame("\nSolution:\n", "\n\n", "Problem:\n", "Learn from the examples.\n\n"),
)
"""Frames of the few-shot training examples, of which each example draws one."""


def few_shot_prompt(
    prompt_format: PromptFormat, exemplars: Sequence[Exemplar], question: str, frame: Frame | None = None
) -> str:
    """The exact text that a model is given for a question with exemplars; without any, the format's own prompt.

    A chat model gets each exemplar as a turn of the user's and one of the assistant's, because that is the form in
    which its own answers end up: the answer it is to write stands where theirs stand and ends as theirs end, and no
    separator has to be told from the text around it. Other models get one text in `frame`.

    Args:
        prompt_format: the model's.
        exemplars: the nearest to the question last.
        question: what is asked.
        frame: separators; by default those of `Frame`.

    Raises:
        DataError: the chat template refuses a conversation of several turns.
    """
    if isinstance(prompt_format, ChatFormat):
        messages = [*prompt_format.system_messages, {"role": "user", "content": question}]
        return prompt_format.template.render(with_exemplars(messages, exemplars), add_generation_prompt=True)
    return prompt_format.prompt((frame or Frame()).text(exemplars, question))


def with_exemplars(messages: Sequence[Message], exemplars: Sequence[Exemplar]) -> list[Message]:
    """A conversation with exemplars as turns before its first, after what a system message says."""
    system = sum(1 for _ in itertools.takewhile(lambda message: message["role"] == "system", messages))
    turns = [
        {"role": role, "content": text}
        for one in exemplars
        for role, text in (("user", one.inputs), ("assistant", one.targets))
    ]
    return [*messages[:system], *turns, *messages[system:]]


def drawn_order(n: int, *key: str | int) -> Iterator[int]:
    """The numbers below `n` in an order that depends on `key` alone, each once.

    A shuffle that does no more work than numbers are taken from it, so that a few of many cost little.

    Args:
        n: how many there are; none for 0.
        *key: see `templates.prompts.draw`.

    Source: Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm P, run lazily.
    """
    moved: dict[int, int] = {}
    for i in range(n):
        j = i + draw(n - i, *key, i)
        yield moved.get(j, j)
        moved[j] = moved.pop(i, i)
