"""The encoder-decoder's rows: both sides of an example stay together, whatever stands beside it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.converters import DecoderConverter, EncoderDecoderConverter, make_converter
from t5x_instruct.data.packing import best_fit_decreasing, lower_bound

from .test_converters import make_item

START, INPUTS_LENGTH, TARGETS_LENGTH = 4, 12, 9
ENCODER, DECODER = "encoder_", "decoder_"


@st.composite
def items(draw):
    """Examples with few different ids, among them 0 and EOS, and often without inputs."""
    sizes = draw(st.sampled_from([0, 0, 1, 3, 6, 12, 17])), draw(st.sampled_from([1, 2, 4, 9, 13]))
    inputs, targets = (draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)) for size in sizes)
    mask = draw(st.lists(st.booleans(), min_size=len(targets), max_size=len(targets)))
    return make_item(inputs, targets, mask, draw(st.integers(0, 6)), draw(st.integers(0, 3)))


def converter(pad_id=0, **options):
    return EncoderDecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, pad_id, **options)


def raw_lengths(examples):
    return np.array([[len(i.example.inputs), len(i.example.targets)] for i in examples], np.int32).reshape(-1, 2)


def segment_of(row, segment):
    """What a model sees of one segment, by batch key, without its number."""
    seen = {}
    for side in (ENCODER, DECODER):
        slots = np.flatnonzero(row[f"{side}segment_ids"] == segment)
        assert slots.tolist() == list(range(slots[0], slots[-1] + 1)) if len(slots) else True
        seen |= {k: v[slots].tolist() for k, v in row.items() if k.startswith(side) and not k.endswith("segment_ids")}
    return seen


@settings(max_examples=60)
@given(st.lists(items(), max_size=30), st.sampled_from([0, 1, 3, 99]))
def test_packed_rows_hold_what_one_example_a_row_holds(examples, pad_id):
    one_side_pads = converter(pad_id)
    lengths = one_side_pads.lengths(raw_lengths(examples))
    row_of = best_fit_decreasing(lengths, one_side_pads.capacity)
    found = Counter()
    for r in range(row_of.max(initial=-1) + 1):
        mine = [example for example, row in zip(examples, row_of, strict=True) if row == r]
        row = one_side_pads.convert(mine)
        for segment, example in enumerate(mine, 1):
            alone = segment_of(one_side_pads.convert([example]), 1)
            assert segment_of(row, segment) == alone
            found[str(alone)] += 1
        assert row["decoder_segment_ids"].max(initial=0) == len(mine)
        for side in (ENCODER, DECODER):
            padding = row[f"{side}segment_ids"] == 0
            assert (row[f"{side}input_tokens"][padding] == pad_id).all()
            assert (row[f"{side}positions"][padding] == 0).all()
        assert (row["decoder_target_tokens"][row["decoder_segment_ids"] == 0] == pad_id).all()
        assert not row["decoder_loss_weights"][row["decoder_segment_ids"] == 0].any()
    assert found == Counter(str(segment_of(one_side_pads.convert([example]), 1)) for example in examples)
    assert row_of.max(initial=-1) + 1 >= lower_bound(lengths, one_side_pads.capacity)


@settings(max_examples=60)
@given(items())
def test_one_example_is_read_as_it_is_defined(example):
    row = segment_of(converter().convert([example]), 1)
    inputs, targets, mask = (part.tolist() for part in example.example[:3])
    while len(inputs) > INPUTS_LENGTH:
        del inputs[INPUTS_LENGTH - max(INPUTS_LENGTH // 2, example.inputs_tail)]
    if len(targets) > TARGETS_LENGTH:
        targets, mask = ([*part[: TARGETS_LENGTH - 1], part[-1]] for part in (targets, mask))
    assert row == {
        "encoder_input_tokens": inputs,
        "encoder_positions": list(range(len(inputs))),
        "decoder_input_tokens": [START, *targets[:-1]],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": [float(trained) for trained in mask],
        "decoder_positions": list(range(len(targets))),
        "decoder_task_ids": [example.task_id] * len(targets),
    }
    assert converter().lengths(raw_lengths([example])).tolist() == [[len(inputs), len(targets)]]


def test_an_example_without_inputs_moves_no_other():
    row = converter().convert([make_item([5], [6, 1], task=2), make_item([], [7, 1]), make_item([8], [9, 1])])
    assert row["encoder_input_tokens"].tolist() == [5, 8] + [0] * 10
    assert row["encoder_segment_ids"].tolist() == [1, 3] + [0] * 10
    assert row["decoder_segment_ids"].tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 0]
    assert row["decoder_input_tokens"].tolist() == [START, 6, START, 7, START, 9, 0, 0, 0]
    assert row["decoder_task_ids"].tolist() == [2, 2, 0, 0, 0, 0, -1, -1, -1]


def test_shapes_and_types_are_those_of_a_row_of_padding():
    empty, row = converter().convert([]), converter().convert([make_item([5], [6, 1])])
    assert empty.keys() == row.keys()
    for name, values in row.items():
        assert values.shape == empty[name].shape == (INPUTS_LENGTH if name.startswith(ENCODER) else TARGETS_LENGTH,)
        assert values.dtype == empty[name].dtype == (np.float32 if name == "decoder_loss_weights" else np.int32)
    assert not any(empty[key].any() for key in empty if key != "decoder_task_ids")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([make_item([5] * 7, [1])] * 2, "one row of 12 encoder slots: number 2 would end at slot 14"),
        ([make_item([], [6] * 5)] * 2, "one row of 9 decoder slots: number 2 would end at slot 10"),
        ([make_item([5], [])], "0 target tokens"),
        ([make_item([5] * 13, [6], tail=13)], "last 13 input tokens of task 'task 0' must survive"),
    ],
)
def test_what_makes_no_row_is_refused(examples, message):
    with pytest.raises(DataError, match=message):
        converter().convert(examples)


def test_refusing_overlong_examples_and_no_room():
    with pytest.raises(DataError, match="example 1 has 13 input and 9 target tokens"):
        converter(overlong="refuse").lengths(np.array([[12, 9], [13, 9]], np.int32))
    with pytest.raises(DataError, match="encoder's inputs length is 0"):
        EncoderDecoderConverter(0, 4, START, 0)


def test_how_a_model_reads_inputs_decides_the_rows():
    sizes = {"inputs_length": 4, "targets_length": 3, "start_id": START, "pad_id": 0}
    made = {name: make_converter(name, **sizes) for name in ("causal", "prefix", "encoder")}
    assert isinstance(made["encoder"], EncoderDecoderConverter)
    assert made["encoder"].capacity == (4, 3)
    assert made["encoder"].convert([make_item([5], [6])])["decoder_input_tokens"][0] == START
    for name in ("causal", "prefix"):
        assert isinstance(made[name], DecoderConverter)
        assert ("decoder_causal_attention" in made[name].convert([])) == (name == "prefix")
    assert len({str(one.fingerprint) for one in made.values()}) == 3
    with pytest.raises(DataError, match="unknown way to read inputs 'encoders'; nearest: 'encoder'"):
        make_converter("encoders", **sizes)
