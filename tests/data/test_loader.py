"""The loader: batch k is the same however it is reached, and an epoch loses nothing."""

import itertools
import json
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.converters import DecoderConverter, EncoderDecoderConverter
from t5x_instruct.data.loader import Loader
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import Example, PreparedMixture, PreparedTask

START, PAD = 1, 0
INPUTS_LENGTH, TARGETS_LENGTH = 16, 14


class InMemorySplit:
    """What the loader reads of a `PreparedSplit`, without files.

    The first targets of an example spell (task, example, variant), so that a batch tells what is in it.
    """

    def __init__(self, task, num_examples, variants=1):
        self.num_examples = num_examples
        self.variants = variants
        rng = np.random.default_rng([task, num_examples, variants])
        self._examples = []
        for index in range(num_examples * variants):
            variant, example = divmod(index, num_examples)
            inputs = rng.integers(0, 9, rng.integers(0, INPUTS_LENGTH + 4)).astype(np.int32)
            name = [100 + task, 1000 + example, 10 + variant]
            targets = np.array(name + [0] * int(rng.integers(0, 8)) + [1], np.int32)
            mask = rng.random(len(targets)) < 0.7
            self._examples.append(Example(inputs, targets, mask, {}))
        self.lengths = np.array([[len(e.inputs), len(e.targets)] for e in self._examples], np.int32)
        self.tokens = {
            "inputs": sum(len(e.inputs) for e in self._examples),
            "targets": sum(len(e.targets) for e in self._examples),
            "trained": sum(int(e.targets_mask.sum()) for e in self._examples),
        }

    def read(self, example, variant=0):
        assert 0 <= example < self.num_examples
        assert 0 <= variant < self.variants
        return self._examples[variant * self.num_examples + example]


def make_mixture(sizes=(30, 17, 4), rates=None, variants=1, name="mix", fingerprint="f", held_out=0):
    rates = sizes if rates is None else rates
    tasks = tuple(
        PreparedTask(
            name=f"task_{i}",
            cluster=f"cluster_{i}",
            rate=0.0 if i < held_out else float(rate),
            role="held_out" if i < held_out else "train",
            splits={"train": InMemorySplit(i, n, variants)},
            inputs_tail=i,
            fingerprint=f"{fingerprint}{i}",
        )
        for i, (n, rate) in enumerate(zip(sizes, rates, strict=True))
    )
    spec = PrepareSpec(mixture=name, modules=(), vocabulary="bytes", root=".")
    return PreparedMixture(name, tasks, fingerprint, spec)


def make_loader(mixture=None, batch_size=4, seed=0, **options):
    converter = options.pop("converter", DecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, PAD))
    options = {"window": 16, "num_threads": 2} | options
    return Loader(mixture or make_mixture(), "train", converter, batch_size, seed, **options)


