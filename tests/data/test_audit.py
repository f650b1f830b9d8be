"""The audit finds what is wrong with examples, says where, and stops a run past its limits."""

import dataclasses
import json

import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.audit import AuditLimits, audit, check_before_training, spread
from t5x_instruct.data.example_checks import CHECKS, end_ids
from t5x_instruct.data.vocabularies import ByteVocabulary
from tests.data.in_memory import VOCABULARY, example_of, mixture_of, task_of

LENGTHS = {"inputs": 40, "targets": 20}
GOOD = [(f"What is {i} + 1?", str(i + 1)) for i in range(20)]


def shares(mixture, lengths=LENGTHS, **options):
    """The findings that are not zero, of each split: counts by check."""
    report = audit(mixture, VOCABULARY, lengths, **options)
    return {
        (one.task, one.split): {name: f.failed for name, f in one.findings.items() if f.failed} for one in report.splits
    }


def test_nothing_is_found_in_good_examples():
    mixture = mixture_of(task_of("good", GOOD, [("What is 99 + 1?", "100")]))
    assert shares(mixture) == {("good", "train"): {}, ("good", "validation"): {}}
    report = audit(mixture, VOCABULARY, LENGTHS)
    assert report.faults(AuditLimits()) == report.warnings(AuditLimits()) == []
    train = report.splits[0]
    targets = sum(len(answer) + 1 for _, answer in GOOD)
    assert train.trained_share == pytest.approx(targets / (targets + sum(len(question) for question, _ in GOOD)))
    assert set(train.findings) | {"leaked"} == set(CHECKS)


def wrong_examples():
    plain = example_of("Say yes.", "yes")
    without_end = plain._replace(targets=plain.targets[:-1], targets_mask=plain.targets_mask[:-1])
    end_masked = plain._replace(targets_mask=np.array([True, True, True, False]))
    late = example_of("Say a lot.", "b" * 30)
    late = late._replace(targets_mask=np.arange(31) == 25)
    swapped = plain._replace(targets=np.array([*VOCABULARY.encode("no"), VOCABULARY.eos_id, 5], np.int32))
    other_prompt = plain._replace(inputs=np.array(VOCABULARY.encode("User: Say yes."), np.int32))
    bad_bytes = plain._replace(meta=plain.meta | {"inputs_pretokenized": b"Say \xff yes."})
    return {
        "no end": (without_end, {"end_not_trained"}),
        "end not trained": (end_masked, {"end_not_trained"}),
        "trained part is cut off": (late, {"untrained", "cut_responses", "end_not_trained"}),
        "long inputs": (example_of("x" * 41, "y"), {"cut_inputs"}),
        "empty target": (example_of("Say nothing.", " "), {"empty_targets"}),
        "replacement character": (example_of("Say caf\ufffd.", "ok"), {"bad_text"}),
        "bytes": (bad_bytes, {"bad_text", "changed_prompts"}),
        "bell": (example_of("Say \a.", "ok"), {"control_characters"}),
        "other ids": (swapped, {"changed_targets", "end_not_trained"}),
        "other prompt": (other_prompt, {"changed_prompts"}),
    }


@pytest.mark.parametrize("name", wrong_examples())
def test_what_is_wrong_is_found(name):
    example, expected = wrong_examples()[name]
    mixture = mixture_of(task_of("wrong", [*GOOD, example]))
    report = audit(mixture, VOCABULARY, LENGTHS)
    found = {check: finding for check, finding in report.splits[0].findings.items() if finding.failed}
    assert set(found) == expected
    assert all(finding.failed == 1 and finding.example == len(GOOD) for finding in found.values())
    for check in expected:
        message = report.splits[0].message(check, 0.5)
        assert "task 'wrong', split 'train'" in message
        assert f"e.g. example {len(GOOD)}: " in message
        assert CHECKS[check].fix in message
    json.dumps(report.to_json())


def test_a_vocabulary_that_loses_text_is_told_from_changed_ids():
    class Capitals(ByteVocabulary):
        def encode(self, text):
            return super().encode(text.upper())

    lossy = Capitals()
    made = [example_of("q", "Yes", lossy), example_of("q", "NO", lossy)]
    report = audit(mixture_of(task_of("t", made)), lossy)
    found = {name: f.failed for name, f in report.splits[0].findings.items() if f.failed}
    assert found == {"lossy_targets": 1, "conflicts": 2}


def test_turns_encoded_one_by_one_are_no_change_of_the_text():
    eos = VOCABULARY.eos_id
    turns = [*VOCABULARY.encode("hello"), eos, *VOCABULARY.encode("user: bye"), *VOCABULARY.encode("bye"), eos]
    mask = np.array([True] * 6 + [False] * 9 + [True] * 4)
    example = example_of("hi", "hello</s>user: byebye</s>")
    example = example._replace(targets=np.array(turns, np.int32), targets_mask=mask)
    assert shares(mixture_of(task_of("t", [example])), None) == {("t", "train"): {}}
    other = example._replace(meta=example.meta | {"targets_pretokenized": "hello</s>user: good</s>"})
    assert shares(mixture_of(task_of("t", [other])), None) == {("t", "train"): {"changed_targets": 1}}


