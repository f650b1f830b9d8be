"""Registration, sources and rendering, through seqio's own interface."""

import json
import sys
from pathlib import Path

import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.preprocessors import RenderContext, render_example, rendering
from t5x_instruct.data.sources import Jsonl, RowSource, Tsv, in_validation, read_tsv, split_by_key
from t5x_instruct.data.task_modules import import_task_modules, module_option
from t5x_instruct.data.tasks import add_mixture, add_task, clusters_of, proportional, task_info, tasks_in
from t5x_instruct.data.tfds_source import TfdsRows
from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template

HERE = Path(__file__).parent
FEATURES = dict.fromkeys(("inputs", "targets"), seqio.Feature(seqio.ByteVocabulary(), add_eos=True, required=False))
COLOURS = [
    {"thing": "grass", "answer": "green"},
    {"thing": "snow", "answer": "white"},
    {"thing": "coal", "answer": "black"},
]


@pytest.fixture(autouse=True)
def clean_registry():
    """What a test registers is gone after it."""
    before = set(seqio.TaskRegistry.names()), set(seqio.MixtureRegistry.names())
    yield
    for registry, names in zip((seqio.TaskRegistry, seqio.MixtureRegistry), before, strict=True):
        for name in set(registry.names()) - names:
            registry.remove(name)


def add(name="colour", **changes):
    arguments = {
        "cluster": "nature",
        "source": {"train": COLOURS, "validation": COLOURS[:1]},
        "templates": ["What colour is {thing}?", "{thing}:"],
        "metrics": [exact_match],
    }
    return add_task(name, **arguments | changes)


def examples_of(task, split="train"):
    return list(task.get_dataset(None, split, shuffle=False).as_numpy_iterator())


def test_a_task_is_a_seqio_task_with_what_seqio_does_not_know():
    task = add()
    assert seqio.get_mixture_or_task("colour") is task
    assert task.splits == ("train", "validation")
    assert task.num_input_examples("train") == 3
    info = task_info("colour")
    assert (info.name, info.cluster) == ("colour", "nature")
    assert info.templates == (Template("What colour is {thing}?"), Template("{thing}:"))
    file, _, line = info.where.rpartition(":")
    assert file == __file__
    assert "add_task(" in Path(file).read_text().splitlines()[int(line) - 1]
    first = examples_of(task)[0]
    assert first["targets_pretokenized"] == b"green"
    assert first["thing"] == b"grass"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"source": COLOURS}, r"rows of .*\.py:\d+: list is no source; give \{'train': rows\}"),
        ({"source": "rows.jsonl"}, "str is no source"),
        ({"templates": "What colour is {thing}?"}, "task 'colour': templates is one template; give a list"),
        ({"templates": Template("What colour is {thing}?")}, "templates is one template"),
        ({"templates": []}, "has no templates"),
        ({"metrics": ["exact_match"]}, r"task 'colour': metrics is \['exact_match'\]; give a list of functions"),
        ({"metrics": exact_match}, "give a list of functions"),
    ],
)
def test_what_is_of_another_type_is_refused_where_it_is_written(wrong, problem):
    with pytest.raises(ConfigError, match=problem):
        add(**wrong)


def test_the_data_set_is_known_where_the_source_is_a_registry():
    source = TfdsRows("glue/cola", {"train": "train"}, dict)
    add("found", source=source)
    add("named", source=source, dataset="cola")
    assert [task_info(name).dataset for name in ("found", "named")] == ["tfds:glue/cola", "cola"]
    seqio.TaskRegistry.add(
        "plain_tfds", seqio.TfdsDataSource("glue/rte:2.0.0"), output_features={"targets": FEATURES["targets"]}
    )
    assert task_info("plain_tfds").dataset == "tfds:glue/rte:2.0.0"
    add("mine")
    assert task_info("mine").dataset is None


def test_metrics_of_seqio_get_all_accepted_answers():
    add(source={"validation": [{"thing": "rose", "answers": ["red", "pink"]}]})
    data = {"validation": {"thing": "rose", "answers": ["red", "pink"]}}
    for prediction, value in (("pink", 100.0), ("Red.", 100.0), ("blue", 0.0)):
        metrics = seqio.test_utils.test_postprocessing("colour", data, predict_output=[prediction])
        assert metrics == {"exact_match": value}


def test_lengths_and_mixing_are_seqios():
    add("one")
    add("two")
    add_mixture("both", ["one", "two"], rate=proportional())
    dataset = seqio.get_mixture_or_task("both").get_dataset({"inputs": 8, "targets": 4}, "train", seed=0, num_epochs=1)
    assert all(len(example["inputs"]) <= 8 and len(example["targets"]) <= 4 for example in dataset.as_numpy_iterator())


