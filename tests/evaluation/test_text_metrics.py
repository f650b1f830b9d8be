import collections
import math
import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from t5x_instruct.common.errors import DataError
from t5x_instruct.evaluation.text_metrics import Judgement, judgement, multirc, rouge, squad, trivia_qa

TEXTS = st.text(alphabet="abthe nN.,'-_‘ö ", max_size=14)


def em_f1(exact_match, f1):
    return {"exact_match": pytest.approx(exact_match), "f1": pytest.approx(f1)}


@pytest.mark.parametrize(
    ("answer", "prediction"),
    [
        ("The Eiffel Tower", "eiffel tower."),
        ("a cat and the dog", "cat  and dog"),
        ("New-York", "NewYork"),
        ("$3.5 million", "35 million"),
        ("rock 'n' roll", "rock n roll"),
        ("the", "An"),
        ("snake_case", "snakecase"),
    ],
)
def test_squad_drops_punctuation_articles_and_case(answer, prediction):
    assert squad([[answer]], [prediction]) == em_f1(100, 100)


@pytest.mark.parametrize(
    ("answer", "prediction"),
    [("New-York", "New York"), ("the ‘Beatles’", "Beatles"), ("O`Brien", "O Brien"), ("snake_case", "Snake case")],
)
def test_trivia_qa_parts_words_at_punctuation(answer, prediction):
    assert trivia_qa([[answer]], [prediction]) == em_f1(100, 100)
    assert squad([[answer]], [prediction])["exact_match"] == 0.0


def test_what_squad_and_trivia_qa_tell_apart():
    assert trivia_qa(["theatre"], ["atre"]) == em_f1(0, 0)
    assert trivia_qa(["NewYork"], ["New York"]) == em_f1(0, 0)
    assert squad(["Bogotá"], ["Bogota"]) == em_f1(0, 0)
    assert squad(["anthem"], ["them"]) == em_f1(0, 0)


def test_squad_f1_by_hand():
    # 'in city of Paris France' and 'Paris France': 2 shared words of 5 given and 2 wanted, P 2/5, R 1.
    assert squad(["Paris, France"], ["in the city of Paris, France"]) == em_f1(0, 100 * 2 * (2 / 5) / (2 / 5 + 1))
    # A word counts as often as both have it: 'no no' and 'no no no' share 2.
    assert squad(["no no"], ["no, no, no"]) == em_f1(0, 100 * 2 * 2 / 5)


def test_each_figure_takes_its_best_answer():
    # F1 with the first answer 2*1/(1+2), with the second 2*2/(3+2).
    assert squad([["Smith", "John A Smith Senior"]], ["John Smith"]) == em_f1(0, 80)
    assert squad([["one"], ["two", "three"]], ["one", "three"]) == em_f1(100, 100)
    assert squad([[], ["two"]], ["one", "two"]) == em_f1(50, 50)


def test_nothing_said_is_right_where_nothing_is_wanted():
    assert squad([[""], ["something"]], ["", ""]) == em_f1(50, 50)


