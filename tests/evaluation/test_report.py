import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.checkpoints.manager import BestStep
from t5x_instruct.evaluation import charts
from t5x_instruct.evaluation.report import summary_text, write_report
from t5x_instruct.evaluation.results import Best, EvalExample, EvalResult, TaskResult, TemplateFigures

HOSTILE = "<script>alert('x')</script> & \"quoted\" </style></pre>"
VOID = {"meta", "rect", "line", "path", "circle", "br", "wbr", "i"}


class Page(HTMLParser):
    """Checks that elements nest, and collects elements, attributes and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID - {"i"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def task(name: str, cluster: str, score: float | None, **changes: Any) -> TaskResult:
    metrics = {} if score is None else {"exact_match": score}
    return TaskResult(name, cluster, 10, metrics, **changes)


def result(shift: float, prediction: str) -> EvalResult:
    examples = (EvalExample(4, f"Say {HOSTILE}", "Paris", prediction),)
    return EvalResult(
        "validation",
        (
            task("capital", "geography", 10.0 + shift, examples=examples),
            task("river", "geography", 20.0 + shift, rank_accuracy=40.0 + shift, rank_chance=25.0, num_ranked=10),
            task("silent", "silent", None, problems=(f"task 'silent': {HOSTILE}",)),
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records: list[dict[str, Any]] = [{"step": 0, "kind": "validation", "loss": 3.5}]
    for step in range(1, 31):
        loss = math.nan if step == 7 else 3.0 / step
        record = {"target_tokens": 100, "target_tokens_per_second": 50.0, "seconds": 2.0, "learning_rate": 0.01}
        records.append({"step": step, "kind": "train", "loss": loss} | record)
    records.append({"step": 30, "kind": "validation", "loss": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 31, "ki')
    (tmp_path / "config.gin").write_text(f"DataSettings.seed = 17\nNOTE = '{HOSTILE}'\nloop/LoopConfig.seed = 3\n")
    manifest = {"model": f"tiny {HOSTILE}", "parameters": 1234567, "mixture": "starter", "environment": {"hosts": 1}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture
def report(folder: Path) -> dict[str, Any]:
    write_report(folder, before=result(0.0, HOSTILE), after=result(30.0, "paris."))
    return json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.fixture
def page(folder: Path, report: dict[str, Any]) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_means_before_and_after(report: dict[str, Any]) -> None:
    before, after = report["held_out"]["before"], report["held_out"]["after"]
    assert (before["exact_match"], after["exact_match"]) == (15.0, 45.0)
    assert (before["score"], before["rank_accuracy"], after["rank_accuracy"]) == (15.0, 40.0, 70.0)
    geography, silent = report["held_out"]["clusters"]
    assert (geography["cluster"], geography["before"]["score"], geography["after"]["score"]) == (
        "geography",
        15.0,
        45.0,
    )
    assert [(t["task"], t["before"]["score"], t["after"]["score"]) for t in geography["tasks"]] == [
        ("capital", 10.0, 40.0),
        ("river", 20.0, 50.0),
    ]
    assert geography["tasks"][1]["after"]["rank_accuracy"] == 70.0
    assert silent["after"]["score"] is None


def test_examples_pair_the_answers(report: dict[str, Any]) -> None:
    (example,) = report["examples"]
    assert (example["before"], example["after"], example["target"]) == (HOSTILE, "paris.", "Paris")


def test_train_summary_and_facts(report: dict[str, Any]) -> None:
    train = report["train"]
    assert (train["steps"], train["target_tokens"], train["seconds"]) == (30, 3000, 60.0)
    assert (train["first_loss"], train["last_loss"]) == (3.0, 0.1)
    assert (train["first_validation_loss"], train["last_validation_loss"]) == (3.5, 0.5)
    assert train["target_tokens_per_second"] == 50.0
    assert report["seeds"] == {"DataSettings.seed": "17", "loop/LoopConfig.seed": "3"}
    assert report["problems"] == [f"task 'silent': {HOSTILE}"]
    assert report["run"]["parameters"] == 1234567


def test_the_page_is_well_formed_and_shows_the_figures(page: str) -> None:
    parsed = Page(page)
    for text in ("15.0", "45.0", "+30.0", "geography", "capital", "Validation loss", "DataSettings.seed", "1,234,567"):
        assert text in parsed.text
    names = [name for name, _ in parsed.elements]
    assert names.count("table") == 2
    assert names.count("figure") == 2
    assert "as wanted" in parsed.text  # "paris." is "Paris" but for case and punctuation


def test_all_text_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert page.count("</style>") == 1
    # In the instruction, the answer before, the problem, the model's name and the configuration.
    assert Page(page).text.count(HOSTILE) >= 5


def test_the_page_needs_no_network(page: str) -> None:
    parsed = Page(page)
    assert not {name for name, _ in parsed.elements} & {"script", "link", "img", "iframe", "object", "use", "image"}
    assert not {key for _, attributes in parsed.elements for key in attributes} & {
        "src",
        "href",
        "xlink:href",
        "onload",
    }
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in page


def test_charts_and_tables_are_accessible(page: str) -> None:
    parsed = Page(page)
    for name, attributes in parsed.elements:
        if name == "svg":
            assert (
                attributes.get("aria-label") if attributes.get("role") == "img" else attributes["aria-hidden"] == "true"
            )
        if name == "th":
            assert attributes["scope"] in ("col", "row")
    assert "prefers-color-scheme: dark" in page
    loss = next(a["aria-label"] for _, a in parsed.elements if (a.get("aria-label") or "").startswith("Loss"))
    assert loss is not None
    assert "validation from 3.5 at 0 to 0.5 at 30" in loss


@pytest.mark.parametrize("moment", ["before", "after"])
def test_one_evaluation_alone(tmp_path: Path, moment: str) -> None:
    page = write_report(tmp_path, **{moment: result(0.0, "x")}).read_text()
    assert f"{moment} training" in Page(page).text
    report = json.loads((tmp_path / "report.json").read_text())
    assert [report["held_out"][m] is None for m in ("before", "after")] == [moment != "before", moment != "after"]


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text()
    assert tmp_path.name in Page(page).text
    assert json.loads((tmp_path / "report.json").read_text())["train"]["steps"] == 0


def test_tasks_of_only_one_evaluation_are_shown(tmp_path: Path) -> None:
    before = EvalResult("validation", (task("gone", "a", 1.0),))
    after = EvalResult("validation", (task("new", "b", 2.0),))
    write_report(tmp_path, before=before, after=after)
    clusters = json.loads((tmp_path / "report.json").read_text())["held_out"]["clusters"]
    assert [(c["cluster"], c["before"] is None, c["after"] is None) for c in clusters] == [
        ("b", True, False),
        ("a", False, True),
    ]


def each_template(shift: float) -> EvalResult:
    """One task that was asked with two templates after two exemplars."""
    figures = TaskResult(
        "river",
        "geography",
        10,
        {"exact_match": 20.0 + shift},
        rank_accuracy=40.0 + shift,
        rank_accuracy_normalized=45.0 + shift,
        rank_chance=25.0,
        num_ranked=20,
        shots=1.5,
        exemplars_dropped=1234,
        templates=(
            TemplateFigures({"exact_match": 10.0}, 30.0, 35.0),
            TemplateFigures({"exact_match": 30.0}, 50.0, 55.0),
        ),
        best=Best(1, 33.25 + shift, 21.0),
        examples=(EvalExample(3, f"Why {HOSTILE}", "b", "c", 1, (("one?", HOSTILE), ("two?", "2"))),),
    )
    return EvalResult("validation", (figures,), shots=2, templates="each")


def test_exemplars_and_templates_are_shown(folder: Path) -> None:
    best = BestStep(20, "validation/task_loss/capital", 1.25)
    parsed = Page(write_report(folder, before=each_template(0.0), after=each_template(4.5), best=best).read_text())
    for text in (
        "Greedy answers, 2-shot, every template. Every figure is the mean over the task's templates.",
        "1.5 in the mean over tasks, 1,234 did not fit",
        "template 2 of 2",
        "37.8",  # the best template's score after training
        "49.5",  # by the likelihood of a token
        "example 3, template 2",
        "2 exemplars",
        "step 20",
        "validation/task_loss/capital 1.25",
    ):
        assert text in parsed.text, text
    assert parsed.text.count(HOSTILE) >= 4
    report = json.loads((folder / "report.json").read_text())
    after = report["held_out"]["clusters"][0]["tasks"][0]["after"]
    assert after["best_template"] == {"template": 1, "score": 37.75, "mean": 21.0}
    assert [one["rank_accuracy"] for one in after["templates"]] == [30.0, 50.0]
    assert report["held_out"]["after"]["best"] == 37.75
    lines = summary_text(folder / "report.json").splitlines()
    assert "best template  33.2 ->  37.8" in lines[1]
    assert f"best checkpoint: step 20 (validation/task_loss/capital 1.25), named {folder}/checkpoints/best" in lines


def test_evaluations_that_do_not_compare_are_a_problem(tmp_path: Path) -> None:
    write_report(tmp_path, before=result(0.0, "x"), after=each_template(0.0))
    problems = json.loads((tmp_path / "report.json").read_text())["problems"]
    assert any("zero-shot before training and 2-shot, every template after" in problem for problem in problems)


def test_validation_figures_of_each_task(folder: Path) -> None:
    records = [
        {"step": step, "kind": "validation", "loss": loss, "accuracy": 0.5, "task_loss": {"capital": loss}}
        | {"task_accuracy": {"capital": loss / 8}}
        for step, loss in ((0, 4.0), (9, 2.0))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    parsed = Page(write_report(folder).read_text())
    assert "Validation by task" in parsed.text
    assert "capital4.0002.00050.025.0" in parsed.text
    labels = [a.get("aria-label") or "" for _, a in parsed.elements]
    assert any(label.startswith("Accuracy of tokens") for label in labels)
    train = json.loads((folder / "report.json").read_text())["train"]
    assert (train["first_validation_accuracy"], train["last_validation_accuracy"]) == (50.0, 50.0)


def test_summary_for_the_terminal(folder: Path, report: dict[str, Any]) -> None:
    lines = summary_text(folder / "report.json").splitlines()
    assert lines[0] == "30 steps, 3,000 target tokens, training loss 3.000 -> 0.100"
    assert lines[1] == "all held-out tasks  score  15.0 ->  45.0   rank  40.0 ->  70.0"
    assert lines[3] == "silent              no figures"
    assert lines[-1] == f"report: {folder / 'report.html'}"


def test_reports_load_no_jax() -> None:
    code = "import sys, t5x_instruct.evaluation.report; print({'jax', 'seqio', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@settings(max_examples=80)
@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_cover_the_range(low: float, width: float) -> None:
    found = charts.ticks(low, low + width)
    assert 2 <= len(found) <= 12
    assert found == sorted(set(found))
    slack = 1e-5 * max(abs(low), width)
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack


@settings(max_examples=60)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(4, 50))
def test_thinned_and_smoothed_keep_ends_and_range(values: list[float], most: int) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    thin = charts.thinned(points, most)
    assert len(thin) <= max(most, 1)
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert [x for x, _ in thin] == sorted({x for x, _ in thin})
    smooth = charts.smoothed(points)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert all(min(values) - 1e-6 <= y <= max(values) + 1e-6 for _, y in smooth)


def test_a_chart_of_one_point_and_of_nothing() -> None:
    assert charts.line_chart("Loss", [charts.Series("a", "train", [])], x_label="step") == ""
    assert "<circle" in charts.line_chart("Loss", [charts.Series("a", "train", [(3.0, 2.0)])], x_label="step")
