"""FLAN 2021, entailment: whether a text follows from another one."""

from typing import Any

from t5x_instruct.evaluation.label_metrics import macro_f1
from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import NO_YES, THREE_WAY, YES_NO, Row, as_label, labelled
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "entailment"
CB_OPTIONS = ("yes", "no", "it is not possible to tell")
"""CommitmentBank has contradiction before neutral."""

# What a text makes of a statement, for templates that have one of them written; in the order of THREE_WAY.
_RELATION = ("must be true", "may or may not be true", "cannot be true")


def anli_row(example: dict[str, Any]) -> Row | None:
    """`context` and `hypothesis`; `relation` says in words how they stand to each other, as in all rows here."""
    fields = {"context": example["context"], "hypothesis": example["hypothesis"]}
    return labelled(fields, example["label"], THREE_WAY, relation=_RELATION)


def nli_row(example: dict[str, Any]) -> Row | None:
    """MNLI and SNLI: `premise`, `hypothesis`; SNLI's pairs without a common verdict (-1) are left out."""
    fields = {"premise": example["premise"], "hypothesis": example["hypothesis"]}
    return labelled(fields, example["label"], THREE_WAY, relation=_RELATION)


def cb_row(example: dict[str, Any]) -> Row | None:
    """As `nli_row`, with the labels in CommitmentBank's order."""
    fields = {"premise": example["premise"], "hypothesis": example["hypothesis"]}
    relation = (_RELATION[0], _RELATION[2], _RELATION[1])
    return labelled(fields, example["label"], CB_OPTIONS, relation=relation)


def rte_row(example: dict[str, Any]) -> Row | None:
    """`premise`, `hypothesis`; the label 0 means that it follows."""
    fields = {"premise": example["premise"], "hypothesis": example["hypothesis"]}
    return labelled(fields, example["label"], YES_NO, relation=("follows from", "does not follow from"))


def qnli_row(example: dict[str, Any]) -> Row | None:
    """`question`, `sentence`; the label 0 means that the sentence holds the answer."""
    fields = {"question": example["question"], "sentence": example["sentence"]}
    return labelled(fields, example["label"], YES_NO, relation=("answers", "does not answer"))


def wnli_row(example: dict[str, Any]) -> Row | None:
    """`sentence1`, and `sentence2` with its pronoun replaced; the label 1 means that it follows."""
    fields = {"sentence1": example["sentence1"], "sentence2": example["sentence2"]}
    return labelled(fields, example["label"], NO_YES, relation=("does not follow from", "follows from"))


ANLI: list[Template | str] = [
    "{context}\n\nGoing by this paragraph alone, is the next sentence true?\n{hypothesis}",
    "Claim: {hypothesis}\nSource: {context}\nDoes the source back the claim?",
    "Read the passage and judge the statement.\n\n{context}\n\nStatement: {hypothesis}\nIs the statement right?",
    '"{hypothesis}"\n\nSomebody told me this after reading the following text. Did they get it right?\n\n{context}',
    "Suppose every word here is true:\n{context}\n\nMust the following be true as well?\n{hypothesis}",
    "You are checking facts for a magazine. This is all you know:\n{context}\n\n"
    "A writer wants to print: {hypothesis}\nCan it be printed as a fact?",
    "text: {context}\nhypothesis: {hypothesis}\nverdict on the hypothesis:",
    "Is this correct? {hypothesis}\nDecide with nothing but this information.\n\n{context}",
    Template("{context}\n\nIf every word of that is right, which statement {relation}? Make one up.", "{hypothesis}"),
    Template(
        "Here is a statement: {hypothesis}\nWrite a short passage that shows that the statement {relation}.",
        "{context}",
    ),
]

