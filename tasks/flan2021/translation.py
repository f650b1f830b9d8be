"""FLAN 2021, translation: from English into another language, and with some templates the other way round."""

import functools
from typing import Any

from t5x_instruct.evaluation.translation_metrics import bleu
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.labelled import Row
from tasks.flan2021.registry import add_flan_task, cap

CLUSTER = "translation"

WMT16 = {"de": "German", "tr": "Turkish", "cs": "Czech", "fi": "Finnish", "ro": "Romanian", "ru": "Russian"}
"""The languages of WMT 16, each of them paired with English."""

_MANUAL = {
    "cs": "register at http://ufal.mff.cuni.cz/czeng/czeng16pre, download czeng16pre.deduped-ignoring-sections.txt.gz"
    " and put it into TFDS's manual folder",
    "ru": "download 1mcorpus.zip from https://translate.yandex.ru/corpus?lang=en and put it into TFDS's manual folder",
}


def pair_row(language: str, code: str, example: dict[str, Any]) -> Row | None:
    """A sentence in both languages: `english`, and the other one as the answer.

    Args:
        language: the other language's name, kept as the field `language`.
        code: the builder's feature for it.
        example: the example; pairs with an empty side, which crawled texts have, are left out.
    """
    english, other = example["en"].strip(), example[code].strip()
    if not english or not other:
        return None
    return {"english": english, "language": language, "answer": other}


CRAWLED: list[Template | str] = [
    "Translate into {language}:\n{english}",
    "{english}\n\nWhat would the {language} version of this web page say?",
    "English: {english}\n{language}:",
    "Write this text in {language}. {english}",
    "A shop has this line on its English pages. Make one for its {language} pages.\n\n{english}",
    "how do i say this in {language}?\n{english}",
    'Give the {language} for "{english}"',
    Template("Translate from {language} into English:\n{answer}", "{english}"),
    Template("{answer}\n\nI do not read {language}. What does it say?", "{english}"),
    Template("{language}: {answer}\nEnglish:", "{english}"),
]

WMT14: list[Template | str] = [
    "{english}\n\nTranslate this into {language}.",
    "Please put the following speech into {language}.\n{english}",
    "You are an interpreter from English to {language}. You hear: {english}",
    "source (English): {english}\ntarget ({language}):",
    "Here is a sentence in English. Say the same in {language}: {english}",
    "What is the {language} for the next sentence?\n\n{english}",
    'Render in {language}, close to the original: "{english}"',
    Template("{answer}\n\nTranslate this into English.", "{english}"),
    Template('An English newspaper quotes somebody who said in {language}: "{answer}" Write the quote.', "{english}"),
    Template("Turn the {language} sentence into an English one.\n{answer}", "{english}"),
]

NEWS: list[Template | str] = [
    "How would a {language} newspaper write this?\n{english}",
    "Translate from English to {language}.\n\n{english}",
    "{english}\n\nNow the same in {language}, please.",
    "English sentence: {english}\nIts {language} translation:",
    "Someone who knows only {language} wants to understand this. Help them: {english}",
    "Into {language}: {english}",
    'Tell me in {language} what it says here: "{english}"',
    Template("What does this {language} sentence mean in English?\n\n{answer}", "{english}"),
    Template("{answer}\n\nBring that from {language} into good English.", "{english}"),
    Template("This was translated into {language}: {answer}\nWhat was the English text?", "{english}"),
]

add_flan_task(
    "para_crawl_enes",
    cluster=CLUSTER,
    dataset="para_crawl/enes",
    version="1.2.0",
    train=cap("train[:-1200]"),
    validation="train[-1200:-1000]",
    test="train[-1000:]",
    row=functools.partial(pair_row, "Spanish", "es"),
    templates=CRAWLED,
    metrics=[bleu],
)

add_flan_task(
    "wmt14_enfr",
    cluster=CLUSTER,
    dataset="wmt14_translate/fr-en",
    version="1.0.0",
    train=cap("train"),
    validation="validation[:200]",
    test="test",
    row=functools.partial(pair_row, "French", "fr"),
    templates=WMT14,
    metrics=[bleu],
)

for _code, _language in WMT16.items():
    add_flan_task(
        f"wmt16_translate_{_code}en",
        cluster=CLUSTER,
        dataset=f"wmt16_translate/{_code}-en",
        version="1.0.0",
        train=cap("train"),
        validation="validation[:200]",
        test="test",
        row=functools.partial(pair_row, _language, _code),
        templates=NEWS,
        metrics=[bleu],
        manual=_MANUAL.get(_code),
    )
