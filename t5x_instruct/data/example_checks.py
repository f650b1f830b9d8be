"""What can be wrong with one prepared example, and how it is seen."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.prompt_formats import encode_prompt, prompt_tail
from t5x_instruct.data.records import Example
from t5x_instruct.data.vocabularies import Vocabulary
from t5x_instruct.templates.chat import PromptFormat

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


class Check(NamedTuple):
    """One thing that can be wrong with an example.

    Attributes:
        what: what is said of examples that have it.
        fix: what to do about it.
        warn: a share of examples above which it is mentioned.
    """

    what: str
    fix: str
    warn: float = 0.01


CHECKS: dict[str, Check] = {
    "untrained": Check(
        "examples have no trained token after cutting",
        "raise the targets' length, or correct what makes targets_mask",
        0.0,
    ),
    "end_not_trained": Check(
        "examples do not end with a trained end token, so the model does not learn to stop",
        "append EOS to the targets (seqio.preprocessors.append_eos, add_eos=True) and train it in targets_mask",
    ),
    "cut_inputs": Check("examples have inputs that are cut", "raise the inputs' length", 0.1),
    "cut_responses": Check("examples have responses that are cut", "raise the targets' length", 0.05),
    "empty_targets": Check(
        "examples have an empty target", "leave these rows out of the task, or correct its fields", 0.0
    ),
    "bad_text": Check(
        "examples have text that is no valid UTF-8 (bytes or U+FFFD)", "read the source with its own encoding", 0.0
    ),
    "control_characters": Check("examples have control characters", "clean the source's text", 0.0),
    "changed_targets": Check(
        "examples have target ids that are not those of their target text",
        "look for preprocessors that change ids after the text was tokenized",
        0.0,
    ),
    "lossy_targets": Check(
        "examples have target texts that the vocabulary does not give back",
        "use a vocabulary that keeps line breaks and rare characters, or do without them in the targets",
    ),
    "changed_prompts": Check(
        "examples have inputs that differ from the prompt the model is asked with",
        "register the task with model_features(), or choose the prompt format it was written for "
        "(DataSettings.prompt_format; 'plain' is the text itself)",
    ),
    "refused": Check("rows were refused by `prepare`", "see the reasons and correct the task's rows", 0.0),
    "duplicates": Check("examples are copies of another example of the task", "remove duplicate rows from the source"),
    "in_other_tasks": Check("examples also stand in another task that is trained on", "leave one of the tasks out"),
    "leaked": Check("examples stand in what is trained on as well", "remove them from the training split", 0.0),
    "conflicts": Check("examples have the inputs of another example, but another target", "look for wrong labels"),
}


PLAIN_CHECKS = ("untrained", "end_not_trained", "empty_targets", "bad_text", "control_characters")
RENDERING_CHECKS = ("changed_targets", "lossy_targets", "changed_prompts")


class Judge:
    """Makes the checks that look at single examples.

    Args:
        vocabulary: what the mixture was prepared with.
        prompt_format: likewise.
        lengths: most tokens of 'inputs' and 'targets'; None: nothing is cut.
    """

    def __init__(self, vocabulary: Vocabulary, prompt_format: PromptFormat, lengths: Mapping[str, int] | None):
        self._vocabulary, self._format = vocabulary, prompt_format
        self._most_targets = None if lengths is None else lengths["targets"]
        self._tail = prompt_tail(vocabulary, prompt_format)
        self._ends = end_ids(vocabulary)

    def plain_faults(self, example: Example) -> Iterator[tuple[str, str]]:
        """Names of the checks that an example fails, with what is to be seen, for checks that need no tokenizer."""
        inputs, targets = (text_of(example, name) for name in ("inputs", "targets"))
        mask, most = example.targets_mask, self._most_targets
        if most is not None and len(mask) > most:
            mask = np.append(mask[: most - 1], mask[-1])
        if not mask.any():
            yield "untrained", excerpt(targets)
        trained = np.flatnonzero(example.targets_mask)
        if trained.size and int(example.targets[trained[-1]]) not in self._ends:
            yield "end_not_trained", f"... {excerpt(targets[-60:])}"
        if not targets.strip():
            yield "empty_targets", excerpt(inputs)
        for text in (inputs, targets):
            if "\ufffd" in text:
                yield "bad_text", excerpt(text[max(0, text.index("\ufffd") - 30) :])
                break
        for text in (inputs, targets):
            if found := _CONTROL.search(text):
                yield "control_characters", f"{found[0]!r} in {excerpt(text[max(0, found.start() - 30) :])}"
                break

    def rendering_faults(self, example: Example) -> Iterator[tuple[str, str]]:
        """The same for the checks that encode the texts again."""
        inputs, targets = (text_of(example, name) for name in ("inputs", "targets"))
        if fault := self._target_fault(targets, example):
            ids = _without_end(example.targets.tolist(), self._vocabulary.eos_id)
            yield fault, f"{excerpt(self._vocabulary.decode(ids))} for {excerpt(targets)}"
        if not self._is_prompt(inputs, example.inputs.tolist()):
            shown = self._vocabulary.decode(example.inputs.tolist())
            yield "changed_prompts", f"{excerpt(shown)} for {excerpt(inputs)}"

    def _target_fault(self, text: str, example: Example) -> str | None:
        ids = _without_end(example.targets.tolist(), self._vocabulary.eos_id)
        if self._vocabulary.decode(ids) == text:
            return None
        encoded = self._vocabulary.encode(text)
        if encoded == example.targets.tolist():  # the text spells its end tokens
            return None
        if encoded == ids:
            return "lossy_targets"
        # The turns of a conversation are encoded one by one, so ids may differ where they meet; the text may not.
        several = not example.targets_mask.all()
        return None if several and self._stands_in(ids, text) else "changed_targets"

    def _stands_in(self, ids: list[int], text: str) -> bool:
        """Whether what is between the end tokens stands in a text, in its order."""
        place = 0
        for ends, run in itertools.groupby(ids, key=self._ends.__contains__):
            part = "" if ends else self._vocabulary.decode(list(run)).strip()
            found = text.find(part, place)
            if found < 0:
                return False
            place = found + len(part)
        return True

    def _is_prompt(self, text: str, ids: list[int]) -> bool:
        if not text:
            return len(ids) <= int(self._format.add_eos)
        expected = encode_prompt(self._vocabulary, self._format, text)
        if ids == expected:
            return True
        # A conversation comes rendered, whatever its turns were; it has to open an answer as a prompt does.
        tail = self._tail
        return tail > 0 and ids[-tail:] == expected[-tail:] and ids == self._vocabulary.encode(text)


def _without_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos_id else ids


def text_of(example: Example, feature: str) -> str:
    """The text of 'inputs' or 'targets' as it was before it was tokenized; '' where there is none."""
    text = example.meta.get(f"{feature}_pretokenized", "")
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def excerpt(text: str, width: int = 80) -> str:
    """The beginning of a text, quoted, on one line."""
    return repr(text if len(text) <= width else text[: width - 3] + "...")


def end_ids(vocabulary: Vocabulary) -> frozenset[int]:
    """The ids that end an answer: EOS, and what ends the assistant's turn in the chat template."""
    ids = {vocabulary.eos_id}
    if vocabulary.chat_template is not None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        with contextlib.suppress(DataError):  # a template that cannot be trained on as it is ends turns in no known way
            ids.update(vocabulary.encode(vocabulary.chat_template.replies(turns)[-1].text)[-1:])
    return frozenset(ids)