TEXT = st.text(max_size=12)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=40))
def test_any_text_survives(rows):
    seqio.TaskRegistry.remove("any_text")
    rows = [{"q": q, "answers": answers} for q, answers in rows]
    task = add("any_text", source={"train": rows}, templates=["<{q}>", "{{{q}}}"], output_features=FEATURES)
    examples = examples_of(task)
    assert len(examples) == len(rows)
    for i, (example, row) in enumerate(zip(examples, rows, strict=True)):
        rendered = render_example(row, task_info("any_text").templates, "any_text", i, RenderContext())
        assert rendered.inputs in (f"<{row['q']}>", "{" + row["q"] + "}")
        assert example["inputs_pretokenized"].decode() == rendered.inputs
        assert example["targets_pretokenized"].decode() == row["answers"][0]
        assert [a.decode() for a in example["accepted_targets"]] == list(dict.fromkeys(row["answers"]))
        assert [a.decode() for a in example["answers"]] == row["answers"]


@pytest.mark.parametrize("count", [255, 256, 257, 700])
def test_index_goes_on_from_chunk_to_chunk(count):
    rows = [{"n": str(i), "options": [str(i), "x"] * (i % 3 > 0) or [str(i)], "answer": str(i)} for i in range(count)]
    task = add(source={"train": rows}, templates=["{n}", "{n}, {options_inline}", "{options}\n{n}"])
    for i, example in enumerate(examples_of(task)):
        rendered = render_example(rows[i], task_info("colour").templates, "colour", i, RenderContext())
        assert example["inputs_pretokenized"].decode() == rendered.inputs
        assert [o.decode() for o in example["options"]] == rows[i]["options"]


def test_the_context_is_that_of_the_building_not_of_the_reading():
    task = add(source={"train": [COLOURS[0]] * 40})
    with rendering(RenderContext(seed=5, variant=1)):
        dataset = task.get_dataset(None, "train", shuffle=False)
    texts = [example["inputs_pretokenized"].decode() for example in dataset.as_numpy_iterator()]
    templates = task_info("colour").templates
    expected = [render_example(COLOURS[0], templates, "colour", i, RenderContext(5, 1)).inputs for i in range(40)]
    assert texts == expected
    assert texts != [example["inputs_pretokenized"].decode() for example in examples_of(task)]


def test_options_and_answers_take_the_form_of_the_targets():
    row = {"q": "Q", "answers": ["a", "A"], "options": ["b", "a"]}
    sentence = render_example(row, [Template("{q} {options}", "It is {answer}.")], "t", 0, RenderContext())
    assert sentence.options == ["It is b.", "It is a."]
    assert sentence.accepted_targets == ["It is a.", "It is A."]
    inverted = render_example(row, [Template("{answer}", "{q}")], "t", 0, RenderContext())
    assert (inverted.targets, inverted.accepted_targets, inverted.options) == ("Q", ["Q"], [])


def test_an_answer_that_is_no_option_is_refused():
    row = {"answer": "c", "options": ["a", "b"]}
    with pytest.raises(DataError, match=r"task 't', example 7: the answer 'c'.*\['a', 'b'\]"):
        render_example(row, [Template("x")], "t", 7, RenderContext())


def test_any_seqio_source_and_preprocessor_will_do():
    def numbers(split, shuffle_files, seed=None):
        del split, shuffle_files, seed
        return tf.data.Dataset.from_tensor_slices({"n": tf.range(3), "scores": tf.zeros([3, 2, 2])})

    @seqio.map_over_dataset
    def double(example):
        return {**example, "answer": tf.strings.as_string(2 * example["n"])}

    source = seqio.FunctionDataSource(numbers, splits=["train"])
    task = add(source=source, preprocessors=[double], templates=["Twice {n}?"], output_features=FEATURES)
    first, second, _ = examples_of(task)
    assert (second["inputs_pretokenized"], second["targets_pretokenized"]) == (b"Twice 1?", b"2")
    assert first["scores"].shape == (2, 2)
    assert "FunctionDataSource" in task_info("colour").source


def test_faults_of_a_registration():
    add()
    first = task_info("colour").where
    with pytest.raises(ConfigError, match=f"'colour' is taken by a task, first at: {first}"):
        add()
    with pytest.raises(ConfigError, match="'colour' is taken by a task"):
        add_mixture("colour", ["colour"], rate=1.0)
    add_mixture("colours", ["colour"], rate=1.0)
    with pytest.raises(ConfigError, match=rf"'colours' is taken by a mixture, first at: {__file__}:\d+"):
        add("colours")
    with pytest.raises(ConfigError, match="no templates"):
        add("other", templates=[])
    with pytest.raises(ConfigError, match="bad name"):
        add("bad name")
    with pytest.raises(ConfigError, match="template '{thing'"):
        add("other", templates=["{thing"])


