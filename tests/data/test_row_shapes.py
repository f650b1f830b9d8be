"""Rows of known shapes become ours, and what does not fit is shown."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.row_shapes import SHAPES, Placed, reshape, shape_named, shapes_of, shortened

USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello"}
HUMAN = "\n\nHuman: Hi\n\nAssistant: "


def node(role, text, *replies, rank=None, deleted=False):
    return {"role": role, "text": text, "replies": list(replies), "rank": rank, "deleted": deleted}


TREE = node(
    "prompter",
    "Hi",
    node("assistant", "worse", rank=1),
    node(
        "assistant",
        "best",
        node("prompter", "And?", node("assistant", "first follow-up", rank=None)),
        node("prompter", "So?", node("assistant", "gone", rank=0, deleted=True), node("assistant", "second", rank=2)),
        node("prompter", "nobody replied"),
        rank=0,
    ),
)

# Shape, their row, our rows.
RIGHT = {
    "alpaca": (
        {"instruction": "Add", "input": "1 2", "output": "3", "text": "x"},
        [{"instruction": "Add", "input": "1 2", "prompt": "Add\n\n1 2", "answer": "3"}],
    ),
    "prompt_completion": ({"prompt": "P", "completion": "C", "id": 7}, [{"prompt": "P", "answer": "C"}]),
    "natural_instructions": (
        {
            "Definition": ["Add."],
            "Instances": [{"input": "1 2", "output": ["3", "three"]}, {"input": "2 2", "output": "4"}],
        },
        [
            {"definition": "Add.", "input": "1 2", "prompt": "Add.\n\n1 2", "answers": ["3", "three"]},
            {"definition": "Add.", "input": "2 2", "prompt": "Add.\n\n2 2", "answers": ["4"]},
        ],
    ),
    "self_instruct": (
        {"instruction": "Do", "instances": [{"input": "", "output": "o"}], "id": "seed_0"},
        [{"instruction": "Do", "input": "", "prompt": "Do", "answer": "o"}],
    ),
    "preference": (
        {"prompt": "P", "chosen": "good", "rejected": "bad"},
        [{"prompt": "P", "answer": "good", "rejected": "bad"}],
    ),
    "preference_chat": (
        {"prompt": [{"role": "prompter", "content": "Hi"}], "chosen": "Hello", "rejected": "No", "rank": 0},
        [{"messages": [USER, REPLY], "rejected": "No"}],
    ),
    "hh_rlhf": (
        {"chosen": HUMAN + "Hello", "rejected": HUMAN + "No\n\nHuman: Go\n\nAssistant: Never"},
        [{"messages": [USER, REPLY], "rejected": "Never"}],
    ),
    "messages": (
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be kind"}]}, USER, REPLY]},
        [{"messages": [{"role": "system", "content": "Be kind"}, USER, REPLY]}],
    ),
    "sharegpt": (
        {"system": "S", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        [{"messages": [{"role": "system", "content": "S"}, USER, REPLY]}],
    ),
    "open_assistant": (
        {"message_tree_id": "t", "prompt": TREE},
        [
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": "best"},
                    {"role": "user", "content": "And?"},
                    {"role": "assistant", "content": "first follow-up"},
                ]
            },
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": "best", "weight": 0},
                    {"role": "user", "content": "So?"},
                    {"role": "assistant", "content": "second"},
                ]
            },
        ],
    ),
    "taskmaster": (
        {"utterances": [{"speaker": "USER", "text": "Hi"}, {"speaker": "assistant", "text": "Hello"}]},
        [{"messages": [USER, REPLY]}],
    ),
}


def made(row, shape):
    return [dict(item.row) for item in reshape([Placed(row, "f:1")], shape)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_of_each_shape_is_known_and_becomes_ours(shape):
    row, ours = RIGHT[shape]
    assert shapes_of([row, row]) == [shape]
    assert made(row, shape) == ours
    assert {"prompt": "prompt", "messages": "messages"}[SHAPES[shape].gives] in ours[0]


VARIETIES = [
    ("alpaca", {"instruction": "Do", "context": "c", "response": "r"}, {"prompt": "Do\n\nc", "answer": "r"}),
    ("alpaca", {"instruction": "Do", "input": None, "output": "r"}, {"prompt": "Do", "input": ""}),
    ("alpaca", {"instruction": "Do", "input": " \n", "output": 3}, {"prompt": "Do", "answer": "3"}),
    ("prompt_completion", {"question": "Q", "answer": "a", "options": ["a", "b"]}, {"options": ["a", "b"]}),
    ("prompt_completion", {"input": "Q", "output": "a"}, {"prompt": "Q", "answer": "a"}),
    ("preference", {"question": "Q", "chosen": "a", "rejected": "b"}, {"prompt": "Q"}),
    ("preference_chat", {"prompt": "Hi", "chosen": [USER, REPLY], "rejected": [USER, REPLY]}, {"rejected": "Hello"}),
    ("taskmaster", {"utterances": [{"speaker": "assistant", "text": t} for t in "ab"]}, {}),
]


@pytest.mark.parametrize(("shape", "row", "part"), VARIETIES, ids=range(len(VARIETIES)))
def test_varieties_of_shapes(shape, row, part):
    assert part.items() <= made(row, shape)[0].items()
    if row.get("output") != 3:  # a number is taken where the shape is named, but tells nothing of it
        assert shapes_of([row]) == [shape]


def test_utterances_and_transcripts_of_one_speaker_are_joined():
    said = {"utterances": [{"speaker": s, "text": t} for s, t in [("user", "a"), ("user", "b"), ("assistant", "c")]]}
    assert made(said, "taskmaster")[0]["messages"][0] == {"role": "user", "content": "a\nb"}
    text = "\n\nHuman: a\n\nHuman: b: \n\nAssistant:\n\nAssistant: c"
    messages = made({"chosen": text, "rejected": text}, "hh_rlhf")[0]["messages"]
    assert messages == [{"role": "user", "content": "a\n\nb:"}, {"role": "assistant", "content": "c"}]


def test_what_chosen_and_rejected_share_is_not_trained_on():
    turns = HUMAN + "Hello\n\nHuman: Bye\n\nAssistant: "
    shared = [USER, {**REPLY, "weight": 0}, {"role": "user", "content": "Bye"}]
    ours = [*shared, {"role": "assistant", "content": "Good"}]
    assert made({"chosen": turns + "Good", "rejected": turns + "Bad"}, "hh_rlhf") == [
        {"messages": ours, "rejected": "Bad"}
    ]
    prompt = [USER, REPLY, {"role": "user", "content": "Bye"}]
    pair = {"prompt": prompt, "chosen": "Good", "rejected": [{"role": "assistant", "content": "Bad"}]}
    assert made(pair, "preference_chat") == [{"messages": ours, "rejected": "Bad"}]
    same = made({"prompt": prompt, "chosen": "Good", "rejected": "Good"}, "preference_chat")[0]["messages"]
    assert "weight" not in same[-1]


def test_tools_and_their_calls_are_passed_on():
    call = {"id": "c1", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}
    tools = [{"type": "function", "function": {"name": "sum"}}]
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "sum", "content": "1"},
        REPLY,
    ]
    ours = made({"messages": messages, "tools": json.dumps(tools)}, "messages")[0]
    assert ours == {"messages": [USER, {**messages[1], "content": ""}, *messages[2:]], "tools": tools}
    turns = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '{"name": "sum", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "Hello"},
    ]
    ours = made({"conversations": turns, "tools": ""}, "sharegpt")[0]["messages"]
    assert ours[1]["tool_calls"] == [{"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}]
    assert [message["role"] for message in ours] == ["user", "assistant", "tool", "assistant"]


WRONG = [
    ("alpaca", {"instruction": "Do"}, "'output' is missing, not a text"),
    ("alpaca", {"instruction": "Do", "output": ["x"]}, r"'output' is list \['x'\], not a text"),
    ("alpaca", {"instruction": "Do", "output": True}, "'output' is bool True"),
    ("prompt_completion", {"prompt": "P", "text": "x"}, "'completion' is missing"),
    ("natural_instructions", {"Definition": ["D"], "Instances": [3]}, r"Instances\[0\] is int 3, not an object"),
    ("natural_instructions", {"Definition": ["D"], "Instances": [{"input": "x", "output": []}]}, "not a list of texts"),
    ("natural_instructions", {"Instances": []}, "'Definition' is missing"),
    ("self_instruct", {"instruction": "I", "instances": ["x"]}, r"instances\[0\] is str 'x'"),
    ("preference_chat", {"chosen": [USER], "rejected": [REPLY]}, "'chosen' does not end with a message"),
    ("preference_chat", {"chosen": [USER, REPLY], "rejected": [USER]}, "'rejected' does not end with a message"),
    ("hh_rlhf", {"chosen": "Human: x", "rejected": ""}, "'chosen' is str 'Human: x', not a transcript"),
    ("messages", {"messages": []}, r"'messages' is list \[\], not a list with something in it"),
    ("messages", {"messages": ["Hi"]}, r"messages\[0\] is str 'Hi', not an object"),
    ("messages", {"messages": [{"role": "usr", "content": ""}]}, r"'role' of messages\[0\] is str 'usr'; known: 'sys"),
    ("messages", {"messages": [USER, {"role": "assistant"}]}, r"'content' of messages\[1\] is missing"),
    ("messages", {"messages": [USER]}, r"no message of the assistant to learn from; its roles are \['user'\]"),
    ("messages", {"messages": [USER, REPLY], "tools": "{"}, "'tools' is a text that is not JSON"),
    ("messages", {"messages": [USER, REPLY], "tools": {"a": 1}}, "'tools' is dict"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "sum(1)"}]}, "not a JSON object with 'name'"),
    ("open_assistant", {"prompt": "x"}, "'prompt' is str 'x', not a message with replies"),
    ("taskmaster", {"utterances": [{"text": "x"}]}, r"'speaker' of utterances\[0\] is str 'none'"),
]


@pytest.mark.parametrize(("shape", "row", "problem"), WRONG, ids=[f"{s}-{i}" for i, (s, _, _) in enumerate(WRONG)])
def test_a_row_that_does_not_fit_is_shown_with_all_shapes(shape, row, problem):
    rows = [Placed(RIGHT[shape][0], "data.jsonl:1"), Placed(row, "data.jsonl:7")]
    with pytest.raises(DataError, match=rf"(?s)data.jsonl:7: the row is not of the shape '{shape}': .*{problem}") as e:
        list(reshape(rows, shape))
    assert f"the row: {json.dumps(row)}\nknown shapes:" in str(e.value)
    assert all(f"  {name} " in str(e.value) for name in SHAPES)


def test_a_later_part_of_a_row_is_told():
    row = {"Definition": "D", "Instances": [{"input": "a", "output": "b"}, {"input": "a"}]}
    with pytest.raises(DataError, match="f.json, part 2: the row is not"):
        list(reshape([Placed(row, "f.json")], "natural_instructions"))


def test_a_shape_is_told_only_where_all_rows_agree():
    alpaca, pair = RIGHT["alpaca"][0], RIGHT["prompt_completion"][0]
    assert shapes_of([]) == []
    assert shapes_of([alpaca, pair]) == []
    assert shapes_of([{"text": "x"}]) == []
    both = {**RIGHT["messages"][0], **RIGHT["sharegpt"][0]}
    assert shapes_of([both]) == ["messages", "sharegpt"]


def test_an_unknown_shape_is_named_with_all():
    with pytest.raises(ConfigError, match=r"(?s)unknown shape 'alpacca'; nearest: 'alpaca'.*known shapes:.*  sharegpt"):
        shape_named("alpacca")


def test_a_long_row_is_shortened():
    text = shortened({"a": "x" * 5000, "b": "end"})
    assert len(text) < 320
    assert text.startswith('{"a": "xxx')
    assert text.endswith('"b": "end"}')


def test_a_tree_that_is_too_deep_is_refused():
    tree = node("assistant", "x")
    for depth in range(300):
        tree = node("prompter" if depth % 2 == 0 else "assistant", "x", tree)
    with pytest.raises(DataError, match="deeper than 200"):
        made({"prompt": tree}, "open_assistant")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted({key for row, _ in RIGHT.values() for key in row})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
def test_any_row_is_taken_or_refused(shape, row):
    with contextlib.suppress(DataError):  # anything else fails the test
        for item in reshape([Placed(row, "here:1")], shape):
            assert all(isinstance(text, str) for text in SHAPES[shape].asks(item.row))
            assert item.place.startswith("here:1")
