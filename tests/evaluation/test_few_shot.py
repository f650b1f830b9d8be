"""Evaluation with exemplars and with every template, of models whose answers are known."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.loader import Loader
from t5x_instruct.data.prepare_spec import EXEMPLARS, PrepareSpec
from t5x_instruct.data.prepared import PreparedMixture, ensure_prepared
from t5x_instruct.data.records import Example
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.decoding import LanguageModel
from t5x_instruct.evaluation.asking import Asked, ask, make_asking
from t5x_instruct.evaluation.exemplars import ExemplarPool, PromptForm, fitted, prompt_form
from t5x_instruct.evaluation.results import Best, EvalResult, TaskResult, TemplateFigures
from t5x_instruct.evaluation.runner import evaluate
from t5x_instruct.templates.chat import EosFormat, LineFormat, PlainFormat
from t5x_instruct.templates.few_shot import Exemplar, Frame
from tests.decoding.alphabet import UNLIKELY, alphabet_model

MODULE = "tests.evaluation.few_shot_tasks"
VOCABULARY = ByteVocabulary()
HELD_OUT = ("held", "scarce", "own")


def spec_of(root: Path, **changes: Any) -> PrepareSpec:
    arguments: dict[str, Any] = {"mixture": "few_mixture", "modules": (MODULE,), "vocabulary": "bytes"}
    return PrepareSpec(**(arguments | {"hold_out": HELD_OUT, "root": root} | changes))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def plain(root: Path) -> PreparedMixture:
    return ensure_prepared(spec_of(root), in_process=True)


@pytest.fixture(scope="module")
def mixture(root: Path) -> PreparedMixture:
    return ensure_prepared(spec_of(root, exemplars=True), in_process=True)


@pytest.fixture(scope="module")
def each(root: Path) -> PreparedMixture:
    return ensure_prepared(spec_of(root, exemplars=True, templates="each"), in_process=True)


def language_model() -> LanguageModel:
    """The alphabet's model, but after a line break, with which the frame ends, it says q."""
    model, params = alphabet_model()
    table = np.array(params["next"])
    newline, q = VOCABULARY.encode("\nq")
    table[newline] = 0.0
    table[newline, q] = UNLIKELY
    return LanguageModel(model, {"next": jnp.asarray(table)}, VOCABULARY)


def evaluated(mixture: PreparedMixture, **changes: Any) -> EvalResult:
    return evaluate(language_model(), mixture, **{"max_new_tokens": 6, "batch_size": 4} | changes)


@pytest.fixture(scope="module")
def two_shot(mixture: PreparedMixture) -> EvalResult:
    return evaluated(mixture, shots=2)


@pytest.fixture(scope="module")
def each_zero_shot(each: PreparedMixture) -> EvalResult:
    return evaluated(each)


def task(result: EvalResult, name: str) -> TaskResult:
    return next(task for task in result.tasks if task.task == name)


def asked_of(mixture: PreparedMixture, name: str, **changes: Any) -> list[Asked]:
    arguments = {"split": "validation", "num_examples": None, "inputs_length": None, "shots": 3, "seed": 0}
    asking = make_asking(mixture, VOCABULARY, **arguments | changes)
    return list(ask(next(t for t in mixture.tasks if t.name == name), asking).asked)


def text_of(one: Asked) -> str:
    return VOCABULARY.decode(one.inputs.tolist())


# --- what is prepared


def test_exemplars_of_held_out_tasks_are_prepared_and_never_trained_on(mixture: PreparedMixture) -> None:
    splits = {t.name: (t.role, set(t.splits)) for t in mixture.tasks}
    assert splits["few_templates"] == ("held_out", {"validation", EXEMPLARS})
    assert splits["few_none"] == ("held_out", {"validation"})
    assert splits["few_trained"] == ("train", {"train", "validation"})
    loader = Loader(mixture, "train", _converter(), batch_size=8, seed=0)
    assert loader.tasks == ("few_trained",)


def _converter() -> Any:
    from t5x_instruct.data.converters import DecoderConverter

    return DecoderConverter(inputs_length=16, targets_length=8, start_id=1, pad_id=0)


def test_what_is_not_asked_for_changes_no_fingerprint(
    plain: PreparedMixture, mixture: PreparedMixture, each: PreparedMixture
) -> None:
    """Exemplars change none; every template changes those of the tasks it is for, and no training data."""
    prints = [{t.name: t.fingerprint for t in one.tasks} for one in (plain, mixture, each)]
    assert prints[0] == prints[1]
    assert {name for name in prints[0] if prints[0][name] != prints[2][name]} == set(prints[0]) - {"few_trained"}


