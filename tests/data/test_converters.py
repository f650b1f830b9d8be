"""The decoder's rows: what is put in can be read out again, whatever the ids are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.converters import DecoderConverter, RowItem
from t5x_instruct.data.prepared import Example

START, INPUTS_LENGTH, TARGETS_LENGTH = 3, 12, 9

token = st.integers(0, 5)  # 0 is a token like any other; 1 is EOS


def make_item(inputs, targets, mask=None, task=0, tail=0):
    mask = [True] * len(targets) if mask is None else mask
    ids = [np.array(part, np.int32) for part in (inputs, targets)]
    return RowItem(task, Example(*ids, np.array(mask, np.bool_), {}), tail)


@st.composite
def row_items(draw):
    # Lengths are drawn first: lists of a drawn size would nearly always be short.
    sizes = draw(st.sampled_from([0, 1, 4, 11, 12, 13, 20])), draw(st.sampled_from([1, 2, 5, 9, 10, 14]))
    inputs, targets = (draw(st.lists(token, min_size=size, max_size=size)) for size in sizes)
    mask = draw(st.lists(st.booleans(), min_size=len(targets), max_size=len(targets)))
    return make_item(inputs, targets, mask, draw(st.integers(0, 6)), draw(st.integers(0, INPUTS_LENGTH)))


def expected_sequence(item):
    """The definition, over lists: (tokens, whether each is trained on)."""
    inputs, targets, mask = (part.tolist() for part in item.example[:3])
    while len(inputs) > INPUTS_LENGTH:
        del inputs[INPUTS_LENGTH - max(INPUTS_LENGTH // 2, item.inputs_tail)]
    if len(targets) > TARGETS_LENGTH:
        targets = targets[: TARGETS_LENGTH - 1] + targets[-1:]
        mask = mask[: TARGETS_LENGTH - 1] + mask[-1:]
    prefix = inputs or [START]
    return prefix + targets, [False] * len(prefix) + mask


def unpack(row):
    """The (task, tokens, trained) of each segment."""
    found = []
    for segment in range(1, row["decoder_segment_ids"].max() + 1):
        slots = np.flatnonzero(row["decoder_segment_ids"] == segment)
        assert slots.tolist() == list(range(slots[0], slots[-1] + 1))
        assert row["decoder_positions"][slots].tolist() == list(range(len(slots)))
        fed, wanted = row["decoder_input_tokens"][slots], row["decoder_target_tokens"][slots]
        assert fed[1:].tolist() == wanted[:-1].tolist()
        (task,) = set(row["decoder_task_ids"][slots].tolist())
        trained = [False, *row["decoder_loss_weights"][slots].astype(bool).tolist()]
        found.append((task, [int(fed[0]), *wanted.tolist()], trained))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(row_items(), max_size=6), st.sampled_from([0, 1, 5, 99]))
def test_a_row_can_be_read_out_again(items, pad_id):
    converter = DecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, pad_id)
    raw = np.array([[len(i.example.inputs), len(i.example.targets)] for i in items], np.int32).reshape(-1, 2)
    slots = converter.lengths(raw)[:, 0]
    items = items[: int((np.cumsum(slots) <= converter.row_length).sum())]
    row = converter.convert(items)

    assert unpack(row) == [(i.task_id, *expected_sequence(i)) for i in items]
    used = int(slots[: len(items)].sum())
    assert (row["decoder_segment_ids"] > 0).tolist() == [True] * used + [False] * (converter.row_length - used)
    assert (row["decoder_input_tokens"][used:] == pad_id).all()
    assert (row["decoder_target_tokens"][used:] == pad_id).all()
    assert (row["decoder_loss_weights"][used:] == 0).all()
    assert (row["decoder_positions"][used:] == 0).all()
    assert (row["decoder_task_ids"][used:] == -1).all()
    for name, values in row.items():
        assert values.shape == (converter.row_length,)
        assert values.dtype == (np.float32 if name == "decoder_loss_weights" else np.int32)


@settings(max_examples=60, deadline=None)
@given(st.lists(row_items(), min_size=1, max_size=20))
def test_lengths_and_cut_counts_say_what_convert_does(items):
    converter = DecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, 0)
    raw = np.array([[len(i.example.inputs), len(i.example.targets)] for i in items], np.int32)
    filled = [int((converter.convert([i])["decoder_segment_ids"] > 0).sum()) for i in items]
    assert converter.lengths(raw).tolist() == [[n] for n in filled]
    lost = np.maximum(raw - [INPUTS_LENGTH, TARGETS_LENGTH], 0)
    counts = converter.cut_counts(raw)
    assert [counts.inputs, counts.targets] == (lost > 0).sum(axis=0).tolist()
    assert [counts.input_tokens, counts.target_tokens] == lost.sum(axis=0).tolist()
    assert converter.capacity == (INPUTS_LENGTH + TARGETS_LENGTH,)


def test_cutting_keeps_both_ends_of_the_prompt_and_the_end_of_the_answer():
    item = make_item(range(10, 20), range(20, 26), [1, 0, 1, 1, 1, 1])
    row = DecoderConverter(5, 3, START, 0).convert([item])
    assert row["decoder_input_tokens"].tolist() == [10, 11, 12, 18, 19, 20, 21, 0]
    assert row["decoder_target_tokens"].tolist() == [11, 12, 18, 19, 20, 21, 25, 0]
    assert row["decoder_loss_weights"].tolist() == [0, 0, 0, 0, 1, 0, 1, 0]
    row = DecoderConverter(5, 3, START, 0).convert([item._replace(inputs_tail=4)])
    assert row["decoder_input_tokens"].tolist() == [10, 16, 17, 18, 19, 20, 21, 0]


@settings(max_examples=60)
@given(st.lists(row_items(), max_size=4))
def test_prefix_rows_mark_the_tokens_of_the_inputs(items):
    converter = DecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, 0, prefix=True)
    without = DecoderConverter(INPUTS_LENGTH, TARGETS_LENGTH, START, 0)
    for item in items:
        row, plain = converter.convert([item]), without.convert([item])
        marks = row.pop("decoder_causal_attention")
        assert row.keys() == plain.keys()
        assert all(np.array_equal(row[key], plain[key]) for key in row)
        num_inputs = max(min(len(item.example.inputs), INPUTS_LENGTH), 1)
        assert marks.dtype == np.int32
        assert marks.tolist() == [1] * num_inputs + [0] * (converter.row_length - num_inputs)


def test_prefix_marks_start_anew_in_each_segment():
    converter = DecoderConverter(4, 4, START, 0, prefix=True)
    row = converter.convert([make_item([5, 6], [7, 1]), make_item([], [8, 1])])
    assert row["decoder_input_tokens"].tolist() == [5, 6, 7, START, 8, 0, 0, 0]
    assert row["decoder_causal_attention"].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    assert converter.fingerprint["converter"] == "prefix"


def test_without_inputs_the_start_id_comes_first():
    row = DecoderConverter(0, 4, START, 0).convert([make_item([], [7, 8, 1])])
    assert row["decoder_input_tokens"].tolist() == [START, 7, 8, 0]
    assert row["decoder_target_tokens"].tolist() == [7, 8, 1, 0]
    assert row["decoder_loss_weights"].tolist() == [1, 1, 1, 0]


def test_no_inputs_length_drops_all_inputs():
    row = DecoderConverter(0, 4, START, 0).convert([make_item([9, 9], [7, 1])])
    assert row["decoder_input_tokens"].tolist() == [START, 7, 0, 0]


def test_too_much_for_a_row_is_refused():
    converter = DecoderConverter(4, 4, START, 0)
    converter.convert([make_item([5, 5], [6, 6, 1])] * 2)  # 4 slots each
    with pytest.raises(DataError, match="do not fit into one row of 8 decoder slots: number 2"):
        converter.convert([make_item([5, 5, 5], [6, 6, 1])] * 2)


def test_refusing_overlong_examples_names_them():
    converter = DecoderConverter(4, 3, START, 0, overlong="refuse")
    raw = np.array([[4, 3], [5, 3], [1, 4]], np.int32)
    with pytest.raises(DataError, match="row 1 has 5 input and 3 target tokens; the limits are 4 and 3 .2 examples"):
        converter.lengths(raw, where=lambda i: f"row {i}")
    assert converter.lengths(raw[:1]).tolist() == [[6]]
    with pytest.raises(DataError, match="task 2 has 5 input"):
        converter.convert([make_item([4] * 5, [1], task=2)])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (make_item([5], []), "0 target tokens"),
        (make_item([5], [6, 1], [True]), "2 target tokens and a mask of 1"),
        (make_item([5] * 9, [6], tail=5), "last 5 input tokens of task 'task 0' must survive"),
    ],
)
def test_examples_that_cannot_be_converted_are_refused(item, message):
    with pytest.raises(DataError, match=message):
        DecoderConverter(4, 4, START, 0).convert([item])


def test_lengths_refuses_an_example_without_targets():
    with pytest.raises(DataError, match="example 1 has no target token"):
        DecoderConverter(4, 4, START, 0).lengths(np.array([[3, 1], [3, 0]], np.int32))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(-1, 4, "cut"), (4, 0, "cut"), (4, 4, "drop")]))
def test_settings_that_make_no_sense_are_refused(case):
    inputs_length, targets_length, overlong = case
    with pytest.raises(DataError, match="at least|valid"):
        DecoderConverter(inputs_length, targets_length, START, 0, overlong)