CB: list[Template | str] = [
    "{premise}\n\nDoes the speaker take it to be true that {hypothesis}?",
    "Someone says or writes:\n{premise}\n\nMay we conclude: {hypothesis}?",
    "Would you say that {hypothesis}, given this piece of text?\n\n{premise}",
    "Passage: {premise}\nConclusion: {hypothesis}\nDoes the conclusion hold?",
    "I overheard this: {premise}\nSo is it the case that {hypothesis}?",
    "Look closely at what the writer commits to.\n{premise}\nIs the writer committed to the following: {hypothesis}?",
    "{hypothesis}: is that so, to judge by the next lines?\n{premise}",
    "Take the text at its word. {premise}\n\nIs it then true that {hypothesis}?",
    Template("{premise}\n\nNow write a statement that {relation} if you take this at its word.", "{hypothesis}"),
    Template(
        "Write a snippet of dialogue or prose. Whoever reads it should see that this {relation}: {hypothesis}",
        "{premise}",
    ),
]

RTE: list[Template | str] = [
    "{premise}\n\nFrom the text above, can you conclude the following?\n{hypothesis}",
    "News: {premise}\nHeadline: {hypothesis}\nIs the headline justified by the news?",
    '"{hypothesis}" Is that something this paragraph tells us?\n\n{premise}',
    "We read: {premise}\nA pupil sums it up like this: {hypothesis}\nIs the pupil right?",
    "Text: {premise}\n\nQuestion: does the text imply this? {hypothesis}",
    "If I believe the first text, do I have to believe the second one too?\n\n1. {premise}\n2. {hypothesis}",
    "Statement to check: {hypothesis}\nEvidence: {premise}\nIs the evidence enough?",
    "{premise}\nHaving read that, would you put your name to this sentence? {hypothesis}",
    Template("{premise}\n\nWrite one sentence that {relation} the paragraph above.", "{hypothesis}"),
    Template("Sentence: {hypothesis}\n\nWrite a paragraph of news such that the sentence {relation} it.", "{premise}"),
]

MNLI: list[Template | str] = [
    "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?",
    "{premise}\n\nIf that is so, is the next sentence true?\n{hypothesis}",
    "Is this certain? {hypothesis}\nAll that is known: {premise}",
    'Someone states: "{premise}" Does that mean: "{hypothesis}"?',
    "Compare the two sentences. Does the second follow from the first?\n(1) {premise}\n(2) {hypothesis}",
    "{hypothesis}\n\nCould a careful reader infer the line above from the line below?\n\n{premise}",
    "Given: {premise}\nTo decide: {hypothesis}",
    'hey quick one: "{premise}" so that means "{hypothesis}", right?',
    Template("{premise}\n\nGiven the line above, think of a sentence that {relation}.", "{hypothesis}"),
    Template("Write a premise under which the following {relation}: {hypothesis}", "{premise}"),
]

QNLI: list[Template | str] = [
    "Does this sentence answer the question?\n\nQuestion: {question}\nSentence: {sentence}",
    "{sentence}\n\nIs that enough to answer the following? {question}",
    'A search for "{question}" found this line:\n{sentence}\nIs the answer in it?',
    "{question}\n\nCan I learn it from the following sentence?\n{sentence}",
    "You asked: {question}\nYou were told: {sentence}\nHas your question been answered?",
    "Mark whether the sentence holds the answer.\nsentence: {sentence}\nquestion: {question}",
    "Context: {sentence}\nSomeone wants to know: {question}\nWill the context tell them?",
    "I need to know this: {question} Would it help me to read the following? {sentence}",
    Template("Sentence: {sentence}\nWrite a question on the same subject which the sentence {relation}.", "{question}"),
    Template("{question}\nWrite a sentence from an encyclopedia that {relation} this question.", "{sentence}"),
]

