"""FLAN 2021, reading comprehension: questions about a text, or (OpenBookQA) about a fact that comes with them."""

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.evaluation.text_metrics import NO, YES, Judgement, judgement, multirc, squad
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import as_label
from tasks.flan2021.registry import add_flan_task, cap
from tasks.flan2021.rows import Row, accepted, asked, complete

CLUSTER = "reading_comprehension"
UNANSWERABLE = "unanswerable"
"""The answer to the questions of SQuAD 2.0 that their text does not answer."""

_DROP_DATE = re.compile(r"(?P<year>\d*)-(?P<month>[A-Za-z]*)-(?P<day>\d+)")

Example = dict[str, Any]


def squad_row(example: Example) -> Row | None:
    """All annotators' answers are accepted, the first is learned."""
    return _squad_row(example, example["answers"]["text"])


def squad_v2_row(example: Example) -> Row | None:
    """As `squad_row`; what cannot be answered has `UNANSWERABLE` as its only answer, never the plausible ones."""
    return _squad_row(example, [UNANSWERABLE] if example["is_impossible"] else example["answers"]["text"])


def _squad_row(example: Example, given: list[str]) -> Row | None:
    answers = accepted(given)
    if not answers:
        return None
    return complete(
        {
            "title": urllib.parse.unquote(example["title"]).replace("_", " "),
            "context": example["context"],
            "question": example["question"],
            "answer": answers[0],
            "answers": answers,
        }
    )


def drop_row(example: Example) -> Row | None:
    """The first answer is learned, those of the validators are accepted too.

    An answer is a number, a date or the first of several spans; a date is written as DROP's own evaluation does, day,
    month, year. Dates without a day reach TFDS as empty answers and are left out.
    """
    first, *others = (_drop_answer(text) for text in (example["answer"], *example["validated_answers"]))
    return complete(
        {
            "context": example["passage"],
            "question": example["question"],
            "answer": first,
            "answers": accepted([first, *others]),
        }
    )


def _drop_answer(text: str) -> str:
    text = text.strip()
    if date := _DROP_DATE.fullmatch(text):
        return " ".join(part for part in date.group("day", "month", "year") if part)
    return text


def multirc_row(example: Example) -> Row | None:
    """One proposed answer to a question. `group` tells questions apart, whose answers are judged together."""
    if example["label"] not in (0, 1):
        return None
    return complete(
        {
            "paragraph": example["paragraph"],
            "question": example["question"],
            "response": example["answer"],
            "options": [NO, YES],
            "answer": (NO, YES)[example["label"]],
            "group": f"{example['idx']['paragraph']}/{example['idx']['question']}",
        }
    )


def multirc_judgement(
    output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any
) -> Judgement:
    """`judgement` of the answer, which is a letter where the options are lettered."""
    label = as_label((NO, YES))(output, example=example, is_target=is_target)
    return judgement(label if isinstance(label, str) else label[0], example=example, is_target=is_target)


def openbookqa_row(example: Example) -> Row | None:
    """Four choices to complete or answer the stem."""
    question = example["question"]
    options = [question[f"choice_{letter}"] for letter in "ABCD"]
    if example["answerKey"] not in range(len(options)):
        return None
    answer = options[example["answerKey"]]
    return complete({"question": question["stem"], "fact": example["fact1"], "options": options, "answer": answer})


def bool_q_row(example: Example) -> Row | None:
    """A yes-or-no question that somebody typed into a search engine."""
    return complete(
        {
            "title": example["title"],
            "passage": example["passage"],
            "question": asked(example["question"]),
            "options": [NO, YES],
            "answer": YES if example["answer"] else NO,
        }
    )


SQUAD_V1: list[Template | str] = [
    "{context}\n\n{question}",
    "Answer the question with words from the text.\n\nText: {context}\n\nQuestion: {question}\nAnswer:",
    "This is from an article on {title}.\n\n{context}\n\nAccording to it: {question}",
    "{question} Look it up in here:\n\n{context}",
    'Read this and find out: "{question}"\n\n{context}\n\nThe answer is',
    "Q: {question}\n\nWhat you may use to answer it:\n{context}\n\nA:",
    "Copy from the paragraph the few words that answer the question.\n\nParagraph ({title}): {context}\n"
    "Question: {question}",
    Template("{context}\n\nAsk a question about this text. Its answer must be: {answer}", "{question}"),
    Template(
        "I am writing a reading test about {title}. From the paragraph below I want to ask for this: {answer}\n"
        "How could I put the question?\n\n{context}",
        "{question}",
    ),
    Template("Passage: {context}\nAnswer: {answer}\nQuestion:", "{question}"),
]

_ELSE = f'write "{UNANSWERABLE}"'

SQUAD_V2: list[Template | str] = [
    f"{{context}}\n\n{{question}} If the text does not tell, {_ELSE}.",
    f"Answer only from the text, and {_ELSE} if it is not in there.\n\nText: {{context}}\n\nQuestion: {{question}}\n"
    "Answer:",
    f"Some of the questions that follow this article on {{title}} are traps without an answer; for a trap {_ELSE}."
    "\n\n{context}\n\n{question}",
    f"{{question}}\n\nTake the answer from here, or {_ELSE}:\n\n{{context}}",
    f"Can this be answered with the paragraph below? Then answer it, else {_ELSE}.\n\n{{question}}\n\n"
    "{title}: {context}",
    f"Q: {{question}}\nSource: {{context}}\n({_ELSE} where the source is silent)\nA:",
    f"Find in the text what the question asks for. Should nothing fit, {_ELSE}.\n\nQuestion: {{question}}\n\n"
    "Text: {context}\n\nWhat did you find?",
    Template(
        f"{{context}}\n\nWrite a question about this text that has the answer below; for one that it cannot answer"
        f' the answer says "{UNANSWERABLE}".\n\nAnswer: {{answer}}',
        "{question}",
    ),
    Template(
        "Somebody read this about {title}:\n\n{context}\n\nA question about it was answered with: {answer}\n"
        "What was the question?",
        "{question}",
    ),
    Template("Passage: {context}\nAnswer: {answer}\nQuestion:", "{question}"),
]

