"""FLAN 2021, reading comprehension with common sense: what a text leaves unsaid has to be filled in."""

from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.evaluation.text_metrics import squad
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.registry import add_flan_task, cap
from tasks.flan2021.rows import Row, accepted, complete

CLUSTER = "read_comp_and_common_sense"
GAP = "_____"
"""What stands for the missing name in ReCoRD's sentences."""

_PLACEHOLDER, _HIGHLIGHT = "@placeholder", "\n@highlight\n"

Example = dict[str, Any]


def record_row(example: Example) -> Row | None:
    """A sentence with a gap, and the names in the article to choose from; every spelling of the right one is accepted.

    The summary lines of the article become a list below it. Queries of the test set have no answers.
    """
    answers = accepted(example["answers"])
    if not answers or _PLACEHOLDER not in example["query"]:
        return None
    return complete(
        {
            "passage": example["passage"].replace(_HIGHLIGHT, "\n- "),
            "query": example["query"].replace(_PLACEHOLDER, GAP),
            "sentence": example["query"].replace(_PLACEHOLDER, answers[0]),
            "options": accepted([*example["entities"], *answers]),
            "answer": answers[0],
            "answers": answers,
        }
    )


def cosmos_qa_row(example: Example) -> Row | None:
    """Four answers to a question that the text answers between its lines; the test set hides which is right."""
    options = [example[f"answer{i}"] for i in range(4)]
    if example["label"] not in range(len(options)):
        return None
    answer = options[example["label"]]
    return complete(
        {"context": example["context"], "question": example["question"], "options": options, "answer": answer}
    )


RECORD: list[Template | str] = [
    f"{{passage}}\n\nWho or what belongs in the gap {GAP}?\n{{query}}",
    f"Read the article. In the sentence after it a name is missing ({GAP}); which one?\n\nArticle: {{passage}}\n\n"
    "Sentence: {query}",
    "A reader notes: {query}\n\nThe pen has left a blank. Fill it with a name from the news story:\n{passage}",
    "{passage}\n\n{query}\n\nGive only the words that are missing.",
    "Which name from the text makes this statement true?\n\nStatement: {query}\n\nText: {passage}",
    "News: {passage}\n\nA sentence that goes with it: {query}\nComplete it.",
    f"Someone has struck a name out of the last line and put {GAP} there. Restore it.\n\n{{passage}}\n\n{{query}}",
    Template("Write one more sentence about this news story. It should mention {answer}.\n\n{passage}", "{sentence}"),
    Template(
        "{passage}\n\nMake a gap exercise out of this article: a sentence that follows from it, with"
        f" {GAP} in the place of: {{answer}}",
        "{query}",
    ),
    Template("What else can be said about {answer} after reading the following?\n\n{passage}", "{sentence}"),
]

COSMOS_QA: list[Template | str] = [
    "{context}\n\n{question}",
    "Read between the lines of this story.\n\n{context}\n\n{question}",
    "{question} Judge by what happens here:\n\n{context}",
    "Somebody tells you: {context}\n\nWhat do you make of it? {question}",
    "Text: {context}\nQuestion: {question}\n\nWhich answer is the most likely one?",
    "Not everything is said in the text below, but one can guess.\n\n{context}\n\nQ: {question}",
    'From a diary: "{context}"\n\nUse your common sense to answer this: {question}',
    Template("{context}\n\nWhat could be asked about this, if the answer is: {answer}", "{question}"),
    Template(
        "Write a few lines, as from a diary or a blog, of which the question below can be asked and answered.\n\n"
        "Question: {question}\nAnswer: {answer}",
        "{context}",
    ),
    Template("Think up a question that makes readers of this story think.\n\n{context}", "{question}"),
]

add_flan_task(
    "record",
    cluster=CLUSTER,
    dataset="super_glue/record",
    version="1.0.2",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=record_row,
    templates=RECORD,
    metrics=[squad],
)

add_flan_task(
    "cosmos_qa",
    cluster=CLUSTER,
    dataset="cosmos_qa",
    version="1.0.0",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=cosmos_qa_row,
    templates=COSMOS_QA,
    metrics=[exact_match],
)