def names_in(batch):
    """(task, example, variant) of every example in a batch, from its targets."""
    found = []
    for segments, fed, wanted in zip(
        batch["decoder_segment_ids"], batch["decoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        for segment in range(1, segments.max() + 1):
            slots = np.flatnonzero(segments == segment)
            tokens = [int(fed[slots[0]]), *wanted[slots].tolist()]
            at = next(i for i, token in enumerate(tokens) if token >= 100)
            found.append((tokens[at] - 100, tokens[at + 1] - 1000, tokens[at + 2] - 10))
    return found


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def take(loader, count):
    return [batch for _, batch in zip(range(count), loader, strict=False)]


class Case(NamedTuple):
    sizes: list
    variants: int
    batch_size: int
    seed: int
    packing: bool
    num_epochs: int
    encoder: bool


cases = st.builds(
    Case,
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    variants=st.integers(1, 3),
    batch_size=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
    packing=st.booleans(),
    num_epochs=st.integers(1, 3),
    encoder=st.booleans(),
)


def loader_of(case, **options):
    mixture = make_mixture(case.sizes, variants=case.variants)
    converter = EncoderDecoderConverter if case.encoder else DecoderConverter
    options = {
        "num_epochs": case.num_epochs,
        "converter": converter(INPUTS_LENGTH, TARGETS_LENGTH, START, PAD),
    } | options
    return make_loader(mixture, case.batch_size, case.seed, packing=case.packing, **options)


@settings(max_examples=12, deadline=None)
@given(cases)
def test_an_epoch_has_every_example_once_in_the_variant_of_its_epoch(case):
    loader = loader_of(case)
    batches = list(loader)
    found = Counter(name for batch in batches for name in names_in(batch))
    assert found == Counter(
        (task, example, epoch % case.variants)
        for task, n in enumerate(case.sizes)
        for epoch in range(case.num_epochs)
        for example in range(n)
    )
    assert len(batches) == loader.num_batches
    assert loader.rows_consumed == loader.num_rows
    assert list(loader) == []


def test_the_encoder_reads_the_inputs_of_what_the_decoder_writes():
    converter = EncoderDecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, PAD)
    mixture = make_mixture()
    checked = 0
    for batch in make_loader(mixture, converter=converter, num_epochs=2):
        for row in range(4):
            rows = {key: values[row : row + 1] for key, values in batch.items()}
            for segment, (task, example, variant) in enumerate(names_in(rows), 1):
                read = rows["encoder_input_tokens"][rows["encoder_segment_ids"] == segment].tolist()
                inputs = mixture.tasks[task].splits["train"].read(example, variant).inputs.tolist()
                assert len(read) == min(len(inputs), INPUTS_LENGTH)
                assert read[:8] == inputs[:8]
                assert read[-8:] == inputs[-8:]
                checked += len(read) > 0
    assert checked > 40


@settings(max_examples=12, deadline=None)
@given(cases)
def test_all_hosts_together_have_the_global_batch(case):
    batches = list(loader_of(case))
    for host_count in (2, 4):
        hosts = [list(loader_of(case, host_index=h, host_count=host_count)) for h in range(host_count)]
        assert {len(host) for host in hosts} == {len(batches)}
        for whole, *parts in zip(batches, *hosts, strict=True):
            assert same(whole, {key: np.concatenate([part[key] for part in parts]) for key in whole})


@settings(max_examples=12, deadline=None)
@given(cases, st.data())
def test_iterating_looking_up_and_resuming_give_the_same_batches(case, data):
    batches = list(loader_of(case))
    looked_up = loader_of(case)
    for k in data.draw(st.permutations(range(len(batches)))):
        assert same(looked_up.batch(k), batches[k])

    stop = data.draw(st.integers(0, len(batches)))
    first = loader_of(case)
    taken = take(first, stop)
    state = json.loads(json.dumps(first.state(), sort_keys=True))
    resumed = loader_of(case, host_count=1, num_threads=0)
    resumed.restore(state)
    rest = list(resumed)
    assert len(taken) + len(rest) == len(batches)
    assert all(same(a, b) for a, b in zip(taken + rest, batches, strict=True))


def test_an_endless_stream_resumes_on_other_hosts():
    whole = take(make_loader(batch_size=8), 40)
    first = make_loader(batch_size=8)
    take(first, 23)
    state = json.loads(json.dumps(first.state()))
    for h in range(2):
        host = make_loader(batch_size=8, host_index=h, host_count=2)
        host.restore(state)
        for batch, part in zip(whole[23:], take(host, 17), strict=True):
            assert same({key: rows[4 * h : 4 * h + 4] for key, rows in batch.items()}, part)


def test_all_hosts_save_the_same_state():
    states = []
    for h in range(2):
        loader = make_loader(batch_size=8, host_index=h, host_count=2)
        take(loader, 11)
        states.append(loader.state())
    assert states[0] == states[1]
    assert states[0]["rows_consumed"] == 88


def test_another_batch_size_goes_on_with_the_next_row():
    rows = [{k: v[0] for k, v in batch.items()} for batch in take(make_loader(batch_size=1), 40)]
    first = make_loader(batch_size=8)
    take(first, 2)
    other = make_loader(batch_size=6)
    other.restore(first.state())
    (batch,) = take(other, 1)
    assert same(batch, {key: np.stack([row[key] for row in rows[16:22]]) for key in batch})


def test_a_second_iteration_goes_on_after_the_first():
    whole = take(make_loader(), 6)
    loader = make_loader()
    assert all(same(a, b) for a, b in zip(take(loader, 2) + take(loader, 4), whole, strict=True))


def test_the_last_batch_is_filled_up_with_rows_that_do_not_count():
    loader = make_loader(num_epochs=1, packing=False, batch_size=8)  # 51 rows
    last = list(loader)[-1]
    assert (last["decoder_segment_ids"].max(axis=1) > 0).tolist() == [True] * 3 + [False] * 5
    assert (last["decoder_loss_weights"][3:] == 0).all()
    assert (last["decoder_task_ids"][3:] == -1).all()
    assert loader.rows_consumed == 51


def test_task_ids_index_the_tasks_of_the_loader():
    loader = make_loader(make_mixture((30, 17, 4), held_out=1), num_epochs=1)
    assert loader.tasks == ("task_1", "task_2")
    for batch in loader:
        for row in range(4):
            ids = batch["decoder_task_ids"][row]
            assert set(ids[batch["decoder_segment_ids"][row] > 0].tolist()) <= {0, 1}
        found = {task - 1 for task, _, _ in names_in(batch)}
        assert found == set(batch["decoder_task_ids"].ravel().tolist()) - {-1}


def test_held_out_tasks_are_read_once_each_although_they_have_no_rate():
    loader = make_loader(make_mixture((9, 17, 4), held_out=2), role="held_out", num_epochs=1)
    found = [name for batch in loader for name in names_in(batch)]
    assert sorted(found) == [(task, i, 0) for task, n in enumerate((9, 17)) for i in range(n)]


def test_every_example_once_ignores_the_rates():
    loader = make_loader(make_mixture((9, 30), rates=(1, 1)), num_epochs=1, every_example_once=True, tasks=["task_1"])
    assert sorted(name for batch in loader for name in names_in(batch)) == [(1, i, 0) for i in range(30)]


def test_rates_decide_the_share_of_a_task():
    loader = make_loader(make_mixture((10, 40), rates=(3, 1)), num_epochs=2)
    counts = Counter(task for batch in loader for task, _, _ in names_in(batch))
    assert counts == {0: 2 * 38, 1: 2 * 12}  # 37.5 and 12.5 of 50: the lower index gains the tie


@settings(max_examples=12, deadline=None)
@given(cases)
def test_the_realised_mixture_is_what_the_batches_hold(case):
    loader = loader_of(case)
    realised = loader.realised_mixture(case.num_epochs)
    json.dumps(realised)
    batches = list(loader)
    tasks = np.concatenate([batch["decoder_task_ids"] for batch in batches])
    counts = Counter(task for batch in batches for task, _, _ in names_in(batch))
    for i, name in enumerate(loader.tasks):
        row = realised["tasks"][name]
        assert row["examples"] == counts[i] == row["epochs"] * row["num_examples"]
        split = InMemorySplit(i, case.sizes[i], case.variants)
        drawn = [
            v * case.sizes[i] + e for e in range(case.sizes[i]) for v in np.arange(case.num_epochs) % case.variants
        ]
        lengths = split.lengths[drawn]
        assert row["input_tokens"] == np.minimum(lengths[:, 0], INPUTS_LENGTH).sum()
        assert row["target_tokens"] == np.minimum(lengths[:, 1], TARGETS_LENGTH).sum()
        assert row["cut_examples"] == (lengths > [INPUTS_LENGTH, TARGETS_LENGTH]).any(axis=1).sum()
        with_inputs = (lengths[:, 0] > 0).sum()
        in_the_decoder = 0 if case.encoder else row["input_tokens"] - with_inputs
        assert (tasks == i).sum() == row["target_tokens"] + in_the_decoder
        trained = split.tokens["trained"] / split.tokens["targets"]
        assert row["trained_tokens"] == round(row["target_tokens"] * trained)
        assert row["share"] == pytest.approx(counts[i] / sum(counts.values()))
    for name in ("share", "trained_share"):
        assert sum(row[name] for row in realised["tasks"].values()) == pytest.approx(1)
    assert loader.stats.examples == sum(counts.values())
    assert loader.stats.batches == len(batches)
    sides = [tasks >= 0]
    if case.encoder:
        sides.append(np.concatenate([batch["encoder_segment_ids"] for batch in batches]) > 0)
        assert sides[1].sum() == sum(row["input_tokens"] for row in realised["tasks"].values())
    assert loader.stats.used_slots == sum(side.sum() for side in sides)
    assert loader.stats.fill == pytest.approx(sum(side.sum() for side in sides) / sum(side.size for side in sides))
    assert loader.stats.trained_tokens == sum(int(batch["decoder_loss_weights"].sum()) for batch in batches)


@settings(max_examples=12, deadline=None)
@given(cases, st.integers(0, 6))
def test_what_was_consumed_is_what_the_batches_held(case, wanted):
    loader = loader_of(case)
    taken = list(itertools.islice(loader, wanted))
    consumed = loader.consumed_mixture()
    counts = Counter(task for batch in taken for task, _, _ in names_in(batch))
    assert consumed["rows"] == loader.rows_consumed
    assert {name: row["examples"] for name, row in consumed["tasks"].items()} == {
        name: counts[i] for i, name in enumerate(loader.tasks)
    }
    targets = sum(row["target_tokens"] for row in consumed["tasks"].values())
    with_inputs = sum(int((batch["decoder_task_ids"] >= 0).sum()) for batch in taken)
    assert targets == with_inputs if case.encoder else targets <= with_inputs


OTHER_CONVERTER = DecoderConverter(INPUTS_LENGTH + 4, TARGETS_LENGTH, START, PAD)


@pytest.mark.parametrize(
    ("mixture", "options", "changes"),
    [
        ({}, {"seed": 7}, ["seed changed (seed was 0, is 7)"]),
        ({}, {"packing": False}, ["packing changed (packing was True, is False)"]),
        ({}, {"window": 32}, ["packing changed (window was 16, is 32)"]),
        ({}, {"num_epochs": 2}, ["packing changed (num_epochs was None, is 2)"]),
        ({}, {"converter": OTHER_CONVERTER}, ["lengths changed (inputs_length was 16, is 20)"]),
        (
            {"fingerprint": "g", "sizes": (9, 9, 9, 9), "base": (9, 9, 9, 9)},
            {},
            [
                "data changed (task task_0 was f0, is g0, task task_1 was f1, is g1, task task_2 was f2, is g2"
                " and 1 more)"
            ],
        ),
        ({"rates": (30, 17, 5)}, {}, ["mixture changed (task task_2 was [4.0, 4], is [5.0, 4])"]),
        ({"name": "other"}, {}, ["mixture changed (name was mix, is other)"]),
        (
            {"sizes": (30, 17)},
            {},
            ["task task_2 was [4.0, 4], is absent)", "data changed (task task_2 was f2, is absent)"],
        ),
        (
            {"name": "other"},
            {"seed": 1},
            ["mixture changed (name was mix, is other)", "seed changed (seed was 0, is 1)"],
        ),
    ],
)
def test_restoring_into_another_stream_names_what_changed(mixture, options, changes):
    mixture = dict(mixture)
    first = make_loader(make_mixture(mixture.pop("base", (30, 17, 4))))
    take(first, 2)
    state = json.loads(json.dumps(first.state()))
    other = make_loader(make_mixture(**mixture), **options)
    with pytest.raises(DataError) as error:
        other.restore(state)
    assert all(change in str(error.value) for change in changes)
    assert str(error.value).count(" changed (") == len(changes)
    assert other.rows_consumed == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"rows_consumed": None}, "needs rows_consumed"),
        ({"cursor": None}, "needs rows_consumed"),
        ({"cursor": {"window": 1, "first_row": 2000}}, "before its cursor"),
        ({"cursor": {"window": 4, "first_row": 1}}, "row cursor"),
    ],
)
def test_a_damaged_state_is_refused(damage, message):
    with pytest.raises(DataError, match=message):
        make_loader().restore(make_loader().state() | damage)


