"""FLAN 2021, question_classification: what kind of answer a question asks for."""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row, labelled
from tasks.flan2021.registry import add_flan_task

CLUSTER = "question_classification"
OPTIONS = ("description", "entity", "abbreviation", "person", "number", "location")
"""The coarse classes of TREC, in its order: DESC, ENTY, ABBR, HUM, NUM, LOC."""

_ASKED_FOR = (
    "a description or an explanation",
    "a thing of some kind",
    "an abbreviation or what it stands for",
    "a person or a group of people",
    "a number, a date or an amount",
    "a place",
)


def trec_row(example: dict[str, Any]) -> Row | None:
    """`question`, and `asked_for`, the class in words."""
    return labelled({"question": example["text"]}, example["label-coarse"], OPTIONS, asked_for=_ASKED_FOR)


TREC: list[Template | str] = [
    "{question}\n\nWhat kind of answer does this question ask for?",
    "Sort this question by what would answer it: {question}",
    "Question: {question}\nType of the answer:",
    "A search engine has to know what it is looking for before it looks. What is it for this query?\n\n{question}",
    "Is somebody who asks this after a person, a place, a number, a description, an abbreviation or some other entity?"
    "\n{question}",
    "Do not answer the question. Only say which class its answer belongs to.\n{question}",
    '"{question}" In one word, what sort of thing is asked for here?',
    "q: {question}\nclass:",
    Template("Write a question that asks for {asked_for}.", "{question}"),
    Template("You are the host of a quiz and the next answer is to be {asked_for}. Ask.", "{question}"),
]

add_flan_task(
    "trec",
    cluster=CLUSTER,
    dataset="trec",
    version="1.0.0",
    train="train[:-200]",
    validation="train[-200:]",
    test="test",
    row=trec_row,
    templates=TREC,
    metrics=[exact_match],
)
