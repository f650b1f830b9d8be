import numpy as np
import pytest
import scipy.stats  # comes with jax
from hypothesis import given
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.evaluation.label_metrics import binary_f1, macro_f1, pearson, read_number, spearman

THREE = ("yes", "no", "it is not possible to tell")
SCORES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12)


def test_binary_f1_by_hand():
    # 'yes': 2 right of 3 given and of 4 wanted.
    targets = ["yes", "yes", "yes", "yes", "no", "no"]
    predictions = ["yes", " Yes.", "no", "maybe", "yes", "no"]
    assert binary_f1("yes")(targets, predictions) == {"f1": pytest.approx(100 * 2 * 2 / (3 + 4))}
    # 'no': 1 right of 2 given and of 2 wanted.
    assert binary_f1("No")(targets, predictions) == {"f1": pytest.approx(50.0)}


def test_f1_of_a_label_that_never_occurs_is_zero():
    assert binary_f1("yes")(["no", "no"], ["no", "no"]) == {"f1": 0.0}
    assert binary_f1("yes")(["no", "no"], ["no", "yes"]) == {"f1": 0.0}


def test_any_accepted_label_is_right_and_the_first_is_missed():
    assert binary_f1("yes")([["yes", "maybe"], ["yes"]], ["maybe", "yes"]) == {"f1": 100.0}
    assert binary_f1("yes")([["yes", "maybe"], ["yes"]], ["no", "yes"]) == {"f1": pytest.approx(100 * 2 / 3)}


def test_macro_f1_by_hand():
    targets = ["yes", "yes", "no", "no", "it is not possible to tell"]
    predictions = ["yes", "no", "no", "no", "who knows"]
    # yes: 2*1/(2+1); no: 2*2/(2+3); the third is wanted once and never given.
    assert macro_f1(THREE)(targets, predictions) == {"macro_f1": pytest.approx(100 * (2 / 3 + 4 / 5 + 0) / 3)}
    assert macro_f1(THREE)(targets, targets) == {"macro_f1": pytest.approx(100.0)}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_macro_f1_of_two_labels_is_the_mean_of_both_binary_ones(pairs):
    targets, predictions = zip(*[("ab"[wanted], "ab"[given]) for wanted, given in pairs], strict=True)
    both = [binary_f1(label)(targets, predictions)["f1"] for label in "ab"]
    assert macro_f1("ab")(targets, predictions)["macro_f1"] == pytest.approx(sum(both) / 2)


def test_metrics_have_the_names_of_their_figures():
    assert [binary_f1("a").__name__, macro_f1("ab").__name__] == ["f1", "macro_f1"]


@pytest.mark.parametrize("labels", [[], ["yes", "Yes."]])
def test_macro_f1_needs_labels_that_differ(labels):
    with pytest.raises(ConfigError, match="labels that differ"):
        macro_f1(labels)


def test_correlations_by_hand():
    # Deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6).
    targets, predictions = ["1", "2", "3"], ["0.0", "3.0", "3.0"]
    assert pearson(targets, predictions) == {"pearson": pytest.approx(100 * 3 / 12**0.5)}
    # Ranks (1, 2, 3) and (1, 2.5, 2.5): deviations (-1, 0, 1) and (-1, 0.5, 0.5).
    assert spearman(targets, predictions) == {"spearman": pytest.approx(100 * 1.5 / (2 * 1.5) ** 0.5)}
    assert pearson(["1", "2"], ["7", "6.5"]) == {"pearson": pytest.approx(-100.0)}


@given(SCORES)
def test_correlations_are_those_of_scipy(pairs):
    wanted, given_ = (np.array(side) / 10 for side in zip(*pairs, strict=True))
    texts = [[f"{value:.1f}" for value in side] for side in (wanted, given_)]
    if len(set(texts[0])) == 1 or len(set(texts[1])) == 1:
        with pytest.raises(DataError, match=r"all \d+ (targets|predictions) count as"):
            pearson(*texts)
        with pytest.raises(DataError, match="values that do not vary"):
            spearman(*texts)
    else:
        assert pearson(*texts)["pearson"] == pytest.approx(100 * scipy.stats.pearsonr(wanted, given_)[0], abs=1e-6)
        assert spearman(*texts)["spearman"] == pytest.approx(100 * scipy.stats.spearmanr(wanted, given_)[0], abs=1e-6)


def test_a_prediction_that_is_no_number_counts_as_less_than_every_score():
    texts = ["1", "2", "3", "4"]
    assert pearson(texts, ["1", "2", "3", "very alike"]) == pearson(texts, ["1", "2", "3", "-1"])
    assert spearman(texts, ["nan", "2", "3", "4"]) == {"spearman": pytest.approx(100.0)}


def test_targets_that_are_no_numbers_are_left_out():
    assert pearson([["1"], ["A sentence."], ["2"], ["4"]], ["2", "5", "3", "5"]) == {"pearson": pytest.approx(100.0)}
    with pytest.raises(DataError, match="1 of 2 targets are numbers"):
        pearson(["1", "A sentence."], ["1", "2"])


def test_constant_predictions_are_told_apart_from_constant_targets():
    with pytest.raises(DataError, match="all 3 predictions count as 2"):
        pearson(["1", "2", "3"], ["2", "2.0", "2"])
    with pytest.raises(DataError, match="all 3 predictions count as -1 .a prediction that is no number"):
        spearman(["1", "2", "3"], ["a", "b", ""])
    with pytest.raises(DataError, match="all 2 targets count as 5"):
        spearman(["5", "5.0"], ["1", "2"])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 3.8\n", 3.8),
        ("4.", 4.0),
        ("-1", -1.0),
        ("'2'", 2.0),
        ("three", None),
        ("", None),
        ("inf", None),
        ("1 2", None),
    ],
)
def test_read_number(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize("metric", [binary_f1("a"), macro_f1("ab"), pearson, spearman])
@pytest.mark.parametrize(("targets", "predictions"), [([], []), (["1"], []), (["1"], ["1", "2"])])
def test_lengths_must_fit(metric, targets, predictions):
    with pytest.raises(DataError, match=f"{len(targets)} targets and {len(predictions)} predictions"):
        metric(targets, predictions)