def test_a_fault_while_reading_reaches_the_reader_of_batches():
    mixture = make_mixture()

    def fail(example, variant=0):
        raise DataError("record 3 of shard 0 is damaged")

    mixture.tasks[0].splits["train"].read = fail
    with pytest.raises(DataError, match="record 3 of shard 0"):
        take(make_loader(mixture), 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "host_count": 4}, "6 rows cannot be shared evenly by 4 hosts"),
        ({"host_index": 2, "host_count": 2}, "host 2 of 2"),
        ({"role": "held_out"}, "no task of role 'held_out'"),
        ({"role": "trian"}, "unknown role 'trian'; nearest: 'train'"),
        ({"tasks": ["tusk_1"]}, "unknown task 'tusk_1'; nearest: 'task_"),
        ({"mixture": make_mixture((4, 0))}, "1 of 2 tasks have no example: 'task_1'"),
        ({"mixture": make_mixture((4, 3), rates=(1, 0))}, "'task_1' has 0.0"),
        ({"converter": DecoderConverter(1, 9, START, PAD)}, "last 2 input tokens of task 'task_2'"),
        (
            {"converter": DecoderConverter(8, 9, START, PAD, overlong="refuse")},
            r"example \d+ \(variant 0\) of task 'task_0' has \d+ input",
        ),
    ],
)
def test_settings_that_make_no_stream_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        make_loader(**options)


def test_a_missing_split_is_refused_with_those_that_exist():
    converter = DecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, PAD)
    with pytest.raises(DataError, match=r"no split 'validation'.*'task_0' has \['train'\]"):
        Loader(make_mixture(), "validation", converter, 4, 0)


def test_batches_outside_the_stream_are_refused():
    loader = make_loader(num_epochs=1)
    for k in (-1, loader.num_batches):
        with pytest.raises(IndexError, match=f"batch {k} "):
            loader.batch(k)
