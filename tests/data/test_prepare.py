import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import seqio
import tensorflow as tf

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import ensure_prepared, load_prepared, manifest_path
from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.vocabularies import ByteVocabulary

PLAIN = """
import seqio
import tensorflow as tf

def rows(split, shuffle_files, seed=None):
    texts = [("", "empty inputs"), ("one", "a\\0b"), ("two", "naïve 👍")]
    inputs, targets = zip(*texts)
    data = tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})
    return data.map(lambda e: {**e, "number": 3, "scores": [0.5, 1.0], "words": ["x", "é"]})

seqio.TaskRegistry.add(
    NAME,
    source=seqio.FunctionDataSource(rows, splits=("train", "validation")),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={
        "inputs": seqio.Feature(seqio.ByteVocabulary(), add_eos=True),
        "targets": seqio.Feature(seqio.ByteVocabulary()),
    },
    metric_fns=[],
)
"""

OURS = """
from t5x_instruct.data.tasks import add_task

ROWS = [{"country": f"land {i}", "answer": f"town {i}"} for i in range(40)]
add_task(
    NAME,
    cluster=CLUSTER,
    source={"train": ROWS, "validation": ROWS[:4]},
    templates=["Capital of {country}?", "{country}: its capital is"],
    metrics=[],
)
"""


def _module(folder, name, text, **names):
    path = folder / f"{name}.py"
    header = "".join(f"{k} = {v!r}\n" for k, v in {"NAME": name, **names}.items())
    path.write_text(header + text)
    return str(path)


def _spec(folder, mixture, *modules, **changes):
    values = {"vocabulary": "bytes", "root": folder / "root", **changes}
    return PrepareSpec(mixture=mixture, modules=modules, **values)


def _content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _quiet(line):
    del line


def test_plain_seqio_task_reads_back_as_seqio_gives_it(tmp_path):
    module = _module(tmp_path, "prepare_plain", PLAIN)
    task = prepare(_spec(tmp_path, "prepare_plain", module), _quiet).tasks[0]
    rows = seqio.TaskRegistry.get("prepare_plain").get_dataset(None, "train", shuffle=False)
    rows = list(rows.as_numpy_iterator())
    split = task.splits["train"]
    assert split.num_examples == len(rows) == 3
    for i, row in enumerate(rows):
        read = split.read(i)
        assert read.inputs.tolist() == row["inputs"].tolist()
        assert read.targets.tolist() == row["targets"].tolist()
        assert read.targets_mask.all()
        assert len(read.targets_mask) == len(read.targets)
        assert split.lengths[i].tolist() == [len(row["inputs"]), len(row["targets"])]
    assert 3 in split.read(1).targets  # the byte 0
    meta = split.read(2).meta
    assert meta["targets_pretokenized"] == "naïve 👍"
    assert meta["number"] == 3
    assert meta["scores"] == [0.5, 1.0]
    assert meta["words"] == ["x", "é"]
    assert (task.inputs_tail, task.cluster, task.role, task.rate) == (1, "prepare_plain", "train", 1.0)


def test_registered_task_in_variants(tmp_path):
    module = _module(tmp_path, "prepare_ours", OURS, CLUSTER="geography")
    spec = _spec(tmp_path, "prepare_ours", module, variants=3)
    task = prepare(spec, _quiet).tasks[0]
    train, validation = task.splits["train"], task.splits["validation"]
    assert (train.variants, validation.variants, train.num_examples) == (3, 1, 40)
    assert train.lengths.shape == (120, 2)
    assert (task.cluster, task.inputs_tail) == ("geography", 0)
    texts = [[train.read(i, v).meta["inputs_pretokenized"] for i in range(40)] for v in range(3)]
    assert len({tuple(t) for t in texts}) == 3
    for v in range(3):
        for i in range(40):
            assert f"land {i}" in texts[v][i]
            read = train.read(i, v)
            assert ByteVocabulary().decode(read.inputs.tolist()) == texts[v][i]
            assert ByteVocabulary().decode(read.targets.tolist()) == f"town {i}"
            assert train.lengths[v * 40 + i].tolist() == [len(read.inputs), len(read.targets)]
    first = [validation.read(i).meta["inputs_pretokenized"] for i in range(4)]
    assert first == texts[0][:4]


