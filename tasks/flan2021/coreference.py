"""FLAN 2021, coreference: whom or what a pronoun stands for."""

import re
from typing import Any

from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import NO_YES, Row, labelled
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "coreference"

_AROUND_SPANS = " \t\n.,;:!?\"'"


def definite_pronoun_row(example: dict[str, Any]) -> Row | None:
    """`sentence`, `pronoun`, and `marked`: the sentence with stars around the pronoun, the first if it has several."""
    sentence, pronoun = example["sentence"], example["pronoun"]
    fields = {"sentence": sentence, "pronoun": pronoun, "marked": with_stars(sentence, pronoun, 0)}
    return labelled(fields, example["label"], example["candidates"])


def winogrande_row(example: dict[str, Any]) -> Row | None:
    """The sentence up to its gap as `context`, and as options both names, each with the rest of the sentence.

    So the model compares how likely the same words are after the one and the other, as FLAN has it. `first` and
    `second` are the names, `name` is the right one, `filled` the whole sentence. A sentence that begins with its gap
    leaves nothing to continue and is left out.
    """
    context, _, rest = example["sentence"].partition("_")
    names = (example["option1"].strip(), example["option2"].strip())
    filled = [f"{context}{name}{rest}" for name in names]
    fields = {"context": context, "first": names[0], "second": names[1]}
    return labelled(fields, example["label"], [name + rest for name in names], name=names, filled=filled)


def wsc_row(example: dict[str, Any]) -> Row | None:
    """`text` with stars around the pronoun (span 2), `pronoun`, `noun` (span 1), and `relation`: whether it refers."""
    pronoun = example["span2_text"].strip(_AROUND_SPANS)
    text = with_stars(example["text"], pronoun, example["span2_index"])
    fields = {"text": text, "noun": example["span1_text"], "pronoun": pronoun}
    return labelled(fields, example["label"], NO_YES, relation=("does not refer to", "refers to"))


def with_stars(text: str, phrase: str, index: int) -> str:
    """The text with a star on either side of a phrase.

    Args:
        text: the text.
        phrase: what is marked: whole words, in upper or lower case.
        index: number of the phrase's first word, as white space parts words, from 0. Data sets count not quite alike,
            so the phrase nearest to this word is marked.

    Returns:
        The marked text; the text itself if it does not have the phrase.
    """
    words = [word.start() for word in re.finditer(r"\S+", text)]
    near = words[index] if index < len(words) else len(text)
    places = list(re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))
    if not places:
        return text
    start, end = min((place.span() for place in places), key=lambda span: abs(span[0] - near))
    return f"{text[:start]}*{text[start:end]}*{text[end:]}"


DEFINITE_PRONOUN: list[Template | str] = [
    '{sentence}\n\nWho or what is meant by "{pronoun}"?',
    'Whom or what does the pronoun "{pronoun}" stand for here?\n{sentence}',
    "Sentence: {sentence}\nPronoun: {pronoun}\nRefers to:",
    "{marked}\nReplace the word between stars by what it refers to. Give only the replacement.",
    "In the next sentence a pronoun is marked with stars. Name its antecedent.\n\n{marked}",
    'I don\'t understand the "{pronoun}" in this sentence, who or what is it? {sentence}',
    'Find the noun phrase that "{pronoun}" points back to.\n{sentence}',
    '"{marked}"\nA translator has to know what the marked word refers to. Tell them.',
    Template('Write a sentence in which the pronoun "{pronoun}" refers to {answer}.', "{sentence}"),
    Template('Give an example of a sentence that only makes sense if "{pronoun}" means {answer}.', "{sentence}"),
]

WINOGRANDE: list[Template | str] = [
    "{context}\n\nGo on in the way that makes sense.",
    "Finish this text sensibly: {context}",
    "What comes next, if the whole is to be reasonable?\n{context}",
    "Text: {context}\nRest of the text:",
    "It may be {first} or {second}, and only one of them fits. Complete the sentence.\n\n{context}",
    "The second half of the following was lost. Restore it.\n\n{context}",
    "{context} ...\nhow does that continue?",
    "Think about who or what the end of this is about, {first} or {second}, and write the end: {context}",
    Template("Write something that mentions both {first} and {second} and whose end is about {name}.", "{filled}"),
    Template("A sentence ends like this: {answer}\nHow may it begin?", "{context}"),
]

WSC: list[Template | str] = [
    "{text}\n\nDoes the pronoun between stars refer to {noun}?",
    'Is it {noun} that "{pronoun}" stands for in the text below?\n\n{text}',
    "Text: {text}\nPronoun: *{pronoun}*\nCandidate: {noun}\nDo they name the same thing or person?",
    'Read this: {text}\nWould it keep its meaning with "{noun}" in the place of the marked pronoun?',
    "{text}\nSomeone believes that *{pronoun}* means {noun}. Are they right?",
    "Check the link between pronoun and noun.\npronoun: {pronoun} (marked with stars)\nnoun: {noun}\ntext: {text}",
    "*{pronoun}* = {noun}, true of the following?\n\n{text}",
    "Use common sense to settle whether the starred word is about {noun}. {text}",
    Template("Write a short text that mentions {noun}, with a pronoun between stars that {relation} {noun}.", "{text}"),
    Template("Give an example of a sentence in which *{pronoun}*, marked so, {relation} {noun}.", "{text}"),
]

add_flan_task(
    "definite_pronoun_resolution",
    cluster=CLUSTER,
    dataset="definite_pronoun_resolution",
    version="1.1.0",
    train="train[:-200]",
    validation="train[-200:]",
    test="test",
    row=definite_pronoun_row,
    templates=DEFINITE_PRONOUN,
    metrics=[exact_match],
)

add_flan_task(
    "winogrande",
    cluster=CLUSTER,
    dataset="winogrande",
    version="1.1.0",
    train=cap("train_xl[:-200]"),
    validation="train_xl[-200:]",
    test="validation",
    row=winogrande_row,
    templates=WINOGRANDE,
    metrics=[exact_match],
)

add_flan_task(
    "wsc",
    cluster=CLUSTER,
    dataset="super_glue/wsc",
    version="1.0.2",
    train="train[:-50]",
    validation="train[-50:]",
    test="validation",
    row=wsc_row,
    templates=WSC,
    metrics=[exact_match],
)
