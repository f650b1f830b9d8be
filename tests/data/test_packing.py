"""Packing: every item in one row, no row too full, few rows; plans that read the same from anywhere."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.mixtures import Order
from t5x_instruct.data.packing import RowPlan, best_fit_decreasing, lower_bound


@st.composite
def items(draw, max_items=120):
    capacity = draw(st.lists(st.integers(1, 300), min_size=1, max_size=2))
    item = st.tuples(*[st.integers(0, size) for size in capacity])
    lengths = draw(st.lists(item, max_size=max_items))
    return np.array(lengths, np.int32).reshape(-1, len(capacity)), capacity


@settings(max_examples=40, deadline=None)
@given(items())
def test_rows_hold_what_is_put_into_them(case):
    lengths, capacity = case
    row_of = best_fit_decreasing(lengths, capacity)
    assert row_of.dtype == np.int32
    assert row_of.shape == (len(lengths),)
    num_rows = int(row_of.max()) + 1 if len(row_of) else 0
    assert sorted(set(row_of.tolist())) == list(range(num_rows))
    assert num_rows >= lower_bound(lengths, capacity)
    for side, size in enumerate(capacity):
        assert (np.bincount(row_of, weights=lengths[:, side], minlength=1) <= size).all()


@settings(max_examples=40, deadline=None)
@given(items())
def test_no_two_rows_could_be_one(case):
    lengths, capacity = case
    row_of = best_fit_decreasing(lengths, capacity)
    used = np.zeros((int(row_of.max(initial=-1)) + 1, len(capacity)), np.int64)
    np.add.at(used, row_of, lengths)
    for one, other in itertools.combinations(used, 2):
        assert ((one + other) > capacity).any()


def fewest_rows(lengths, capacity):
    """By trying every assignment; items go into a used row or the next unused one."""
    best = len(lengths)

    def place(item, rows):
        nonlocal best
        if len(rows) >= best:
            return
        if item == len(lengths):
            best = len(rows)
            return
        for i in range(len(rows)):
            if rows[i] + lengths[item] <= capacity:
                place(item + 1, [*rows[:i], rows[i] + lengths[item], *rows[i + 1 :]])
        place(item + 1, [*rows, lengths[item]])

    place(0, [])
    return best


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_one_side_is_within_the_known_bound_of_the_best_packing(lengths):
    rows = int(best_fit_decreasing(np.array(lengths)[:, np.newaxis], [30]).max()) + 1
    assert rows <= 11 / 9 * fewest_rows(lengths, 30) + 6 / 9


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(0.5, 1), (0.8, 1), (1.1, 1), (0.5, 2), (0.8, 2)]))
def test_windows_of_log_normal_lengths_are_packed_densely(seed, case):
    sigma, sides = case
    rng = np.random.default_rng(seed)
    capacity = [1024, 256][:sides]
    means = [120, 20][:sides]
    drawn = rng.lognormal(np.log(means) - sigma**2 / 2, sigma, (2048, sides))
    lengths = np.clip(drawn, 1, capacity).astype(np.int32)
    rows = int(best_fit_decreasing(lengths, capacity).max()) + 1
    assert rows <= np.ceil(1.02 * lower_bound(lengths, capacity))


def test_short_answers_and_long_explanations_share_rows():
    # Both sides are loaded alike and targets are of two kinds, as in chain-of-thought data.
    capacity = [1024, 512]
    rows = bound = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        explained = rng.random(2048) < 0.625
        targets = np.where(explained, rng.lognormal(np.log(165) - 0.125, 0.5, 2048), 6)
        inputs = rng.lognormal(np.log(215) - 0.125, 0.5, 2048)
        lengths = np.clip(np.stack([inputs, targets], axis=1), 1, capacity).astype(np.int32)
        rows += int(best_fit_decreasing(lengths, capacity).max()) + 1
        bound += lower_bound(lengths, capacity)
    assert rows <= 1.05 * bound


def test_balanced_sides_are_traded_off():
    # Long on one side and short on the other: only rows that mix both kinds reach the bound.
    for pair, capacity in (([[60, 10], [10, 60]], [140, 140]), ([[70, 30], [30, 70]], [100, 100])):
        lengths = np.array(pair * 50, np.int32)
        assert int(best_fit_decreasing(lengths, capacity).max()) + 1 == lower_bound(lengths, capacity)


@pytest.mark.parametrize(
    ("lengths", "capacity", "message"),
    [
        ([[4], [9]], [8], "item 1 takes 9 slots on side 0, where a row has 8"),
        ([[4, 1], [3, 6]], [8, 5], "item 1 takes 6 slots on side 1, where a row has 5"),
        ([[-1]], [8], "item 0 takes -1 slots"),
        ([[1, 1]], [8], "do not go with capacity"),
        ([[1, 1, 1]], [8, 8, 8], "1 or 2 sides"),
    ],
)
def test_items_that_fit_no_row_are_refused(lengths, capacity, message):
    with pytest.raises(DataError, match=message):
        best_fit_decreasing(np.array(lengths, np.int32), capacity)


# Plans.


def length_of(examples):
    """Lengths 1 to 37 that depend on task, epoch and example."""
    mixed = examples.task * 7 + examples.epoch * 13 + examples.example * 5
    return (1 + mixed % 37).astype(np.int32)[:, np.newaxis]


def make_plan(sizes=(40, 25, 3), seed=0, **settings):
    return RowPlan(Order(sizes, sizes, seed), length_of, [64], seed, **({"window": 16} | settings))


def as_triples(row):
    return tuple(zip(row.task.tolist(), row.epoch.tolist(), row.example.tolist(), strict=True))


def all_rows(plan):
    return [as_triples(plan.row(r)) for r in range(plan.num_rows)]


plan_settings = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 50), min_size=1, max_size=4),
        "seed": st.integers(0, 1000),
        "window": st.integers(1, 70),
        "num_epochs": st.integers(1, 3),
        "packing": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(plan_settings)
def test_a_plan_loses_and_repeats_nothing(settings):
    rows = all_rows(make_plan(**settings))
    planned = [example for row in rows for example in row]
    expected = [
        (task, epoch, example)
        for task, n in enumerate(settings["sizes"])
        for epoch in range(settings["num_epochs"])
        for example in range(n)
    ]
    assert sorted(planned) == expected
    assert all(rows)
    if not settings["packing"]:
        order = Order(settings["sizes"], settings["sizes"], settings["seed"])
        stream = as_triples(order.order(np.arange(len(expected))))
        assert rows == [(example,) for example in stream]


@settings(max_examples=40, deadline=None)
@given(plan_settings)
def test_rows_stay_in_their_window_within_capacity_and_in_order(settings):
    plan = make_plan(**settings)
    order = Order(settings["sizes"], settings["sizes"], settings["seed"])
    total = order.epoch_size * settings["num_epochs"]
    position = {t: p for p, t in enumerate(as_triples(order.order(np.arange(total))))}
    last_window = 0
    for r in range(plan.num_rows):
        row = plan.row(r)
        places = [position[t] for t in as_triples(row)]
        assert places == sorted(places)
        assert places[0] // settings["window"] == places[-1] // settings["window"] >= last_window
        last_window = places[0] // settings["window"]
        if settings["packing"]:
            assert length_of(row).sum() <= 64


@settings(max_examples=40, deadline=None)
@given(plan_settings, st.data())
def test_rows_are_the_same_from_any_cursor_in_any_order(settings, data):
    rows = all_rows(make_plan(**settings))
    at = data.draw(st.integers(0, len(rows)))
    cursor = make_plan(**settings).cursor_at(at)
    assert set(cursor) == {"window", "first_row"}
    assert cursor["first_row"] <= at
    resumed = make_plan(**settings, cursor=cursor)
    assert [as_triples(resumed.row(r)) for r in range(at, len(rows))] == rows[at:]
    assert resumed.num_rows == len(rows)
    assert resumed.cursor_at(at) == cursor
    for r in data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)):
        assert as_triples(resumed.row(r)) == rows[r]


def test_a_resumed_plan_plans_nothing_before_its_cursor():
    planned = []

    def recording(examples):
        planned.append(len(examples))
        return length_of(examples)

    order = Order([1000], [1.0], 0)
    cursor = RowPlan(order, length_of, [64], 0, window=16).cursor_at(200)
    RowPlan(order, recording, [64], 0, window=16, cursor=cursor).row(200)
    assert len(planned) == 1


def test_an_endless_plan_begins_like_a_finite_one():
    finite = all_rows(make_plan(num_epochs=1, window=17))
    endless = make_plan(window=17)
    assert endless.num_rows is None
    whole_windows = len(finite) - 8  # the last window of the finite one is cut short
    assert [as_triples(endless.row(r)) for r in range(whole_windows)] == finite[:whole_windows]
    assert endless.row(2000).epoch.min() > 0


def test_threads_read_the_rows_that_one_reader_reads():
    rows = all_rows(make_plan(sizes=(400, 300), num_epochs=1))
    plan = make_plan(sizes=(400, 300), num_epochs=1)
    with ThreadPoolExecutor(8) as pool:
        wanted = np.random.default_rng(0).permutation(len(rows)).tolist()
        assert [as_triples(row) for row in pool.map(plan.row, wanted)] == [rows[r] for r in wanted]


def test_rows_of_a_window_are_shuffled_by_the_seed():
    order = Order([64], [1.0], 0)
    first, second = (
        [as_triples(plan.row(r)) for r in range(plan.num_rows)]
        for plan in (RowPlan(order, length_of, [64], seed, window=64, num_epochs=1) for seed in (0, 1))
    )
    assert first != second
    assert sorted(first) == sorted(second)


def test_each_window_is_shuffled_in_its_own_way():
    order = Order([256], [1.0], 0)
    place = {t: p for p, t in enumerate(as_triples(order.order(np.arange(256))))}
    plan = RowPlan(order, lambda e: np.full((len(e), 1), 16, np.int32), [32], 0, window=64, num_epochs=1)
    rows = [[place[t] % 64 for t in as_triples(plan.row(r))] for r in range(plan.num_rows)]
    windows = [rows[i : i + 32] for i in range(0, 128, 32)]
    assert all(sorted(window) == sorted(windows[0]) for window in windows)
    assert all(one != other for one, other in itertools.combinations(windows, 2))


def test_rows_outside_the_stream_are_refused():
    plan = make_plan(num_epochs=1)
    with pytest.raises(IndexError, match="past the end"):
        plan.row(plan.num_rows)
    with pytest.raises(IndexError, match="negative"):
        plan.row(-1)


@pytest.mark.parametrize(
    "cursor",
    [{}, {"window": 3}, {"window": -1, "first_row": 0}, {"window": 5, "first_row": 2}, {"window": 99, "first_row": 99}],
)
def test_a_cursor_of_no_plan_is_refused(cursor):
    with pytest.raises(DataError, match="row cursor"):
        make_plan(num_epochs=1, cursor=cursor)


@pytest.mark.parametrize(("name", "value"), [("window", 0), ("num_epochs", 0)])
def test_plan_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(DataError, match=f"{name}.* {value}"):
        make_plan(**{name: value})
