"""Forms of a task: options shown, hidden or lettered, exemplars, inversion; and what parts of a mixture get."""

import collections
import itertools

import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.binding import bind
from t5x_instruct.data.few_shot import POOL, ExemplarPool, FewShotRender, Shots, render_few_shot
from t5x_instruct.data.fingerprints import Describer, fingerprint_of
from t5x_instruct.data.preprocessors import OptionForm, RenderContext, render_example, rendering
from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.row_steps import RowStep
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.straight import straight_steps
from t5x_instruct.data.tasks import (
    accept_answers,
    add_mixture,
    add_rendering,
    add_task,
    proportional,
    rates_of,
    task_info,
    tasks_in,
)
from t5x_instruct.data.vocabularies import load_vocabulary
from t5x_instruct.evaluation.metrics import exact_match, rouge_l
from t5x_instruct.templates.few_shot import FRAMES, Exemplar
from t5x_instruct.templates.prompts import Template

TEMPLATES = ["Is {n} even?", "{n}: even, or not?", Template("Name a number whose parity is {answer}.", "{n}")]
FIRST = RenderContext()
UP_TO_SIX = Shots(0, 6)
ASKING = [Template("Is {n} even?"), Template("{n}: even, or not?")]


def number_rows(start, stop):
    return [
        {"n": f"number {i}", "options": ["even", "odd"], "answer": "odd" if i % 2 else "even"}
        for i in range(start, stop)
    ]


TRAIN, VALIDATION = number_rows(0, 40), number_rows(100, 110)


@pytest.fixture(autouse=True)
def clean_registry():
    before = set(seqio.TaskRegistry.names()), set(seqio.MixtureRegistry.names())
    yield
    for registry, names in zip((seqio.TaskRegistry, seqio.MixtureRegistry), before, strict=True):
        for name in set(registry.names()) - names:
            registry.remove(name)


def add(name="parity", **changes):
    arguments = {
        "cluster": "numbers",
        "source": {"train": TRAIN, "validation": VALIDATION},
        "templates": TEMPLATES,
        "metrics": [exact_match],
        "options": "shown",
    }
    return add_task(name, **arguments | changes)


