"""Every starter task is a working seqio task with true facts and clean splits."""

import calendar
import collections
import datetime
import itertools

import pytest
import seqio

import tasks.starter
from t5x_instruct.data.preprocessors import RenderContext, render_example, rendering
from t5x_instruct.data.tasks import clusters_of, task_info, tasks_in, texts_of
from tasks.starter import dates_and_units

TASKS = tasks_in("starter")
CLUSTERS = clusters_of("starter")
SPLITS = ("train", "validation")


def rows_of(task):
    """The rows by split."""
    source = seqio.TaskRegistry.get(task).source
    return {split: list(source.rows(split)) for split in SPLITS}


ROWS = {task: rows_of(task) for task in TASKS}


def rendered(task, split="validation", **context):
    with rendering(RenderContext(**context)):
        dataset = seqio.TaskRegistry.get(task).get_dataset(None, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


@pytest.fixture(scope="module")
def examples():
    """The validation examples of every task."""
    return {task: rendered(task) for task in TASKS}


def answers_of(row):
    return list(dict.fromkeys([row["answer"]] if "answer" in row else [])) + list(row.get("answers", []))


def question(row):
    """What tells a row from others: everything but the answers and the order of options."""
    asked = {k: v for k, v in row.items() if not k.startswith("answer")}
    return tuple(sorted((k, tuple(sorted(v)) if isinstance(v, list) else v) for k, v in asked.items()))


def test_size_of_the_collection():
    assert len(TASKS) >= 26
    assert len(CLUSTERS) >= 9
    with_options = [task for task in TASKS if "options" in ROWS[task]["train"][0]]
    assert len(with_options) >= 10
    clusters = {task_info(task).cluster for task in with_options}
    assert {"geography", "word_relations", "classification"} <= clusters


@pytest.mark.parametrize("task", TASKS)
def test_task(task, examples):
    registered = seqio.TaskRegistry.get(task)
    info = task_info(task)
    rows = ROWS[task]
    assert len(set(info.templates)) == len(info.templates) >= 4
    usable = {*rows["train"][0], "options_inline", "answer"}
    assert all(template.fields <= usable for template in info.templates)
    assert len(rows["train"]) >= 60
    assert len(rows["validation"]) >= 16
    assert len(examples[task]) == len(rows["validation"])
    assert registered.metric_fns
    for example, row in zip(examples[task], rows["validation"], strict=True):
        target = example["targets_pretokenized"].decode()
        assert target == answers_of(row)[0]
        assert 1 <= len(target.split()) <= 8
        assert example["targets"][-1] == 1
        assert bytes(example["targets"][:-1].astype("uint8") - 3).decode() == target
        assert texts_of(example["accepted_targets"]) == list(dict.fromkeys(answers_of(row)))
        assert texts_of(example.get("options", [])) == row.get("options", [])
        assert "{" not in example["inputs_pretokenized"].decode()


@pytest.mark.parametrize("task", TASKS)
def test_splits_and_options(task):
    train, validation = ROWS[task]["train"], ROWS[task]["validation"]
    assert not {question(row) for row in train} & {question(row) for row in validation}
    for row in train + validation:
        options = row.get("options")
        if options is not None:
            right = set(options) & set(answers_of(row))
            assert len(set(options)) == len(options) >= 2
            assert right == {answers_of(row)[0]}, f"more than one option is right in {row}"


@pytest.mark.parametrize(
    ("cluster", "field"),
    [("geography", "country"), ("chemistry", "element"), ("culture", "author"), ("culture", "maker")],
)
def test_a_fact_is_in_one_split_in_all_tasks_of_its_cluster(cluster, field):
    seen = collections.defaultdict(set)
    for task, split in itertools.product(CLUSTERS[cluster], SPLITS):
        seen[split] |= {row[field] for row in ROWS[task][split] if field in row}
    assert min(len(seen[split]) for split in SPLITS) >= 16
    assert not seen["train"] & seen["validation"]


def test_word_pairs_and_words_are_in_one_split():
    for names in (("antonym", "antonym_choice"), ("synonym_choice",)):
        pairs = {
            split: {frozenset([row["word"], row["answer"]]) for name in names for row in ROWS[name][split]}
            for split in SPLITS
        }
        assert not pairs["train"] & pairs["validation"]
    words = {split: set(itertools.chain(*(row["options"] for row in ROWS["odd_one_out"][split]))) for split in SPLITS}
    assert not words["train"] & words["validation"]


def all_rows(task):
    return ROWS[task]["train"] + ROWS[task]["validation"]


def test_made_up_answers_are_right():
    for row in all_rows("addition"):
        assert int(row["a"]) + int(row["b"]) == int(row["answer"])
    for row in all_rows("subtraction"):
        assert int(row["a"]) - int(row["b"]) == int(row["answer"]) > 0
    for row in all_rows("multiplication"):
        assert int(row["a"]) * int(row["b"]) == int(row["answer"])
    for row in all_rows("larger_number"):
        assert row["answer"] == max(row["options"], key=int)
    for row in all_rows("even_or_odd"):
        assert row["answer"] == ("even" if row["number"][-1] in "02468" else "odd")
    for row in all_rows("sort_words"):
        assert row["answer"].split(", ") == sorted(row["items"].split(", "))
    for row in all_rows("sort_numbers"):
        assert [int(n) for n in row["answer"].split(", ")] == sorted(int(n) for n in row["items"].split(", "))
    for row in all_rows("count_word"):
        assert row["items"].split(", ").count(row["word"]) == int(row["answer"])
    for row in all_rows("count_items"):
        assert row["items"].count(",") + 1 == int(row["answer"])
    for row in all_rows("item_at_place"):
        assert row["items"].split(", ").index(row["answer"]) == ["first", "second", "third", "last"].index(row["place"])
    for row in all_rows("hyphenate"):
        assert row["answer"].replace("-", " ") == row["items"]
    for row in all_rows("initials"):
        assert len(row["answer"]) == len(row["items"].split())
        assert all(w.startswith(c) for c, w in zip(row["answer"], row["items"].split(), strict=True))


def test_calendar_and_clock_are_right():
    monday = datetime.date(2024, 1, 1)
    for row in all_rows("weekday_after"):
        day = monday + datetime.timedelta(dates_and_units.WEEKDAYS.index(row["weekday"]) + int(row["step"]))
        assert row["answer"] == list(calendar.day_name)[day.weekday()]
    for row in all_rows("month_after"):
        month = list(calendar.month_name).index(row["month"]) + int(row["step"])
        assert row["answer"] == calendar.month_name[(month - 1) % 12 + 1]
    for row in all_rows("leap_year"):
        assert row["answer"] == ("yes" if calendar.isleap(int(row["year"])) else "no")
    for row in all_rows("clock_time"):
        start = datetime.datetime.strptime(row["time"], "%H:%M") + datetime.timedelta(hours=int(row["step"]))
        assert row["answer"] == start.strftime("%H:%M")


@pytest.mark.parametrize("task", ["capital_of_country", "odd_one_out", "review_sentiment"])
def test_draws_depend_on_seed_task_index_and_variant_alone(task):
    first, again = rendered(task, seed=1, variant=2), rendered(task, seed=1, variant=2)
    texts = [example["inputs_pretokenized"].decode() for example in first]
    assert texts == [example["inputs_pretokenized"].decode() for example in again]
    templates = task_info(task).templates
    for i, row in enumerate(ROWS[task]["validation"]):
        assert render_example(row, templates, task, i, RenderContext(1, 2)).inputs == texts[i]
    for other in ({"seed": 1, "variant": 0}, {"seed": 0, "variant": 2}):
        others = [example["inputs_pretokenized"].decode() for example in rendered(task, **other)]
        assert sum(a != b for a, b in zip(texts, others, strict=True)) > len(texts) / 2


@pytest.mark.parametrize("task", TASKS)
def test_all_templates_are_used(task):
    templates = task_info(task).templates
    row = ROWS[task]["train"][0]
    used = {render_example(row, templates, task, i, RenderContext()).inputs for i in range(120)}
    shown = {template: False for template in templates}
    for template in templates:
        literal = max((piece for piece, _ in template._inputs), key=len)
        shown[template] = any(literal in text for text in used)
    assert all(shown.values()), [template for template, seen in shown.items() if not seen]


@pytest.mark.parametrize("task", ["capital_of_country", "antonym_choice", "upper_case", "element_symbol"])
def test_seqio_can_evaluate(task):
    row = dict(ROWS[task]["validation"][0])
    data = {"validation": row}
    right = answers_of(row)[-1]
    metrics = seqio.test_utils.test_postprocessing(task, data, predict_output=[right])
    assert set(metrics.values()) == {100.0}
    assert set(seqio.test_utils.test_postprocessing(task, data, predict_output=["zzz"]).values()) == {0.0}
    example = seqio.test_utils.test_preprocessing_single(task, data)
    assert example["targets_pretokenized"].decode() == answers_of(row)[0]


def test_mixtures():
    mixture = seqio.MixtureRegistry.get("starter")
    for task in mixture.tasks:
        assert mixture.get_rate(task) == min(task.num_input_examples("train"), tasks.starter.CAP)
    for cluster, names in CLUSTERS.items():
        rest = tasks_in(f"starter_without_{cluster}")
        assert sorted(rest + names) == sorted(TASKS)