def test_all_unknown_fields_of_templates_are_told_at_once():
    task = add(templates=["{thin}", "{answer} {thing} {colour}", Template("ok", "{x}")])
    with pytest.raises(ConfigError) as caught:
        examples_of(task)
    assert len(caught.value.problems) == 3
    assert "unknown field 'thin'; nearest: 'thing'" in caught.value.problems[0]


def test_mixtures():
    add("a1", cluster="a", source={"train": COLOURS * 4})
    add("a2", cluster="a")
    add("b1", cluster="b", source={"validation": COLOURS[:2]})
    add_mixture("ab", ["a1", ("a2", 0.5), "b1"], rate=proportional(cap=10))
    mixture = add_mixture("all", ["ab"], rate=proportional(cap=5, temperature=2.0))
    assert tasks_in("all") == ["a1", "a2", "b1"]
    assert tasks_in("a1") == ["a1"]
    assert clusters_of("ab") == {"a": ["a1", "a2"], "b": ["b1"]}
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates == pytest.approx({"a1": 5**0.5, "a2": 3**0.5, "b1": 2**0.5})
    inner = seqio.MixtureRegistry.get("ab")
    assert [inner.get_rate(task) for task in inner.tasks] == [10, 0.5, 2]
    with pytest.raises(ConfigError) as caught:
        add_mixture("bad", ["a3", "a1", ("b2", 1.0)])
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="no tasks"):
        add_mixture("empty", [], rate=1.0)
    for rate in ("1.0", 0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"test_tasks.py:\d+: mixture 'bad': the rate of 'a1' is .* above 0"):
            add_mixture("bad", [("a1", rate)])
    with pytest.raises(ConfigError, match="unknown task or mixture 'al'; nearest: 'all'"):
        tasks_in("al")


def test_a_plain_seqio_module_loads_unchanged():
    path = HERE / "plain_seqio.py"
    assert import_task_modules([str(path)]) == [path]
    assert import_task_modules([str(path)]) == [path]  # and is not run again
    assert clusters_of("plain_seqio_mixture") == {"plain_seqio_numbers": ["plain_seqio_numbers"]}
    info = task_info("plain_seqio_numbers")
    assert info.templates == ()
    assert info.where == "registered with seqio directly"
    with pytest.raises(ConfigError, match="first at: registered with seqio directly"):
        add("plain_seqio_numbers")
    example = examples_of(seqio.TaskRegistry.get("plain_seqio_numbers"), "validation")[0]
    assert example["inputs_pretokenized"] == b"next: 8"