def examples_of(task, split="train", context=FIRST):
    with rendering(context):
        dataset = task.get_dataset(None, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def texts(example, name):
    return example[f"{name}_pretokenized"].decode()


@settings(max_examples=80)
@given(
    st.lists(
        st.text("abcdé ", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=1, max_size=8, unique=True
    ),
    st.integers(0, 100),
    st.sampled_from(["as_written", "shown"]),
    st.data(),
)
def test_a_letter_is_always_that_of_the_answer(options, index, shown, data):
    answer = data.draw(st.sampled_from(options))
    row = {"q": "?", "options": options, "answers": [answer, "another spelling"]}
    template = Template("{q}\n{options}") if shown == "as_written" else Template("{q}")
    rendered = render_example(row, [template], "t", index, RenderContext(), OptionForm(shown, letters=True))
    lines = rendered.inputs.split("\n")
    at = rendered.options.index(rendered.targets)
    if rendered.options == options:
        assert rendered.accepted_targets == [answer, "another spelling"]
    else:
        assert options[at] == answer
        assert rendered.accepted_targets == [rendered.targets]
        line = lines[len(lines) - len(options) + at]
        assert line.endswith(answer)
        assert line.removesuffix(answer).strip(" ()[].:") == rendered.targets


def test_of_equal_options_the_first_letter_is_right():
    row = {"q": "?", "options": ["a", "b", "b"], "answer": "b"}
    form = OptionForm("shown", letters=True)
    targets = {render_example(row, [Template("{q}")], "t", i, RenderContext(), form).targets for i in range(40)}
    assert targets == {"b", "B"}  # the text, the letter and the small letter, never the third option's


def test_options_are_shown_after_what_asks_for_the_answer_alone():
    task = add(templates=[*TEMPLATES, "Choose ({options_inline}): {n}"])
    kinds = collections.Counter()
    for example, row in zip(examples_of(task) * 2, TRAIN * 2, strict=True):
        inputs, before = texts(example, "inputs"), f"Is {row['n']} even?"
        if inputs.startswith("Name"):
            kinds["inverted"] += 1
            assert inputs == f"Name a number whose parity is {row['answer']}."
            assert list(example["options"]) == []
        elif inputs.startswith("Choose"):
            kinds["own"] += 1
            assert inputs.count("odd") == 1
        elif inputs.startswith(before):
            kinds["shown"] += 1
            assert all(option in inputs.removeprefix(before) for option in row["options"])
    assert len(kinds) == 3


def test_rows_without_options_stay_as_they_are():
    row = {"q": "why", "answer": "so", "options": []}
    rendered = render_example(row, [Template("{q}?")], "t", 0, RenderContext(), OptionForm("shown", True))
    assert (rendered.inputs, rendered.targets, rendered.options) == ("why?", "so", [])


def test_hidden_options_are_never_shown():
    add(templates=[*TEMPLATES, "{n} {options}"])
    task = add_rendering("parity_noopt", "parity", options="hidden")
    info = task_info("parity_noopt")
    assert (info.base, info.cluster) == ("parity", "numbers")
    assert info.templates == task_info("parity").templates[:3]
    inputs = {texts(example, "inputs") for example in examples_of(task)}
    wanted = {t.format(n=row["n"]) for row in TRAIN for t in TEMPLATES[:2]}
    assert all(text in wanted or text.startswith("Name") for text in inputs)
    add("all_show", templates=["{n} {options}", "{options_inline} {n}"])
    with pytest.raises(ConfigError, match="'all_show_noopt' hides options, but all its templates show them"):
        add_rendering("all_show_noopt", "all_show", options="hidden")


def test_inversion_selects_templates():
    add()
    assert {t.is_inverted for t in task_info("parity").templates} == {True, False}
    add_rendering("only", "parity", inverted="only", metrics=[rouge_l], postprocess_fn=accept_answers)
    add_rendering("never", "parity", inverted="never")
    assert task_info("only").templates == (TEMPLATES[2],)
    assert task_info("never").templates == tuple(Template(t) for t in TEMPLATES[:2])
    assert [metric.__name__ for metric in seqio.TaskRegistry.get("only").metric_fns] == ["rouge_l"]
    assert {texts(e, "targets") for e in examples_of(seqio.TaskRegistry.get("only"))} == {row["n"] for row in TRAIN}
    with pytest.raises(ConfigError, match="no template left with inverted='only'"):
        add_rendering("none", "parity", templates=["{n}"], inverted="only")


def test_faults_of_a_rendering():
    add()
    add_rendering("once", "parity")
    with pytest.raises(ConfigError, match="'once' is itself a rendering; name 'parity'"):
        add_rendering("twice", "once")
    with pytest.raises(ConfigError, match="'once' is taken by a task"):
        add_rendering("once", "parity")
    with pytest.raises(ConfigError, match="nearest: 'parity'"):
        add_rendering("other", "pariti")
    for shots, problem in (((2, 1), r"\(2, 1\)"), ((-1, 1), r"\(-1, 1\)"), ((1, POOL), f"{POOL - 1}")):
        with pytest.raises(ConfigError, match=problem):
            add_rendering("other", "parity", shots=shots)
    with pytest.raises(ConfigError, match="'mixt'; nearest: 'mixed'"):
        add_rendering("other", "parity", shots=(1, 2), exemplar_templates="mixt")
    with pytest.raises(ConfigError, match="budget of exemplars is 0"):
        add_rendering("other", "parity", shots=(1, 2), budget=0)
    add("untrained", source={"validation": VALIDATION})
    task = add_rendering("untrained_fs", "untrained", shots=(1, 1))
    with pytest.raises(DataError, match="'untrained_fs': exemplars come from the split 'train'"):
        examples_of(task, "validation")


POOL_ROWS = list(enumerate(TRAIN))


def few_shot(index, row=None, context=FIRST, templates=ASKING, shots=UP_TO_SIX, count=len, **changes):
    arguments = {"task": "t", "form": OptionForm("shown", True), "pool": ExemplarPool(POOL_ROWS, templates)}
    return render_few_shot(
        row or TRAIN[index],
        index,
        context,
        templates=templates,
        shots=shots,
        count_tokens=count,
        **arguments | changes,
    )


def numbers_in(text):
    return [part.split()[0].strip("?:.") for part in text.split("number ")[1:]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 39), st.integers(0, 5), st.integers(0, 3), st.sampled_from(["same", "mixed"]))
def test_a_row_is_never_among_its_exemplars(index, seed, variant, kind):
    context = RenderContext(seed, variant)
    rendered = few_shot(index, context=context, shots=Shots(2, 6, kind, budget=100_000))
    shown = numbers_in(rendered["inputs"])
    assert shown[-1] == str(index)
    assert str(index) not in shown[:-1]
    assert len(set(shown)) == len(shown) == rendered["count_exemplars"] + 1
    assert 2 <= rendered["count_exemplars"] <= 6
    assert rendered == few_shot(index, context=context, shots=Shots(2, 6, kind, budget=100_000))
    # Nor in another split, where its place says nothing.
    elsewhere = few_shot(500, TRAIN[index] | {"n": TRAIN[index]["n"].upper() + " "}, context)
    assert str(index) not in numbers_in(elsewhere["inputs"])[:-1]


def test_every_number_of_shots_and_frame_is_reached():
    rendered = [few_shot(index, context=RenderContext(seed)) for index in range(40) for seed in range(5)]
    assert {one["count_exemplars"] for one in rendered} == set(range(7))
    for frame in FRAMES:
        assert any(one["inputs"].startswith(frame.opening + frame.before_question) for one in rendered)
    orders = {one["inputs"] for one in rendered}
    assert len(orders) > 190


def test_the_same_kind_repeats_template_and_style_and_the_mixed_kind_does_not():
    repeated = collections.Counter()
    for kind, index in itertools.product(("same", "mixed"), range(40)):
        inputs = few_shot(index, shots=Shots(4, 4, kind, budget=100_000))["inputs"]
        repeated[kind] += inputs.count("Is number") in (0, 5)
        if kind == "same":
            question = render_example(TRAIN[index], ASKING, "t", index, RenderContext(), OptionForm("shown", True))
            after = question.inputs.partition(f"number {index}")[2]
            assert inputs.count(after) == 5
    assert repeated["same"] == 40
    assert repeated["mixed"] < 10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 39), st.integers(1, 900))
