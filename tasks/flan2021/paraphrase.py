"""FLAN 2021, paraphrase: whether, or how nearly, two sentences say the same."""

from collections.abc import Mapping
from typing import Any

from t5x_instruct.evaluation.label_metrics import binary_f1, pearson, spearman
from t5x_instruct.evaluation.metrics import accepted_answers, exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import NO_YES, Row, as_label, labelled
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "paraphrase"
SCORES = ("0", "1", "2", "3", "4", "5")

_SAME = ("does not mean the same as", "means the same as")
_NEARNESS = (
    "has nothing to do with",
    "is only about the same kind of thing as",
    "shares details, but not the point, with",
    "says, important details apart, the same as",
    "says, small details apart, the same as",
    "means exactly the same as",
)
_as_score = as_label(SCORES)


def pair_row(example: dict[str, Any]) -> Row | None:
    """MRPC and PAWS: `sentence1`, `sentence2`; `relation` says in words how the second stands to the first."""
    fields = {"sentence1": example["sentence1"], "sentence2": example["sentence2"]}
    return labelled(fields, example["label"], NO_YES, relation=_SAME)


def qqp_row(example: dict[str, Any]) -> Row | None:
    """`question1`, `question2`, with the doubled quotation marks of the data set's table made single."""
    fields = {name: example[name].replace('""', '"') for name in ("question1", "question2")}
    return labelled(fields, example["label"], NO_YES, relation=("differs in meaning from", "asks the same as"))


def stsb_row(example: dict[str, Any]) -> Row | None:
    """`sentence1`, `sentence2`, the score with one decimal in `score` and rounded to a whole number as the answer.

    Halves go to the even number, as FLAN writes them. Rows without a score (-1) are left out.
    """
    score = float(example["label"])
    fields = {"sentence1": example["sentence1"], "sentence2": example["sentence2"], "score": f"{score:.1f}"}
    return labelled(fields, round(score) if score >= 0.0 else -1, SCORES, nearness=_NEARNESS)


def true_score(
    output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any
) -> str | list[str]:
    """The score that a prediction names, and as the target the annotators' own score, which the answer rounds."""
    read = _as_score(output, example=example, is_target=is_target)
    if is_target and example is not None and set(accepted_answers(read)) <= set(SCORES):
        score = example["score"]
        return [score.decode() if isinstance(score, bytes) else str(score)]
    return read


MRPC: list[Template | str] = [
    "Do these two sentences say the same thing?\n\n{sentence1}\n{sentence2}",
    "First: {sentence1}\nSecond: {sentence2}\n\nIs the second one a paraphrase of the first?",
    '"{sentence1}"\n"{sentence2}"\nCould one newspaper print either of these lines without changing the story?',
    "{sentence1}\n\nSomeone put it like this: {sentence2}\nDid they keep the meaning?",
    "Two agencies report.\nA: {sentence1}\nB: {sentence2}\nIs the message of A and B equivalent?",
    "sentence 1: {sentence1}\nsentence 2: {sentence2}\nsame meaning?",
    "Leave the wording aside and look at the content only. Are these equal?\n- {sentence1}\n- {sentence2}",
    'I rewrote "{sentence1}" as "{sentence2}" Is that a faithful rewrite?',
    Template("{sentence1}\n\nWrite a sentence that {relation} the one above.", "{sentence2}"),
    Template("Write a line of news in such a way that the following one {relation} it: {sentence2}", "{sentence1}"),
]

QQP: list[Template | str] = [
    "Would one answer serve both questions?\n\n{question1}\n{question2}",
    "Question 1: {question1}\nQuestion 2: {question2}\nAre they duplicates?",
    "Someone asks on our forum: {question1}\nAn older thread is called: {question2}\nShould the threads be merged?",
    '"{question1}" and "{question2}": do they ask for the same thing?',
    "{question1}\nIs that just another way to ask the following? {question2}",
    "Decide if the writer of A would be happy with an answer to B.\nA: {question1}\nB: {question2}",
    "these two mean the same right?\n1) {question1}\n2) {question2}",
    "Compare the intent of two users.\nUser one: {question1}\nUser two: {question2}\nIs the intent identical?",
    Template("{question1}\n\nGive me a question on this topic that {relation} the one above.", "{question2}"),
    Template(
        "Here is a question: {question2}\nWrite a similar one such that the given question {relation} it.",
        "{question1}",
    ),
]

