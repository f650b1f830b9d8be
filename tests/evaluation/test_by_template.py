import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.evaluation.by_template import best_of, choosing_half, mean_metrics, mean_of
from t5x_instruct.evaluation.results import Best


def test_the_best_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    assert best_of([10.0, 90.0, 50.0], [100.0, 20.0, 60.0]) == Best(template=1, score=20.0, mean=60.0)


def test_the_first_of_equals_is_chosen_and_gaps_are_passed_over() -> None:
    assert best_of([5.0, 7.0, 7.0], [1.0, 2.0, 3.0]) == Best(1, 2.0, 2.0)
    assert best_of([None, 7.0, 9.0], [1.0, 2.0, None]) == Best(1, 2.0, 2.0)
    assert best_of([None, 1.0], [1.0, None]) is None
    assert best_of([], []) is None


def test_choosing_flatters_unless_the_halves_are_apart() -> None:
    """On noise alone, the best of many templates scores like any other on examples it was not chosen on."""
    import random

    noise = random.Random(0)
    rounds = [[[noise.gauss(50, 10) for _ in range(10)] for _ in range(2)] for _ in range(400)]
    scores = [best_of(choosing, reporting).score for choosing, reporting in rounds]  # type: ignore[union-attr]
    flattered = [max(choosing) for choosing, _ in rounds]
    assert sum(scores) / 400 == pytest.approx(50, abs=2)
    assert sum(flattered) / 400 > 60


@settings(max_examples=40)
@given(st.sets(st.integers(0, 10**6), max_size=40), st.integers(0, 3))
def test_halves_are_halves_and_stay_the_same(indices: set[int], seed: int) -> None:
    half = choosing_half("task", indices, seed)
    assert half <= indices
    assert len(half) == len(indices) // 2
    assert half == choosing_half("task", sorted(indices, reverse=True), seed)


def test_halves_differ_by_task_and_seed() -> None:
    halves = {choosing_half(task, range(40), seed) for task in "abc" for seed in range(3)}
    assert len(halves) == 9


def test_means_pass_over_what_is_missing() -> None:
    assert mean_of([1.0, None, 3.0]) == 2.0
    assert mean_of([None]) is None
    assert mean_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0}, {}]) == {"a": 2.0, "b": 2.0}