def as_the_official_script(text, punctuation, replacement):
    """The steps of the evaluation scripts, one by one."""
    text = "".join(replacement if character in punctuation else character for character in text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


@pytest.mark.parametrize(
    ("metric", "punctuation", "replacement"),
    [(squad, set(string.punctuation), ""), (trivia_qa, {*string.punctuation, *"‘’´`"}, " ")],
)
@settings(max_examples=60, deadline=None)
@given(answers=st.lists(TEXTS, min_size=1, max_size=3), prediction=TEXTS)
def test_scores_are_those_of_the_official_steps(metric, punctuation, replacement, answers, prediction):
    given_words = as_the_official_script(prediction, punctuation, replacement)
    exact, best = 0.0, 0.0
    for answer in answers:
        wanted = as_the_official_script(answer, punctuation, replacement)
        exact = max(exact, float(wanted == given_words))
        if not wanted or not given_words:
            f1 = float(wanted == given_words)
        else:
            same = sum(min(count, given_words.count(word)) for word, count in collections.Counter(wanted).items())
            precision, recall = same / len(given_words), same / len(wanted)
            f1 = 2 * precision * recall / (precision + recall) if same else 0.0
        best = max(best, f1)
    assert metric([answers], [prediction]) == em_f1(100 * exact, 100 * best)


def test_rouge_by_hand():
    # 'the cat sat on the mat' and 'the cat lay on a mat' share 'the cat on mat' and one pair of words.
    found = rouge(["the cat sat on the mat"], ["the cat lay on a mat"])
    # Not stemmed, articles count; every overlap of 6 and 6 words, or of 5 and 5 pairs.
    wanted = {"rouge1": 100 * 4 / 6, "rouge2": 100 * 1 / 5, "rougeLsum": 100 * 4 / 6}
    assert found == pytest.approx(wanted)
    assert rouge(["running"], ["runs"])["rouge1"] == 0.0


def test_rouge_lsum_reads_sentences():
    # The same two sentences the other way round: each is found whole, so all 6 words count;
    # as one line only the longer one would.
    target, prediction = "dogs bark loudly\ncats sleep all day", "cats sleep all day\ndogs bark loudly"
    assert rouge([target], [prediction])["rougeLsum"] == pytest.approx(100)
    one_line = rouge([target.replace("\n", " ")], [prediction.replace("\n", " ")])
    assert one_line["rougeLsum"] == pytest.approx(100 * 4 / 7)
    tokenized = rouge([target.replace("\n", " . ")], [prediction.replace("\n", " . ")])
    assert tokenized["rougeLsum"] == pytest.approx(100)


def test_rouge_takes_the_best_reference_for_each_kind():
    # The words of the first reference (R1 1), the pairs of the second (R2 2/3 of 3 and 3).
    references = ["four three two one", "one two three x"]
    found = rouge([references, "same"], ["one two three four", "same"])
    assert found["rouge1"] == pytest.approx((100 + 100) / 2)
    # 'same' has no pairs: 0 of 0 counts as 0.
    assert found["rouge2"] == pytest.approx((100 * 2 / 3 + 0) / 2)
    assert found["rougeLsum"] == pytest.approx((100 * 3 / 4 + 100) / 2)
    assert rouge([[]], ["one"]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeLsum": 0.0}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["ab", "cd", "ef\ngh"]), min_size=1, max_size=8), min_size=2, max_size=4))
def test_rouge_is_the_mean_of_the_package(lists):
    prediction, *references = (" ".join(words) for words in lists)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"])
    wanted = scorer.score_multi(references, prediction)
    found = rouge([references], [prediction])
    assert all(math.isclose(found[kind], 100 * score.fmeasure, abs_tol=1e-9) for kind, score in wanted.items())


def judged(*answers):
    """Targets and predictions from (question, wanted, given)."""
    return [Judgement(wanted, q) for q, wanted, _ in answers], [Judgement(given) for *_, given in answers]


def test_multirc_by_hand():
    targets, predictions = judged(
        ("p/0", "yes", "yes"),
        ("p/0", "no", "no"),
        ("p/1", "yes", "yes"),
        ("p/1", "no", "yes"),
        ("p/2", "yes", "no"),
    )
    # Of 3 'yes' 2 are found with 3 said: P 2/3, R 2/3. Only question 0 is right throughout.
    assert multirc(targets, predictions) == {"f1a": pytest.approx(200 / 3), "exact_match": pytest.approx(100 / 3)}
    # Interleaved the same: questions are told apart by what they are, not by their order.
    order = [3, 0, 4, 1, 2]
    again = multirc([targets[i] for i in order], [predictions[i] for i in order])
    assert again == {"f1a": pytest.approx(200 / 3), "exact_match": pytest.approx(100 / 3)}


def test_what_is_neither_yes_nor_no_is_wrong():
    targets, predictions = judged(("p/0", "yes", "perhaps"), ("p/1", "no", "perhaps"), ("p/2", "yes", "yes"))
    assert multirc(targets, predictions) == {"f1a": pytest.approx(50), "exact_match": pytest.approx(100 / 3)}
    targets, predictions = judged(("p/0", "no", "no"), ("p/1", "no", "no"))
    assert multirc(targets, predictions) == {"f1a": 0.0, "exact_match": 100.0}


def test_multirc_leaves_out_what_asks_for_something_else():
    targets, predictions = judged(("p/0", "yes", "yes"), ("p/0", "who came late?", "yes"))
    assert multirc(targets, predictions) == {"f1a": 100.0, "exact_match": 100.0}
    assert multirc(targets[1:], predictions[1:]) == {}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_multirc_agrees_with_counts_of_a_confusion_matrix(answers):
    word = {True: "yes", False: "no"}
    found = multirc(*judged(*((q, word[wanted], word[given]) for q, wanted, given in answers)))
    wanted, given = (np.array([a[i] for a in answers]) for i in (1, 2))
    true, false, missed = (wanted & given).sum(), (~wanted & given).sum(), (wanted & ~given).sum()
    assert found["f1a"] == pytest.approx(100 * 2 * true / max(1, 2 * true + false + missed))
    questions = np.array([a[0] for a in answers])
    whole = [np.array_equal(wanted[questions == q], given[questions == q]) for q in set(questions)]
    assert found["exact_match"] == pytest.approx(100 * np.mean(whole))


def test_a_judgement_takes_its_question_from_the_target_only():
    example = {"group": b"3/14"}
    assert judgement(" Yes.\n", example=example, is_target=True) == Judgement("yes", "3/14")
    assert judgement("No!", example=example) == Judgement("no")
    assert judgement("no", example={"group": "3/14"}, is_target=True).question == "3/14"


@pytest.mark.parametrize("metric", [rouge, squad, trivia_qa, multirc])
@pytest.mark.parametrize(("targets", "predictions"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_lengths_must_fit(metric, targets, predictions):
    with pytest.raises(DataError, match=f"{len(targets)} targets and {len(predictions)} predictions"):
        metric(targets, predictions)
