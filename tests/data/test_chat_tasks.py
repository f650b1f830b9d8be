"""Tasks of conversations, from rows to records."""

import json
import re

import pytest
import seqio

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data import units
from t5x_instruct.data.chat_tasks import Conversations, add_chat_task
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.preview import preview
from t5x_instruct.data.prompt_formats import encode_conversation, make_prompt_format
from t5x_instruct.data.sources import Jsonl
from t5x_instruct.data.tasks import add_mixture, add_task, task_info
from t5x_instruct.evaluation.exemplars import prompt_form
from t5x_instruct.evaluation.metrics import exact_match
from tests.data.chat_vocabularies import chatty
from tests.data.test_chat_examples import TALK

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALLS = [
    TALK[0],
    {"role": "assistant", "tool_calls": [{"function": {"name": "look_up", "arguments": "{}"}}]},
    {"role": "tool", "content": "\ud83d a letter"},  # half of a pair, as JSON may have it
    TALK[1],
]


@pytest.fixture
def add():
    names = []

    def add(name, source, **more):
        names.append(name)
        return add_chat_task(name, cluster="talk", source=source, **more)

    yield add
    for name in names:
        seqio.TaskRegistry.remove(name)


def prepared(folder, name, template="smollm2", progress=lambda line: None, **changes):
    vocabulary = "bytes"
    if template is not None:
        vocabulary = str(folder / template)
        chatty(template).save(folder / template)
    values = {"vocabulary": vocabulary, "root": folder / "root", "splits": ("train",), "prompt_format": "chat"}
    spec = PrepareSpec(mixture=name, modules=(), **(values | changes))
    return spec, prepare(spec, progress)


def records(mixture, task=0):
    split = mixture.tasks[task].splits["train"]
    return [split.read(i) for i in range(split.num_examples)]


def test_records_of_a_chat_model(tmp_path, add):
    add("chat_records", {"train": [{"messages": TALK, "id": "a", "more": {"x": 1}}] * 2}, fields=["id"])
    spec, mixture = prepared(tmp_path, "chat_records")
    first, second = records(mixture)
    vocabulary = chatty("smollm2")
    form = make_prompt_format("chat", vocabulary)
    assert first.inputs.tolist() == encode_conversation(vocabulary, form, TALK[:1])
    tokens = [*first.inputs.tolist(), *first.targets.tolist()]
    assert tokens[: len(tokens) - int(first.targets_mask[::-1].argmin())] == encode_conversation(
        vocabulary, form, TALK[:3]
    )
    assert first.targets.tolist() == second.targets.tolist()
    assert 0 < first.targets_mask.sum() < len(first.targets)
    assert first.meta["accepted_targets"] == ["Hello!"]
    assert first.meta["id"] == "a"
    assert json.loads(first.meta["messages"]) == TALK
    assert (first.meta["count_replies"], first.meta["count_split_conversations"]) == (2, 0)
    assert "more" not in first.meta
    assert prompt_form(first, vocabulary, form) is None  # it takes no exemplars

    shown = preview(spec, "chat_records", n=1)[0]
    assert shown.inputs_text == form.conversation(TALK[:1])
    assert shown.targets_text.endswith("See you.<|im_end|>")
    assert shown.fault is None


def test_a_conversation_may_become_several_records(tmp_path, add):
    talks = [{"messages": talk} for talk in (TALK, TALK[:2], [*TALK, *TALK])]
    add("chat_split", {"train": talks})
    _, mixture = prepared(tmp_path, "chat_split", "thinking")
    found = records(mixture)
    assert len(found) == 2 + 1 + 4
    assert all(one.targets_mask.all() for one in found)
    assert [one.meta["count_split_conversations"] for one in found] == [1, 0, 0, 1, 0, 0, 0]
    assert [json.loads(one.meta["messages"]) for one in found[:3]] == [TALK, TALK, TALK[:2]]
    add("chat_split_each", {"train": talks}, replies="each")
    assert len(records(prepared(tmp_path, "chat_split_each")[1])) == 7


def test_progress_counts_conversations_and_tells_their_examples(tmp_path, add, monkeypatch):
    monkeypatch.setattr(units, "PROGRESS_SECONDS", 0.0)
    add("chat_progress", {"train": [{"messages": [*TALK, *TALK]}] * 300})
    lines = []
    prepared(tmp_path, "chat_progress", "thinking", progress=lines.append)
    form = r"\[1/1\] chat_progress/train: ([\d,]+) of 300 rows, ([\d,]+) examples \([\d,]+ rows/s, [\d,]+ s left\)"
    found = [re.fullmatch(form, line) for line in lines[:-1]]
    told = [[int(number.replace(",", "")) for number in one.groups()] for one in found]
    assert [examples for _, examples in told] == list(range(1200))
    rows = [taken for taken, _ in told]
    assert rows == sorted(rows)
    assert rows[0] < rows[-1] == 300
    assert all(taken * 4 > examples for taken, examples in told)  # the pipeline reads a little ahead
    assert re.fullmatch(r"\[1/1\] chat_progress/train: 1,200 examples in .* s", lines[-1])


