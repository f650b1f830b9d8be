"""The two tasks that Flan 2022 has beside those of FLAN 2021: `flan2022_lambada` and `flan2022_ai2_science_middle`.

Their data comes from TensorFlow Datasets, as that of FLAN 2021. The templates are this project's own.
"""

import re
from typing import Any

from t5x_instruct.data.tasks import add_task
from t5x_instruct.data.tfds_source import TfdsRows
from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.registry import DATA_DIR

Row = dict[str, str | list[str]]

_MARK = re.compile(r"\(([A-Za-z])\)\s*")


def lambada_row(example: dict[str, Any]) -> Row | None:
    """A story without its last word, which is the answer."""
    text, _, word = str(example["passage"]).strip().rpartition(" ")
    return {"text": text.strip(), "answer": word} if text.strip() and word else None


def science_row(example: dict[str, Any]) -> Row | None:
    r"""A question with its choices, which UnifiedQA writes as 'question \n (A) one (B) two', the last part optional."""
    question, _, rest = str(example["input"]).partition("\\n")
    listed = rest.partition("\\n")[0]
    pieces = _MARK.split(listed)
    options = [text.strip() for text in pieces[2::2] if text.strip()]
    answer = str(example["output"]).strip()
    by_text = {option.casefold(): option for option in options}
    if not question.strip() or answer.casefold() not in by_text:
        return None
    return {"question": question.strip(), "options": options, "answer": by_text[answer.casefold()]}


LAMBADA: list[Template | str] = [
    "{text}",
    "Which word comes next?\n\n{text}",
    "Here is a story whose last word is missing. Add it.\n\n{text}",
    "Text: {text}\nNext word:",
    "{text} ...\n\nFinish the sentence with a single word.",
    "Guess the word that ends this passage: {text}",
    "Read closely; everything before tells you how it ends.\n{text}\nThe last word is",
    "One word has been cut off at the end of the following. What was it?\n\n{text}",
    "{text} _\n\nWhat belongs in the blank?",
    Template('Write a short scene that ends with the word "{answer}", leaving that word out.', "{text}"),
]

SCIENCE: list[Template | str] = [
    "{question}",
    "Question: {question}\nAnswer:",
    "Here is a question from a science lesson.\n\n{question}",
    "A middle-school test asks: {question}",
    "{question}\nWhat is right?",
    "Use what you know of science to answer this.\n{question}",
    "Q: {question}\nA:",
    "Please help me with my homework: {question}",
    Template("Write a science question for a class of twelve-year-olds, to be answered with: {answer}", "{question}"),
    Template("Answer: {answer}\nWhich question of a science test might this belong to?", "{question}"),
]

TASKS = ("flan2022_lambada", "flan2022_ai2_science_middle")

add_task(
    TASKS[0],
    cluster="lambada",
    source=TfdsRows(
        "lambada",
        {"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        lambada_row,
        data_dir=DATA_DIR,
    ),
    templates=LAMBADA,
    metrics=[exact_match],
    options="shown",
)

add_task(
    TASKS[1],
    # With the other school questions, so that they are held out together.
    cluster="open_domain_qa",
    source=TfdsRows(
        "unified_qa/ai2_science_middle",
        {"train": "train", "validation": "validation", "test": "test"},
        science_row,
        data_dir=DATA_DIR,
    ),
    templates=SCIENCE,
    metrics=[exact_match],
    options="shown",
)
