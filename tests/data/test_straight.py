"""Rendering without TensorFlow gives what the seqio pipeline of the same task gives."""

import functools
import random

import numpy as np
import pytest
import seqio

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data import render_splits
from t5x_instruct.data.binding import bind_mixture
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.row_steps import RowStep
from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.straight import straight_steps
from t5x_instruct.data.tasks import add_rendering, add_task
from t5x_instruct.data.vocabularies import load_vocabulary
from t5x_instruct.templates.prompts import Template, draw

AWKWARD = ["", " ", "a\0b\0", "naïve 👍", "{x} {{y}}", "two\nlines\t", "東京", "zero one", "<end>", "\\n", "x" * 300]


def rows(count, seed):
    made = random.Random(seed)
    for i in range(count):
        options = [f"{made.choice(AWKWARD)}{k}" for k in range(made.randint(2, 5))]
        answers = made.sample(options, 2)
        yield {
            "text": made.choice(AWKWARD) * made.randint(1, 3),
            "number": i,
            "options": options,
            "answers": answers,
            "notes": [made.choice(AWKWARD) for _ in range(made.randint(0, 3))],
        }


def drawn(row, index, context):
    place = draw(len(row["answers"]), context.seed, index, context.variant)
    return {"answer": row["answers"][place], "others": [a for a in row["answers"] if a != row["answers"][place]]}


TEMPLATES = [
    "{text} ({number})\n{options}",
    "{text}:",
    Template("An answer is {answer}. And the text?", "{text}"),
    "{options_inline}? {text}",
]


@pytest.fixture(scope="module")
def tasks():
    source = {
        "train": functools.partial(rows, 300, 1),
        "validation": functools.partial(rows, 4, 2),
    }
    add = functools.partial(add_task, cluster="c", source=source, metrics=[])
    add("straight_written", templates=TEMPLATES)
    add("straight_letters", templates=TEMPLATES, options="shown", letters=True)
    add("straight_stepped", templates=TEMPLATES, preprocessors=[RowStep(drawn, {"answer": 0, "others": 1})])
    add_rendering("straight_shots", "straight_written", shots=(1, 3), options="shown")
    features = {"targets": model_features()["targets"]}
    add("straight_targets_only", templates=["{text}"], output_features=features)
    names = ["written", "letters", "stepped", "shots", "targets_only"]
    yield [f"straight_{name}" for name in names]
    for name in names:
        seqio.TaskRegistry.remove(f"straight_{name}")


def bound(task, tmp_path, **changes):
    spec = PrepareSpec(mixture=task, modules=(), root=tmp_path, **{"vocabulary": "bytes", **changes})
    vocabulary = load_vocabulary(spec.vocabulary)
    return bind_mixture(spec, vocabulary)[0][0], spec, vocabulary


def examples(one, spec, vocabulary, split, start=0):
    renderings = render_splits.renderings_of(one, split, spec)
    for variants in render_splits.rows_of(one, split, renderings, start):
        yield [render_splits.to_example(row, one, vocabulary) for row in variants]


def same(a, b):
    (first, fault), (second, other_fault) = a, b
    assert fault == other_fault
    assert first.meta == second.meta
    assert list(first.meta) == list(second.meta)
    for field in ("inputs", "targets", "targets_mask"):
        ours, theirs = getattr(first, field), getattr(second, field)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def compare(one, spec, vocabulary, monkeypatch):
    for split in ("train", "validation"):
        assert straight_steps(one.task) is not None
        straight = list(examples(one, spec, vocabulary, split))
        with monkeypatch.context() as patched:
            patched.setattr(render_splits, "straight_steps", lambda task: None)
            piped = list(examples(one, spec, vocabulary, split))
        assert len(straight) == len(piped) == {"train": 300, "validation": 4}[split]
        for ours, theirs in zip(straight, piped, strict=True):
            assert len(ours) == (2 if split == "train" else 1)
            for a, b in zip(ours, theirs, strict=True):
                same(a, b)


def test_every_kind_of_task_is_rendered_as_its_pipeline_renders_it(tasks, tmp_path, monkeypatch):
    for task in tasks:
        one, spec, vocabulary = bound(task, tmp_path, variants=2, seed=3)
        compare(one, spec, vocabulary, monkeypatch)


def test_prompt_formats_and_specials_too(tasks, tmp_path, monkeypatch, word_vocabulary):
    for prompt_format in ("chat", "eos"):
        changes = {"vocabulary": str(tmp_path / "words"), "prompt_format": prompt_format, "variants": 2}
        compare(*bound("straight_written", tmp_path, **changes), monkeypatch)


def test_any_range_is_the_same_part_of_the_whole(tasks, tmp_path):
    for task in ("straight_stepped", "straight_shots"):
        one, spec, vocabulary = bound(task, tmp_path, variants=2)
        whole = list(examples(one, spec, vocabulary, "train"))
        for start in (1, 255, 299, 300):
            part = list(examples(one, spec, vocabulary, "train", start))
            assert len(part) == 300 - start
            for ours, theirs in zip(part, whole[start:], strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    same(a, b)


def test_templates_and_steps_are_held_to_their_fields(tmp_path):
    def wrong(row, index, context):
        return {"other": row["text"]}

    add = functools.partial(add_task, cluster="c", source={"train": [{"text": "a", "answer": "b"}]}, metrics=[])
    add("straight_no_field", templates=["{txt}"])
    add("straight_wrong_step", templates=["{text}"], preprocessors=[RowStep(wrong, {"loud": 0})])
    add("straight_no_rows", templates=["{text}"], source={"train": []})
    try:
        for task, kind, message in (
            ("straight_no_field", ConfigError, "unknown field 'txt'; nearest: 'text'"),
            ("straight_wrong_step", DataError, "row 0: .*wrong.* gave .*'other': 'a'.*has to give the fields"),
            ("straight_no_rows", DataError, "split 'train' has no rows"),
        ):
            with pytest.raises(kind, match=message):
                next(examples(*bound(task, tmp_path), "train"))
    finally:
        for task in ("straight_no_field", "straight_wrong_step", "straight_no_rows"):
            seqio.TaskRegistry.remove(task)


def test_what_looks_at_a_whole_dataset_needs_the_pipeline(tmp_path):
    source = {"train": [{"text": "a", "answer": "b"}]}
    add_task("straight_not", cluster="c", source=source, templates=["{text}"], metrics=[], preprocessors=[lambda d: d])
    try:
        assert straight_steps(bound("straight_not", tmp_path)[0].task) is None
    finally:
        seqio.TaskRegistry.remove("straight_not")