def test_copies_conflicts_and_leaks_are_counted():
    train = [("a", "1"), ("b", "2"), ("a", "1"), ("b", "3"), ("", "x"), ("", "y")]
    mixture = mixture_of(
        task_of("one", train, [("b", "2"), ("c", "9")]),
        task_of("two", [("b", "3"), ("d", "4")]),
        task_of("held", None, [("d", "4"), ("d", "4"), ("e", "5")], role="held_out"),
    )
    assert shares(mixture, None) == {
        ("one", "train"): {"duplicates": 1, "in_other_tasks": 1, "conflicts": 2},
        ("one", "validation"): {"leaked": 1},
        ("two", "train"): {"in_other_tasks": 1},
        ("held", "validation"): {"duplicates": 1, "leaked": 2},
    }
    splits = {(one.task, one.split): one for one in audit(mixture, VOCABULARY).splits}
    assert splits["one", "train"].findings["duplicates"][2:] == (2, "a copy of example 0")
    assert splits["one", "train"].findings["conflicts"][2:] == (1, "asked like example 3, answered otherwise")
    assert splits["held", "validation"].findings["leaked"].shown == "in 'two' (2)"


def test_refused_rows_come_with_their_reasons():
    refused = {"count": 3, "first": [{"example": 7, "why": "it has no target token", "inputs": "q"}]}
    report = audit(mixture_of(task_of("t", GOOD, refused=refused)), VOCABULARY)
    assert (
        report.splits[0]
        .message("refused")
        .startswith(
            "task 't', split 'train': 3 of 23 rows were refused by `prepare` (13.0 %); e.g. example 7: it has no target"
        )
    )


def test_a_sample_is_spread_over_the_split():
    assert spread(10, None).tolist() == spread(10, 99).tolist() == list(range(10))
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    rows = [("q", " ") if i >= 50 else GOOD[0] for i in range(100)]
    report = audit(mixture_of(task_of("t", rows)), VOCABULARY, examples=10)
    finding = report.splits[0].findings["empty_targets"]
    assert (report.splits[0].read, finding.of, finding.failed, finding.example) == (10, 10, 5, 50)


def test_a_run_is_stopped_past_its_limits_with_every_fault_and_its_fix():
    long = [(f"Tell {i}.", "z" * (30 if i < 12 else 5)) for i in range(20)]
    endless = [example_of(f"q{i}", "a") for i in range(20)]
    endless = [one._replace(targets=one.targets[:-1], targets_mask=one.targets_mask[:-1]) for one in endless]
    mixture = mixture_of(task_of("long", long), task_of("endless", endless), task_of("good", GOOD))
    with pytest.raises(ConfigError) as stopped:
        check_before_training(mixture, VOCABULARY, LENGTHS, AuditLimits())
    first, second = stopped.value.problems
    assert "task 'long', split 'train': 12 of 20 examples have responses that are cut (60.0 %)" in first
    assert (
        "the limit is 50 % (AuditLimits.cut_responses); e.g. example 0: 31 tokens, the length is 20; 31 would" in first
    )
    assert "task 'endless'" in second
    assert "append EOS" in second
    wider = dataclasses.replace(AuditLimits(), cut_responses=0.7, end_not_trained=1.0)
    report = check_before_training(mixture, VOCABULARY, LENGTHS, wider)
    assert [text.split("'")[1] for text in report.warnings(wider)] == ["long", "endless"]


def test_what_looks_wrong_in_a_few_examples_is_looked_at_again():
    # One in twenty ends without EOS, and it is among the few that are read first.
    good, bad = example_of("q", "a"), example_of("q", "a")
    bad = bad._replace(targets=bad.targets[:-1], targets_mask=bad.targets_mask[:-1])
    suspect = task_of("suspect", [good if i % 20 else bad for i in range(1000)])
    mixture = mixture_of(suspect, *[task_of(f"t{i}", [good] * 3) for i in range(1023)])
    report = check_before_training(mixture, VOCABULARY, LENGTHS, AuditLimits())
    assert [one.read for one in report.splits] == [512] + [2] * 1023
    assert 0 < report.splits[0].share("end_not_trained") < 0.1


def test_a_few_long_tasks_of_a_large_mixture_may_be_cut():
    long = task_of("long", [("Tell.", "z" * 30)] * 10, rate=1)
    small, large = mixture_of(long, task_of("good", GOOD, rate=10)), mixture_of(long, task_of("good", GOOD, rate=19))
    with pytest.raises(ConfigError, match="task 'long', split 'train': 10 of 10 examples have responses"):
        check_before_training(small, VOCABULARY, LENGTHS, AuditLimits())
    report = check_before_training(large, VOCABULARY, LENGTHS, AuditLimits())
    (warning,) = report.warnings(AuditLimits())
    assert warning.startswith("task 'long', split 'train': 10 of 10 examples have responses that are cut (100.0 %)")


def test_limits_are_shares():
    with pytest.raises(ConfigError, match=r"AuditLimits.cut_responses = 50: must be a share from 0 to 1"):
        AuditLimits(cut_responses=50)


def test_a_turn_of_the_chat_template_ends_an_answer(word_vocabulary):
    assert end_ids(word_vocabulary) == {word_vocabulary.eos_id}
    assert end_ids(ByteVocabulary()) == {1}
