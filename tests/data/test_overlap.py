"""Contamination is found example by example, and shared tasks and data sets by their names."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.overlap import Texts, find_overlap, texts_of_tasks
from t5x_instruct.data.sharing import TaskIdentity, data_sets, refuse_shared, shared_data
from t5x_instruct.data.word_hashes import runs_of, words_of
from tests.data.in_memory import mixture_of, task_of

WORDS = [f"word{i}" for i in range(500)]


def passage(seed, count=40):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def brute_force(train, evaluated, n):
    """For each evaluated text how many of its different runs of n words stand in a training text."""

    def runs(text):
        words = re.findall(r"[^\W_]+", text.lower())
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    known = set().union(*map(runs, train)) if train else set()
    return [(len(runs(text) & known), len(runs(text))) for text in evaluated]


texts = st.lists(st.text("ab ,.É\n", max_size=40), max_size=8)


@settings(max_examples=80)
@given(texts, st.lists(st.text("ab ,.É\n", max_size=40), max_size=3), st.integers(1, 4))
def test_runs_are_found_as_by_a_search_for_each(train, evaluated, n):
    found = find_overlap(
        [Texts("t", 0, train, [""] * len(train))], [Texts("e", 0, evaluated, [""] * len(evaluated))], n
    )
    by_example = {match.example: (match.found, match.runs) for match in found.matches if match.found}
    expected = dict(enumerate(brute_force(train, evaluated, n)))
    assert by_example == {i: counts for i, counts in expected.items() if counts[0]}


def test_words_are_runs_of_letters_and_digits_whatever_stands_around_them():
    same = words_of(["Don't stop: 3 o'clock", "don t STOP 3 o clock"])
    assert same.ends.tolist() == [6, 12]
    assert same.hashes[:6].tolist() == same.hashes[6:].tolist()
    assert len(set(same.hashes[:6].tolist())) == 6
    assert words_of(["東京です", "हिन्दी में", ""]).ends.tolist() == [4, 6, 6]
    assert words_of([]).ends.tolist() == []


def test_runs_stay_within_their_text():
    runs = runs_of(words_of(["a b c", "d", "e f"]), 2)
    assert runs.texts.tolist() == [0, 0, 2]
    assert len(runs_of(words_of(["a b"]), 3).hashes) == 0


def test_an_example_is_found_where_it_stands():
    train = [
        Texts("first", 0, [passage(i) for i in range(30)], ["x"] * 30),
        Texts("second", 0, [passage(i) for i in range(30, 40)], ["y"] * 10),
        Texts("second", 10, [passage(i) for i in range(40, 50)], ["y"] * 10),
    ]
    half = " ".join(passage(45).split()[:20] + passage(901, 20).split())
    evaluated = Texts("e", 5, [passage(7).upper(), passage(33), half, passage(900)], ["x", "other", "z", "z"])
    found = find_overlap(train, [evaluated])
    assert found.train_examples == 50
    assert [(m.example, m.same, m.train_task, m.train_example) for m in found.matches] == [
        (5, "instance", "first", 7),
        (6, "inputs", "second", 3),
        (7, None, "second", 15),
    ]
    assert found.matches[1].share > 0.9
    assert found.matches[2].found == 20 - 12
    (task,) = found.tasks
    assert task[:6] == ("e", 4, 1, 2, 3, 2)
    assert task.mean_share == pytest.approx(sum(m.share for m in found.matches) / 4)
    json.dumps(found.to_json())


def test_the_instructions_of_a_task_are_not_its_content():
    frame = "you are given a text read it well and then say what it is all about please "
    train = Texts("t", 0, [frame + passage(1000 + i) for i in range(20)], [""] * 20)
    evaluated = [frame + passage(i) for i in range(30)]
    evaluated[4] = frame + passage(1003)
    found = find_overlap([train], [Texts("e", 0, evaluated, ["a"] * 30)], n=5)
    assert [(m.example, m.train_example) for m in found.matches if m.share > 0.5] == [(4, 3)]
    assert all(m.share < 0.2 for m in found.matches if m.example != 4)


def test_numbers_and_signs_make_other_instances():
    found = find_overlap([Texts("t", 0, ["2 + 2 ="], ["4"])], [Texts("e", 0, ["2 - 2 =", "2 + 2  ="], ["4", "0"])])
    assert [(m.example, m.same) for m in found.matches] == [(1, "inputs")]


def test_runs_need_a_word():
    with pytest.raises(ConfigError, match="runs of 0 words"):
        find_overlap([], [], 0)


def test_nothing_overlaps_nothing():
    assert find_overlap([], [Texts("e", 0, ["a"], ["b"])]).matches == ()
    assert find_overlap([Texts("t", 0, ["a"], ["b"])], []).tasks == ()


def test_prepared_texts_are_read_in_order():
    made = [(f"q{i}", f"a{i}") for i in range(5000)]
    parts = list(texts_of_tasks([task_of("t", made), task_of("u", None, made)], "train"))
    assert [(part.task, part.first, len(part.inputs)) for part in parts] == [("t", 0, 4096), ("t", 4096, 904)]
    assert (parts[1].inputs[3], parts[1].targets[3]) == ("q4099", "a4099")


@pytest.mark.parametrize(
    ("dataset", "sure", "likely"),
    [
        (None, [], []),
        ("tfds:super_glue/rte:1.0.3", ["superglue/rte"], []),
        ("glue/rte", ["superglue/rte"], []),
        ("hendrycks_test/astronomy", ["mmlu/astronomy"], []),
        ("Squad", ["squad"], []),
        ("squad/v1.1", ["squad"], []),
        ("wsc; enhanced_wsc; librispeech_asr,", ["superglue/wsc", "enhancedwsc", "librispeechasr"], []),
        ("hf:openai/gsm8k/main", ["openai/gsm8k/main"], ["gsm8k/main"]),
        ("hf:cosmos_qa", ["cosmosqa"], []),
        (" ; ", [], []),
    ],
)
def test_a_data_set_has_one_name_whoever_writes_it(dataset, sure, likely):
    found = data_sets(dataset)
    assert ["/".join(path) for path in found.sure] == sure
    assert ["/".join(path) for path in found.likely] == likely


@pytest.mark.parametrize(
    ("trained", "evaluated", "same"),
    [
        ("gsm8k", "gsm8k", True),
        ("gsm8k", "mgsm/th", True),
        ("hf:openai/gsm8k/main", "gsm8k", True),
        ("gsm8k", "hf:openai/gsm8k", True),
        ("snli", "esnli", True),
        ("commonsense_qa", "hf:cos_e/v1.11", True),
        ("cosmosqa", "tfds:cosmos_qa", True),
        ("tfds:winogrande", "hf:winogrande/winogrande_xl", True),
        ("measuring_massive_multitask_language_understanding", "mmlu/anatomy", True),
        ("hf:cais/mmlu/anatomy", "mmlu/anatomy", True),
        ("tfds:squad/v1.1:3.0.0", "hf:squad_v2", True),
        ("natural_questions", "tfds:natural_questions_open", True),
        ("mmlu/law", "mmlu/anatomy", False),
        ("tfds:anli/r1", "tfds:anli/r2", False),
        ("hf:wiki_hop/original", "hf:duorc/original", False),
        ("xsum", "xlsum", False),
        ("wsc; enhanced_wsc", "tfds:super_glue/wsc", True),
        (None, None, False),
    ],
)
def test_data_sets_are_the_same_under_every_name(trained, evaluated, same):
    for one, other in ((trained, evaluated), (evaluated, trained)):
        assert bool(shared_data([identity("a", dataset=one)], [identity("b", dataset=other)])) == same


def identity(name, base=None, dataset=None):
    return TaskIdentity(name, base or name, dataset)


def test_what_tasks_share_is_named():
    trained = [
        identity("rte"),
        identity("mnli_few_shot", "mnli"),
        identity("boolq", dataset="bool_q"),
        identity("niv2_task0690", dataset="mmlu"),
        identity("other", dataset="glue/sst2"),
    ]
    evaluated = [
        identity("rte"),
        identity("mnli"),
        identity("mine", dataset="tfds:super_glue/boolq:1.0"),
        identity("mmlu_law", dataset="mmlu/law"),
        identity("free", dataset="glue/cola"),
        identity("unknown"),
    ]
    assert [tuple(one) for one in shared_data(trained, evaluated)] == [
        ("rte", "rte", "are the same task"),
        ("mnli", "mnli_few_shot", "show the rows of the same task 'mnli'"),
        ("mine", "boolq", "have the same source data 'bool_q'"),
        ("mmlu_law", "niv2_task0690", "have the same source data 'mmlu'"),
    ]
    assert [
        one.trained for one in shared_data([identity("a", dataset="mmlu/law")], [identity("b", dataset="mmlu")])
    ] == ["a"]


def test_held_out_tasks_that_share_data_are_refused_unless_allowed():
    rows = [("q", "a")]
    mixture = mixture_of(
        task_of("train_a", rows, dataset="glue/rte"),
        task_of("train_b", rows, base="shown"),
        task_of("held_a", None, rows, role="held_out", dataset="super_glue/rte"),
        task_of("held_b", None, rows, role="held_out", base="shown"),
        task_of("held_c", None, rows, role="held_out"),
    )
    with pytest.raises(ConfigError) as refused:
        refuse_shared(mixture.train_tasks, mixture.held_out_tasks, allow_overlap=False)
    assert refused.value.problems == [
        "evaluated 'held_a' and 'train_a', which is trained on, have the same source data 'glue/rte'",
        "evaluated 'held_b' and 'train_b', which is trained on, show the rows of the same task 'shown'",
        "hold 'train_a', 'train_b' out of training as well, or set ALLOW_OVERLAP=True and know that these figures are "
        "not of unseen tasks",
    ]
    assert len(refuse_shared(mixture.train_tasks, mixture.held_out_tasks, allow_overlap=True)) == 2