def test_reading_imports_no_tensorflow(tmp_path):
    module = _module(tmp_path, "prepare_no_tf", OURS, CLUSTER="c")
    spec = _spec(tmp_path, "prepare_no_tf", module)
    prepare(spec, _quiet)
    code = (
        "import json, sys\n"
        "from t5x_instruct.data.prepare_spec import PrepareSpec\n"
        "from t5x_instruct.data.prepared import ensure_prepared\n"
        "mixture = ensure_prepared(PrepareSpec.from_json(json.loads(sys.argv[1])))\n"
        "assert len(mixture.tasks[0].splits['train'].read(5).targets) == 7\n"
        "assert mixture.tasks[0].splits['train'].lengths[5, 1] == 7\n"
        "print([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec.to_json())],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert run.stdout.strip() == "[]", run.stderr


KILLED = """
import os, signal
from pathlib import Path
import seqio
import tensorflow as tf
from t5x_instruct.data.seqio_vocabulary import model_features

def numbers(split):
    for i in range(400):
        if i == 250 and split == b"validation" and (Path(__file__).parent / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"inputs": f"number {i}", "targets": f"{i + 1}"}

def rows(split, shuffle_files, seed=None):
    spec = {k: tf.TensorSpec([], tf.string) for k in ("inputs", "targets")}
    return tf.data.Dataset.from_generator(numbers, args=(split,), output_signature=spec)

seqio.TaskRegistry.add(
    NAME,
    source=seqio.FunctionDataSource(rows, splits=("train", "validation")),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=model_features(),
    metric_fns=[],
)
"""


def test_killed_prepare_is_finished_by_the_next(tmp_path):
    module = _module(tmp_path, "prepare_killed", KILLED)
    (tmp_path / "kill").touch()
    spec = _spec(tmp_path, "prepare_killed", module, root=tmp_path / "killed")
    with pytest.raises(DataError, match="killed by signal SIGKILL"):
        ensure_prepared(spec)
    assert load_prepared(spec) is None
    partial = list((tmp_path / "killed").rglob("*.partial"))
    complete = list((tmp_path / "killed").rglob("info.json"))
    assert [p.name for p in partial] == [".validation.partial"]
    assert [p.parent.name for p in complete] == ["train"]
    before = complete[0].stat().st_mtime_ns

    (tmp_path / "kill").unlink()
    prepare(spec, _quiet)
    assert complete[0].stat().st_mtime_ns == before  # not rendered again
    assert not list((tmp_path / "killed").rglob("*.partial"))
    undisturbed = dataclasses.replace(spec, root=tmp_path / "undisturbed")
    prepare(undisturbed, _quiet)
    assert _content(spec.root / "tasks") == _content(undisturbed.root / "tasks")


def test_same_input_gives_the_same_bytes(tmp_path):
    module = _module(tmp_path, "prepare_same", OURS, CLUSTER="c")
    specs = [_spec(tmp_path, "prepare_same", module, root=tmp_path / r, variants=2) for r in "ab"]
    for spec in specs:
        prepare(spec, _quiet)
    assert _content(tmp_path / "a" / "tasks") == _content(tmp_path / "b" / "tasks")


MIXTURE = """
from t5x_instruct.data.tasks import add_mixture, proportional
add_mixture(NAME, TASKS, rate=proportional(cap=30))
"""


def test_changed_template_renders_only_that_task(tmp_path, capfd):
    modules = [_module(tmp_path, f"prepare_edit{i}", OURS, CLUSTER="c") for i in (1, 2)]
    tasks = ["prepare_edit1", "prepare_edit2"]
    modules.append(_module(tmp_path, "prepare_edit", MIXTURE, TASKS=tasks))
    spec = _spec(tmp_path, "prepare_edit", *modules)
    first = prepare(spec, _quiet)
    assert [t.rate for t in first.tasks] == [30.0, 30.0]
    before = {p: p.stat().st_mtime_ns for p in spec.root.rglob("info.json")}

    path = Path(modules[0])
    path.write_text(path.read_text().replace("Capital of", "Main city of"))
    assert load_prepared(spec) is None
    second = ensure_prepared(spec)
    assert "prepare_edit1/train: 40 examples" in capfd.readouterr().err  # the child's progress
    after = {p: p.stat().st_mtime_ns for p in spec.root.rglob("info.json")}
    assert before.items() <= after.items()
    assert {p.parents[2].name for p in after.keys() - before.keys()} == {"prepare_edit1"}
    changed = [a.fingerprint != b.fingerprint for a, b in zip(first.tasks, second.tasks, strict=True)]
    assert changed == [True, False]
    assert first.fingerprint != second.fingerprint
    texts = {second.tasks[0].splits["train"].read(i).meta["inputs_pretokenized"] for i in range(40)}
    assert any(t.startswith("Main city of") for t in texts)


def test_child_failure_brings_its_message(tmp_path):
    module = _module(tmp_path, "prepare_nowhere", OURS, CLUSTER="geography")
    spec = _spec(tmp_path, "prepare_nowhere", module, hold_out=("geografy",))
    with pytest.raises(ConfigError, match="hold_out: unknown cluster, task or mixture .* 'geografy'.*'geography'"):
        ensure_prepared(spec)


def test_held_out_cluster_is_never_rendered_for_training(tmp_path):
    modules = [
        _module(tmp_path, "prepare_role1", OURS, CLUSTER="kept"),
        _module(tmp_path, "prepare_role2", OURS, CLUSTER="out"),
    ]
    tasks = ["prepare_role1", "prepare_role2"]
    modules.append(_module(tmp_path, "prepare_roles", MIXTURE, TASKS=tasks))
    mixture = prepare(_spec(tmp_path, "prepare_roles", *modules, hold_out=("out",)), _quiet)
    assert [t.name for t in mixture.train_tasks] == ["prepare_role1"]
    assert [(t.name, t.rate) for t in mixture.held_out_tasks] == [("prepare_role2", 0.0)]
    assert set(mixture.held_out_tasks[0].splits) == {"validation"}
    by_name = prepare(_spec(tmp_path, "prepare_roles", *modules, hold_out=("prepare_role2",)), _quiet)
    assert [t.role for t in by_name.tasks] == ["train", "held_out"]
    modules.append(_module(tmp_path, "prepare_unseen", MIXTURE, TASKS=["prepare_role2"]))
    by_mixture = prepare(_spec(tmp_path, "prepare_roles", *modules, hold_out=("prepare_unseen",)), _quiet)
    assert [t.role for t in by_mixture.tasks] == ["train", "held_out"]
    with pytest.raises(ConfigError, match="'kept'"):
        prepare(_spec(tmp_path, "prepare_roles", *modules, hold_out=("kep",)), _quiet)


def _mask_features():
    passed = seqio.PassThroughVocabulary(2)
    mask = seqio.Feature(passed, add_eos=False, dtype=tf.bool)
    return {**model_features(), "targets_mask": mask}


def test_masks_are_carried_and_misfits_refused(tmp_path, register):
    texts = [("p", "abc"), ("wrong mask", "toolong"), ("q", "dé"), ("untrained", "xy")]

    def add_mask(dataset):
        def step(example):
            size = tf.size(example["targets"])
            size += tf.cast(tf.equal(example["inputs_pretokenized"], "wrong mask"), tf.int32)
            trained = tf.not_equal(example["inputs_pretokenized"], "untrained")
            mask = tf.logical_and(tf.equal(tf.range(size) % 2, 0), trained)
            return {**example, "targets_mask": mask}

        return dataset.map(step)

    register("prepare_mask", texts, _mask_features(), [add_mask])
    split = prepare(_spec(tmp_path, "prepare_mask"), _quiet).tasks[0].splits["train"]
    assert split.num_examples == 2
    assert split.read(0).targets_mask.tolist() == [True, False, True, False]
    assert split.read(1).meta["inputs_pretokenized"] == "q"
    assert split.tokens == {"inputs": 2, "targets": 8, "trained": 4}
    assert split.refused["count"] == 2
    wrong, untrained = split.refused["first"]
    assert (wrong["example"], wrong["inputs"]) == (1, "wrong mask")
    assert "9 entries for 8 targets" in wrong["why"]
    assert untrained["example"] == 3
    assert "trains no token" in untrained["why"]


def test_other_vocabulary_is_refused_with_the_fix(tmp_path, register, word_vocabulary):
    features = {"targets": seqio.Feature(seqio.ByteVocabulary())}
    register("prepare_other", [("a", "b")], features)
    spec = _spec(tmp_path, "prepare_other", vocabulary=str(tmp_path / "words"))
    with pytest.raises(DataError, match="task 'prepare_other'.*259 ids instead of 10.*model_features"):
        prepare(spec, _quiet)
    bytes_run = prepare(_spec(tmp_path, "prepare_other"), _quiet)  # there the vocabulary is the same
    read = bytes_run.tasks[0].splits["train"].read(0)
    assert read.inputs.tolist() == []  # `inputs` is no feature of this task, only a field
    assert read.meta["inputs_field"] == "a"


def test_ids_outside_the_vocabulary_name_the_example(tmp_path, register):
    features = {"targets": seqio.Feature(seqio.PassThroughVocabulary(10), add_eos=False)}

    def to_ids(dataset):
        return dataset.map(lambda e: {"targets": tf.constant([5, 300], tf.int32)})

    register("prepare_outside", [("a", "b")], features, [to_ids])
    with pytest.raises(DataError, match="'prepare_outside', split 'train', near example 0: .*300"):
        prepare(_spec(tmp_path, "prepare_outside"), _quiet)


def test_task_code_error_is_named_and_leaves_nothing(tmp_path, register):
    def fail(dataset):
        def step(text):
            raise DataError("row 7 of x.tsv has no answer")

        def broken(example):
            return {**example, "extra": tf.numpy_function(step, [example["targets"]], tf.string)}

        return dataset.map(broken)

    register("prepare_broken", [("a", "b")], None, [fail])
    with pytest.raises(DataError, match="task 'prepare_broken', split 'train'.*row 7 of x.tsv has no answer"):
        prepare(_spec(tmp_path, "prepare_broken"), _quiet)
    assert not list((tmp_path / "root").rglob("info.json"))
    assert not list((tmp_path / "root").rglob("*.partial"))


def test_task_without_train_split_is_an_error(tmp_path, register):
    register("prepare_eval_only", [("a", "b")], splits=("validation",))
    with pytest.raises(DataError, match="'prepare_eval_only' has no split 'train'"):
        prepare(_spec(tmp_path, "prepare_eval_only"), _quiet)
    mixture = prepare(_spec(tmp_path, "prepare_eval_only", splits=("validation",)), _quiet)
    assert set(mixture.tasks[0].splits) == {"validation"}


def test_damaged_split_is_rendered_again(tmp_path, register):
    register("prepare_repair", [("a", "b")] * 50)
    spec = _spec(tmp_path, "prepare_repair")
    train = prepare(spec, _quiet).tasks[0].splits["train"]
    before = _content(train.folder)
    shard = next(train.folder.glob("*.array_record"))
    raw = bytearray(shard.read_bytes())
    raw[3000] ^= 4
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=r"array_record, record \d+"):
        train.read_many(range(50), [0] * 50)
    lines = []
    repaired = prepare(spec, lines.append).tasks[0].splits["train"]
    assert any("it is damaged" in line for line in lines)
    assert _content(train.folder) == before
    assert len(repaired.read_many(range(50), [0] * 50)) == 50


