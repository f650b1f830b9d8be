"""Flan 2022 from small files: its parts, their shares and forms, and what is left out."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import seqio

from t5x_instruct.common.errors import ConfigError, DataError, SourceUnavailable
from t5x_instruct.data.preprocessors import RenderContext, render_example
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import task_info, tasks_in
from t5x_instruct.data.tfds_source import TfdsRows, row_of
from tests.tasks.generated_examples import examples

HERE = Path(__file__).parent
SETS = ["cos_e\tv1.11\tpick", "glue\tmrpc\tsame thing", "quail\t\tWrite it, please!", "absent_set\t\tx"]
SUBJECTS = ("Nile", "Danube", "Amazon", "Volga")


def p3_row(number):
    return {
        "inputs": [1, 2],
        "inputs_pretokenized": f"What is {number} + 1?\n",
        "targets_pretokenized": f" {number + 1} ",
        "answer_choices": [str(number + 1), str(number + 7)],
    }


def wiki(number):
    subject = SUBJECTS[number % 4]
    said = [
        f"Hello, I know the {subject}.",
        f"How long is it ({number})?",
        "Long.",
        "Where does it end?",
        "In the sea.",
    ]
    return {
        "pid": f"p{number}",
        "title": subject,
        "passage": "",
        "sentences": said[2::2],
        "utterances": said,
        "author_num": [0, 1, 0, 1, 0],
    }


def write_lines(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small files in the layouts of all parts that are not from TFDS."""
    folder = tmp_path_factory.mktemp("flan2022")
    write_lines(folder / "p3.tsv", ["# sets", "", *SETS, SETS[0]])
    write_lines(folder / "p3" / "cos_e_v1.11_pick" / "train.jsonl", map(p3_row, range(12)))
    write_lines(folder / "p3" / "quail_Write_it_please_" / "train.jsonl", [p3_row(1) | {"answer_choices": None}])
    for part in range(2):
        write_lines(folder / f"wiki-{part}.jsonl", [wiki(100 * part + i) for i in range(100)])
    sums = [f"{n} + 1?\t{n + 1}\tOne more than {n} is {n + 1}." for n in range(60)]
    for name in ("gsm8k", "qasc"):
        write_lines(folder / "cot" / f"{name}_train.tsv", sums)
    definition = {"Definition": ["Add one"], "Categories": ["Sums"], "Negative Examples": []}
    shown = [{"input": "1", "output": "2", "explanation": ""}, {"input": "2", "output": "3", "explanation": ""}]
    instances = [{"id": f"i{n}", "input": str(n), "output": [str(n + 1)]} for n in range(5, 30)]
    for name in ("task001_one", "task685_mmmlu_x"):
        task = definition | {"Positive Examples": shown, "Instances": instances}
        write_lines(folder / "niv2" / "tasks" / f"{name}.json", [task])
    write_lines(folder / "niv2" / "splits" / "default" / "train_tasks.txt", ["task001_one", "task685_mmmlu_x"])
    write_lines(folder / "niv2" / "splits" / "default" / "test_tasks.txt", [])
    write_lines(folder / "qrecc.json", [[qrecc(n) for n in range(600)]])
    return folder


def qrecc(number):
    return {
        "Context": [] if number % 2 else ["Who was she?", "A queen."],
        "Question": f"When did she reign, number {number}?",
        "Rewrite": "",
        "Answer": "" if number % 5 == 0 else f"In {1000 + number}.",
        "Conversation_no": number,
    }