PAWS: list[Template | str] = [
    "{sentence1}\n{sentence2}\n\nThese sentences share most of their words. Do they share their meaning?",
    "Is it a paraphrase or not?\nOriginal: {sentence1}\nCandidate: {sentence2}",
    'Pay attention to the order of the words. Does "{sentence2}" state what "{sentence1}" states?',
    "Sentence A: {sentence1}\nSentence B: {sentence2}\nIf A is true, is B true, and the other way round?",
    "An editor replaces the first sentence by the second one. Does the article still say the same?\n\n"
    "{sentence1}\n\n{sentence2}",
    "Tell me if both of these describe the same facts:\n* {sentence1}\n* {sentence2}",
    "x = {sentence1}\ny = {sentence2}\nx and y equivalent?",
    "{sentence1}\nCan I say it like this without changing anything that matters? {sentence2}",
    Template(
        "Use nearly the same words as below and form a sentence that {relation} it.\n\n{sentence1}",
        "{sentence2}",
    ),
    Template('"{sentence2}"\nReorder or reword this so that the quoted sentence {relation} yours.', "{sentence1}"),
]

STSB: list[Template | str] = [
    "On a scale from 0 to 5, how alike in meaning are these sentences?\n\n{sentence1}\n{sentence2}",
    "Rate how close the two texts are, 0 for unrelated and 5 for equal in meaning.\n1: {sentence1}\n2: {sentence2}",
    "{sentence1}\n{sentence2}\nHow many of 5 points does this pair get for similarity of meaning?",
    "Sentence one: {sentence1}\nSentence two: {sentence2}\nSimilarity as a whole number from 0 to 5:",
    '"{sentence1}" versus "{sentence2}": from 0 (nothing in common) to 5 (the same), where do they stand?',
    "We collect judgements of meaning. 5 means that two sentences could replace each other, 0 that they are about"
    " different things. What do you give this pair?\n- {sentence1}\n- {sentence2}",
    Template(
        "Give a score from 0.0 to 5.0, with one decimal, for how alike these are in meaning.\n{sentence1}\n{sentence2}",
        "{score}",
    ),
    Template("First: {sentence1}\nSecond: {sentence2}\nSimilarity (one decimal, at most 5.0):", "{score}"),
    Template("{sentence1}\n\nWrite a sentence that {nearness} this one.", "{sentence2}"),
    Template(
        "Two sentences got {score} of 5 points for similarity of meaning. One is: {sentence2}\nWhat may the other be?",
        "{sentence1}",
    ),
]

add_flan_task(
    "glue_mrpc",
    cluster=CLUSTER,
    dataset="glue/mrpc",
    version="2.0.0",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=pair_row,
    templates=MRPC,
    metrics=[binary_f1("yes"), exact_match],
    postprocess_fn=as_label(NO_YES),
)

add_flan_task(
    "glue_qqp",
    cluster=CLUSTER,
    dataset="glue/qqp",
    version="2.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=qqp_row,
    templates=QQP,
    metrics=[binary_f1("yes"), exact_match],
    postprocess_fn=as_label(NO_YES),
)

add_flan_task(
    "paws_wiki",
    cluster=CLUSTER,
    dataset="paws_wiki",
    version="1.1.0",
    train=cap("train"),
    validation="validation[:200]",
    test="test",
    row=pair_row,
    templates=PAWS,
    metrics=[exact_match],
)

add_flan_task(
    "stsb",
    cluster=CLUSTER,
    dataset="glue/stsb",
    version="2.0.0",
    train="train[:-100]",
    validation="train[-100:]",
    test="validation",
    row=stsb_row,
    templates=STSB,
    metrics=[pearson, spearman],
    postprocess_fn=true_score,
)
