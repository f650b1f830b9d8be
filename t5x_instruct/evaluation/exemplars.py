"""The exemplars that stand before a question: drawn by hash, never the question itself, as many as fit."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.data.prepared import PreparedSplit
from t5x_instruct.data.prompt_formats import with_eos
from t5x_instruct.data.records import Example
from t5x_instruct.data.vocabularies import Vocabulary
from t5x_instruct.templates.chat import PlainFormat, PromptFormat
from t5x_instruct.templates.few_shot import Exemplar, drawn_order, few_shot_prompt

# What rendering adds to a row, or replaces in it.
_RENDERED = frozenset({"inputs_pretokenized", "targets_pretokenized", "accepted_targets", "options"})


@dataclasses.dataclass(frozen=True)
class ExemplarPool:
    """The training examples of a task, as exemplars.

    Attributes:
        task: the task's name.
        split: its prepared split `EXEMPLARS`.
        seed: of the draws.
    """

    task: str
    split: PreparedSplit
    seed: int

    def draw(
        self, count: int, key: str | int, question: str, row: Mapping[str, Any] | None = None, variant: int = 0
    ) -> list[Exemplar]:
        """Exemplars for a question, in an order that depends on seed, task and key alone.

        What is drawn for a smaller `count` comes first in what is drawn for a larger one.

        Args:
            count: how many; fewer come back if there are no more.
            key: what the draw belongs to, such as the question's place in its split.
            question: its text; an example with this text is passed over, whatever its case and white space.
            row: the question's untrained fields, if it is a task's; so is an example that renders the same row with
                another template.
            variant: which rendering of the exemplars.

        Returns:
            Exemplars, each another training example.
        """
        variant = variant if variant < self.split.variants else 0
        order = drawn_order(self.split.num_examples, self.seed, self.task, "exemplars", key)
        examples = (self.split.read(index, variant) for index in order)
        others = (one for one in examples if not _same_question(one, question, row or {}))
        return [Exemplar(text_of(one, "inputs"), text_of(one, "targets")) for one in itertools.islice(others, count)]


def _same_question(example: Example, question: str, row: Mapping[str, Any]) -> bool:
    if text_of(example, "inputs").casefold().split() == question.casefold().split():
        return True
    # Only a row that templates rendered is known to have all that its instruction says in its fields.
    own = _fields(example.meta) if "accepted_targets" in example.meta else {}
    return bool(own) and own == _fields(row)


def _fields(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in _RENDERED}


def text_of(example: Example, feature: str) -> str:
    """The text of 'inputs' or 'targets' before it became tokens."""
    text = example.meta[f"{feature}_pretokenized"]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


class PromptForm(NamedTuple):
    """How a task's instructions become prompts.

    Attributes:
        vocabulary: the model's.
        prompt_format: the text around an instruction.
        ends: whether the end token follows.
    """

    vocabulary: Vocabulary
    prompt_format: PromptFormat
    ends: bool

    def ids(self, exemplars: Sequence[Exemplar], question: str) -> list[int]:
        """Token ids of a question after exemplars, the nearest last."""
        ids = self.vocabulary.encode(few_shot_prompt(self.prompt_format, exemplars, question))
        return with_eos(ids, self.vocabulary.eos_id) if self.ends else ids


def fitted(
    exemplars: Sequence[Exemplar],
    ids_of: Callable[[Sequence[Exemplar]], Sequence[int] | np.ndarray],
    budget: int | None,
) -> tuple[np.ndarray, Sequence[Exemplar]]:
    """The prompt with as many exemplars as fit; they are dropped whole, the farthest from the question first.

    Args:
        exemplars: the nearest to the question first.
        ids_of: the prompt's token ids with some of the exemplars, given the nearest last.
        budget: most tokens of the prompt; None for no limit. A question that is longer by itself is not cut here.

    Returns:
        int32 ids, and the exemplars in them, the nearest last.
    """
    kept = exemplars[::-1]
    while True:
        ids = ids_of(kept)
        if not kept or budget is None or len(ids) <= budget:
            return np.asarray(ids, np.int32), kept
        kept = kept[1:]


def prompt_form(example: Example, vocabulary: Vocabulary, prompt_format: PromptFormat) -> PromptForm | None:
    """The form in which a prepared example's prompt was made from its text, which is tried; None if it is another.

    A task that names its own vocabulary formats its own prompts: they are the text alone, with or without EOS. A
    conversation has turns of its own and takes no exemplars.
    """
    if "count_replies" in example.meta:
        return None
    question, wanted = text_of(example, "inputs"), example.inputs.tolist()
    plain = PlainFormat()
    for known, ends in ((prompt_format, prompt_format.add_eos), (plain, False), (plain, True)):
        form = PromptForm(vocabulary, known, ends)
        if form.ids([], question) == wanted:
            return form
    return None
