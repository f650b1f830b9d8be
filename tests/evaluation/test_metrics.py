import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.evaluation.metrics import (
    accepted_answers,
    exact_match,
    normalize,
    rouge_l,
    sequence_accuracy,
    token_f1,
)

METRICS = {"exact_match": exact_match, "sequence_accuracy": sequence_accuracy, "token_f1": token_f1, "rouge_l": rouge_l}
WORDS = st.text(string.ascii_letters + " .é", min_size=1).filter(
    lambda text: any(c in string.ascii_letters for c in text)
)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", " paris.\n"),
        ("The Netherlands", "netherlands"),
        ("New   York", "new york"),
        ('"Paris".', "paris"),
        ("**Paris**", "Paris!"),
        ("a", "A"),
        ("the", "The."),
        ("Straße", "STRASSE"),
        ("ﬁsh", "fish"),
    ],
)
def test_equal_answers(a, b):
    assert exact_match([a], [b]) == {"exact_match": 100.0}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", "Paris is it"),
        ("Bogotá", "Bogota"),
        ("3.5", "35"),
        ("an hour", "hours"),
        ("theatre", "atre"),
        ("?", "!"),
        ("", "a"),
        ("U.S.", "US"),
        ("-5", "5"),
    ],
)
def test_different_answers(a, b):
    assert exact_match([a], [b]) == {"exact_match": 0.0}


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text):
    once = normalize(text)
    assert normalize(once) == once or once.startswith(("a ", "an ", "the "))


@pytest.mark.parametrize("name", METRICS)
@given(WORDS, WORDS, WORDS)
def test_metrics_take_the_best_accepted_answer(name, a, b, other):
    metric = METRICS[name]
    assert metric([a], [a])[name] == pytest.approx(100.0) or name == "rouge_l"  # ROUGE sees only a to z and digits
    single = [metric([answer], [other])[name] for answer in (a, b)]
    assert metric([[a, b]], [other])[name] == max(single)
    assert metric([[]], [other])[name] == 0.0
    assert all(0.0 <= value <= 100.0 for value in single)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_means_in_per_cent(name):
    assert METRICS[name](["one", "two", "six", "ten"], ["one", "two", "x", "y"]) == {name: 50.0}


def test_sequence_accuracy_sees_every_letter():
    assert sequence_accuracy(["WORD", "WORD", "a."], ["word", " WORD\n", "a"]) == {
        "sequence_accuracy": pytest.approx(100 / 3)
    }


def test_token_f1_by_hand():
    # 2 of 3 given and 2 of 4 wanted words are shared, the second 'red' only once.
    assert token_f1(["red red blue green"], ["red, blue red red red".replace(",", "")])["token_f1"] == pytest.approx(
        100 * 2 * 3 / (4 + 5)
    )
    assert token_f1(["blue red"], ["red green blue"])["token_f1"] == pytest.approx(100 * 2 * 2 / 5)
    assert token_f1(["one"], [""])["token_f1"] == 0.0


def test_rouge_l_by_hand():
    # The longest common subsequence of 4 and 5 words has 3: P 3/5, R 3/4.
    value = rouge_l(["police killed the gunman"], ["police then killed a gunman"])["rouge_l"]
    assert value == pytest.approx(100 * 2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert rouge_l(["he runs"], ["he running"])["rouge_l"] == pytest.approx(100.0)


@pytest.mark.parametrize("metric", METRICS.values())
@pytest.mark.parametrize(("targets", "predictions"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_lengths_must_fit(metric, targets, predictions):
    with pytest.raises(DataError, match=f"{len(targets)} targets and {len(predictions)} predictions"):
        metric(targets, predictions)


def test_a_target_is_a_text_or_texts():
    assert accepted_answers("ab") == ["ab"]
    assert accepted_answers(("a", "b")) == ["a", "b"]
