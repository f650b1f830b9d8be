import functools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from t5x_instruct.common.errors import DataError
from t5x_instruct.evaluation.translation_metrics import bleu, edit_distance, levenshtein

SHORT = st.text("ab E", max_size=6)


def distance_by_definition(a, b):
    """Levenshtein's recursion, word for word."""

    @functools.cache
    def of(i, j):
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


def test_bleu_by_hand():
    # Matches of 1 to 4 words: 5 of 6, 3 of 5, 2 of 4, 1 of 3; both have 6 words, so there is no penalty.
    value = bleu(["a b c d e f"], ["a b c d x f"])["bleu"]
    assert value == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_a_translation_that_is_too_short_is_punished():
    assert bleu(["a b c d e f"], ["a b c d e"])["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_bleu_counts_over_the_corpus_and_not_over_examples():
    one, other = (["a b c d e"], ["a b c d e"]), (["f g h i j k l m n"], ["f g h i x k l m n"])
    together = bleu(one[0] + other[0], one[1] + other[1])["bleu"]
    assert together == pytest.approx(100 * (13 / 14 * 10 / 12 * 7 / 10 * 4 / 8) ** 0.25)
    assert together != pytest.approx((bleu(*one)["bleu"] + bleu(*other)["bleu"]) / 2)


def test_bleu_is_sacrebleus_with_the_stated_signature():
    metric = BLEU(tokenize="intl")
    targets = ["Das ist “gut”, nicht wahr?", "Он пришёл домой в 5:30."]
    predictions = ["Das ist “schlecht”, nicht wahr?", "Он пришёл в 5:30 домой."]
    assert bleu(targets, predictions)["bleu"] == pytest.approx(metric.corpus_score(predictions, [targets]).score)
    signature = str(metric.get_signature())
    assert "case:mixed|eff:no|tok:intl|smooth:exp" in signature
    # The usual tokenization leaves these quotation marks on their words.
    assert bleu(targets, predictions)["bleu"] != pytest.approx(BLEU().corpus_score(predictions, [targets]).score)


def test_case_counts():
    assert bleu(["one two three four"], ["One two three four"])["bleu"] < 100.0


def test_several_accepted_translations_and_their_number_may_vary():
    targets = [["a b c d", "e f g h"], ["i j k l m"]]
    assert bleu(targets, ["e f g h", "i j k l m"])["bleu"] == pytest.approx(100.0)
    assert bleu(targets, ["a b c d", "i j k l m"])["bleu"] == pytest.approx(100.0)
    assert bleu([["a b c d"], ["i j k l m"]], ["e f g h", "i j k l m"])["bleu"] < 90.0


def test_an_example_without_an_accepted_translation_is_named():
    with pytest.raises(DataError, match="example 1 accepts no translation"):
        bleu(["a", []], ["a", "b"])


def test_an_empty_prediction_has_bleu_zero():
    assert bleu(["a b c d"], [""]) == {"bleu": 0.0}


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_levenshtein_by_hand(a, b, distance):
    assert levenshtein(a, b) == levenshtein(b, a) == distance


@given(SHORT, SHORT)
def test_levenshtein_is_its_definition(a, b):
    assert levenshtein(a, b) == distance_by_definition(a, b)


def test_edit_distance_by_hand():
    # One of 10 characters is wrong, then 1 space of 11 is missing: means of 10 and 100 / 11 per cent.
    figures = edit_distance(["Hello moon", "hello world"], ["hello moon", " helloworld\n"])
    assert figures["edit_distance"] == pytest.approx((10 + 100 / 11) / 2)
    assert figures["edit_similarity"] == pytest.approx(100 - figures["edit_distance"])
    assert next(iter(figures)) == "edit_similarity"


def test_edit_distance_takes_the_nearest_accepted_text():
    assert edit_distance([["xyz", "abc"]], ["abd"])["edit_distance"] == pytest.approx(100 / 3)
    assert edit_distance([[]], ["abd"])["edit_distance"] == 100.0
    assert edit_distance([""], [""])["edit_distance"] == 0.0
    assert edit_distance(["abc"], [""])["edit_distance"] == 100.0


@pytest.mark.parametrize("metric", [bleu, edit_distance])
@pytest.mark.parametrize(("targets", "predictions"), [([], []), (["1"], []), (["1"], ["1", "2"])])
def test_lengths_must_fit(metric, targets, predictions):
    with pytest.raises(DataError, match=f"{len(targets)} targets and {len(predictions)} predictions"):
        metric(targets, predictions)
