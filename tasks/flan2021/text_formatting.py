"""FLAN 2021, text_formatting: capitals, punctuation and spaces put back into English text.

All three take their rows from one data set: each its own part for training and validation, and the same last rows to
be tested on.
"""

import unicodedata
from typing import Any

from t5x_instruct.evaluation.translation_metrics import edit_distance
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row
from tasks.flan2021.registry import add_flan_task

CLUSTER = "text_formatting"
DATASET = "para_crawl/enda"
TRAIN, VALIDATION = 30_000, 200
TEST = "train[-3000:]"


def lower(text: str) -> str:
    """The text without capitals."""
    return text.lower()


def without_punctuation(text: str) -> str:
    """The text without punctuation of any script; where it leaves several spaces, there is one."""
    kept = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    return " ".join(kept.split())


def without_spaces(text: str) -> str:
    """The text without any white space."""
    return "".join(text.split())


def true_case_row(example: dict[str, Any]) -> Row | None:
    """`lower` and the answer, the text itself; texts without capitals are left out."""
    text = _tidy(example["en"])
    return {"lower": lower(text), "answer": text} if text != lower(text) else None


def fix_punct_row(example: dict[str, Any]) -> Row | None:
    """`bare` and the answer; texts without punctuation, and of nothing else, are left out."""
    text = _tidy(example["en"])
    bare = without_punctuation(text)
    return {"bare": bare, "answer": text} if bare and bare != text else None


def word_segment_row(example: dict[str, Any]) -> Row | None:
    """`joined` and the answer; texts of a single word are left out."""
    text = _tidy(example["en"])
    return {"joined": without_spaces(text), "answer": text} if text != without_spaces(text) else None


def _tidy(text: str) -> str:
    """The text with one space where there is white space: how wide a gap was cannot be told from its words."""
    return " ".join(text.split())


TRUE_CASE: list[Template | str] = [
    "{lower}\n\nWrite that again with capital letters where English has them.",
    "Put the capitals back: {lower}",
    "My shift key is broken. Please fix the case of this text for me.\n{lower}",
    "lower case: {lower}\nproper case:",
    "Which letters have to be capitals here? Answer with the corrected text.\n\n{lower}",
    "{lower}\nRestore the original upper and lower case, and change nothing else.",
    "i typed this on my phone, can you capitalize it right?\n\n{lower}",
    "An old terminal turned all letters small. Recover what was written: {lower}",
    Template("Write this without any capital letters.\n{answer}", "{lower}"),
    Template("{answer}\n\nThe same, in lower case only:", "{lower}"),
]

PUNCTUATION: list[Template | str] = [
    "{bare}\n\nAdd the punctuation that is missing.",
    "Where do commas, full stops and other marks belong? Write out the text with them.\n{bare}",
    "Punctuate: {bare}",
    "The marks were lost when this text was copied. Put them back in.\n\n{bare}",
    "text without punctuation: {bare}\ntext with punctuation:",
    'Please make this readable by setting its punctuation marks; leave the words as they are.\n"{bare}"',
    "{bare}\nim bad at punctuation, how should that look",
    "As a copy editor you only touch punctuation. Edit the following line.\n\n{bare}",
    Template("{answer}\n\nStrip all punctuation from that.", "{bare}"),
    Template("Copy the words below and leave out every punctuation mark.\n{answer}", "{bare}"),
]

SEGMENTATION: list[Template | str] = [
    "{joined}\n\nThe spaces have gone missing. Write the text with them.",
    "Split this into words: {joined}",
    "Where does one word end and the next begin? {joined}",
    "Put spaces back into the following.\n{joined}",
    "joined: {joined}\nsplit:",
    "A scanner swallowed all blanks on this page. What did the page say?\n\n{joined}",
    "{joined}\nmy space bar doesnt work, can u add the spaces",
    "Segment the string into English words and punctuation as it would be printed.\n\nstring = {joined}",
    Template("{answer}\n\nWrite this with no spaces at all.", "{joined}"),
    Template("Glue the words of the next line together.\n{answer}", "{joined}"),
]

for _part, (_name, _row, _templates) in enumerate(
    [
        ("true_case", true_case_row, TRUE_CASE),
        ("fix_punct", fix_punct_row, PUNCTUATION),
        ("word_segment", word_segment_row, SEGMENTATION),
    ]
):
    _first = _part * (TRAIN + VALIDATION)
    _middle = _first + TRAIN
    add_flan_task(
        _name,
        cluster=CLUSTER,
        dataset=DATASET,
        version="1.2.0",
        train=f"train[{_first}:{_middle}]",
        validation=f"train[{_middle}:{_middle + VALIDATION}]",
        test=TEST,
        row=_row,
        templates=_templates,
        metrics=[edit_distance],
    )