@pytest.fixture(scope="module")
def all_parts(folder):
    """What a process with all five parts has registered."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("T5X_INSTRUCT_")}
    command = [sys.executable, str(HERE / "flan2022_all_parts.py"), str(folder)]
    environment = clean | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def flan2022(folder):
    """The package in this process, without the parts whose modules other tests import."""
    options = {"P3_INDEX": "p3.tsv", "P3_FOLDER": "p3", "WIKI_DIALOG": "wiki-*.jsonl", "QRECC": "qrecc.json"}
    given = {f"tasks.flan2022.{name}": str(folder / path) for name, path in options.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COT", "NIV2"):
            patch.delenv(f"T5X_INSTRUCT_{name}_FOLDER", raising=False)
        import_task_modules(["tasks.flan2022"], given | {"tasks.flan2022.BUDGET": "400"})
    return sys.modules["tasks.flan2022"]


def rendered(task, split="train"):
    return list(seqio.TaskRegistry.get(task).get_dataset(None, split, shuffle=False).as_numpy_iterator())


def inputs_of(example):
    return example["inputs_pretokenized"].decode()


def test_the_published_weights_are_the_shares(all_parts):
    assert all_parts["left_out"] == {}
    published = {
        "flan2022": {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03},
        "flan2022_paper": {"flan2021": 0.46, "t0": 0.28, "niv2": 0.242, "cot": 0.018, "dialog": 0.0},
        "flan2022_4_3_1_1_1": {"flan2021": 0.4, "t0": 0.3, "niv2": 0.1, "cot": 0.1, "dialog": 0.1},
    }
    for mixture, weights in published.items():
        got = all_parts["shares"][mixture]
        total = sum(got[part] for part in weights)
        for part, weight in weights.items():
            assert got[part] / total == pytest.approx(weight), (mixture, part)
            assert all_parts["told"][mixture].get(part, 0.0) == pytest.approx(weight)
            forms = [form for form in got if form.startswith(f"{part}_")]
            assert len(forms) == (4 if part in ("flan2021", "t0") else 2)
            for form in forms:
                assert got[form] == pytest.approx(got[part] / len(forms)), (mixture, form)


def test_every_task_has_its_forms(all_parts):
    tasks = all_parts["tasks"]
    flan = {name for name in tasks if name.startswith(("flan2021_", "flan2022_"))}
    assert len(flan) == 4 * (69 + 2)
    assert tasks["flan2022_ai2_science_middle_fsopt"] == ["flan2022_ai2_science_middle", "open_domain_qa"]
    assert tasks["flan2021_rte_zsnoopt"] == ["flan2021_rte", "entailment"]
    forms = {f"{kind}{form}" for kind in ("", "ii_") for form in ("zsopt", "fsopt")}
    for base in ("cot_gsm8k", "cot_qasc", "dialog_wiki_dialog", "dialog_q_re_cc"):
        assert {name for name, (of, _) in tasks.items() if of == base} == {f"{base}_{form}" for form in forms}
    assert {name for name in tasks if name.startswith("niv2_")} == {
        "niv2_task001_one_zsopt",
        "niv2_task001_one_fsopt",
    }
    assert "t0_glue_mrpc_same_thing_zsopt" not in tasks
    assert tasks["t0_cos_e_v1_11_pick_fsnoopt"] == ["t0_cos_e_v1_11_pick", "t0_cos_e"]


def test_rates_inside_a_form_follow_the_caps_and_inverted_ones_count_less(all_parts):
    rates = all_parts["rates"]
    for form in ("zsopt", "fsopt"):
        plain, inverted = f"cot_gsm8k_{form}", f"cot_gsm8k_ii_{form}"
        assert rates[inverted] / rates[plain] == pytest.approx(0.3 * len(inverted) / len(plain))
    one, other = "flan2021_rte_zsopt", "flan2021_anli_r1_zsopt"
    assert rates[one] / rates[other] == pytest.approx(len(one) / len(other))


def test_a_mixture_of_two_thousand_tasks_is_exact(all_parts):
    tasks, total = all_parts["many"]
    assert tasks == len(all_parts["tasks"]) + 1500
    assert total == pytest.approx(1.0)


def test_what_cannot_be_is_told_with_the_fix(all_parts):
    nothing, misspelt, budget, index, cot = all_parts["errors"]
    assert "none of the parts niv2, cot is configured" in nothing
    assert "tasks.niv2.FOLDER" in nothing
    assert "T5X_INSTRUCT_COT_FOLDER" in nothing
    assert "nearest: 'cot'" in misspelt
    assert "BUDGET is 'many'" in budget
    assert "absent.tsv" in index
    assert "tasks.cot.FOLDER" in cot


def test_parts_without_data_are_left_out_and_the_rest_keeps_its_proportions(flan2022):
    report = flan2022.REPORT
    assert set(report.left_out) == {"niv2", "cot"}
    assert "tasks.niv2.FOLDER" in report.left_out["niv2"]
    assert report.shares["flan2022"] == pytest.approx(
        {"flan2021": 0.40 / 0.75, "t0": 0.32 / 0.75, "dialog": 0.03 / 0.75}
    )
    assert report.shares["flan2022_paper"] == pytest.approx({"flan2021": 0.46 / 0.74, "t0": 0.28 / 0.74})
    assert not [name for name in tasks_in("flan2022") if name.startswith(("cot_", "niv2_"))]


def test_prompted_rows_show_choices_that_the_prompt_lacks(flan2022):
    kinds = set()
    for example in rendered("t0_cos_e_v1_11_pick_zsopt"):
        row_options = [example["targets_pretokenized"].decode(), *[o.decode() for o in example["options"]]]
        kinds.add(row_options[0].isdigit())
        assert inputs_of(example).startswith("What is")
        assert row_options[0] in row_options[1:]
        assert len(inputs_of(example)) > len("What is 10 + 1?")
    assert kinds == {True, False}  # texts and letters
    plain = rendered("t0_cos_e_v1_11_pick_zsnoopt")
    assert [inputs_of(example) for example in plain] == [f"What is {n} + 1?" for n in range(12)]
    few = rendered("t0_cos_e_v1_11_pick_fsnoopt")
    assert {int(example["count_exemplars"]) for example in few} <= {1, 2, 3, 4, 5}
    assert all(inputs_of(e).count(f"What is {n} + 1?") == 1 for n, e in enumerate(few))
    with pytest.raises(SourceUnavailable, match="'absent_set_x' of P3 is not in .*P3_INDEX"):
        next(seqio.TaskRegistry.get("t0_absent_set_x").source.rows("train"))
    row = flan2022.p3._row(
        {"inputs_pretokenized": "a or b?", "targets_pretokenized": "b", "answer_choices": ["a", "b"]}, ""
    )
    assert row == {"prompt": "a or b?", "answer": "b", "options": []}
    assert flan2022.p3._row({"inputs_pretokenized": "a", "targets_pretokenized": " "}, "here") is None
    with pytest.raises(DataError, match="here: not a row of P3"):
        flan2022.p3._row({"inputs": [1], "targets": [2]}, "here")


def test_faults_of_an_index(flan2022, tmp_path):
    path = tmp_path / "index.tsv"
    path.write_text("a\tb\n\nc\t\td\n\t\te\n")
    with pytest.raises(ConfigError) as caught:
        flan2022.p3.read_index(str(path))
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [f"{path}:1", f"{path}:4"]
    path.write_text("glue\tmrpc\tx\n")
    with pytest.raises(ConfigError, match="lists 1 sets, of which FLAN 2021 has 1: none is left"):
        flan2022.p3.read_index(str(path))


def test_dialogues_of_files(flan2022):
    splits = {split: rendered("dialog_wiki_dialog", split) for split in ("train", "validation")}
    assert len(splits["train"]) + len(splits["validation"]) == 200
    assert splits["validation"]
    assert {e["targets_pretokenized"] for e in splits["train"]} == {b"Long.", b"In the sea."}
    lasts = {e["last"].decode()[:5] for e in splits["train"]}
    assert lasts == {"How l", "Where"}
    questions = [e for split in ("train", "validation") for e in rendered("dialog_q_re_cc", split)]
    assert len(questions) == 480  # those with an answer
    assert {e["before"].decode() for e in questions} == {flan2022.dialog.BEGINNING, "Who was she?\nA queen."}
    for example in rendered("dialog_q_re_cc_ii_zsopt")[:40]:
        assert example["targets_pretokenized"] in (example["last"], example["dialogue"])
        assert example["answer"].decode() in inputs_of(example)


def test_few_shot_dialogues_stay_within_the_budget(flan2022):
    examples_of = rendered("dialog_wiki_dialog_fsopt")
    assert any(example["count_dropped_exemplars"] for example in examples_of)
    for example in examples_of:
        assert len(example["inputs"]) <= 400 or not example["count_exemplars"]


def test_a_pattern_without_files_is_told(flan2022, tmp_path):
    sources = flan2022.dialog.sources(str(tmp_path / "none-*"), None)
    with pytest.raises(ConfigError, match="there is no file .*none-"):
        next(sources["wiki_dialog"].rows("train"))


def test_rows_of_the_two_further_tasks(flan2022):
    more = sys.modules["tasks.flan2022.more_tasks"]
    assert more.lambada_row({"passage": "He opened the door"}) == {"text": "He opened the", "answer": "door"}
    assert more.lambada_row({"passage": "word"}) is None
    text = r"Which is a planet? \n (A) the Sun (B) Mars (C) the Moon"
    wanted = {"question": "Which is a planet?", "options": ["the Sun", "Mars", "the Moon"], "answer": "Mars"}
    assert more.science_row({"input": text, "output": "mars"}) == wanted
    assert more.science_row({"input": text, "output": "Venus"}) is None


@pytest.mark.parametrize(
    "task", ["flan2022_lambada", "flan2022_ai2_science_middle", "dialog_wiki_dialog", "dialog_q_re_cc"]
)
def test_every_template_renders_rows_of_the_builders_own_schema(flan2022, task):
    dialogues = flan2022.dialog.sources(None, None)
    source = dialogues.get(task.removeprefix("dialog_")) or seqio.TaskRegistry.get(task).source
    assert isinstance(source, TfdsRows)
    made = []
    for example in examples(source.dataset, source.builder.info.features, "usual", 30):
        if task == "flan2022_ai2_science_middle":
            example |= {"input": rb"Which one? \n (A) ice (B) fire", "output": b"fire"}
        if task == "dialog_wiki_dialog":
            said = random.Random(0).randrange(2, 6)
            example |= {"author_num": [i % 2 for i in range(said)], "utterances": [b"so it is"] * said}
        made.append(row_of(example, source.make_row, task))
    rows = list(RowSource({"train": [row for row in made if row is not None]}).rows("train"))
    assert len(rows) > 10
    templates = task_info(task).templates
    assert len(templates) >= 8
    for template in range(len(templates)):
        texts = render_example(rows[0], templates, task, 0, RenderContext(template=template))
        assert texts.inputs
        assert texts.targets
