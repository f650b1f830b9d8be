"""Natural Instructions v2, from small files in its format and, where it is there, from a part of the collection."""

import json
import logging
import sys
from pathlib import Path

import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.preprocessors import RenderContext, rendering
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import clusters_of, task_info, tasks_in, texts_of
from t5x_instruct.evaluation.metrics import normalize
from t5x_instruct.templates.prompts import draw
from tasks import niv2_reader
from tasks.niv2_reader import Example, choose_examples, parse, rows

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "niv2"
needs_collection = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the collection is not at {SHARED}")


def instance(number, outputs=("yes",), text="Is {} odd?"):
    return {"id": f"id-{number}", "input": text.format(number), "output": list(outputs)}


def a_task(count=40, category="Number Conversion", **changes):
    fields = {
        "Contributors": ["A"],
        "Something new": {"x": [1, None]},
        "Categories": [category],
        "Definition": ["Say whether the number is odd"],
        "Positive Examples": [
            {"input": "Is 1001 odd?", "output": "yes", "explanation": "It ends with 1"},
            {"input": " is  7 ODD ", "output": "It is!", "explanation": "So it is."},
            {"input": "1003", "output": "odd"},
        ],
        "Negative Examples": [],
        "Instances": [instance(n) for n in range(count)],
        "Instance License": ["MIT"],
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def write(folder, tasks, train=None, test=(), splits="default"):
    """A folder in the collection's layout; tasks are objects, or texts or bytes of files."""
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        content = task if isinstance(task, str | bytes) else json.dumps(task, indent=4)
        content = content.encode() if isinstance(content, str) else content
        (folder / "tasks" / f"{name}.json").write_bytes(content)
    lists = folder / "splits" / splits
    lists.mkdir(parents=True, exist_ok=True)
    train = [name for name in tasks if name not in test] if train is None else train
    (lists / "train_tasks.txt").write_text("".join(f"{name}\n" for name in train))
    (lists / "test_tasks.txt").write_text("\n".join(test))
    return folder


@pytest.fixture(scope="module")
def niv2(tmp_path_factory):
    """The module, imported with the settings of a small folder."""
    tasks = {
        "task001_odd": a_task(),
        "task002_hyphen-ated": a_task(category="Misc.", Source=["wsc", "enhanced_wsc"]),
        "task003_test": a_task(130, "Title Generation"),
        "task664_mmmlu_a": a_task(category="Question Answering"),
        "task684_b": a_task(category="Question Answering"),
        "task685_mmmlu_c": a_task(category="Question Answering"),
    }
    folder = write(
        tmp_path_factory.mktemp("niv2"), tasks, ["task999_absent", *list(tasks)[:2], *list(tasks)[3:]], ["task003_test"]
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FOLDER", "SPLITS", "SHOTS", "MMLU"):
            patch.delenv(f"T5X_INSTRUCT_NIV2_{name}", raising=False)
        with pytest.raises(ConfigError, match="T5X_INSTRUCT_NIV2_FOLDER") as raised:
            import_task_modules(["tasks.niv2"], {"tasks.niv2.SHOTS": "3", "tasks.niv2.MMLU": "exclud"})
        assert "'3'; it must be a whole number from 0 to 2" in str(raised.value)
        assert "nearest: 'exclude'" in str(raised.value)
        with pytest.raises(ConfigError, match="nearest: 'default'"):
            import_task_modules(["tasks.niv2"], {"tasks.niv2.FOLDER": str(folder), "tasks.niv2.SPLITS": "defalt"})
        with pytest.raises(ConfigError, match="no folders 'tasks' and 'splits'"):
            import_task_modules(["tasks.niv2"], {"tasks.niv2.FOLDER": str(folder / "tasks")})
        import_task_modules(["tasks.niv2"], {"tasks.niv2.FOLDER": str(folder)})
    return sys.modules["tasks.niv2"]


def rendered(task, split="train", **context):
    with rendering(RenderContext(**context)):
        dataset = seqio.TaskRegistry.get(task).get_dataset(None, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def read_rows(path, part="train", shots=2):
    return [placed.row for placed in rows(str(path), part, shots)]


def test_tasks_clusters_and_mixtures(niv2):
    assert tasks_in("niv2_train") == ["niv2_task001_odd", "niv2_task002_hyphen_ated", "niv2_task684_b"]
    assert tasks_in("niv2_test") == ["niv2_task003_test"]
    assert [task_info(f"niv2_task{name}").dataset for name in ("002_hyphen_ated", "684_b", "664_mmmlu_a")] == [
        "wsc; enhanced_wsc",
        None,
        "mmlu",
    ]
    assert tasks_in("niv2") == sorted(tasks_in("niv2_train") + tasks_in("niv2_test"))
    assert clusters_of("niv2") == {
        "niv2_misc": ["niv2_task002_hyphen_ated"],
        "niv2_number_conversion": ["niv2_task001_odd"],
        "niv2_question_answering": ["niv2_task684_b"],
        "niv2_title_generation": ["niv2_task003_test"],
    }
    assert task_info("niv2_task664_mmmlu_a").cluster == "niv2_question_answering"
    assert set(seqio.TaskRegistry.get("niv2_task001_odd").splits) == {"train", "validation"}
    assert set(seqio.TaskRegistry.get("niv2_task003_test").splits) == {"validation"}
    mixture = seqio.MixtureRegistry.get("niv2_train")
    assert [mixture.get_rate(task) < 40 for task in mixture.tasks] == [True] * 3


def test_settings_of_register(niv2, tmp_path):
    folder = write(tmp_path, {"task664_a": a_task(), "task001_b": a_task()}, splits="mine")
    niv2.register(folder, splits="mine", shots=0, with_mmlu=True, prefix="niv2mmlu")
    assert tasks_in("niv2mmlu_train") == ["niv2mmlu_task001_b", "niv2mmlu_task664_a"]
    assert "Positive Example" not in rendered("niv2mmlu_task001_b")[0]["inputs_pretokenized"].decode()
    with pytest.raises(ConfigError, match="no task of splits/default has its file"):
        niv2.register(write(tmp_path / "b", {}, ["task1_x"]), prefix="niv2none")
    with pytest.raises(ConfigError, match=r"no task can be used; .*task1_x.json: Instances is missing"):
        niv2.register(write(tmp_path / "c", {"task1_x": "{}"}), prefix="niv2none")


DEFINITION = "Definition: Say whether the number is odd.\n\n"
FIRST = " Positive Example 1 -\nInput: Is 1001 odd?\n Output: yes.\n\n"
SECOND = " Positive Example 2 -\nInput: is  7 ODD.\n Output: It is!\n\n"
QUERY = "Now complete the following example -\nInput: No. 5.\nOutput: "


@pytest.mark.parametrize(
    ("shots", "text"),
    [(0, DEFINITION + QUERY), (1, DEFINITION + FIRST + QUERY), (2, DEFINITION + FIRST + SECOND + QUERY)],
)
def test_golden_text(niv2, tmp_path, shots, text):
    task = a_task(Instances=[{"id": "1", "input": "\n No. 5 ", "output": [" yes\n"]}])
    niv2.register(write(tmp_path, {"task1_x": task}), shots=shots, prefix=f"niv2golden{shots}")
    (example,) = rendered(f"niv2golden{shots}_task1_x")
    assert example["inputs_pretokenized"].decode() == text
    assert bytes(example["inputs"].astype("uint8") - 3).decode() == text
    assert example["targets_pretokenized"] == b"yes"
    assert seqio.TaskRegistry.get(f"niv2golden{shots}_task1_x").splits == ("train",)


def test_a_positive_example_that_is_the_query_is_passed_over(niv2):
    by_id = {
        example["id"].decode(): example
        for split in ("train", "validation")
        for example in rendered("niv2_task001_odd", split)
    }
    assert " Positive Example 2 -\nInput: 1003.\n Output: odd.\n\n" in by_id["id-7"]["inputs_pretokenized"].decode()
    assert "is  7 ODD" in by_id["id-8"]["inputs_pretokenized"].decode()
    path = str(Path(niv2.FOLDER) / "tasks" / "task001_odd.json")
    assert sum(niv2.EXAMPLES_LEFT_OUT[path, part] for part in ("train", "validation")) == 1


words = st.text(st.sampled_from("aB. \u00a0'"), max_size=3)


@settings(max_examples=200)
@given(st.lists(words, max_size=6), words, st.integers(0, 2))
def test_the_query_is_never_an_example(inputs, query, shots):
    examples = [Example(text, str(i), normalize(text)) for i, text in enumerate(inputs)]
    chosen, left_out = choose_examples(examples, normalize(query), shots)
    others = [example for example in examples if normalize(example.input) != normalize(query)]
    assert chosen == others[:shots]
    assert left_out <= len(examples) - len(others)
    if len(chosen) < shots:
        assert left_out == len(examples) - len(others)


def test_targets_are_drawn_and_all_outputs_are_accepted(niv2, tmp_path):
    answers = ["one", "two", "three", "four"]
    task = a_task(60, Instances=[instance(n, answers[: n % 4 + 1]) for n in range(300)])
    niv2.register(write(tmp_path, {"task1_x": task}, test=["task1_x"]), prefix="niv2draw")
    name = "niv2draw_task1_x"

    def targets(**context):
        return [example["targets_pretokenized"].decode() for example in rendered(name, "validation", **context)]

    first = targets(seed=3, variant=1)
    assert first == targets(seed=3, variant=1)
    assert first == [answers[draw(n % 4 + 1, 3, name, n, 1, "answer")] for n in range(100)]
    assert first != targets(seed=3, variant=0)
    assert first != targets(seed=4, variant=1)
    assert set(first) == set(answers)
    for n, example in enumerate(rendered(name, "validation")):
        accepted = seqio.TaskRegistry.get(name).postprocess_fn("", example=example, is_target=True)
        assert set(accepted) == set(answers[: n % 4 + 1])
        assert texts_of(example["answers"]) == answers[: n % 4 + 1]


def test_metrics_take_the_best_of_all_outputs(niv2):
    row = {"definition": "D.", "examples": "", "input": "I.", "answers": ["a red house", "a blue boat"], "id": "1"}
    for prediction, values in (("A blue boat.", (100.0, 100.0)), ("a blue car", (200 / 3, 0.0)), ("x", (0.0, 0.0))):
        metrics = seqio.test_utils.test_postprocessing(
            "niv2_task003_test", {"validation": row}, predict_output=[prediction]
        )
        assert list(metrics) == ["rougeL", "exact_match"]
        assert tuple(metrics.values()) == pytest.approx(values)


def test_splits(niv2, tmp_path):
    task = a_task(
        Instances=[instance(n) for n in range(400)] + [instance(n) | {"id": f"again-{n}"} for n in range(400)]
    )
    path = write(tmp_path, {"task1_x": task}) / "tasks" / "task1_x.json"
    train, validation = read_rows(path), read_rows(path, "validation")
    assert len(train) + len(validation) == 800
    assert not {row["input"] for row in train} & {row["input"] for row in validation}
    assert 8 <= len({row["input"] for row in validation}) <= 40
    path.write_text(json.dumps(task | {"Instances": task["Instances"][::-1][400:]}))
    assert {row["id"] for row in read_rows(path, "validation")} == {
        r["id"] for r in validation if "again" not in r["id"]
    }
    for count in (9, 10):
        path.write_text(json.dumps(a_task(count)))
        assert len(read_rows(path)) + len(read_rows(path, "validation")) == count
        assert bool(read_rows(path, "validation")) == (count == 10)
    tested = read_rows(Path(niv2.FOLDER) / "tasks" / "task003_test.json", "test")
    assert [row["id"] for row in tested] == [f"id-{n}" for n in range(100)]


ODD_TEXTS = {
    "emoji": "👍🏽 family 👨‍👩‍👧",
    "right to left": "שלום עולם, مرحبا \u202babc\u202c",
    "control": "bell \x07 nul \x00 escape \x1b[0m tab\tline\r\nend \x01",
    "braces": "{input} {{x}} {0} %s \\n",
    "tags": "</s><pad><|im_end|>",
    "long": "x y " * 9000,
    "empty": "",
}


def test_odd_texts_come_through(niv2, tmp_path):
    odd = [{"id": f"{n} é", "input": text, "output": [text, "b"], "new": None} for n, text in ODD_TEXTS.items()]
    task = a_task(Instances=odd, Definition=ODD_TEXTS["right to left"], **{"Positive Examples": ...})
    niv2.register(write(tmp_path, {"task1_x": task}), prefix="niv2odd")
    niv2.register(write(tmp_path / "b", {"task1_x": json.dumps(task, ensure_ascii=False)}), prefix="niv2odd2")
    examples = rendered("niv2odd_task1_x")
    for example, (name, text) in zip(examples, ODD_TEXTS.items(), strict=True):
        shown = text.strip() if text.strip().endswith((".", ">")) else text.strip() + "."
        start = f"Definition: {ODD_TEXTS['right to left']}.\n\nNow complete the following example -\nInput: "
        assert example["inputs_pretokenized"].decode() == f"{start}{shown}\nOutput: "
        assert texts_of(example["answers"]) == [text.strip(), "b"]
        assert example["id"].decode() == f"{name} é"
    again = [example["inputs_pretokenized"] for example in rendered("niv2odd2_task1_x")]
    assert again == [example["inputs_pretokenized"] for example in examples]
    assert not [problem for problem in niv2.report() if str(tmp_path) in problem]


def test_raw_control_characters_and_half_surrogates(tmp_path):
    text = (
        json.dumps(a_task(1, Definition="Tab\there"))
        .replace("\\t", "\t")
        .replace("Is 0 odd?", "\\ud83d half \\ud83d\\udc4d")
    )
    task = parse(text, "x.json")
    assert task.definition == "Tab\there"
    assert task.instances[0].input == "\ufffd half 👍"
    assert task.problems == ()


BROKEN_INSTANCES = [
    ("text", "is str 'text', not an object"),
    ({"id": "b", "output": ["x"]}, "'input' is missing"),
    ({"id": "c", "input": 5, "output": ["x"]}, "'input' is int 5, not a text"),
    ({"id": "d", "input": "I", "output": []}, r"'output' is list []"),
    ({"id": "e", "input": "I", "output": ["x", 3]}, "'output' is list ['x', 3]"),
    ({"id": "f", "input": "I"}, "'output' is missing"),
    ({"id": "g", "input": "I", "output": None}, "'output' is missing"),
]


def test_broken_instances_are_told_with_their_lines_and_the_rest_is_read(tmp_path, caplog):
    good = [instance(n) for n in range(3)] + [
        {"input": "no id", "output": "a plain text"},
        instance(1, text="same id {}"),
    ]
    task = a_task(Instances=[good[0], *[item for item, _ in BROKEN_INSTANCES], *good[1:]])
    task["Positive Examples"] += [{"input": "only"}, 5]
    path = write(tmp_path, {"task1_x": task}) / "tasks" / "task1_x.json"
    with caplog.at_level(logging.WARNING):
        found = read_rows(path)
    assert [row["answers"] for row in found] == [["yes"]] * 3 + [["a plain text"], ["yes"]]
    assert [row["id"] for row in found] == ["id-0", "id-1", "id-2", "task1_x-10", "task1_x-11"]
    problems = [problem for problem in niv2_reader.report() if problem.startswith(str(path))]
    assert problems[0].startswith(f"{path}: Positive Examples[3]: 'output' is missing")
    assert problems[1].startswith(f"{path}: Positive Examples[4]: is int 5")
    lines = path.read_text().splitlines()
    for position, ((_, why), problem) in enumerate(zip(BROKEN_INSTANCES, problems[2:], strict=True), start=1):
        place, _, told = problem.partition(": ")
        line = lines[int(place.rpartition(":")[2]) - 1].strip()
        assert line in ("{", '"text",')
        assert told.startswith(f"Instances[{position}]: {why}")
    assert caplog.text.count(str(path)) == 1
    assert "and 8 more" in caplog.text
    path.write_text(json.dumps(a_task()))
    niv2_reader.read(str(path))
    assert not [problem for problem in niv2_reader.report() if problem.startswith(str(path))]


WHOLE = json.dumps(a_task(12), indent=4)
BROKEN_FILES = {
    "task1_no_json": ("not JSON at all", "1: not JSON: expected '{'"),
    "task2_empty": ("", "1: not JSON: expected '{'"),
    "task3_list": ("[]", "1: not JSON: expected '{'"),
    "task4_cut_early": (WHOLE[:60], "5: not JSON"),
    "task5_no_instances": (json.dumps(a_task(Instances=...)), "Instances is missing"),
    "task6_instances_object": (json.dumps(a_task(Instances={"a": 1})), "Instances is dict {'a': 1}, not a list"),
    "task7_no_instance": (json.dumps(a_task(0)), "Instances is an empty list"),
    "task8_no_definition": (json.dumps(a_task(Definition=...)), "Definition is missing"),
    "task9_definition_number": (json.dumps(a_task(Definition=[1])), "Definition is list [1]"),
    "task10_blank_definition": (json.dumps(a_task(Definition=[" "])), "Definition is list [' ']"),
    "task11_deep": ('{"x": ' + "[" * 200_000, "not JSON"),
    "task12_huge_number": ('{"x": ' + "9" * 5000 + "}", "not JSON"),
}


def test_broken_files_are_told_and_the_others_are_registered(niv2, tmp_path):
    others = {
        "task20_good": a_task(),
        "task21_cut_late": WHOLE[: WHOLE.index("id-5")],
        "task22_bytes": WHOLE.encode().replace(b"Is 3 odd", b"Is \xff odd"),
        "task23_bom": b"\xef\xbb\xbf" + WHOLE.encode(),
        "task24_no_category": a_task(Categories=...),
        "task25_more_after": WHOLE + "{}",
        "task26_plain_category": a_task(Categories="Word  Analogy", **{"Positive Examples": "none"}),
    }
    files = {name: text for name, (text, _) in BROKEN_FILES.items()}
    folder = write(tmp_path, files | others)
    (folder / "tasks" / "task30_folder.json").mkdir()
    with open(folder / "splits" / "default" / "train_tasks.txt", "a") as file:
        file.write("\n../task20_good\ntask30_folder\ntask20_good\n  \n")
    niv2.register(folder, prefix="niv2broken")
    assert tasks_in("niv2broken_train") == [f"niv2broken_{name}" for name in others]
    problems = {
        name: [p for p in niv2.report() if f"/{name}.json:" in p] for name in [*files, *others, "task30_folder"]
    }
    for name, (_, why) in BROKEN_FILES.items():
        assert why in problems[name][0].partition(f"{name}.json:")[2], problems[name]
    assert "cannot be read" in problems["task30_folder"][0]
    line = WHOLE[: WHOLE.index("id-5")].count("\n") + 1
    assert f"task21_cut_late.json:{line}: not JSON" in problems["task21_cut_late"][0]
    assert len(rendered("niv2broken_task21_cut_late")) == 5
    line = WHOLE[: WHOLE.index("Is 3 odd")].count("\n") + 1
    assert f"task22_bytes.json:{line}: not UTF-8" in problems["task22_bytes"][0]
    assert "more text after the object" in problems["task25_more_after"][0]
    assert "Positive Examples is str 'none'" in problems["task26_plain_category"][0]
    assert task_info("niv2broken_task24_no_category").cluster == "niv2broken_task24_no_category"
    assert task_info("niv2broken_task26_plain_category").cluster == "niv2broken_word_analogy"
    assert problems["task20_good"] == problems["task23_bom"] == []
    assert sum(len(rendered(task)) for task in tasks_in("niv2broken_train")) > 100


@settings(max_examples=60)
@given(st.integers(0, len(WHOLE)), st.binary(max_size=3))
def test_a_damaged_text_gives_only_true_instances_before_the_damage(at, junk):
    whole = parse(WHOLE, "x.json")
    found = parse(WHOLE[:at] + junk.decode("latin-1"), "x.json")
    ended = sum(WHOLE.index(f'"{instance.id}"') + 110 < at for instance in whole.instances)
    assert len(found.instances) >= ended
    assert found.instances[:ended] == whole.instances[:ended]
    assert found.problems or at >= len(WHOLE) - 5


def test_a_large_file_is_not_read_whole_to_register_it(niv2, tmp_path):
    lazy = a_task(Instances=[instance(n, text="{} " + "long " * 400) for n in range(100)])
    text = json.dumps(lazy)
    assert len(text) > 2 * niv2_reader.HEAD_BYTES
    broken_far_away = text[: len(text) - 3000] + "?"
    last = json.dumps({name: lazy[name] for name in reversed(lazy)})
    same = a_task(Instances=[instance(1, text="{} " + "long " * 400) for _ in range(100)])
    folder = write(tmp_path, {"task1_lazy": broken_far_away, "task2_last": last, "task3_same": same})
    niv2.register(folder, prefix="niv2lazy")
    assert not [problem for problem in niv2.report() if str(tmp_path) in problem]
    splits = {name: set(seqio.TaskRegistry.get(name).splits) for name in tasks_in("niv2lazy")}
    assert splits["niv2lazy_task1_lazy"] == splits["niv2lazy_task2_last"] == {"train", "validation"}
    assert splits["niv2lazy_task3_same"] == {"train"}
    assert task_info("niv2lazy_task2_last").cluster == "niv2lazy_number_conversion"
    assert 80 < sum(len(rendered("niv2lazy_task1_lazy", split)) for split in ("train", "validation")) < 100
    assert any("task1_lazy.json:1: not JSON" in problem for problem in niv2.report())


def test_a_test_task_is_never_trained_on(niv2, tmp_path):
    folder = write(tmp_path, {"task1_a": a_task(), "task2_b": a_task()}, ["task1_a", "task2_b"], ["task2_b"])
    niv2.register(folder, prefix="niv2both")
    assert tasks_in("niv2both_train") == ["niv2both_task1_a"]
    assert set(seqio.TaskRegistry.get("niv2both_task2_b").splits) == {"validation"}
    assert any("train_tasks.txt: task2_b is a test task" in problem for problem in niv2.report())


@needs_collection
def test_the_collection(niv2):
    niv2.register(SHARED, shots=2, prefix="niv2real")
    train, test = tasks_in("niv2real_train"), tasks_in("niv2real_test")
    assert (len(train), len(test)) == (71, 6)
    assert not clusters_of("niv2real_train").keys() & clusters_of("niv2real_test").keys()
    paths = sorted(SHARED.glob("tasks/*.json"))
    assert len(paths) == 87
    total = 0
    for path in paths[::4]:
        instances = {item["id"]: item for item in json.loads(path.read_text())["Instances"]}
        found = [row for part in ("train", "validation") for row in read_rows(path, part)]
        assert {row["id"] for row in found} == instances.keys()
        assert read_rows(path, "validation")
        for row in found:
            assert row["answers"] == [output.strip() for output in instances[row["id"]]["output"]]
            assert f"Input: {row['input']}\n Output:" not in row["examples"]
        total += len(found)
    assert total > 1200
    assert not [problem for problem in niv2.report() if str(SHARED) in problem]
    examples = rendered("niv2real_task1358_xlsum_title_generation", "validation")
    assert len(examples) == 60
    assert all(b" Positive Example 2 -\nInput: " in example["inputs_pretokenized"] for example in examples)
