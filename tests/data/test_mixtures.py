"""The order of a mixture: exact counts, no loss, no repetition, one answer for each position."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.mixtures import Order

sizes_lists = st.lists(st.integers(1, 60), min_size=1, max_size=8)
seeds = st.integers(-(2**70), 2**70)


@st.composite
def mixtures(draw):
    sizes = draw(sizes_lists)
    rate = st.floats(0.01, 100.0, allow_nan=False)
    return sizes, draw(st.lists(rate, min_size=len(sizes), max_size=len(sizes)))


def triples(examples):
    return list(zip(examples.task.tolist(), examples.epoch.tolist(), examples.example.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(sizes_lists, seeds, st.floats(1e-6, 1e6), st.integers(0, 4))
def test_proportional_rates_give_every_example_once_an_epoch(sizes, seed, scale, epoch):
    order = Order(sizes, [n * scale for n in sizes], seed)
    assert order.epoch_size == sum(sizes)
    assert order.counts.tolist() == sizes
    seen = triples(order.order(epoch * order.epoch_size + np.arange(order.epoch_size)))
    assert sorted(seen) == [(task, epoch, i) for task, n in enumerate(sizes) for i in range(n)]


@settings(max_examples=60, deadline=None)
@given(mixtures(), seeds)
def test_counts_are_the_largest_remainders(mixture, seed):
    sizes, rates = mixture
    order = Order(sizes, rates, seed)
    total = sum(map(Fraction, rates))
    quotas = [Fraction(rate) / total * order.epoch_size for rate in rates]
    counts = order.counts.tolist()
    assert sum(counts) == order.epoch_size >= sum(sizes)
    assert all(count in (math.floor(quota), math.floor(quota) + 1) for count, quota in zip(counts, quotas, strict=True))
    assert min(counts) >= 1
    gained = [quota % 1 for count, quota in zip(counts, quotas, strict=True) if count > quota]
    kept = [quota % 1 for count, quota in zip(counts, quotas, strict=True) if count <= quota]
    assert not gained or not kept or min(gained) >= max(kept)


@settings(max_examples=50, deadline=None)
@given(mixtures(), seeds, st.integers(1, 4))
def test_tasks_cycle_evenly_over_several_epochs(mixture, seed, epochs):
    sizes, rates = mixture
    order = Order(sizes, rates, seed)
    positions = min(epochs * order.epoch_size, 60_000 // order.epoch_size * order.epoch_size or order.epoch_size)
    seen = triples(order.order(np.arange(positions)))
    assert len(set(seen)) == len(seen)
    assert Counter(task for task, _, _ in seen) == {
        task: count * (positions // order.epoch_size) for task, count in enumerate(order.counts.tolist())
    }
    drawn = Counter((task, example) for task, _, example in seen)
    for task, n in enumerate(sizes):
        times = [drawn[task, example] for example in range(n)]
        assert max(times) - min(times) <= 1


@settings(max_examples=60, deadline=None)
@given(mixtures(), seeds, st.lists(st.integers(0, 2**62), min_size=1, max_size=40))
def test_each_position_has_one_answer(mixture, seed, positions):
    sizes, rates = mixture
    together = triples(Order(sizes, rates, seed).order(np.array(positions)))
    alone = [triples(Order(sizes, rates, seed).order(np.array([p])))[0] for p in positions]
    assert together == alone
    for task, epoch, example in together:
        assert 0 <= task < len(sizes)
        assert epoch >= 0
        assert 0 <= example < sizes[task]


def test_large_tasks_and_late_positions_stay_in_range():
    sizes = [2**40 + 7, 3, 2**41 - 1]
    order = Order(sizes, sizes, 5)
    positions = np.arange(2**62 - 1000, 2**62)
    examples = order.order(positions)
    assert set(triples(examples)) == set(triples(order.order(positions[::-1])))
    assert len(set(triples(examples))) == 1000
    for task, epoch, example in triples(examples):
        assert epoch == positions[0] // sum(sizes)
        assert 0 <= example < sizes[task]


def test_epochs_seeds_and_tasks_are_shuffled_differently():
    order = Order([500, 500], [1, 1], 0)
    by_task_and_epoch = {}
    for epoch in range(3):
        examples = order.order(epoch * 1000 + np.arange(1000))
        for task in (0, 1):
            by_task_and_epoch[task, epoch] = tuple(examples.example[examples.task == task].tolist())
    assert len(set(by_task_and_epoch.values())) == 6
    other = Order([500, 500], [1, 1], 1).order(np.arange(1000)).example
    assert (other == order.order(np.arange(1000)).example).mean() < 0.05


def test_a_task_is_cut_into_other_halves_each_time_it_is_gone_through():
    order = Order([100, 100], [1, 3], 0)
    assert order.counts.tolist() == [50, 150]
    halves = []
    for epoch in range(4):
        examples = order.order(epoch * 200 + np.arange(200))
        halves.append(set(examples.example[examples.task == 0].tolist()))
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(100))
    assert halves[0] not in (halves[2], halves[3])


def test_small_tasks_reach_every_arrangement_about_equally():
    counts = Counter()
    for seed in range(60):
        for row in Order([4], [1.0], seed).order(np.arange(160)).example.reshape(40, 4):
            counts[tuple(row.tolist())] += 1
    assert len(counts) == 24
    expected = 2400 / 24
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 60  # 23 degrees of freedom


def test_tasks_are_spread_over_the_epoch():
    order = Order([9000, 1000], [9000, 1000], 3)
    share = order.order(np.arange(10_000)).task.reshape(20, 500).mean(axis=1)
    assert share.min() > 0.04
    assert share.max() < 0.17


def test_a_small_rate_makes_the_epoch_longer():
    order = Order([10, 10], [1.0, 1e-4], 0)
    assert 10_001 <= order.epoch_size <= 10_002
    assert order.counts.tolist() == [order.epoch_size - 1, 1]


def test_the_order_of_a_checkpoint_is_still_the_order():
    # Written down so that a change of the definition is noticed: it breaks the resuming of every run.
    examples = Order([5, 3], [2.0, 1.0], 42).order(np.arange(10))
    assert triples(examples) == [
        *[(0, 0, 3), (1, 0, 2), (0, 0, 2), (0, 0, 4), (1, 0, 1), (0, 0, 1), (0, 0, 0), (1, 0, 0)],
        *[(0, 1, 2), (1, 1, 2)],
    ]


@pytest.mark.parametrize(
    ("sizes", "rates", "message"),
    [
        ([], [], "at least one task"),
        ([3, 4], [1.0], "one number of examples, one rate"),
        ([3, 0], [1.0, 1.0], "1 of 2 tasks have no example: 'small'"),
        ([3, 4], [1.0, 0.0], "'small' has 0.0"),
        ([3, 4], [1.0, -2.0], "'small' has -2.0"),
        ([3, 4], [1.0, math.nan], "'small' has nan"),
        ([3, 4], [1.0, math.inf], "'small' has inf"),
        ([3, 4], [1.0, 1e-30], "1e-30 of task 'small'.*raise this rate"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(sizes, rates, message):
    with pytest.raises(DataError, match=message):
        Order(sizes, rates, 0, names=["large", "small"][: len(sizes)])


def test_negative_positions_are_refused():
    with pytest.raises(DataError, match="position -3"):
        Order([4], [1.0], 0).order(np.array([2, -3]))