def test_a_file_of_a_package_has_one_name(tmp_path, monkeypatch):
    package = tmp_path / "some_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("from some_tasks import inner\n")
    (package / "inner.py").write_text("COUNT = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    files = [package / "__init__.py", package / "inner.py"]
    assert import_task_modules(["some_tasks"]) == files
    module = sys.modules["some_tasks.inner"]
    assert import_task_modules([str(package / "inner.py"), str(package / "__init__.py")]) == files
    assert sys.modules["some_tasks.inner"] is module
    assert not [name for name in sys.modules if name.startswith(f"task_file:{package}")]


def test_faults_of_modules_are_told_at_once(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ny = undefined_name\n")
    modules = [str(tmp_path / "broken.py"), str(tmp_path / "absent.py"), "tasks.startr"]
    with pytest.raises(ConfigError) as caught:
        import_task_modules(modules)
    broken, absent, misspelt = caught.value.problems
    assert "NameError" in broken
    assert f"{tmp_path / 'broken.py'}:2" in broken
    assert f"no file {tmp_path / 'absent.py'}" in absent
    assert "nearest: 'tasks.starter'" in misspelt


def test_module_options(tmp_path):
    path = tmp_path / "with_option.py"
    path.write_text(
        "from t5x_instruct.data.task_modules import module_option\n"
        "FOLDER = module_option('with_option.FOLDER')\n"
        "if FOLDER is None:\n    raise ValueError('give a folder')\n"
    )
    with pytest.raises(ConfigError, match="give a folder"):
        import_task_modules([str(path)])
    with pytest.raises(ConfigError, match="unknown module option 'with_option.FOLDR'; nearest: 'with_option.FOLDER'"):
        import_task_modules([str(path)], {"with_option.FOLDR": "/data"})
    import_task_modules([str(path)], {"with_option.FOLDER": "/data"})
    assert sys.modules[f"task_file:{path}"].FOLDER == "/data"
    import_task_modules([str(path)], {"with_option.FOLDER": "/data"})
    with pytest.raises(ConfigError, match="'/other', but the module was imported with '/data'"):
        import_task_modules([str(path)], {"with_option.FOLDER": "/other"})
    assert module_option("with_option.OTHER", "default") == "default"


def test_jsonl(tmp_path):
    rows = [{"q": "é{x}\u2028", "n": 3, "options": ["a", "b"]}, {"q": "", "n": 1.5, "options": []}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    source = Jsonl({"train": str(path), "test": [str(path), str(path)]})
    assert list(source.rows("train")) == [rows[0] | {"n": "3"}, rows[1] | {"n": "1.5"}]
    assert source.num_input_examples("test") == 4
    assert source.splits == ("train", "test")
    assert [e["q"].decode() for e in source.get_dataset("test").as_numpy_iterator()] == ["é{x}\u2028", ""] * 2
    assert list(Jsonl({"train": str(path)}, fields=["q"]).rows("train")) == [{"q": "é{x}\u2028"}, {"q": ""}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"q": ', "not a JSON value"),
        ("[1]", "expected a JSON object, got list"),
        ('{"q": null}', "'q' is NoneType null"),
        ('{"q": true}', "'q' is bool true"),
        ('{"q": {"a": 1}}', "'q' is dict"),
        ('{"q": [1]}', "'q' is list"),
        ('{"q": "x", "more": "y"}', r"\('more', 'str'\)"),
        ('{"q": ["x"]}', "fields differ"),
        ("{}", "fields differ"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_bad_jsonl_row_is_told_with_file_and_line(tmp_path, line, problem):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"q": "x"}\n\n' + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match=f"{path}:3: .*{problem}"):
        list(Jsonl({"train": str(path)}).rows("train"))


def test_a_missing_field_of_jsonl_is_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "x"}\n')
    with pytest.raises(DataError, match=f"{path}:1: unknown field 'questions'; nearest: 'question'"):
        list(Jsonl({"train": str(path)}, fields=["questions"]).rows("train"))


def test_tsv(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b'a "quoted"\t\\n b\r\n\nc\td\ne\n f \t\n')
    columns = ("q", "answer")
    with pytest.raises(DataError, match=rf"{path}:4: 1 columns, expected 2"):
        list(Tsv({"train": str(path)}, columns).rows("train"))
    refused = []
    rows = [placed.row for placed in read_tsv(str(path), columns, refused.append)]
    assert rows == [{"q": 'a "quoted"', "answer": "\\n b"}, {"q": "c", "answer": "d"}, {"q": " f ", "answer": ""}]
    assert [str(error).partition(": ")[0] for error in refused] == [f"{path}:4"]


def test_faults_of_sources(tmp_path):
    with pytest.raises(DataError, match=r"absent\.tsv cannot be read"):
        list(Tsv({"train": str(tmp_path / "absent.tsv")}, ["q"]).rows("train"))
    source = RowSource({"train": [], "test": [{"q": "x"}, "y"]}, "my rows")
    with pytest.raises(DataError, match="my rows, split 'train' has no rows"):
        source.get_dataset("train")
    with pytest.raises(DataError, match="unknown split 'tset'; nearest: 'test'"):
        source.num_input_examples("tset")
    with pytest.raises(DataError, match="my rows, split 'test', row 1: a row is a dict of fields, got str \"y\""):
        list(source.rows("test"))
    with pytest.raises(DataError, match="has one shard"):
        source.get_dataset("test", shard_info=seqio.ShardInfo(0, 2))


def test_rows_of_a_function_are_made_anew():
    calls = []

    def rows():
        calls.append(1)
        yield from COLOURS

    source = RowSource({"train": rows})
    assert source.num_input_examples("train") == source.num_input_examples("train") == 3
    assert len(list(source.get_dataset("train"))) == 3
    assert len(calls) == 3  # counting, looking at the first row, reading


@given(st.lists(st.text(max_size=3)), st.integers(0, 100))
def test_splits_by_key(keys, percent):
    splits = split_by_key([{"k": key, "i": i} for i, key in enumerate(keys)], lambda row: row["k"], percent)
    assert sorted(row["i"] for rows in splits.values() for row in rows) == list(range(len(keys)))
    assert not {row["k"] for row in splits["train"]} & {row["k"] for row in splits["validation"]}
    assert all(in_validation(row["k"], percent) for row in splits["validation"])


def test_split_shares():
    share = sum(in_validation(str(i), 30) for i in range(5000)) / 5000
    assert share == pytest.approx(0.30, abs=0.03)
    assert [in_validation(country, 30) for country in ("France", "Belgium", "Peru", "Chad")] == [
        False,
        True,
        False,
        False,
    ]
