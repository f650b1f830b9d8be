"""FLAN 2021 without its data: the table as published, and every row function and template on generated examples."""

import collections
import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import seqio

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.binding import bind_mixture
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.preprocessors import OptionForm, RenderContext, render_example
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import proportional, task_info, tasks_in
from t5x_instruct.data.tfds_source import SplitSlice, TfdsRows, row_of
from t5x_instruct.data.vocabularies import load_vocabulary
from tests.tasks.flan2021_table import COUNTS, ROWS
from tests.tasks.generated_examples import examples

import_task_modules(["tasks.flan2021"])
NAMES = tasks_in("flan2021")
KINDS = {"usual": 12, "odd": 6, "sparse": 3, "blank": 3}
# Schemas of builders that cannot say theirs offline, each with the reason. All of today's can.
DECLARED: dict[str, Any] = {}


def source_of(name: str) -> TfdsRows:
    source = seqio.TaskRegistry.get(name).source
    assert isinstance(source, TfdsRows)
    return source


@functools.cache
def features_of(dataset: str) -> Any:
    if dataset in DECLARED:
        return DECLARED[dataset]
    return TfdsRows(dataset, {}, lambda example: None).builder.info.features


def rows_from(name: str, make_row: Any, kind: str) -> list[dict[str, str | list[str]]]:
    """The rows of generated examples, checked as `RowSource` checks rows that are read."""
    dataset = source_of(name).dataset
    made = [row_of(e, make_row, f"{name} {kind}") for e in examples(dataset, features_of(dataset), kind, KINDS[kind])]
    return list(RowSource({"train": [row for row in made if row is not None]}).rows("train"))


def notation(part: SplitSlice) -> str:
    assert part.cap in (None, 30_000)
    text = str(SplitSlice(part.split, part.start or None, part.stop))
    return f"cap-{text}" if part.cap else text


def test_the_tasks_are_those_of_the_table() -> None:
    found = []
    for name in NAMES:
        source = source_of(name)
        assert list(source.slices) == ["train", "validation", "test"], name
        parts = [notation(part) for part in source.slices.values()]
        found.append((task_info(name).cluster, f"{source.dataset}:{source.pinned or '-'}", *parts))
    assert sorted(found) == sorted(ROWS)


def test_there_are_69_tasks_in_17_clusters() -> None:
    assert len(NAMES) == sum(COUNTS.values()) == 69
    assert collections.Counter(task_info(name).cluster for name in NAMES) == COUNTS


@pytest.mark.parametrize("name", NAMES)
def test_a_task_has_ten_templates_of_its_own_and_metrics(name: str) -> None:
    task, info = seqio.TaskRegistry.get(name), task_info(name)
    assert task.metric_fns
    assert info.dataset == f"tfds:{source_of(name).dataset}"
    assert "/tasks/flan2021/" in info.where
    assert "registry.py" not in info.where
    assert len(info.templates) == 10
    assert len({(t.inputs, t.targets) for t in info.templates}) == 10
    assert not any(t.fields & {"options", "options_inline"} for t in info.templates)
    assert not any(t.inputs == "" for t in info.templates)
    answering = [t for t in info.templates if "answer" in t.target_fields]
    assert len(answering) >= 6, "most templates ask for the answer"


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_templates_fit_the_schema(name: str) -> None:
    templates = task_info(name).templates
    make_row = source_of(name).make_row
    rows = {kind: rows_from(name, make_row, kind) for kind in KINDS}
    assert len(rows["usual"]) >= KINDS["usual"] // 3, f"{name}: nearly all usual examples are left out"
    assert len({str(row) for row in rows["usual"]}) > 1, f"{name}: all rows are the same"
    for kind, made in rows.items():
        if kind == "blank":  # no data set has such examples throughout: it is enough that nothing breaks
            continue
        for index, row in enumerate(made):
            answers = [row["answer"]] if "answer" in row else row["answers"]
            assert all(answer.strip() for answer in answers), f"{name}, {kind}: an empty answer in {row}"
            for number in range(len(templates)):
                for form in (OptionForm("shown"), OptionForm("hidden")):
                    context = RenderContext(variant=index, template=number)
                    rendered = render_example(row, templates, name, index, context, form)
                    assert rendered.inputs.strip(), f"{name}, {kind}, template {number}"
                    assert rendered.targets.strip(), f"{name}, {kind}, template {number}"


def test_a_wrong_field_name_is_found() -> None:
    def wrong(example: dict[str, Any]) -> dict[str, str]:
        return {"text": example["sentence_1"], "answer": "yes"}

    name = next(n for n in NAMES if source_of(n).dataset == "glue/mrpc")
    with pytest.raises(DataError, match=r"unknown field 'sentence_1'; nearest: 'sentence1'.*; it is \{\"sentence1\":"):
        rows_from(name, wrong, "usual")


def test_all_clusters_with_their_relations_are_in_the_mixture() -> None:
    related = sys.modules["tasks.flan2021.holdout"].RELATED_CLUSTERS
    assert {*related, *(one for others in related.values() for one in others)} <= set(COUNTS)
    mixture = seqio.MixtureRegistry.get("flan2021")
    rates = [mixture._task_to_rate[name] for name in NAMES]
    wanted = proportional(cap=3000)
    assert {(rate.func, str(rate.keywords)) for rate in rates} == {(wanted.func, str(wanted.keywords))}


def test_a_task_without_ten_templates_is_refused() -> None:
    add_flan_task = sys.modules["tasks.flan2021.registry"].add_flan_task
    with pytest.raises(ConfigError, match="'flan2021_few' has 2 templates"):
        add_flan_task(
            "few",
            cluster="math",
            dataset="math_dataset/algebra__linear_1d",
            train="train",
            validation=None,
            test=None,
            row=lambda example: None,
            templates=["{question}", "{question}?"],
            metrics=[],
        )


LEFT_OUT = {
    "entailment": {"paraphrase"},
    "paraphrase": {"entailment"},
    "reading_comprehension": {"read_comp_and_common_sense"},
    "common_sense": {"read_comp_and_common_sense"},
    "read_comp_and_common_sense": {"reading_comprehension", "common_sense"},
    "sentiment": set(),
}


@pytest.mark.parametrize("cluster", LEFT_OUT)
def test_holding_out_a_cluster_follows_flans_rules(cluster: str, tmp_path: Path) -> None:
    spec = PrepareSpec(
        mixture="flan2021", modules=("tasks.flan2021",), vocabulary="bytes", hold_out=(cluster,), root=tmp_path
    )
    bound, _, _ = bind_mixture(spec, load_vocabulary("bytes"))
    roles = collections.defaultdict(set)
    for one in bound:
        roles[one.role].add(one.cluster)
    assert roles["held_out"] == {cluster}
    assert roles["left_out"] == LEFT_OUT[cluster]
    assert roles["train"] == set(COUNTS) - LEFT_OUT[cluster] - {cluster}
    assert len(bound) == 69
