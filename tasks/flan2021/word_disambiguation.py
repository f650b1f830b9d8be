"""FLAN 2021, word_disambiguation: whether a word means the same in two sentences."""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import NO_YES, Row, labelled
from tasks.flan2021.registry import add_flan_task

CLUSTER = "word_disambiguation"


def wic_row(example: dict[str, Any]) -> Row | None:
    """`word`, which may be inflected in `sentence1` and `sentence2`; `sense`: in the same sense or in another."""
    fields = {name: example[name] for name in ("word", "sentence1", "sentence2")}
    return labelled(fields, example["label"], NO_YES, sense=("in another sense", "in the same sense"))


WIC: list[Template | str] = [
    '{sentence1}\n{sentence2}\n\nIs "{word}" used in the same sense in both sentences?',
    'Does the word "{word}" mean the same here and there?\nHere: {sentence1}\nThere: {sentence2}',
    "word: {word}\n1. {sentence1}\n2. {sentence2}\nsame meaning in 1 and 2?",
    'Look up "{word}" in a dictionary. Would both of these be examples for one and the same entry?\n\n'
    "{sentence1}\n{sentence2}",
    '"{sentence1}" A learner of English knows this use of "{word}". Is it the one in the next sentence as well?'
    " {sentence2}",
    "Compare the uses of {word}.\nUse A: {sentence1}\nUse B: {sentence2}\nDo A and B agree in meaning?",
    "{sentence1} {sentence2} In these two, is {word} the same thing?",
    "If you replaced {word} by a synonym in the first sentence, would that synonym fit in the second one too?\n"
    "First: {sentence1}\nSecond: {sentence2}",
    Template('{sentence1}\n\nWrite another sentence with the word "{word}", {sense}.', "{sentence2}"),
    Template(
        'Give me a sentence that uses "{word}" {sense}, compared with this one: {sentence2}',
        "{sentence1}",
    ),
]

add_flan_task(
    "wic",
    cluster=CLUSTER,
    dataset="super_glue/wic",
    version="1.0.2",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=wic_row,
    templates=WIC,
    metrics=[exact_match],
)