def test_exemplars_go_whole_until_the_rest_fits(index, budget):
    whole = few_shot(index, shots=Shots(3, 6, budget=100_000))
    cut = few_shot(index, shots=Shots(3, 6, budget=budget))
    assert cut["count_exemplars"] + cut["count_dropped_exemplars"] == whole["count_exemplars"]
    assert cut["targets"] == whole["targets"]
    kept = numbers_in(cut["inputs"])
    assert kept == numbers_in(whole["inputs"])[-len(kept) :]  # the nearest to the question stay
    if cut["count_exemplars"]:
        assert len(cut["inputs"]) <= budget
    if cut["count_dropped_exemplars"]:
        assert len(whole["inputs"]) > budget
    alone = render_example(TRAIN[index], ASKING, "t", index, RenderContext(), OptionForm("shown", True))
    assert alone.inputs in cut["inputs"]


def test_what_all_rows_share_does_not_make_them_the_same_question():
    rows = [{"language": "French", "text": f"mot {i}", "answer": f"word {i}"} for i in range(5)]
    templates = [Template("{language}: {text}"), Template("Translate {text}"), Template("{language}?", "{answer}")]
    pool = ExemplarPool(list(enumerate(rows)), templates)
    assert len(pool.draw(rows[2], 2, 10, "key")) == 4
    assert rows[2] not in pool.draw(rows[2], 77, 10, "key")
    labelled = [{"text": f"text {i}", "answer": "yes"} for i in range(5)]
    inverted = ExemplarPool(list(enumerate(labelled)), [Template("Write what is {answer}.", "{text}")])
    assert len(inverted.draw(labelled[0], 0, 10, "key")) == 4
    choices = [{"q": "Odd one out?", "options": [str(i), "x"], "answer": "x"} for i in range(5)]
    by_options = ExemplarPool(list(enumerate(choices)), [Template("{q}")])
    assert len(by_options.draw(choices[0] | {"options": ["x", "0"]}, 9, 10, "key")) == 4
    assert ExemplarPool([], templates).draw(rows[0], 0, 3, "key") == []