def test_concurrent_prepares_agree(tmp_path, register, monkeypatch):
    register("prepare_both", [(f"a {i}", "b") for i in range(300)])
    spec = _spec(tmp_path, "prepare_both")
    results, lines = [], []

    def run():
        results.append(prepare(spec, lines.append))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.tasks[0].splits["train"].num_examples for r in results] == [300, 300]
    assert sum("300 examples in" in line for line in lines) == 2  # train and validation, once each
    results[0].tasks[0].splits["train"].verify()


def test_changed_or_vanished_data_file(tmp_path):
    data = tmp_path / "rows.tsv"
    data.write_text("one\ttwo\nthree\tfour\n")
    text = (
        "from t5x_instruct.data.sources import Tsv\n"
        "from t5x_instruct.data.tasks import add_task\n"
        "add_task(NAME, cluster='c', source=Tsv({'train': FILE}, ['q', 'answer']), templates=['{q}'], metrics=[])\n"
    )
    module = _module(tmp_path, "prepare_file", text, FILE=str(data))
    spec = _spec(tmp_path, "prepare_file", module)
    first = prepare(spec, _quiet)
    assert load_prepared(spec).fingerprint == first.fingerprint
    data.write_text("one\ttwo\nthree\tfive\n")
    os.utime(data, ns=(1, 1))
    assert load_prepared(spec) is None
    second = prepare(spec, _quiet)
    assert second.tasks[0].fingerprint != first.tasks[0].fingerprint
    assert second.tasks[0].splits["train"].read(1).meta["targets_pretokenized"] == "five"
    data.unlink()  # the rows are no longer needed
    assert load_prepared(spec).fingerprint == second.fingerprint


