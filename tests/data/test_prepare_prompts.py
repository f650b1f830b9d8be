"""What a prompt format makes of the tasks' inputs."""

import dataclasses

import seqio

from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.preview import preview
from t5x_instruct.data.prompt_formats import encode_prompt, make_prompt_format, prompt_tail
from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.vocabularies import ByteVocabulary


def _spec(folder, mixture, **changes):
    values = {"vocabulary": "bytes", "root": folder / "root", **changes}
    return PrepareSpec(mixture=mixture, modules=(), **values)


def _quiet(line):
    del line


def test_id_zero_and_pad_equal_to_eos(tmp_path, register, word_vocabulary):
    assert word_vocabulary.pad_id == word_vocabulary.eos_id == 1
    register("prepare_zero", [("one zero", "zero two zero"), ("", "zero")])
    spec = _spec(tmp_path, "prepare_zero", vocabulary=str(tmp_path / "words"))
    split = prepare(spec, _quiet).tasks[0].splits["train"]
    assert split.read(0).inputs.tolist() == [5, 0]
    assert split.read(0).targets.tolist() == [0, 6, 0, 1]
    assert split.read(0).targets_mask.all()
    assert (split.read(1).inputs.tolist(), split.read(1).targets.tolist()) == ([], [0, 1])


def test_chat_format_wraps_inputs_only(tmp_path, register, word_vocabulary):
    register("prepare_chat", [("one", "two"), ("", "one")])
    spec = _spec(tmp_path, "prepare_chat", vocabulary=str(tmp_path / "words"), prompt_format="chat")
    task = prepare(spec, _quiet).tasks[0]
    first = task.splits["train"].read(0)
    assert first.inputs.tolist() == [2, 3, 5, 1, 2, 4]
    assert first.targets.tolist() == [6, 1]
    assert first.meta["inputs_pretokenized"] == "one"
    assert task.splits["train"].read(1).inputs.tolist() == []
    assert task.inputs_tail == prompt_tail(word_vocabulary, make_prompt_format("chat", word_vocabulary)) == 3
    plain = prepare(dataclasses.replace(spec, prompt_format="plain"), _quiet).tasks[0]
    assert plain.fingerprint != task.fingerprint

    shown = preview(spec, "prepare_chat", "train", 1)[0]
    assert shown.inputs_text == "<turn>user one<end><turn>assistant "
    assert shown.inputs_tokens == ["<turn>", "user", "one", "<end>", "<turn>", "assistant"]
    assert shown.targets_tokens == ["two", "<end>"]
    assert shown.example.targets_mask.tolist() == [True, True]
    assert shown.fault is None


def _prepared_inputs(tmp_path, name):
    task = prepare(_spec(tmp_path, name, prompt_format="eos"), _quiet).tasks[0]
    return task, [task.splits["train"].read(i).inputs.tolist() for i in range(task.splits["train"].num_examples)]


def test_eos_format_ends_every_prompt_once(tmp_path, register):
    vocabulary = ByteVocabulary()
    texts = [("one", "a"), ("", "b"), ("two\n", "c")]
    expected = [[*vocabulary.encode(text), 1] for text, _ in texts]
    own = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=False) for name in ("inputs", "targets")}
    both = {**model_features(), "inputs": seqio.Feature(model_features()["inputs"].vocabulary, add_eos=True)}
    own_eos = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")}
    for name, features in {"model": None, "own": own, "both": both, "own_eos": own_eos}.items():
        register(f"prepare_eos_{name}", texts, features)
        task, inputs = _prepared_inputs(tmp_path, f"prepare_eos_{name}")
        assert inputs == expected, name
        assert task.inputs_tail == 1, name
        assert task.splits["train"].lengths[:, 0].tolist() == [len(ids) for ids in expected]
        assert task.splits["train"].read(0).meta["inputs_pretokenized"] == "one"
    typed = [encode_prompt(vocabulary, make_prompt_format("eos", vocabulary), text) for text, _ in texts]
    assert typed == expected
    plain = prepare(_spec(tmp_path, "prepare_eos_model"), _quiet).tasks[0]
    assert plain.inputs_tail == 0
    assert plain.splits["train"].read(0).inputs.tolist() == expected[0][:-1]
    line = prepare(_spec(tmp_path, "prepare_eos_model", prompt_format="line"), _quiet).tasks[0]
    assert line.inputs_tail == 1
    inputs = [line.splits["train"].read(i).inputs.tolist() for i in range(3)]
    assert inputs == [vocabulary.encode("one\n"), [], vocabulary.encode("two\n")]
    assert inputs == [encode_prompt(vocabulary, make_prompt_format("line", vocabulary), text) for text, _ in texts]
    assert line.splits["train"].lengths[:, 0].tolist() == [4, 0, 4]
    assert line.splits["train"].read(0).meta["inputs_pretokenized"] == "one"

    shown = preview(_spec(tmp_path, "prepare_eos_model", prompt_format="eos"), "prepare_eos_model", "train", 2)
    assert [one.inputs_tokens for one in shown] == [["o", "n", "e", "</s>"], ["</s>"]]
    assert shown[0].inputs_text == "one"


def test_eos_format_ends_a_task_without_inputs_too(tmp_path, register):
    register("prepare_eos_targets", [("a", "b")], {"targets": model_features()["targets"]})
    assert _prepared_inputs(tmp_path, "prepare_eos_targets")[1] == [[1]]