def test_the_pool_is_bounded_drawn_and_from_train_alone():
    many = [{"n": f"number {i}", "options": ["a", "b"], "answer": "a"} for i in range(3 * POOL)]
    add("many", source={"train": many, "validation": VALIDATION})
    task = add_rendering("many_fs", "many", shots=(1, 3), inverted="never")
    step = task.preprocessors[0]
    assert isinstance(step, FewShotRender)
    pools = [step.pool(RenderContext(seed), task.output_features) for seed in (0, 0, 1)]
    drawn = [[row["n"] for row in pool.draw({"n": "?"}, -1, POOL, "key")] for pool in pools]
    assert len(set(drawn[0])) == POOL
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])
    assert max(int(name.split()[1]) for name in drawn[0]) > 2 * POOL
    for example in examples_of(task, "validation"):
        shown = [int(number) for number in numbers_in(texts(example, "inputs"))]
        assert shown[-1] in range(100, 110)
        assert len(shown) == int(example["count_exemplars"]) + 1


def loud(row, index, context):
    return {"loud": row["n"].upper() + "!" * (1 + context.variant)}


@pytest.mark.parametrize("plain", [True, False])
def test_the_pipeline_gives_what_the_function_gives(plain):
    """Rows of Python are read straight, those of any other source through seqio: both give the same."""
    source = RowSource({"train": TRAIN, "validation": VALIDATION})
    if not plain:
        source = seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: RowSource({"train": TRAIN}).get_dataset("train"), splits=["train"]
        )
    add(source=source, preprocessors=[RowStep(loud, {"loud": 0})], templates=["{loud}?", "{n} - {loud}"])
    task = add_rendering("parity_fs", "parity", shots=(0, 4), budget=300, letters=True)
    context = RenderContext(3, 1)
    step = task.preprocessors[1]
    function = step.row_function(task.output_features)
    for index, example in enumerate(examples_of(task, context=context)):
        fields = function(TRAIN[index] | loud(TRAIN[index], index, context), index, context)
        assert texts(example, "inputs") == fields["inputs"]
        assert texts(example, "targets") == fields["targets"]
        assert [text.decode() for text in example["options"]] == fields["options"]
        assert [text.decode() for text in example["accepted_targets"]] == fields["accepted_targets"]
        for name in ("count_exemplars", "count_dropped_exemplars"):
            assert (example[name], example[name].dtype) == (fields[name], "int64")
        assert len(fields["inputs"].encode()) <= 300 or not fields["count_exemplars"]


def test_prepare_renders_exemplars_without_tensorflow_and_the_same():
    add()
    original = add_rendering("parity_fs", "parity", shots=(0, 4), budget=250, letters=True)
    vocabulary = load_vocabulary("bytes")
    task, _ = bind(original, vocabulary, make_prompt_format("plain", vocabulary))
    steps = straight_steps(task)
    assert steps is not None
    dropped = 0
    for index, example in enumerate(examples_of(task, context=RenderContext(7, 2))):
        row = TRAIN[index]
        for step in steps:
            row = row | step(row, index, RenderContext(7, 2))
        assert row["inputs"] == texts(example, "inputs")
        assert row["count_exemplars"] == example["count_exemplars"]
        dropped += row["count_dropped_exemplars"]
    assert dropped


