"""FLAN 2021, linguistic_acceptability: whether a sentence is good English."""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row, labelled
from tasks.flan2021.registry import add_flan_task

CLUSTER = "linguistic_acceptability"
OPTIONS = ("unacceptable", "acceptable")


def cola_row(example: dict[str, Any]) -> Row | None:
    """`sentence`, and `quality` for templates that have one written."""
    quality = ("that breaks a rule of English grammar", "of correct English")
    return labelled({"sentence": example["sentence"]}, example["label"], OPTIONS, quality=quality)


COLA: list[Template | str] = [
    "{sentence}\n\nIs this sentence acceptable or unacceptable English?",
    "Would a native speaker say this? Call it acceptable or unacceptable.\n{sentence}",
    "Judge the grammar of the following: {sentence}",
    "Sentence: {sentence}\nJudgement of a linguist:",
    "Does the next line obey the rules of English? Answer acceptable if it does, unacceptable if not.\n\n{sentence}",
    '"{sentence}"\nAcceptable?',
    "I am learning English and wrote this: {sentence} Is it acceptable or unacceptable?",
    "Leave aside whether it is true. Is the sentence well formed?\n{sentence}",
    Template("Write a sentence {quality}.", "{sentence}"),
    Template("A textbook needs an example of a sentence that is {answer}. Give one.", "{sentence}"),
]

add_flan_task(
    "cola",
    cluster=CLUSTER,
    dataset="glue/cola",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=cola_row,
    templates=COLA,
    metrics=[exact_match],
)