WNLI: list[Template | str] = [
    "{sentence1}\n\nDoes that mean the following? {sentence2}",
    "If the first sentence is true, is the second true as well?\nFirst: {sentence1}\nSecond: {sentence2}",
    "Somebody read this: {sentence1}\nThey took it to say: {sentence2}\nDid they understand it rightly?",
    'Can "{sentence2}" be concluded from "{sentence1}"?',
    "{sentence2}\nIs this what the next sentence says, once you know what its pronouns stand for?\n{sentence1}",
    "Mind the pronouns: {sentence1}\nIs it right to say: {sentence2}",
    "Text: {sentence1}\nReading: {sentence2}\nIs the reading correct?",
    "Work out what every pronoun refers to, then answer. {sentence1} So, does this hold? {sentence2}",
    Template("{sentence1}\n\nReplace a pronoun so that the new sentence {relation} the one above.", "{sentence2}"),
    Template(
        '"{sentence2}"\nWrite a longer sentence with a pronoun, such that the quoted one {relation} it.',
        "{sentence1}",
    ),
]

SNLI: list[Template | str] = [
    "A photo shows this: {premise}\nIs the following then true of the photo? {hypothesis}",
    "{premise}\nDoes this follow? {hypothesis}",
    "Scene: {premise}\nStatement: {hypothesis}\nIs the statement true of the scene?",
    'Picture caption: "{premise}"\nAnother caption for this picture: "{hypothesis}"\nMust the second one fit as well?',
    "Imagine the following. {premise} Would you then agree with this? {hypothesis}",
    "Is this sentence bound to be true? {hypothesis}\nYou may use only what is said here: {premise}",
    "{hypothesis}\nTrue, if we know the following?\n{premise}",
    "sentence a = {premise}\nsentence b = {hypothesis}\ndoes a imply b?",
    Template(
        "Caption of a photo: {premise}\nWrite a statement about the photo which, given this caption, {relation}.",
        "{hypothesis}",
    ),
    Template(
        "Statement: {hypothesis}\nDescribe a scene in one sentence. In this scene the statement {relation}.",
        "{premise}",
    ),
]

for _round in ("r1", "r2", "r3"):
    add_flan_task(
        f"anli_{_round}",
        cluster=CLUSTER,
        dataset=f"anli/{_round}",
        version="0.1.0",
        train="train" if _round == "r1" else cap("train"),
        validation="validation[:200]",
        test="test",
        row=anli_row,
        templates=ANLI,
        metrics=[exact_match],
    )

add_flan_task(
    "cb",
    cluster=CLUSTER,
    dataset="super_glue/cb",
    version="1.0.2",
    train="train[:-50]",
    validation="train[-50:]",
    test="validation",
    row=cb_row,
    templates=CB,
    metrics=[exact_match, macro_f1(CB_OPTIONS)],
    postprocess_fn=as_label(CB_OPTIONS),
)

add_flan_task(
    "rte",
    cluster=CLUSTER,
    dataset="super_glue/rte",
    version="1.0.2",
    train="train[:-200]",
    validation="train[-200:]",
    test="validation",
    row=rte_row,
    templates=RTE,
    metrics=[exact_match],
)

for _genres in ("matched", "mismatched"):
    add_flan_task(
        f"mnli_{_genres}",
        cluster=CLUSTER,
        dataset="glue/mnli",
        version="2.0.0",
        train=cap("train[:-200]"),
        validation="train[-200:]",
        test=f"validation_{_genres}",
        row=nli_row,
        templates=MNLI,
        metrics=[exact_match],
    )

add_flan_task(
    "qnli",
    cluster=CLUSTER,
    dataset="glue/qnli",
    version="2.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=qnli_row,
    templates=QNLI,
    metrics=[exact_match],
)

add_flan_task(
    "wnli",
    cluster=CLUSTER,
    dataset="glue/wnli",
    version="2.0.0",
    train="train[:-30]",
    validation="train[-30:]",
    test="validation",
    row=wnli_row,
    templates=WNLI,
    metrics=[exact_match],
)

add_flan_task(
    "snli",
    cluster=CLUSTER,
    dataset="snli",
    version="1.1.0",
    train=cap("train"),
    validation="validation[:200]",
    test="test",
    row=nli_row,
    templates=SNLI,
    metrics=[exact_match],
)