def test_variant_v_has_template_v(each: PreparedMixture) -> None:
    by_name = {t.name: t for t in each.tasks}
    letters = by_name["few_templates"]
    assert letters.each_template
    for split in ("validation", EXEMPLARS):
        assert letters.splits[split].variants == 3
        texts = [letters.splits[split].read(1, v).meta["inputs_pretokenized"] for v in range(3)]
        start = texts[0]
        assert texts == [start, f"{start}?", f"Say {start}"]
    assert by_name["few_trained"].splits["validation"].variants == 1
    assert not by_name["few_trained"].each_template


def test_without_a_hold_out_all_tasks_that_are_not_trained_on_are_evaluated(root: Path) -> None:
    spec = spec_of(root, mixture="few_trained", hold_out=(), exemplars=True)
    assert set(ensure_prepared(spec, in_process=True).tasks[0].splits) == {"train", "validation"}
    spec = dataclasses.replace(spec, splits=("validation",), templates="each")
    (only,) = ensure_prepared(spec, in_process=True).tasks
    assert {name: split.variants for name, split in only.splits.items()} == {"validation": 2, EXEMPLARS: 2}
    spec = dataclasses.replace(spec, splits=(), templates="drawn")
    assert set(ensure_prepared(spec, in_process=True).tasks[0].splits) == {EXEMPLARS}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": "all"}, "templates is 'all'; valid: 'drawn', 'each'"),
        ({"splits": ("exemplars",)}, "set exemplars=True instead"),
        ({"splits": ()}, "splits is empty"),
    ],
)
def test_a_spec_that_cannot_be_prepared(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec_of(tmp_path, **changes)


# --- which exemplars


def test_a_prompt_is_exemplars_in_the_frame_and_the_question_last(mixture: PreparedMixture) -> None:
    for one in asked_of(mixture, "few_options"):
        assert len(one.exemplars) == 3
        assert text_of(one) == Frame().text(one.exemplars, one.question)
        assert all(exemplar.targets == exemplar.inputs.strip("!")[-1].upper() for exemplar in one.exemplars)


def test_exemplars_depend_on_seed_task_and_question_alone(mixture: PreparedMixture) -> None:
    first = [one.exemplars for one in asked_of(mixture, "few_templates")]
    assert first == [one.exemplars for one in asked_of(mixture, "few_templates")]
    some = asked_of(mixture, "few_templates", num_examples=2)
    assert [one.exemplars for one in some] == [first[one.index] for one in some]
    assert first != [one.exemplars for one in asked_of(mixture, "few_templates", seed=1)]
    assert len({tuple(exemplars) for exemplars in first}) == len(first)
    for exemplars in first:
        assert len(set(exemplars)) == 3  # without replacement


def test_more_shots_only_add_exemplars_in_front(mixture: PreparedMixture) -> None:
    one, five = (asked_of(mixture, "few_options", shots=shots) for shots in (1, 5))
    assert [asked.exemplars[-1:] for asked in five] == [asked.exemplars for asked in one]


def test_the_question_is_never_an_exemplar(mixture: PreparedMixture, each: PreparedMixture) -> None:
    for prepared in (mixture, each):
        asked = asked_of(prepared, "few_templates", shots=100)
        for one in asked:
            assert len(one.exemplars) == (12 if one.index == 0 else 13)  # the first question is a training example too
            assert one.question not in {exemplar.inputs for exemplar in one.exemplars}
            if one.index == 0:  # nor under another template
                assert "xyz" not in {exemplar.targets for exemplar in one.exemplars}


def test_a_question_is_known_again_by_its_text(mixture: PreparedMixture) -> None:
    split = next(t for t in mixture.tasks if t.name == "few_scarce").splits[EXEMPLARS]
    pool = ExemplarPool("few_scarce", split, seed=0)
    assert {one.inputs for one in pool.draw(9, 0, "something else")} == {"w", "a"}
    assert [one.inputs for one in pool.draw(9, 0, " W\n")] == ["a"]


def test_exemplars_have_the_template_of_their_question(each: PreparedMixture) -> None:
    asked = asked_of(each, "few_templates")
    assert [one.template for one in asked] == [0, 1, 2] * 4
    for one in asked:
        marks = {(e.inputs.startswith("Say "), e.inputs.endswith("?")) for e in one.exemplars}
        assert marks == {(one.template == 2, one.template == 1)}
    rows = [[e.targets for e in one.exemplars] for one in asked]
    assert rows[0::3] == rows[1::3] == rows[2::3]  # and are the same rows for every template


def test_an_answer_has_a_line_of_its_own_with_exemplars_and_without(root: Path) -> None:
    mixture = ensure_prepared(spec_of(root, exemplars=True, prompt_format="line"), in_process=True)
    alone, after = (asked_of(mixture, "few_options", shots=shots) for shots in (0, 2))
    for one, other in zip(alone, after, strict=True):
        assert text_of(one) == f"{one.question}\n"
        assert text_of(other) == Frame().text(other.exemplars, one.question)
        budget = len(other.inputs) - 1  # the line break is counted as any other token
        assert asked_of(mixture, "few_options", shots=2, inputs_length=budget)[one.index].dropped == 1


# --- the budget


def test_the_farthest_exemplars_are_dropped_whole(mixture: PreparedMixture) -> None:
    whole = asked_of(mixture, "few_options", shots=4)
    for one in whole:
        lengths = [len(Frame().text(one.exemplars[i:], one.question).encode()) for i in range(5)]
        for budget in (lengths[0], lengths[0] - 1, lengths[2], lengths[3] + 1, lengths[4]):
            cut = asked_of(mixture, "few_options", shots=4, inputs_length=budget)[one.index]
            fits = next(i for i in range(5) if lengths[i] <= budget)
            assert cut.exemplars == one.exemplars[fits:]
            assert cut.dropped == fits
            assert text_of(cut) == Frame().text(one.exemplars[fits:], one.question)


def test_a_question_that_does_not_fit_by_itself_is_cut_as_without_exemplars(mixture: PreparedMixture) -> None:
    cut, alone = (asked_of(mixture, "few_options", shots=shots, inputs_length=3) for shots in (2, 0))
    for one, other in zip(cut, alone, strict=True):
        assert (one.exemplars, one.dropped, len(one.inputs)) == ([], 2, min(3, len(one.question)))
        np.testing.assert_array_equal(one.inputs, other.inputs)


def test_the_budget_counts_tokens_not_characters() -> None:
    exemplars = [Exemplar("é" * 5, "ü"), Exemplar("a", "b")]
    form = PromptForm(VOCABULARY, EosFormat(), True)
    ids, kept = fitted(exemplars, lambda chosen: form.ids(chosen, "q"), 20)
    assert [one.inputs for one in kept] == ["é" * 5]
    assert len(ids) == len("é" * 5 + "\nü\n\nq\n") + 6 + 1
    assert ids[-1] == VOCABULARY.eos_id


def test_a_prompt_s_form_is_found_from_its_tokens() -> None:
    def example(text: str, *after: int) -> Example:
        ids = np.asarray([*VOCABULARY.encode(text), *after], np.int32)
        return Example(ids, ids, ids > 0, {"inputs_pretokenized": "abc"})

    plain, lined, unlined, ended, by_task, other = (
        prompt_form(example(*parts), VOCABULARY, form)
        for parts, form in (
            (("abc",), PlainFormat()),
            (("abc\n",), LineFormat()),
            (("abc",), LineFormat()),  # a task with its own vocabulary
            (("abc", 1), EosFormat()),
            (("abc", 1), PlainFormat()),
            (("abcd",), PlainFormat()),
        )
    )
    found = [form for form in (plain, lined, unlined, ended, by_task) if form is not None]
    assert [form.ends for form in found] == [False, False, False, True, True]
    assert [form.prompt_format.name for form in found] == ["plain", "line", "plain", "eos", "plain"]
    assert other is None


# --- what comes out


def test_generation_and_ranking_both_read_the_exemplars(mixture: PreparedMixture, two_shot: EvalResult) -> None:
    """After the frame this model begins with q, whatever the question; without exemplars it goes on from that."""
    zero_shot = evaluated(mixture, tasks=["few_templates", "few_options"])
    assert (task(zero_shot, "few_templates").shots, task(two_shot, "few_templates").shots) == (0.0, 2.0)
    assert {e.prediction for e in task(two_shot, "few_templates").examples} == {"qrstuv"}
    assert "xyz" in {e.prediction for e in task(zero_shot, "few_templates").examples}
    options = task(zero_shot, "few_options"), task(two_shot, "few_options")
    assert [(one.num_ranked, one.rank_accuracy) for one in options] == [(4, 100.0), (4, 0.0)]


def test_examples_keep_their_exemplars(mixture: PreparedMixture, two_shot: EvalResult) -> None:
    kept = task(two_shot, "few_templates").examples
    assert [[tuple(e) for e in one.exemplars] for one in asked_of(mixture, "few_templates", shots=2)] == [
        list(example.exemplars) for example in kept
    ]
    assert [example.prompt for example in kept] == [one.question for one in asked_of(mixture, "few_templates")]


def test_shortages_are_reported_and_the_rest_goes_on(two_shot: EvalResult) -> None:
    scarce, none = task(two_shot, "few_scarce"), task(two_shot, "few_none")
    assert scarce.shots == 1.5  # the first question has but one exemplar that is not itself
    assert "1 of 2 questions have fewer than 2 exemplars, since its split 'train' has 2" in scarce.problems[0]
    assert none.shots == 0.0
    assert none.num_examples == 4
    assert "no split 'train' to take exemplars from" in none.problems[0]
    assert task(two_shot, "few_templates").problems == ()


def test_a_task_with_its_own_vocabulary_keeps_its_end_token(mixture: PreparedMixture) -> None:
    (one,) = asked_of(mixture, "few_own_vocabulary")
    assert one.inputs[-1] == VOCABULARY.eos_id
    assert text_of(one) == Frame().text(one.exemplars, one.question)
    assert len(one.exemplars) == 3


def test_exemplars_that_were_not_prepared_cannot_be_asked_for(plain: PreparedMixture) -> None:
    with pytest.raises(ConfigError, match="prepare it with exemplars=True"):
        evaluated(plain, shots=1)
    with pytest.raises(ConfigError, match="shots is -1"):
        evaluated(plain, shots=-1)


def test_the_score_is_the_mean_over_templates(each_zero_shot: EvalResult) -> None:
    letters = task(each_zero_shot, "few_templates")
    # After "?" the model ends at once.
    assert [one.metrics for one in letters.templates] == [{"exact_match": score} for score in (100.0, 0.0, 100.0)]
    assert letters.score == pytest.approx(200 / 3)
    assert letters.best == Best(template=0, score=100.0, mean=pytest.approx(200 / 3))
    assert letters.num_examples == 4
    options = task(each_zero_shot, "few_options")
    assert options.num_ranked == 8
    assert options.templates[0] == TemplateFigures({"exact_match": 100.0}, 100.0, 100.0)
    # After "!" the model ends: both options have one unlikely token, which weighs less in the longer one's mean.
    assert options.templates[1] == TemplateFigures({"exact_match": 0.0}, 100.0, 0.0)
    assert (options.rank_accuracy, options.rank_accuracy_normalized) == (100.0, 50.0)
    assert options.best_rank == Best(0, 100.0, 100.0)
    assert task(each_zero_shot, "few_scarce").best == Best(0, 100.0, 100.0)
    assert each_zero_shot.overall.best == 80.0  # all but the task whose prompts end with the end token
    assert each_zero_shot.templates == "each"


def test_kept_examples_show_the_templates_in_turn(each_zero_shot: EvalResult) -> None:
    kept = task(each_zero_shot, "few_templates").examples
    assert [(e.index, e.template, e.prompt) for e in kept] == [(0, 0, "w"), (1, 1, "x?"), (2, 2, "Say y"), (3, 0, "v")]


def test_every_template_is_asked_with_exemplars_and_dropped_ones_are_counted(each: PreparedMixture) -> None:
    figures = task(evaluated(each, shots=8, inputs_length=30, tasks=["few_templates"]), "few_templates")
    asked = asked_of(each, "few_templates", shots=8, inputs_length=30)
    assert 0 < figures.shots < 8
    assert figures.shots == np.mean([len(one.exemplars) for one in asked])
    assert figures.exemplars_dropped == sum(8 - len(one.exemplars) for one in asked)
    assert [one.metrics["exact_match"] for one in figures.templates] == [0.0] * 3


@pytest.mark.parametrize("name", ["two_shot", "each_zero_shot"])
def test_results_go_through_json(request: pytest.FixtureRequest, name: str) -> None:
    result = request.getfixturevalue(name)
    assert EvalResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result
