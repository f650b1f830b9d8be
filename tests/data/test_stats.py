"""Lengths and shapes: the figures are those of the rows that would be packed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.data import stats
from tests.data.in_memory import mixture_of, task_of


def test_percentiles_are_lengths_that_occur():
    task = task_of("t", [("x" * i, "y" * (2 * i)) for i in range(1, 101)])
    (found,) = stats.task_lengths([task, task_of("u", None, [("a", "b")])], "train")
    assert (found.task, found.examples) == ("t", 100)
    assert found.inputs == (51, 91, 96, 100, 100)
    assert found.targets == (103, 183, 193, 201, 201)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_a_histogram_counts_every_example_once(lengths):
    lengths = np.array(lengths, np.int32)
    bars = stats.histogram(lengths)
    assert len(bars) <= 16
    assert sum(bar.examples for bar in bars) == len(lengths)
    for bar in bars:
        assert bar.examples == ((lengths >= bar.low) & (lengths <= bar.high)).sum()
    assert [bar.low for bar in bars[1:]] == [bar.high + 1 for bar in bars[:-1]]


def test_a_sample_has_the_proportions_of_the_mixture():
    short = task_of("short", [("a", "b")] * 10, rate=3)
    long = task_of("long", [("a" * 9, "b" * 9)] * 10, rate=1)
    raw = stats.sample_lengths(mixture_of(short, long), 400)
    assert sorted({tuple(row) for row in raw.tolist()}) == [(1, 2), (9, 10)]
    assert (raw[:, 0] == 1).mean() == pytest.approx(0.75, abs=0.01)


def test_the_figures_of_a_shape():
    raw = np.array([[6, 2], [6, 2], [2, 2], [12, 9]], np.int32)
    shape = stats.measure_shape(raw, 8, 4, "encoder", 1)
    # After cutting (6, 2), (6, 2), (2, 2), (8, 4): the first and the third share a row, the others are alone.
    assert shape.rows == 3
    assert shape.fills == pytest.approx((22 / 24, 10 / 12))
    assert shape.fill == pytest.approx(32 / 36)
    assert shape.best_fill == pytest.approx(32 / 36)
    assert (shape.cut_inputs, shape.cut_targets) == (0.25, 0.25)
    assert shape.cost == pytest.approx(3 * stats.row_cost(8, 4, "encoder", 1) / 10)
    decoder = stats.measure_shape(raw, 8, 4, "causal", 1)
    assert decoder.rows == 3  # 7 + 3, 7 and 11 of 12 slots
    assert decoder.fills == pytest.approx((28 / 36,))


def test_costs_follow_the_formula():
    assert stats.row_cost(90, 30, "causal", 10) == pytest.approx(120 * (1 + 120 / 60))
    encoder = 90 * (1 + 90 / 60) + 30 * (1 + 30 / 60) + 120 / 6 + 30 * 90 / 60
    assert stats.row_cost(90, 30, "encoder", 10) == pytest.approx(encoder)


@pytest.mark.parametrize("reads_inputs", ["encoder", "causal"])
def test_the_recommended_shape_cuts_little_and_costs_least(reads_inputs):
    rng = np.random.default_rng(0)
    raw = np.clip(rng.lognormal(np.log((150, 20)), 0.7, (1024, 2)), 1, 2000).astype(np.int32)
    shapes = stats.best_shapes(raw, reads_inputs, 512, 0.02)
    best = shapes[0]
    assert max(best.cut_inputs, best.cut_targets) <= 0.02
    assert [shape.cost for shape in shapes] == sorted(shape.cost for shape in shapes)
    assert best == stats.measure_shape(raw, best.inputs, best.targets, reads_inputs, 512)
    # A shape whose targets fill up while its inputs stay empty wastes; one too short cuts.
    wasteful = stats.measure_shape(raw, 2048, 96, reads_inputs, 512)
    assert wasteful.cost > best.cost
    assert all(shape.inputs >= best.inputs or shape.cut_inputs <= 0.02 for shape in shapes)


def test_examples_longer_than_all_lengths_that_are_tried_have_a_shape():
    raw = np.array([[20_000, 15_000]] * 8, np.int32)
    assert stats.best_shapes(raw, "encoder", 512, 0.0)[0][:2] == (24_576, 16_384)
    assert stats.best_shapes(raw * 2, "encoder", 512, 0.0)[0][:2] == (40_064, 30_080)
