"""The chain-of-thought tasks, from small files in the collection's format."""

import logging
import sys

import pytest
import seqio

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import task_info, tasks_in

GOOD = [
    (f"Tom has {n} nuts and eats one.\\nHow many are left?", str(n - 1), f"{n} - 1 = {n - 1}.\\nSo {n - 1} are left.")
    for n in range(2, 402)
]


@pytest.fixture(scope="module")
def cot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cot")
    lines = ["\t".join(row) for row in GOOD]
    lines[3:3] = ["only a question\tand an answer"]
    lines.append("a\tb\tc\td")
    (folder / "gsm8k_train.tsv").write_text("\n".join(lines) + "\n")
    odd = "".join(f"Is {n} odd?\t{'yes' if n % 2 else 'no'}\tIt is {n}.\n" for n in range(200))
    (folder / "strategyqa_train.tsv").write_text(odd)
    (folder / "unrelated.tsv").write_text("x\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("T5X_INSTRUCT_COT_FOLDER", raising=False)
        with pytest.raises(ConfigError, match="T5X_INSTRUCT_COT_FOLDER"):
            import_task_modules(["tasks.cot"])
        with pytest.raises(ConfigError, match="gsm8k_train.tsv"):
            import_task_modules(["tasks.cot"], {"tasks.cot.FOLDER": str(tmp_path_factory.mktemp("empty"))})
    import_task_modules(["tasks.cot"], {"tasks.cot.FOLDER": str(folder)})
    return sys.modules["tasks.cot"]


def rendered(task, split):
    return list(seqio.TaskRegistry.get(task).get_dataset(None, split, shuffle=False).as_numpy_iterator())


def test_tasks_are_those_of_the_files(cot):
    assert tasks_in("cot") == ["cot_gsm8k", "cot_strategyqa"]
    info = task_info("cot_gsm8k")
    assert info.dataset == task_info("cot_gsm8k_fsopt").dataset == "gsm8k"  # that of the benchmark
    assert info.cluster == "cot_gsm8k"
    assert info.source.endswith("gsm8k_train.tsv")
    assert len(info.templates) >= 4
    explained = [t for t in info.templates if "explanation" in t.target_fields]
    assert 0 < len(explained) < len(info.templates)


def test_every_good_line_is_in_one_split(cot):
    splits = {split: rendered("cot_gsm8k", split) for split in ("train", "validation")}
    questions = {split: {example["question"].decode() for example in examples} for split, examples in splits.items()}
    assert not questions["train"] & questions["validation"]
    assert questions["train"] | questions["validation"] == {row[0].replace("\\n", "\n") for row in GOOD}
    assert 4 <= len(questions["validation"]) <= 40


def test_bad_lines_are_told_and_counted(cot, caplog):
    task = seqio.TaskRegistry.get("cot_gsm8k")
    with caplog.at_level(logging.WARNING):
        assert len(list(task.source.rows("train"))) > 300
    path = task_info("cot_gsm8k").source.removeprefix("TSV ")
    assert cot.BAD_LINES[path] == 2
    assert f"{path}:4: 2 columns" in caplog.text
    assert f"{path}:{len(GOOD) + 2}: 4 columns" in caplog.text


def test_the_final_answer_is_found_in_every_form(cot):
    task = seqio.TaskRegistry.get("cot_gsm8k")
    forms = set()
    for example in rendered("cot_gsm8k", "train"):
        target, answer = example["targets_pretokenized"].decode(), example["answer"].decode()
        forms.add(target == answer)
        assert task.postprocess_fn(target, example=example, is_target=True) == [answer]
        assert task.postprocess_fn(target, example=example, is_target=False) == answer
        if target != answer:
            assert target.startswith(example["explanation"].decode())
    assert forms == {True, False}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is 5.\nThe answer is 42.\nBye.", "42"),
        ("The answer is 1. No: The answer is 2.5.", "2.5"),
        (" 17 ", "17"),
        ("The answer is", ""),
        ("", ""),
    ],
)
def test_final_answers(cot, text, answer):
    assert cot.final_answer(text) == answer


def test_seqio_evaluates_the_final_answer(cot):
    data = {"validation": {"question": "1 + 1?", "answer": "2", "explanation": "One more than 1 is 2."}}
    for prediction, value in (("I think.\nThe answer is 2.", 100.0), ("2", 100.0), ("The answer is 3.", 0.0)):
        metrics = seqio.test_utils.test_postprocessing("cot_gsm8k", data, predict_output=[prediction])
        assert metrics == {"exact_match": value}


def test_forms_of_the_collection(cot):
    forms = [f"{kind}{form}" for form in ("zsopt", "fsopt") for kind in ("", "ii_")]
    for form in ("zsopt", "fsopt"):
        wanted = [f"cot_{name}_{kind}{form}" for name in ("gsm8k", "strategyqa") for kind in ("", "ii_")]
        assert tasks_in(f"cot_{form}") == sorted(wanted)
        mixture = seqio.MixtureRegistry.get(f"cot_{form}")
        rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
        for name in ("gsm8k", "strategyqa"):
            assert rates[f"cot_{name}_ii_{form}"] == pytest.approx(0.3 * rates[f"cot_{name}_{form}"])
    for form in forms:
        info = task_info(f"cot_gsm8k_{form}")
        assert (info.base, info.cluster) == ("cot_gsm8k", "cot_gsm8k")
        assert len(info.templates) >= 5
        assert {t.is_inverted for t in info.templates} == {"ii_" in form}


def test_the_answer_comes_after_the_explanation(cot):
    task = seqio.TaskRegistry.get("cot_gsm8k_zsopt")
    endings = set()
    for example in rendered("cot_gsm8k_zsopt", "train"):
        target, answer = example["targets_pretokenized"].decode(), example["answer"].decode()
        assert target.startswith(example["explanation"].decode())
        assert task.postprocess_fn(target, example=example, is_target=True) == [answer]
        endings.add(target.removeprefix(example["explanation"].decode()).replace(answer, "X"))
    assert endings == {"\nThe answer is X.", " So the answer is X.", "\nTherefore the answer is X."}


def test_few_shot_explanations_are_of_other_questions(cot):
    for example in rendered("cot_gsm8k_fsopt", "validation") + rendered("cot_gsm8k_fsopt", "train")[:60]:
        inputs, question = example["inputs_pretokenized"].decode(), example["question"].decode()
        assert 1 <= example["count_exemplars"] <= 5
        assert inputs.count("How many are left?") == example["count_exemplars"] + 1
        assert inputs.count(question) == 1
        assert inputs.lower().count("the answer is ") >= example["count_exemplars"]


def test_inverted_forms_ask_for_what_they_do_not_show(cot):
    wanted = set()
    for example in rendered("cot_gsm8k_ii_zsopt", "train"):
        inputs, target = (example[f"{name}_pretokenized"].decode() for name in ("inputs", "targets"))
        asked = next(name for name in ("question", "explanation") if example[name].decode() == target)
        wanted.add(asked)
        assert target not in inputs
    assert wanted == {"question", "explanation"}
