"""Metric functions of tasks whose answer is a whole text to be met closely: BLEU and the edit distance.

They follow the convention of `metrics`: (targets, predictions) -> {name: per cent}.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_instruct.common.errors import DataError
from t5x_instruct.evaluation.metrics import Target, accepted_answers, paired


def bleu(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """BLEU of the whole corpus by sacrebleu, case counting, with the international tokenization.

    sacrebleu's signature is 'case:mixed|eff:no|tok:intl|smooth:exp', with as many references as an example accepts.

    Args:
        targets: accepted translations of each example, at least one each.
        predictions: one text for each example.

    Returns:
        {'bleu': per cent}.

    Raises:
        DataError: no examples, lengths that differ, or an example without an accepted translation.

    Source: Papineni et al. 2002, BLEU; Post 2018, A Call for Clarity in Reporting BLEU Scores. T5 and FLAN report it
        with these settings.
    """
    # Imported at first use: tasks with other metrics need not pay for it.
    import sacrebleu

    references = [accepted_answers(target) for target, _ in paired(targets, predictions)]
    for row, accepted in enumerate(references):
        if not accepted:
            raise DataError(f"example {row} accepts no translation; BLEU needs at least one for each example")
    most = max(map(len, references))
    streams: list[list[Any]] = [
        [accepted[i] if i < len(accepted) else None for accepted in references] for i in range(most)
    ]
    score = sacrebleu.corpus_bleu(list(predictions), streams, tokenize="intl").score
    return {"bleu": min(100.0, float(score))}  # rounding leaves a little more than 100


def edit_distance(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean share of characters that need an edit, to the nearest accepted text; case and spaces count.

    The distance of two texts is the least number of characters inserted, deleted or replaced (Levenshtein's), divided
    by the longer text's length: 0 for equal texts, 1 for texts that share nothing. White space around them is ignored.

    Args:
        targets: accepted texts of each example.
        predictions: one text for each example.

    Returns:
        {'edit_similarity': 100 - distance, 'edit_distance': per cent}: the first is for comparisons in which more is
        better, as with all other metrics.

    Raises:
        DataError: no examples, or lengths that differ.

    Source: Levenshtein 1966, Binary codes capable of correcting deletions, insertions, and reversals.
    """
    pairs = paired(targets, predictions)
    total = sum(
        min((_normalized_distance(answer.strip(), given.strip()) for answer in accepted_answers(target)), default=1.0)
        for target, given in pairs
    )
    distance = 100.0 * total / len(pairs)
    return {"edit_similarity": 100.0 - distance, "edit_distance": distance}


def levenshtein(a: str, b: str) -> int:
    """The least number of characters to insert, delete or replace that makes one text the other."""
    if len(a) < len(b):
        a, b = b, a
    if not b:
        return len(a)
    letters = np.array([ord(character) for character in b])
    places = np.arange(len(b) + 1)
    row = places
    for i, character in enumerate(a, start=1):
        # A whole row at once: replacements and deletions come from the row above; insertions run along the row,
        # and min over k <= j of (row[k] + j - k) is a running minimum of row[k] - k.
        above = np.minimum(row[:-1] + (letters != ord(character)), row[1:] + 1)
        row = np.minimum.accumulate(np.concatenate(([i], above)) - places) + places
    return int(row[-1])


def _normalized_distance(a: str, b: str) -> float:
    return levenshtein(a, b) / max(len(a), len(b), 1)