DROP: list[Template | str] = [
    "{context}\n\n{question}",
    "Read the report and answer the question. You may have to count, add or compare.\n\nReport: {context}\n\n"
    "Question: {question}\nAnswer:",
    "{question}\n\nThe facts are in this text: {context}",
    "Passage:\n{context}\n\nWork out from the passage: {question}",
    "With nothing but the following paragraph, tell me: {question}\n\n{context}",
    "Give a number, a date or a name.\n\nQ: {question}\n\n{context}\n\nA:",
    'Here is what happened: {context}\nA friend asks me "{question}" What do I say?',
    Template(
        "{context}\n\nWrite a question on this text that takes some reckoning and comes out as: {answer}",
        "{question}",
    ),
    Template("Text: {context}\nResult: {answer}\nWhat was asked?", "{question}"),
    Template("Make up a tricky question for readers of the following text.\n\n{context}", "{question}"),
]

MULTIRC: list[Template | str] = [
    '{paragraph}\n\n{question}\n\nIs "{response}" a right answer?',
    "Question: {question}\nA student wrote: {response}\n\nCheck it against the text and say yes or no.\n\n{paragraph}",
    "Text: {paragraph}\n\nQuestion: {question}\nProposed answer: {response}\n\nDoes the proposed answer fit?",
    "Several answers to a question may be right. Judge this one.\n\n{paragraph}\n\nThe question: {question}\n"
    "One of the answers: {response}",
    'I was asked "{question}" after reading the paragraph below, and I said: {response}\nWas I right?\n\n{paragraph}',
    '{question} Would you accept "{response}"?\n\nDecide by what is written here:\n{paragraph}',
    "Read the paragraph. Then decide whether the answer is correct.\n\n{paragraph}\n\nQ: {question}\nA: {response}",
    Template("Write a question about this paragraph.\n\n{paragraph}", "{question}"),
    Template(
        '{paragraph}\n\nThink of a question about the text above. Would "{response}" be a right answer to it? It should'
        " be: {answer}",
        "{question}",
    ),
    Template(
        "Somebody answers a question about the following text. Whether the answer is right: {answer}. Write down"
        " question and answer.\n\n{paragraph}",
        "{question}\n{response}",
    ),
]

OPENBOOKQA: list[Template | str] = [
    "{fact}\n\n{question}",
    "What is the best way to go on?\n\n{question}",
    "Keep in mind that {fact}. Now choose: {question}",
    "Use the fact and your common sense.\n\nFact: {fact}\nQuestion: {question}",
    "{question}\n\nA hint: {fact}",
    "This is from science class. Complete it, or answer it if it is a question.\n\n{question}",
    'In a textbook you find "{fact}". Which choice goes with this?\n\n{question}',
    Template("Write an exam question or the beginning of a sentence that ends rightly with: {answer}", "{question}"),
    Template("Knowing that {fact}, what can be asked so that the answer is: {answer}", "{question}"),
    Template('Which piece of knowledge is needed to answer "{question}" with "{answer}"?', "{fact}"),
]

BOOL_Q: list[Template | str] = [
    "{passage}\n\n{question}",
    "Say yes or no: {question}\n\nWhat is known: {passage}",
    "This is what an encyclopedia says on {title}:\n\n{passage}\n\nA reader would like to know: {question}",
    "Question: {question}\nText: {passage}\n\nIs the answer yes or no?",
    "Does the following text support a yes? {question}\n\n{passage}",
    "{title}\n{passage}\n\nJudging from this, {question}",
    "Somebody asks: {question} Read the text and settle it.\n\n{passage}",
    Template("Ask a yes-or-no question about this text.\n\n{passage}", "{question}"),
    Template("{passage}\n\nWrite a question about {title} that the text above answers with {answer}.", "{question}"),
    Template('Which question does a reader of this text have to answer with "{answer}"?\n\n{passage}', "{question}"),
]

add_flan_task(
    "squad_v1",
    cluster=CLUSTER,
    dataset="squad/v1.1",
    version="3.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=squad_row,
    templates=SQUAD_V1,
    metrics=[squad],
)

add_flan_task(
    "squad_v2",
    cluster=CLUSTER,
    dataset="squad/v2.0",
    version="3.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=squad_v2_row,
    templates=SQUAD_V2,
    metrics=[squad],
)

add_flan_task(
    "drop",
    cluster=CLUSTER,
    dataset="drop",
    version="2.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="dev",
    row=drop_row,
    templates=DROP,
    metrics=[squad],
)

add_flan_task(
    "multirc",
    cluster=CLUSTER,
    dataset="super_glue/multirc",
    version="1.0.2",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=multirc_row,
    templates=MULTIRC,
    metrics=[multirc],
    postprocess_fn=multirc_judgement,
)

add_flan_task(
    "openbookqa",
    cluster=CLUSTER,
    dataset="openbookqa",
    version="0.1.0",
    train="train",
    validation="validation[:200]",
    test="test",
    row=openbookqa_row,
    templates=OPENBOOKQA,
    metrics=[exact_match],
)

add_flan_task(
    "bool_q",
    cluster=CLUSTER,
    dataset="bool_q",
    version="1.0.0",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=bool_q_row,
    templates=BOOL_Q,
    metrics=[exact_match],
)