def test_what_decides_a_rendering_is_in_its_fingerprint():
    add()
    changes = [{}, {"shots": (1, 2)}, {"shots": (1, 3)}, {"shots": (1, 2), "budget": 7}, {"letters": True}]
    changes += [{"shots": (1, 2), "exemplar_templates": "mixed"}, {"options": "hidden"}, {"inverted": "never"}]
    prints = set()
    for change in changes:
        task = add_rendering("form", "parity", **change)
        prints.add(fingerprint_of(Describer().describe([task.source, list(task.preprocessors)])))
        seqio.TaskRegistry.remove("form")
    assert len(prints) == len(changes)


def test_exemplars_of_a_frame_look_as_the_question_does():
    for frame in FRAMES:
        text = frame.text([Exemplar("1", "2")], "3")
        assert text.count(f"{frame.before_question}1{frame.before_answer}2{frame.between}") == 1
        assert text.endswith(f"{frame.before_question}3{frame.before_answer}")
        assert text.startswith(frame.opening)
        assert not frame.before_answer.endswith(" "), "an answer that starts with a space is other tokens"
    assert len(set(FRAMES)) == len(FRAMES)


def test_shares_of_nested_mixtures_are_exact():
    sizes = {"a": 40, "b": 400, "c": 7, "d": 11}
    for name, size in sizes.items():
        add(name, source={"train": number_rows(0, size)})
        add_rendering(f"{name}_fs", name, shots=(1, 2))
    add_mixture("zero", ["a", "b", ("c", proportional(cap=100, scale=0.3))], rate=proportional(cap=100))
    add_mixture("few", ["a_fs", "b_fs"], rate=proportional(cap=100))
    add_mixture("part", ["zero", "few"], rate=1.0)
    add_mixture("other", ["d"], rate=proportional())
    add_mixture("whole", [("part", 0.6), ("other", 0.4)])
    mixture = seqio.MixtureRegistry.get("whole")
    rates = rates_of("whole", tasks_in("whole"))
    assert rates == pytest.approx({task.name: mixture.get_rate(task) for task in mixture.tasks})
    total = 40 + 100 + 0.3 * 7
    wanted = {"a": 0.3 * 40 / total, "b": 0.3 * 100 / total, "c": 0.3 * 2.1 / total}
    assert rates == pytest.approx(wanted | {"a_fs": 0.3 * 40 / 140, "b_fs": 0.3 * 100 / 140, "d": 0.4})
    # Without a task, its mixture keeps its share.
    left = rates_of("whole", {"a", "b", "a_fs", "d"})
    assert left == pytest.approx({"a": 0.3 * 40 / 140, "b": 0.3 * 100 / 140, "a_fs": 0.3, "d": 0.4})
    assert rates_of("whole", {"d", "unknown"}) == {"d": 0.4}
    assert rates_of("d", {"d"}) == {"d": 1.0}
    with pytest.raises(ConfigError, match="nearest: 'whole'"):
        rates_of("whol", {"d"})


def test_a_large_mixture_calls_each_rate_once():
    add()
    names = [f"form_{i}" for i in range(300)]
    for name in names:
        add_rendering(name, "parity")
    calls = collections.Counter()

    def rate(task):
        calls[task.name] += 1
        return 1.0

    add_mixture("inner", names, rate=rate)
    add_mixture("middle", [("inner", 2.0)])
    add_mixture("outer", [("middle", 0.5)])
    assert sum(rates_of("outer", names).values()) == pytest.approx(0.5)
    assert calls == dict.fromkeys(names, 1)
