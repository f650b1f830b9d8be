"""Metric functions of tasks, in seqio's convention and in per cent.

Each takes `targets` and `predictions` of the same length and returns {name: value}, value in
0 to 100. A target is a text, or a list of texts of which any one is right: the best counts.
"""

import collections
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from t5x_instruct.common.errors import DataError

Target = str | Sequence[str]
T = TypeVar("T")
P = TypeVar("P")

_LEADING_ARTICLE = re.compile(r"^(?:a|an|the)\s+(?=\S)")
_AROUND = " \t\n\r\"'“”‘’`*"
_FINAL = ".,;:!?"


def normalize(text: str) -> str:
    """The form in which answers are compared.

    Unicode NFKC and lower case; white space runs become one space; white space, quotation marks and
    asterisks around the text, punctuation at its end, and one article (a, an, the) at its start
    are dropped. A text of nothing but these is kept, so that '?' still equals '?' alone.
    Accents count, and so does everything inside the text.

    Args:
        text: an answer.

    Returns:
        The normalised answer.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = plain
    while bare != (shorter := bare.strip(_AROUND).rstrip(_FINAL)):
        bare = shorter
    return _LEADING_ARTICLE.sub("", bare or plain)


def exact_match(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to an accepted answer after `normalize`.

    Args:
        targets: accepted answers of each example.
        predictions: one text for each example.

    Returns:
        {'exact_match': per cent}.

    Raises:
        DataError: no examples, or lengths that differ.
    """
    return {"exact_match": _mean(_same_normalized, targets, predictions)}


def sequence_accuracy(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to an accepted answer letter for letter, case included.

    Only white space around the texts is ignored. Arguments and errors as in `exact_match`.

    Returns:
        {'sequence_accuracy': per cent}.
    """
    return {"sequence_accuracy": _mean(_same_letters, targets, predictions)}


def token_f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean F1 of the words shared with the best accepted answer, after `normalize`.

    Words count as often as they occur. Arguments and errors as in `exact_match`.

    Returns:
        {'token_f1': per cent}.

    Source: Rajpurkar et al. 2016, SQuAD, section 6.1 (with the normalisation stated here).
    """
    return {"token_f1": _mean(_word_f1, targets, predictions)}


def rouge_l(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-L F-measure against the best accepted answer, with Porter stemming.

    Arguments and errors as in `exact_match`.

    Returns:
        {'rouge_l': per cent}.

    Source: Lin 2004, ROUGE; the rouge-score package.
    """
    return {"rouge_l": _mean(_rouge_l_score, targets, predictions)}


def accepted_answers(target: Target) -> list[str]:
    """The accepted answers of a target, which is one text or a list of texts."""
    return [target] if isinstance(target, str) else list(target)


def paired(targets: Sequence[T], predictions: Sequence[P]) -> list[tuple[T, P]]:
    """Targets with their predictions.

    Raises:
        DataError: no examples, or lengths that differ.
    """
    if len(targets) != len(predictions) or not targets:
        raise DataError(
            f"a metric needs as many predictions as targets and at least one,"
            f" got {len(targets)} targets and {len(predictions)} predictions"
        )
    return list(zip(targets, predictions, strict=True))


def _mean(score: Callable[[str, str], float], targets: Sequence[Target], predictions: Sequence[str]) -> float:
    pairs = paired(targets, predictions)
    total = sum(
        max((score(answer, prediction) for answer in accepted_answers(target)), default=0.0)
        for target, prediction in pairs
    )
    return 100.0 * total / len(pairs)


def _same_normalized(answer: str, prediction: str) -> float:
    return float(normalize(answer) == normalize(prediction))


def _same_letters(answer: str, prediction: str) -> float:
    return float(answer.strip() == prediction.strip())


def _word_f1(answer: str, prediction: str) -> float:
    wanted, given = normalize(answer).split(), normalize(prediction).split()
    if not wanted or not given:
        return float(wanted == given)
    shared = sum((collections.Counter(wanted) & collections.Counter(given)).values())
    return 2.0 * shared / (len(wanted) + len(given))


def _rouge_l_score(answer: str, prediction: str) -> float:
    return float(_rouge_scorer().score(answer, prediction)["rougeL"].fmeasure)


@functools.cache
def _rouge_scorer() -> Any:
    # Imported at first use: it loads nltk, which tasks with other metrics need not pay for.
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
