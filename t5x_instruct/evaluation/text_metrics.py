"""Metrics as data sets define them: ROUGE of summaries, and question answering with its own rules of spelling.

The convention is that of `metrics`: `targets` and `predictions` of the same length, {name: value from 0 to 100}, a
target is a text or a list of texts of which the best counts. `multirc` alone gets answers with their question.
"""

import collections
import functools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from t5x_instruct.evaluation.metrics import Target, accepted_answers, paired

YES, NO = "yes", "no"
"""The two answers of MultiRC's tasks."""

_ROUGE = ("rouge1", "rouge2", "rougeLsum")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
# TriviaQA's script puts a space where punctuation was and also knows the typographic quotation marks.
_TRIVIA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def rouge(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-1, ROUGE-2 and summary-level ROUGE-L, each an F-measure against its own best reference.

    Words are not stemmed. Sentences, which ROUGE-Lsum needs, are lines; a full stop between spaces, as in tokenized
    text, ends one too. A target with one reference gives ordinary ROUGE.

    Args:
        targets: references of each example.
        predictions: one text for each example.

    Returns:
        {'rouge1', 'rouge2', 'rougeLsum': per cent}.

    Raises:
        DataError: no examples, or lengths that differ.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries (section 2.1 for several references); the
    rouge-score package; Gehrmann et al. 2021, GEM.
    """
    totals = dict.fromkeys(_ROUGE, 0.0)
    for target, prediction in paired(targets, predictions):
        given = _sentences(prediction)
        scores = [_rouge_scorer().score(_sentences(reference), given) for reference in accepted_answers(target)]
        for kind in _ROUGE:
            totals[kind] += max((float(score[kind].fmeasure) for score in scores), default=0.0)
    return {kind: 100.0 * total / len(targets) for kind, total in totals.items()}


def squad(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match and word F1, each against its best accepted answer; ReCoRD's are the same.

    Compared in lower case, without ASCII punctuation, the words a, an, the, and surplus white space. Of two texts of
    which one has no words left the F1 is 1 if the other has none either, as in SQuAD 2.0. Arguments and errors as in
    `rouge`.

    Returns:
        {'exact_match', 'f1': per cent}.

    Source: Rajpurkar et al. 2016 and 2018, with the official evaluation script of SQuAD 2.0; Zhang et al. 2018, ReCoRD.
    """
    return _word_scores(_squad_words, targets, predictions)


def trivia_qa(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """TriviaQA's exact match and word F1, each against its best accepted answer.

    As `squad`, but a punctuation mark parts words ('New-York' is two) and typographic quotation marks are ignored.

    Returns:
        {'exact_match', 'f1': per cent}.

    Source: Joshi et al. 2017, TriviaQA, with its official evaluation script.
    """
    return _word_scores(_trivia_words, targets, predictions)


class Judgement(NamedTuple):
    """An answer to 'is this a right answer to that question?'.

    Attributes:
        says: 'yes', 'no', or whatever else the text was.
        question: what tells questions apart; None in a prediction.
    """

    says: str
    question: str | None = None


def judgement(output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any) -> Judgement:
    """Postprocessing for `multirc`: the answer in lower case, and for a target the field `group` of its example."""
    says = " ".join(output.lower().split()).rstrip(".!")
    if not is_target or example is None:
        return Judgement(says)
    group = example["group"]
    return Judgement(says, group.decode() if isinstance(group, bytes) else str(group))


def multirc(targets: Sequence[Judgement], predictions: Sequence[Judgement]) -> dict[str, float]:
    """MultiRC's F1a and exact match.

    F1a is the F1 of 'yes' over all answers of all questions. Exact match is the share of questions whose answers are
    all judged rightly; it says little unless all answers of a question were asked. A prediction that is neither 'yes'
    nor 'no' counts as the wrong one of them. Targets that are neither, which templates that ask for something else
    have, are left out.

    Args:
        targets: from `judgement`, with questions.
        predictions: from `judgement`.

    Returns:
        {'f1a', 'exact_match': per cent}; nothing if all targets are left out.

    Raises:
        DataError: no examples, or lengths that differ.

    Source: Khashabi et al. 2018, Looking Beyond the Surface, section 5; Wang et al. 2019, SuperGLUE.
    """
    wanted = found = said = 0
    by_question: dict[str | None, bool] = {}
    for target, prediction in paired(targets, predictions):
        if target.says not in (YES, NO):
            continue
        right = target.says == prediction.says
        wanted += target.says == YES
        found += right and target.says == YES
        said += right == (target.says == YES)  # who is wrong about a 'no' has said 'yes'
        by_question[target.question] = right and by_question.get(target.question, True)
    if not by_question:
        return {}
    # 0 where nothing is right to say and nothing is said, as scikit-learn has it.
    f1a = 2.0 * found / (said + wanted) if found else 0.0
    return {"f1a": 100.0 * f1a, "exact_match": 100.0 * sum(by_question.values()) / len(by_question)}


def _word_scores(
    words_of: Callable[[str], list[str]], targets: Sequence[Target], predictions: Sequence[str]
) -> dict[str, float]:
    same = shared = 0.0
    for target, prediction in paired(targets, predictions):
        given = words_of(prediction)
        accepted = [words_of(answer) for answer in accepted_answers(target)]
        same += given in accepted
        shared += max((_f1(wanted, given) for wanted in accepted), default=0.0)
    return {"exact_match": 100.0 * same / len(targets), "f1": 100.0 * shared / len(targets)}


def _f1(wanted: Sequence[str], given: Sequence[str]) -> float:
    if not wanted or not given:
        return float(wanted == given)
    shared = sum((collections.Counter(wanted) & collections.Counter(given)).values())
    return 2.0 * shared / (len(wanted) + len(given))


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_SQUAD_PUNCTUATION)).split()


def _trivia_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_TRIVIA_PUNCTUATION)).split()


def _sentences(text: str) -> str:
    return text.replace(" . ", " .\n")


@functools.cache
def _rouge_scorer() -> Any:
    # Imported at first use: it loads nltk, which tasks with other metrics need not pay for.
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(list(_ROUGE), use_stemmer=False)