def test_trained_tasks_may_keep_to_their_first_templates_and_held_out_ones_have_all(tmp_path):
    modules = [_module(tmp_path, f"first_templates_{part}", OURS, CLUSTER=part) for part in ("trained", "asked")]
    mixture = _module(
        tmp_path,
        "first_templates_both",
        "from t5x_instruct.data.tasks import add_mixture\n"
        "add_mixture(NAME, ['first_templates_trained', 'first_templates_asked'], rate=1.0)\n",
    )
    spec = _spec(tmp_path, "first_templates_both", *modules, mixture, hold_out=("asked",), num_templates=1, variants=2)
    tasks = {task.name: task for task in prepare(spec, _quiet).tasks}
    trained, asked = tasks["first_templates_trained"].splits, tasks["first_templates_asked"].splits
    inputs = [trained["train"].read(i, v).meta["inputs_pretokenized"] for i in range(40) for v in range(2)]
    assert inputs == [f"Capital of land {i}?" for i in range(40) for _ in range(2)]
    asked_with = {asked["validation"].read(i).meta["inputs_pretokenized"].partition(" ")[0] for i in range(4)}
    assert asked_with == {"Capital", "land"}
    more = {task.name: task for task in prepare(dataclasses.replace(spec, num_templates=None), _quiet).tasks}
    assert more["first_templates_asked"].fingerprint == tasks["first_templates_asked"].fingerprint
    assert more["first_templates_trained"].fingerprint != tasks["first_templates_trained"].fingerprint
    with pytest.raises(ConfigError, match="num_templates is 0; it must be at least 1"):
        dataclasses.replace(spec, num_templates=0)


