"""Rank classification: the model's answer is the option it finds likeliest, nothing is generated.

Source: Wei et al. 2022, "Finetuned language models are zero-shot learners", arXiv:2109.01652, section 2.1; the same
is done by Sanh et al. 2022, arXiv:2110.08207, section 5 (without length normalisation).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.decoding.scoring import score_options


class Question(NamedTuple):
    """A prompt with its options.

    Attributes:
        inputs: token ids of the prompt, int32 [length].
        options: the text of every option as a target.
        right: indices of the options that are right, at least one.
        ends: whether targets of this task end with the end token; then options do too.
    """

    inputs: np.ndarray
    options: tuple[str, ...]
    right: frozenset[int]
    ends: bool = True


class Choice(NamedTuple):
    """The index of the option that the model finds likeliest, by sum and by mean over tokens."""

    by_sum: int
    by_mean: int


class RankFigures(NamedTuple):
    """Percentages over questions, see `results.TaskResult`; None where there is no question."""

    accuracy: float | None
    accuracy_normalized: float | None
    chance: float | None


def question(inputs: np.ndarray, target: str, meta: Mapping[str, Any], *, ends: bool = True) -> Question | None:
    """The question that an example asks, or None if it cannot be ranked.

    Args:
        inputs: token ids of the prompt.
        target: the text that was asked for.
        meta: the example's untrained fields: `options` (a target text each) and, if more than one answer is right,
            `accepted_targets`.
        ends: see `Question`.
    """
    options = tuple(meta.get("options") or ())
    accepted = {target, *(meta.get("accepted_targets") or ())}
    right = frozenset(i for i, option in enumerate(options) if option in accepted)
    return Question(inputs, options, right, ends) if len(options) > 1 and right else None


def rank(
    lm: LanguageModel,
    questions: Sequence[Question],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Choice]:
    """Scores every option of every question.

    Args:
        lm: the model.
        questions: prompts and options.
        batch_size: questions scored at once.
        progress: called with (questions done, all questions).

    Returns:
        The model's choices; the first of equally likely options.
    """
    scores = score_options(
        lm.model,
        lm.params,
        [(q.inputs, [lm.response_ids(option, ends=q.ends) for option in q.options]) for q in questions],
        start_id=lm.vocabulary.start_id,
        pad_id=lm.vocabulary.pad_id,
        batch_size=batch_size,
        progress=progress,
    )
    return [Choice(int(np.argmax(own.log_likelihoods)), int(np.argmax(own.per_token))) for own in scores]


def rank_figures(questions: Sequence[Question], choices: Sequence[Choice]) -> RankFigures:
    """How often the choices are right, and how often guesses would be, in percent."""
    if not questions:
        return RankFigures(None, None, None)
    pairs = list(zip(questions, choices, strict=True))
    return RankFigures(
        accuracy=100.0 * float(np.mean([c.by_sum in q.right for q, c in pairs])),
        accuracy_normalized=100.0 * float(np.mean([c.by_mean in q.right for q, c in pairs])),
        chance=100.0 * float(np.mean([len(q.right) / len(q.options) for q in questions])),
    )
