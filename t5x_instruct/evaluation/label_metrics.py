"""Metric functions of tasks whose answers are labels or numbers, in the convention of `metrics` and in per cent.

F1 counts labels after `metrics.normalize`; correlations read an answer as a number.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.evaluation.metrics import Target, accepted_answers, normalize, paired

MetricFn = Callable[[Sequence[Target], Sequence[str]], dict[str, float]]

UNREADABLE = -1.0
"""What a prediction without a number counts as: below every score that is asked for, as in T5."""


def binary_f1(positive: str) -> MetricFn:
    """Makes the metric F1 of one of two labels.

    Every other text, wanted or given, counts as the other label. 0 where the positive label is neither wanted nor
    given, as in scikit-learn.

    Args:
        positive: the label whose precision and recall are meant.

    Returns:
        A metric function that returns {'f1': per cent}; it raises DataError for no examples, or lengths that differ.
    """

    def f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
        return {"f1": 100.0 * _label_f1(normalize(positive), _labels(targets, predictions))}

    return f1


def macro_f1(labels: Sequence[str]) -> MetricFn:
    """Makes the metric of the mean over labels of each label's F1.

    A label that is neither wanted nor given has F1 0; a prediction that is none of the labels is wrong for all.

    Args:
        labels: all labels of the task, at least one.

    Returns:
        A metric function that returns {'macro_f1': per cent}; it raises DataError for no examples, or lengths that
        differ.

    Raises:
        ConfigError: no labels, or two that are equal after `normalize`.
    """
    kept = [normalize(label) for label in labels]
    if not kept or len(set(kept)) < len(kept):
        raise ConfigError(f"macro F1 needs labels that differ, got {list(labels)}")

    def macro_f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
        pairs = _labels(targets, predictions)
        return {"macro_f1": 100.0 * sum(_label_f1(label, pairs) for label in kept) / len(kept)}

    return macro_f1


def pearson(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Pearson's correlation of the predicted with the wanted numbers.

    A prediction that is no finite number counts as `UNREADABLE`. Targets that are none, which templates that ask for
    something else have, are left out. The correlation has no value where all targets or all predictions are equal:
    that is an error, never a number.

    Args:
        targets: numbers as texts; of several accepted ones the first counts.
        predictions: one text for each example.

    Returns:
        {'pearson': -100 to 100}.

    Raises:
        DataError: no examples, lengths that differ, fewer than two targets that are numbers, or equal numbers only.
    """
    return {"pearson": _correlation(*_numbers(targets, predictions))}


def spearman(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Spearman's correlation: Pearson's of the ranks, equal numbers sharing their mean rank.

    Arguments and errors as in `pearson`.

    Returns:
        {'spearman': -100 to 100}.
    """
    wanted, given = _numbers(targets, predictions)
    return {"spearman": _correlation(_ranks(wanted), _ranks(given))}


def read_number(text: str) -> float | None:
    """The number that an answer is, after `normalize`; None if it is none, or not finite."""
    try:
        number = float(normalize(text))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _labels(targets: Sequence[Target], predictions: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (wanted, given); where several labels are accepted and one of them is given, that is the wanted one."""
    pairs = []
    for target, prediction in paired(targets, predictions):
        accepted = [normalize(answer) for answer in accepted_answers(target)]
        given = normalize(prediction)
        pairs.append((given if given in accepted else next(iter(accepted), ""), given))
    return pairs


def _label_f1(label: str, pairs: Sequence[tuple[str, str]]) -> float:
    right = sum(wanted == label == given for wanted, given in pairs)
    occurrences = sum((wanted == label) + (given == label) for wanted, given in pairs)
    return 2.0 * right / occurrences if occurrences else 0.0


def _numbers(targets: Sequence[Target], predictions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Wanted and given numbers that vary, float64 [examples whose target is a number]."""
    wanted, given = [], []
    for target, prediction in paired(targets, predictions):
        number, read = read_number(next(iter(accepted_answers(target)), "")), read_number(prediction)
        if number is not None:
            wanted.append(number)
            given.append(UNREADABLE if read is None else read)
    if len(wanted) < 2:
        raise DataError(f"{len(wanted)} of {len(targets)} targets are numbers; a correlation needs at least two")
    for what, values in (("targets", wanted), ("predictions", given)):
        if len(set(values)) == 1:
            raise DataError(
                f"all {len(values)} {what} count as {values[0]:g} (a prediction that is no number as {UNREADABLE:g}):"
                " there is no correlation with values that do not vary"
            )
    return np.array(wanted), np.array(given)


def _correlation(wanted: np.ndarray, given: np.ndarray) -> float:
    wanted, given = wanted - wanted.mean(), given - given.mean()
    product = np.dot(wanted / np.linalg.norm(wanted), given / np.linalg.norm(given))
    return 100.0 * float(np.clip(product, -1.0, 1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[places]
