"""FLAN 2021, math: linear equations in one unknown."""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "math"


def math_row(example: dict[str, Any]) -> Row | None:
    """`question`, which is a whole instruction ('Solve ... for x.'), and the answer, an integer."""
    question, answer = example["question"].strip(), example["answer"].strip()
    return {"question": question, "answer": answer} if question and answer else None


LINEAR_1D: list[Template | str] = [
    "{question}",
    "{question}\nAnswer with a number only.",
    "Problem: {question}\nSolution:",
    "This is on the blackboard: {question} What do you get?",
    "Bring the unknown to one side and give its value.\n\n{question}",
    "homework, please check what comes out here: {question}",
    "Here is an equation with one unknown.\n{question}\nThe unknown equals",
    'A teacher says: "{question}" Which number should the class find?',
    Template("Invent an exercise with a linear equation whose solution is {answer}.", "{question}"),
    Template(
        "Solution: {answer}\nWrite a linear equation in one unknown that has it, as a task to solve.", "{question}"
    ),
]

add_flan_task(
    "math_dataset",
    cluster=CLUSTER,
    dataset="math_dataset/algebra__linear_1d",
    version="1.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="test",
    row=math_row,
    templates=LINEAR_1D,
    metrics=[exact_match],
)
