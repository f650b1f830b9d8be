"""The benchmarks, from tiny files of their authors' layouts."""

import csv
import json
import sys
from pathlib import Path

import pytest
import seqio

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.binding import bind_mixture, splits_of
from t5x_instruct.data.fingerprints import Describer
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import clusters_of, task_info, tasks_in
from t5x_instruct.data.vocabularies import load_vocabulary
from t5x_instruct.evaluation.normalized import normalized_average, normalized_score
from t5x_instruct.evaluation.results import TaskResult

MMLU_SUBJECTS = ("anatomy", "high_school_us_history")
SNAKE = "Given three claims, say whether the last one holds."
PROMPTS = f"""A line that is not for models.
-----
{SNAKE}

Q: Is ice cold?
Options:
- Yes
- No
A: Ice is frozen water.
Frozen things are cold. So the answer is Yes.

Q: Is fire wet?
Options:
- Yes
- No
A: Fire is not wet. So the answer is No.

Q: Is 2 odd?
A: It is even. So the answer is No."""
BBH = {
    "claims": [("Is snow white?\nOptions:\n- Yes\n- No", "Yes"), ("Is soot white?\nOptions:\n- Yes\n- No", "No")],
    "letters": [(f"Pick {i}.\nOptions:\n(A) one\n(B) two\n(C) three", f"({'ABC'[i % 3]})") for i in range(4)],
    "counting": [(f"I have {i} pears and a plum. How many?", str(i + 1)) for i in range(5)],
    "truths": [("not True is", "False"), ("not False is", "True")],
}


def write_mmlu(folder: Path) -> None:
    for split, count in (("dev", 6), ("val", 2), ("test", 3)):
        (folder / split).mkdir(parents=True)
        for subject in MMLU_SUBJECTS:
            with open(folder / split / f"{subject}_{split}.csv", "w", newline="", encoding="utf-8") as file:
                for i in range(count):
                    csv.writer(file).writerow([f'{split} "{i}",\nwhich?', "w", "x, y", "y", "z", "ABCD"[i % 4]])


def write_bbh(folder: Path) -> None:
    for name in ("bbh", "cot-prompts"):
        (folder / name).mkdir(parents=True)
    for task, pairs in BBH.items():
        content = {"canary": "c", "examples": [{"input": question, "target": answer} for question, answer in pairs]}
        (folder / "bbh" / f"{task}.json").write_text(json.dumps(content), encoding="utf-8")
        (folder / "cot-prompts" / f"{task}.txt").write_text(PROMPTS, encoding="utf-8")


def write_mgsm(folder: Path) -> None:
    folder.mkdir()
    (folder / "mgsm_en.tsv").write_text("Tom has 3 nuts and 1 more.\t4\nHow many cents?\t1,200\n", encoding="utf-8")
    (folder / "mgsm_zh.tsv").write_text("汤姆有几个？\t4\n", encoding="utf-8")
    table = {
        "en": {
            str(i): {"q": f"Question: {i} + 1?", "a": f"Working: One more. The answer is {i + 1}."}
            for i in range(1, 11)
        },
        "zh": {"1": {"q": "问题：1 加 1？", "a": "解答：答案是 2。"}},
    }
    code = f'"""Prompts."""\nraise RuntimeError("this file must not be run")\nOTHER = [1]\nMGSM_EXEMPLARS = {table!r}\n'
    (folder / "exemplars.py").write_text(code, encoding="utf-8")


