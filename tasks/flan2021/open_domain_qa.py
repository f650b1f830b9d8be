"""FLAN 2021, open-domain question answering: questions without a text that has the answer.

Two are answered freely and judged by TriviaQA's rules against all accepted spellings; the two parts of ARC are school
questions with choices.
"""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.evaluation.text_metrics import trivia_qa
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.registry import add_flan_task, cap
from tasks.flan2021.rows import Row, accepted, asked, complete

CLUSTER = "open_domain_qa"

Example = dict[str, Any]


def trivia_qa_row(example: Example) -> Row | None:
    """The answer as its entry is called, and every alias; questions of the test set have no answer."""
    answer = example["answer"]
    if not answer["aliases"]:
        return None
    return _answered(example["question"], [answer["value"], *answer["aliases"], *answer["normalized_aliases"]])


def natural_questions_row(example: Example) -> Row | None:
    """The first of the annotators' short answers is learned, all are accepted."""
    return _answered(example["question"], example["answer"])


def _answered(question: str, answers: list[str]) -> Row | None:
    answers = accepted(answers)
    return complete({"question": asked(question), "answer": answers[0], "answers": answers}) if answers else None


def arc_row(example: Example) -> Row | None:
    """The choice that carries the key's letter; a few questions have three or five choices."""
    choices = example["choices"]
    if example["answerKey"] not in choices["label"]:
        return None
    answer = choices["text"][choices["label"].index(example["answerKey"])]
    return complete({"question": example["question"], "options": choices["text"], "answer": answer})


TRIVIA_QA: list[Template | str] = [
    "{question}",
    "Here is a trivia question for you: {question}",
    "Answer this quiz question with a name, a number or a few words.\n\n{question}",
    "Question: {question}\nAnswer:",
    "{question}\n\nKeep it short.",
    "We are stuck at the pub quiz. The host asks: {question} What do we write on the sheet?",
    "Q: {question}\nA:",
    Template("Write a trivia question to which the answer is {answer}.", "{question}"),
    Template('A quiz card has "{answer}" on its back. What might be asked on its front?', "{question}"),
    Template("Answer: {answer}\nQuestion:", "{question}"),
]

NATURAL_QUESTIONS: list[Template | str] = [
    "{question}",
    "Someone types into a search engine: {question} Give the short answer.",
    "Tell me briefly: {question}",
    "Question: {question}\nShort answer:",
    "Please answer from what you know.\n\n{question}",
    "{question}\n\nThe answer is",
    "Give the fact that is asked for, without a full sentence.\n{question}",
    Template("Which question could somebody have asked to be told this?\n\n{answer}", "{question}"),
    Template("Invent a search query that is answered by: {answer}", "{question}"),
    Template("The answer turned out to be {answer}. What was the question?", "{question}"),
]

ARC: list[Template | str] = [
    "{question}",
    "Which choice answers this science question?\n\n{question}",
    "A question from a school test:\n{question}\n\nWhat is the right answer?",
    "{question} Give the best answer.",
    "Pick what completes or answers the following.\n\n{question}",
    "Use what you know about nature and science.\nQuestion: {question}",
    "I am preparing for my science exam and do not know this one: {question}",
    Template('Write a science question for which "{answer}" is the right answer.', "{question}"),
    Template("The key of an exam says: {answer}\nReconstruct the question.", "{question}"),
    Template("What could a teacher ask so that the class has to answer as follows?\n\n{answer}", "{question}"),
]

add_flan_task(
    "trivia_qa",
    cluster=CLUSTER,
    dataset="trivia_qa/rc",
    version="1.1.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=trivia_qa_row,
    templates=TRIVIA_QA,
    metrics=[trivia_qa],
)

add_flan_task(
    "natural_questions",
    cluster=CLUSTER,
    dataset="natural_questions_open",
    version="1.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=natural_questions_row,
    templates=NATURAL_QUESTIONS,
    metrics=[trivia_qa],
)

for _part in ("Challenge", "Easy"):
    add_flan_task(
        f"arc_{_part.lower()}",
        cluster=CLUSTER,
        dataset=f"ai2_arc/ARC-{_part}",
        version="1.0.0",
        train="train[:-200]",
        validation="train[-200:]",
        test="test",
        row=arc_row,
        templates=ARC,
        metrics=[exact_match],
    )
