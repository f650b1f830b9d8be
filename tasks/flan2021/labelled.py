"""Rows of tasks whose answer is one of a few labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_instruct.data.tasks import accept_answers, texts_of
from t5x_instruct.evaluation.metrics import normalize

NO_YES = ("no", "yes")
YES_NO = ("yes", "no")
THREE_WAY = ("yes", "it is not possible to tell", "no")
"""Whether a text follows from another: entailment, neutral, contradiction, in the order of most builders."""

Row = dict[str, str | list[str]]


def labelled(fields: Mapping[str, str], label: int, options: Sequence[str], **worded: Sequence[str]) -> Row | None:
    """A row whose answer is the option with the label's number.

    Args:
        fields: the row's texts.
        label: number of the label. Data sets write -1 where they keep it to themselves.
        options: a text for every label.
        **worded: further fields that depend on the label, a text for every label each.

    Returns:
        The row, without white space around its texts; None without a label, or where one of the texts is empty: some
        template would have nothing to ask, or to learn.
    """
    texts = {name: text.strip() for name, text in fields.items()}
    choices = [option.strip() for option in options]
    if not 0 <= label < len(choices) or not all([*texts.values(), *choices]):
        return None
    chosen = {name: texts_by_label[label] for name, texts_by_label in worded.items()}
    return {**texts, **chosen, "options": choices, "answer": choices[label]}


def as_label(labels: Sequence[str]) -> Callable[..., str | list[str]]:
    """Makes the postprocessing of a task whose metrics need the labels themselves.

    Where options are lettered an answer is a letter; it becomes the label again. Other answers stay as they are.

    Args:
        labels: the task's options in the order of its rows.
    """

    def as_label(
        output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any
    ) -> str | list[str]:
        shown = texts_of(example.get("options", ())) if example is not None else []
        names = {normalize(text): label for text, label in zip(shown, labels, strict=False)}
        accepted = accept_answers(output, example=example, is_target=is_target)
        if isinstance(accepted, str):
            return names.get(normalize(accepted), accepted)
        return [names.get(normalize(text), text) for text in accepted]

    return as_label