def test_records_of_an_encoder_decoder(tmp_path, add):
    add("chat_eos", {"train": [{"messages": TALK}]})
    for prompt_format, end in (("eos", [1]), ("plain", []), ("line", [])):
        _, mixture = prepared(tmp_path, "chat_eos", None, prompt_format=prompt_format)
        first, second = records(mixture)
        assert bytes(i - 3 for i in second.inputs.tolist()[: -1 if end else None]).decode() == (
            "User:\nHi\n\nAssistant:\nHello!\n\nUser:\nBye\n\nAssistant:\n"
        )
        last = "\n" if prompt_format == "line" else "i"
        assert first.inputs.tolist()[-1:] == (end or [ord(last) + 3])
        assert [one.targets.tolist()[-1] for one in (first, second)] == [1, 1]
        assert second.meta["accepted_targets"] == ["See you."]


def test_tools_and_odd_texts_come_through(tmp_path, add):
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": CALLS, "tools": tools}) + "\n" for tools in (TOOLS, None)))
    add("chat_tools", Jsonl({"train": str(path)}))
    assert str(path) in task_info("chat_tools").source
    with_tools, without = records(prepared(tmp_path, "chat_tools", "tools")[1])
    assert with_tools.meta["inputs_pretokenized"].startswith("<|im_start|>tools\n" + json.dumps(TOOLS[0]))
    assert without.meta["inputs_pretokenized"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert '<call>{"name": "look_up", "arguments": {}}</call><|im_end|>' in without.meta["targets_pretokenized"]
    assert "tool\n? a letter<|im_end|>" in without.meta["targets_pretokenized"]


def test_chat_mixes_with_other_tasks(tmp_path, add):
    add("chat_mixed", {"train": [{"messages": TALK}]})
    add_task("chat_mixed_other", cluster="other", source={"train": [{"answer": "a"}]}, templates=["Say a."], metrics=[])
    add_mixture("chat_mixed_all", ["chat_mixed", "chat_mixed_other"], rate=1.0)
    try:
        mixture = prepared(tmp_path, "chat_mixed_all")[1]
        assert [len(records(mixture, i)) for i in (0, 1)] == [1, 1]
        assert records(mixture, 1)[0].targets_mask.all()
    finally:
        seqio.MixtureRegistry.remove("chat_mixed_all")
        seqio.TaskRegistry.remove("chat_mixed_other")


def test_the_first_reply_is_what_metrics_ask_for(add):
    add("chat_metrics", {"validation": [{"messages": TALK}]}, metrics=[exact_match])
    task = seqio.TaskRegistry.get("chat_metrics")
    example = next(task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    assert task.postprocess_fn("", example=example, is_target=True) == ["Hello!"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": TALK[:1]}, "conversation 1: no token of the conversation would be trained on.*Hi"),
        ({"messages": "[{]"}, "conversation 1: the field 'messages' is not JSON"),
        ({"messages": '{"role": "user"}'}, "conversation 1: the field 'messages' has to be a list such as"),
        ({"messages": [5]}, "row 1: the field 'messages' has to be a list of objects"),
        ({"message": TALK}, "row 1: unknown field 'messages'; nearest: 'message'"),
        ({"messages": TALK, "tools": {"name": "x"}}, "row 1: the field 'tools' has to be a list of objects"),
        ({"messages": [{"role": "user", "content": {1}}]}, "row 1: the field 'messages' cannot be written as JSON"),
        ({"messages": [TALK[0], {"role": "assistant"}]}, "message 1: 'content' has to be a text.*the conversation is"),
        ({"messages": TALK, "tools": TOOLS}, "conversation 1: the chat template does not show the tools 'look_up'"),
    ],
)
def test_a_row_that_is_no_conversation_is_shown(tmp_path, add, row, why):
    add("chat_wrong", {"train": [{"messages": TALK}, row]})
    with pytest.raises(DataError, match=f"chat_wrong.*{why}"):
        prepared(tmp_path, "chat_wrong")


def test_registering(add):
    add("chat_taken", Conversations({"train": [{"messages": TALK, "id": "a"}]}, ["id"]), dataset="talks")
    info = task_info("chat_taken")
    assert (info.cluster, info.templates, info.dataset) == ("talk", (), "talks")
    assert info.where.startswith(f"{__file__}:")
    row = next(seqio.TaskRegistry.get("chat_taken").source.rows("train"))
    assert row == {"id": "a", "messages": json.dumps(TALK), "tools": ""}
    with pytest.raises(ConfigError, match="'chat_taken' is taken by a task, first at"):
        add_chat_task("chat_taken", cluster="x", source={})
    with pytest.raises(ConfigError, match="replies: unknown choice 'eech'; nearest: 'each'"):
        add_chat_task("chat_eech", cluster="x", source={}, replies="eech")