def write_gsm8k(folder: Path) -> None:
    folder.mkdir()
    for name, count in (("train", 9), ("test", 3)):
        lines = [
            {"question": f"{name} {i} + 1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1:,}"}
            for i in range(999, 999 + count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


WRITERS = {"mmlu": write_mmlu, "bbh": write_bbh, "mgsm": write_mgsm, "gsm8k": write_gsm8k}


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    modules = [f"tasks.benchmarks.{name}" for name in WRITERS]
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITERS:
            patch.delenv(f"T5X_INSTRUCT_{name.upper()}_FOLDER", raising=False)
        with pytest.raises(ConfigError) as caught:
            import_task_modules(modules)
        assert all(f"T5X_INSTRUCT_{name.upper()}_FOLDER to the folder with" in str(caught.value) for name in WRITERS)
        (root / "empty").mkdir()
        with pytest.raises(ConfigError) as caught:
            import_task_modules(modules, {f"{module}.FOLDER": str(root / "empty") for module in modules})
        wanted = ("test/SUBJECT_test.csv", "bbh/TASK.json", "mgsm_LANGUAGE.tsv", "test.jsonl")
        assert all(f"which has no {files}" in str(caught.value) for files in wanted)
    for name, write in WRITERS.items():
        write(root / name)
    import_task_modules(modules, {f"{module}.FOLDER": str(root / module.rpartition(".")[2]) for module in modules})
    return {name: sys.modules[f"tasks.benchmarks.{name}"] for name in WRITERS}


def rendered(task, split="test"):
    dataset = seqio.TaskRegistry.get(task).get_dataset(None, split, shuffle=False)
    return [
        {
            "inputs": example["inputs_pretokenized"].decode(),
            "targets": example["targets_pretokenized"].decode(),
            "options": [option.decode() for option in example.get("options", ())],
        }
        for example in dataset.as_numpy_iterator()
    ]


def test_mmlu_knows_57_subjects_and_asks_those_that_are_there(benchmarks) -> None:
    assert len(set(benchmarks["mmlu"].SUBJECTS)) == 57
    assert clusters_of("mmlu") == {"mmlu": [f"mmlu_{subject}" for subject in MMLU_SUBJECTS]}
    assert clusters_of("mmlu_0_shot") == {"mmlu_0_shot": [f"mmlu_0_shot_{subject}" for subject in MMLU_SUBJECTS]}
    assert task_info("mmlu_anatomy").dataset == task_info("mmlu_0_shot_anatomy").dataset == "mmlu/anatomy"


def test_mmlu_is_asked_after_five_questions_of_dev(benchmarks) -> None:
    examples = rendered("mmlu_high_school_us_history")
    assert len(examples) == 3
    assert [example["targets"] for example in examples] == ["A", "B", "C"]
    text = examples[1]["inputs"]
    assert text.endswith('test "1",\nwhich?\nA. w\nB. x, y\nC. y\nD. z\nAnswer:')
    assert text.count("Answer:") == 6
    assert 'dev "4",\nwhich?\nA. w\nB. x, y\nC. y\nD. z\nAnswer:\nA\n\n' in text
    assert 'dev "5"' not in text
    assert "high school us history" in text
    assert examples[1]["options"] == ["A", "B", "C", "D"]
    alone = rendered("mmlu_0_shot_high_school_us_history", "validation")
    assert [example["inputs"].count("Answer:") for example in alone] == [1, 1]
    assert not seqio.TaskRegistry.get("mmlu_anatomy").metric_fns, "rank classification is its measure"


def test_bbh_is_asked_with_and_without_reasoning(benchmarks) -> None:
    assert tasks_in("bbh") == [f"bbh_{task}" for task in sorted(BBH)]
    direct, reasoned = rendered("bbh_claims")[0], rendered("bbh_cot_claims")[0]
    question = "Q: Is snow white?\nOptions:\n- Yes\n- No\nA:"
    for example in (direct, reasoned):
        assert example["inputs"].startswith(SNAKE)
        assert example["inputs"].endswith("\n\n" + question)
        assert example["inputs"].count("Q: ") == 4
        assert (example["targets"], example["options"]) == ("Yes", ["Yes", "No"])
    assert "- No\nA:\nYes\n\nQ: Is fire wet?" in direct["inputs"]
    assert "frozen" not in direct["inputs"]
    assert "A:\nIce is frozen water.\nFrozen things are cold. So the answer is Yes.\n\nQ: Is fire" in reasoned["inputs"]
    assert rendered("bbh_letters")[1]["options"] == ["(A)", "(B)", "(C)"]
    assert rendered("bbh_truths")[0]["options"] == ["False", "True"]
    assert rendered("bbh_counting")[0]["options"] == []


def test_mgsm_is_asked_in_its_own_words(benchmarks) -> None:
    first, second = rendered("mgsm_en")
    assert first["inputs"].endswith("\n\nQuestion: Tom has 3 nuts and 1 more.\nWorking:")
    assert first["inputs"].startswith("Question: 1 + 1?\nWorking:\nOne more. The answer is 2.\n\nQuestion: 2 + 1?")
    assert first["inputs"].count("Question:") == 9
    assert (first["targets"], second["targets"]) == ("4", "1200")
    assert rendered("mgsm_zh")[0]["inputs"] == "问题：1 加 1？\n解答：\n答案是 2。\n\n问题：汤姆有几个？\n解答："


def test_gsm8k_is_asked_alone_and_after_eight(benchmarks) -> None:
    assert tasks_in("gsm8k") == ["gsm8k_0_shot", "gsm8k_8_shot"]
    alone, after = rendered("gsm8k_0_shot")[1], rendered("gsm8k_8_shot")[1]
    assert alone["inputs"].endswith("Problem: test 1000 + 1?\nSolution:")
    assert alone["inputs"].count("Problem:") == 1
    assert after["inputs"].count("Problem:") == 9
    assert "Solution:\nIt is 1001.\nThe answer is 1001.\n\n" in after["inputs"]
    assert alone["targets"] == after["targets"] == "1001"


ANSWERS = [
    ("bbh_cot_claims", "Snow is white. So the answer is Yes.", "Yes"),
    ("bbh_cot_letters", "The answer is (A). No: the answer is: (B).\nQ: next", "(B)"),
    ("bbh_claims", "Yes", "Yes"),
    ("mgsm_en", "So 3 + 1 = 4, which is $1,204.50.", "1204.5"),
    ("mgsm_zh", "答案是 12。", "12"),
    ("gsm8k_0_shot", "minus -3.0", "-3"),
    ("gsm8k_0_shot", "no idea", ""),
]


@pytest.mark.parametrize(("task", "output", "answer"), ANSWERS, ids=[f"{task} {answer}" for task, _, answer in ANSWERS])
def test_the_final_answer_is_found(benchmarks, task: str, output: str, answer: str) -> None:
    assert seqio.TaskRegistry.get(task).postprocess_fn(output, example={}, is_target=False) == answer


def test_right_answers_are_right(benchmarks) -> None:
    for name in ("bbh_cot_claims", "mgsm_en", "gsm8k_8_shot"):
        task = seqio.TaskRegistry.get(name)
        examples = list(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
        targets = [task.postprocess_fn(e["targets_pretokenized"].decode(), example=e, is_target=True) for e in examples]
        written = [f"I thought. The answer is {e['targets_pretokenized'].decode()}." for e in examples]
        given = [
            task.postprocess_fn(text, example=e, is_target=False) for text, e in zip(written, examples, strict=True)
        ]
        assert task.metric_fns[0](targets, given) == {"exact_match": 100.0}, name
        assert task.metric_fns[0](targets, ["7"] * len(given)) == {"exact_match": 0.0}, name


def test_a_benchmark_is_never_trained_on(benchmarks, tmp_path: Path) -> None:
    for mixture in ("mmlu", "mmlu_0_shot", "bbh", "bbh_cot", "mgsm", "gsm8k"):
        assert all("train" not in seqio.TaskRegistry.get(name).splits for name in tasks_in(mixture))
        options = {f"tasks.benchmarks.{name}.FOLDER": str(module.FOLDER) for name, module in benchmarks.items()}
        modules = tuple(f"tasks.benchmarks.{name}" for name in benchmarks)
        spec = PrepareSpec(mixture=mixture, modules=modules, vocabulary="bytes", root=tmp_path, module_options=options)
        bound, _, _ = bind_mixture(spec, load_vocabulary("bytes"))
        with pytest.raises(DataError, match="has no split 'train'"):
            splits_of(bound[0], spec)
    registry = sys.modules["tasks.benchmarks.registry"]
    with pytest.raises(ConfigError, match="benchmarks are never trained on"):
        registry.add_benchmark("b", cluster="b", dataset="b", splits={"train": list}, where=tmp_path)


FAULTS = [
    ("mmlu", "test/anatomy_test.csv", "only,two\n", "anatomy_test.csv, question 1: expected a question, four choices"),
    ("bbh", "bbh/claims.json", '{"examples": [{"input": 1}]}', "claims.json, example 0: expected texts 'input'"),
    ("bbh", "bbh/claims.json", "[]", "claims.json: not a JSON object with 'examples'"),
    ("bbh", "cot-prompts/claims.txt", "About.\n\nQ: a\nA: b", "claims.txt: 1 solved questions"),
    ("mgsm", "mgsm_en.tsv", "a question\tnothing\n", "mgsm_en.tsv:1: the answer 'nothing' is no number"),
    ("mgsm", "exemplars.py", "X = 1", "exemplars.py has no table MGSM_EXEMPLARS"),
    ("mgsm", "exemplars.py", "MGSM_EXEMPLARS = {'de': {}}", "unknown language 'en'; nearest: 'de'"),
    ("mgsm", "exemplars.py", "MGSM_EXEMPLARS = open('x')", "is not a table of texts"),
    ("gsm8k", "test.jsonl", '{"question": "q", "answer": "4"}\n', "test.jsonl:1: the answer does not end with '#### "),
]
ROWS = {
    "mmlu": lambda module, folder: module.rows(folder / "test/anatomy_test.csv", "anatomy", None),
    "bbh": lambda module, folder: module.rows(folder / "bbh/claims.json", folder / "cot-prompts/claims.txt", True),
    "mgsm": lambda module, folder: module.rows(folder / "mgsm_en.tsv", folder / "exemplars.py", "en"),
    "gsm8k": lambda module, folder: module.rows(folder / "test.jsonl", None),
}


@pytest.mark.parametrize(("name", "file", "text", "message"), FAULTS, ids=[f"{n} {m[-30:]}" for n, _, _, m in FAULTS])
def test_a_fault_is_told_with_its_place(benchmarks, tmp_path: Path, name, file, text, message) -> None:
    WRITERS[name](tmp_path / name)
    (tmp_path / name / file).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        ROWS[name](benchmarks[name], tmp_path / name)
    assert message in str(caught.value)


def test_changed_files_are_seen(benchmarks) -> None:
    for name, count in (("mmlu_anatomy", 3), ("bbh_claims", 2), ("mgsm_en", 2), ("gsm8k_8_shot", 2)):
        describer = Describer()
        describer.describe(seqio.TaskRegistry.get(name).source)
        assert len(describer.data_files) == count, name


def test_the_normalized_average_counts_from_guessing_and_each_suite_once() -> None:
    ranked = {"rank_accuracy": 62.5, "rank_chance": 25.0}
    tasks = [
        TaskResult("a", "mmlu", **ranked),
        TaskResult("b", "mmlu", rank_accuracy=25.0, rank_chance=25.0),
        TaskResult("c", "bbh", metrics={"exact_match": 40.0}, rank_accuracy=99.0, rank_chance=50.0),
        TaskResult("d", "mgsm", metrics={"exact_match": 30.0}),
        TaskResult("e", "empty"),
    ]
    assert [normalized_score(task) for task in tasks] == [50.0, 0.0, -20.0, 30.0, None]
    result = normalized_average(tasks)
    assert result.suites == {"mmlu": 25.0, "bbh": -20.0, "mgsm": 30.0}
    assert result.average == pytest.approx(35 / 3)
    assert normalized_average([]).average is None
    assert normalized_score(TaskResult("f", "f", rank_accuracy=100.0, rank_chance=100.0)) is None