def test_manifest_key_follows_what_is_asked(tmp_path):
    spec = _spec(tmp_path, "m", "a")
    same = dataclasses.replace(spec, root=tmp_path)
    assert manifest_path(same, ByteVocabulary()).name == manifest_path(spec, ByteVocabulary()).name
    changes = [{"seed": 1}, {"variants": 2}, {"splits": ("train",)}, {"hold_out": ("x",)}]
    changes += [{"module_options": {"a.B": "c"}}, {"num_templates": 1}]
    for change in changes:
        other = dataclasses.replace(spec, **change)
        assert manifest_path(other, ByteVocabulary()) != manifest_path(spec, ByteVocabulary())


def test_damaged_manifest_is_a_data_error(tmp_path, register):
    register("prepare_manifest", [("a", "b")])
    spec = _spec(tmp_path, "prepare_manifest")
    prepare(spec, _quiet)
    path = manifest_path(spec, ByteVocabulary())
    good = json.loads(path.read_text())
    for change in ({"tasks": 3}, {"tasks": [{}]}, {"format_version": None}, {"modules": None}):
        path.write_text(json.dumps(good | change))
        if change == {"format_version": None}:
            assert load_prepared(spec) is None
            continue
        with pytest.raises(DataError, match="delete it and prepare again"):
            load_prepared(spec)
