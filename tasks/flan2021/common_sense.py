"""FLAN 2021, common_sense: how a situation goes on, why it came about, and how things are done."""

import re
from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row, labelled
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "common_sense"

_STORY_CLOZE = (
    "ask for ROCStories at https://www.cs.rochester.edu/nlp/rocstories/, name the 2016 files"
    " cloze_test_val__spring2016.csv and cloze_test_test__spring2016.csv, and put them into TFDS's manual folder"
)

# How COPA's question is put, by its word: what is asked for, how the premise goes on, and the question turned round.
_CAUSE = {
    "asks": "What was the cause of this?",
    "sought": "cause",
    "connector": "because",
    "reverse": "What did this bring about?",
}
_EFFECT = {
    "asks": "What happened as a result?",
    "sought": "effect",
    "connector": "so",
    "reverse": "What brought this about?",
}


def copa_row(example: dict[str, Any]) -> Row | None:
    """`premise`, and the words of `_CAUSE` or `_EFFECT`; `clause` is the premise without its full stop."""
    premise = example["premise"].strip()
    words = _CAUSE if example["question"] == "cause" else _EFFECT
    fields = {"premise": premise, "clause": premise.rstrip("."), **words}
    return labelled(fields, example["label"], (example["choice1"], example["choice2"]))


def hellaswag_row(example: dict[str, Any]) -> Row | None:
    """`context` and `activity`, with the marks of WikiHow's headings and steps turned into line breaks."""
    fields = {"context": without_marks(example["context"]), "activity": example["activity_label"]}
    return labelled(fields, example["label"], [without_marks(ending) for ending in example["endings"]])


def without_marks(text: str) -> str:
    """HellaSwag's text without '[header]'; '[title]', '[step]' and '[substeps]' become line breaks."""
    text = re.sub(r"\[header\]\s*", "", text)
    return re.sub(r"\s*\[(?:title|step|substeps)\]\s*", "\n", text).strip()


def story_cloze_row(example: dict[str, Any]) -> Row | None:
    """`context`, four sentences; labels count from 1."""
    return labelled({"context": example["context"]}, example["label"] - 1, example["endings"])


def piqa_row(example: dict[str, Any]) -> Row | None:
    """`goal`, and two ways to reach it."""
    return labelled({"goal": example["goal"]}, example["label"], (example["sol1"], example["sol2"]))


COPA: list[Template | str] = [
    "{premise} {asks}",
    "{asks}\n\n{premise}",
    "Complete the sentence with the likelier ending: {clause} {connector}",
    "Something happened: {premise}\nFind its most plausible {sought}.",
    "I will tell you a fact, you tell me its {sought}. Fact: {premise}",
    "{premise}\n\nThink of everyday life. Which {sought} is the most likely one?",
    "event: {premise}\n{sought}:",
    'A child looks at you and says: "{premise} {asks}" What do you say?',
    Template("{answer} {reverse}", "{premise}"),
    Template("Here is the {sought} of something: {answer}\nWhat is that something?", "{premise}"),
]

HELLASWAG: list[Template | str] = [
    "How does this go on?\n\n{context}",
    "{context}\n\nChoose what most likely comes next.",
    "Topic: {activity}\n{context}\nThe text continues:",
    "Continue in a way that makes sense in the real world.\n{context}",
    "Someone describes: {activity}. They begin like this:\n\n{context}\n\nWhat do they say next?",
    "You see the beginning of a clip or a guide. Predict the rest.\n\n{context}",
    '"{context}" and then?',
    "Which ending belongs to this beginning?\n\nBeginning: {context}",
    Template("{context} {answer}\n\nGive this text a short title.", "{activity}"),
    Template(
        'Here is the end of a text on the topic "{activity}":\n{answer}\nWrite what comes before it.', "{context}"
    ),
]

STORY_CLOZE: list[Template | str] = [
    "{context}\n\nHow does the story end?",
    "Here are four sentences of a story. Finish it with a fitting fifth one.\n{context}",
    "Story: {context}\nLast sentence:",
    "What is the natural ending of this little tale?\n\n{context}",
    "{context} Which sentence should come now?",
    'A friend tells you this and pauses: "{context}" How do you think it went on?',
    "Read the story and pick an ending that does not contradict it.\n\n{context}",
    "so this happened: {context}\nguess the ending",
    Template("Write the first four sentences of a story that closes with: {answer}", "{context}"),
    Template("{answer}\n\nThat was the end of a short story. What happened before?", "{context}"),
]

PIQA: list[Template | str] = [
    "{goal}\n\nWhat is the better way to do it?",
    "How would you do this? {goal}",
    "Goal: {goal}\nSolution:",
    "I want to reach the following goal. Which way works in practice?\n{goal}",
    "Give the advice that a handy person would give.\n\n{goal}",
    'Someone asks you "{goal}" Recommend what really works.',
    "Think about the things involved and how they behave. Then choose a method.\nTask: {goal}",
    "help me out pls: {goal}",
    Template("What is somebody trying to achieve who does this?\n{answer}", "{goal}"),
    Template("Instruction: {answer}\n\nState the goal that this instruction serves.", "{goal}"),
]

add_flan_task(
    "copa",
    cluster=CLUSTER,
    dataset="super_glue/copa",
    version="1.0.2",
    train="train[:-50]",
    validation="train[-50:]",
    test="validation",
    row=copa_row,
    templates=COPA,
    metrics=[exact_match],
)

add_flan_task(
    "hellaswag",
    cluster=CLUSTER,
    dataset="hellaswag",
    version="1.1.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=hellaswag_row,
    templates=HELLASWAG,
    metrics=[exact_match],
)

add_flan_task(
    "story_cloze",
    cluster=CLUSTER,
    dataset="story_cloze/2016",
    version="1.0.0",
    train="validation[:-200]",
    validation="validation[-200:]",
    test="test",
    row=story_cloze_row,
    templates=STORY_CLOZE,
    metrics=[exact_match],
    manual=_STORY_CLOZE,
)

add_flan_task(
    "piqa",
    cluster=CLUSTER,
    dataset="piqa",
    version="1.0.0",
    train="train[:-100]",
    validation="train[-100:]",
    test="validation",
    row=piqa_row,
    templates=PIQA,
    metrics=[exact_match],
)
