import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import PreparedMixture, ensure_prepared
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.decoding import LanguageModel
from t5x_instruct.evaluation.asking import chosen_indices
from t5x_instruct.evaluation.results import EvalResult, TaskResult
from t5x_instruct.evaluation.runner import evaluate
from tests.decoding.alphabet import alphabet_model

MODULE = "tests.evaluation.eval_tasks"
SCRIPT = """
import json
import sys
from pathlib import Path
from tests.evaluation.test_runner import evaluated, prepared

result = evaluated(prepared(Path(sys.argv[1])), tasks=["eval_letters", "eval_trained"], num_examples=2, batch_size=1)
loaded = [name for name in ("tensorflow", "seqio") if name in sys.modules]
print(json.dumps([loaded, result.to_json()]))
"""


def prepared(root: Path) -> PreparedMixture:
    spec = PrepareSpec(
        mixture="eval_mixture",
        modules=(MODULE,),
        vocabulary="bytes",
        splits=("train", "validation", "test"),
        hold_out=("alphabet", "silent"),
        root=root,
    )
    return ensure_prepared(spec)


def evaluated(mixture: PreparedMixture, **changes: Any) -> EvalResult:
    lm = LanguageModel(*alphabet_model(), ByteVocabulary())
    return evaluate(lm, mixture, **{"max_new_tokens": 6, "batch_size": 4} | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def mixture(root: Path) -> PreparedMixture:
    return prepared(root)


@pytest.fixture(scope="module")
def result(mixture: PreparedMixture) -> EvalResult:
    return evaluated(mixture)


def task(result: EvalResult, name: str) -> TaskResult:
    return next(task for task in result.tasks if task.task == name)


def test_only_held_out_tasks_are_asked(result: EvalResult) -> None:
    assert {(t.task, t.cluster, t.num_examples) for t in result.tasks} == {
        ("eval_letters", "alphabet", 4),
        ("eval_choice", "alphabet", 4),
        ("eval_silent", "silent", 2),
        ("eval_only_test", "silent", 0),
    }


def test_metrics_of_the_tasks(result: EvalResult) -> None:
    letters = task(result, "eval_letters")
    assert letters.metrics == {"exact_match": 75.0, "wrapped": 12.5}
    assert (letters.primary, letters.score) == ("exact_match", 75.0)
    assert letters.rank_accuracy is None
    assert any("ZeroDivisionError" in problem for problem in letters.problems)


def test_rank_accuracy(result: EvalResult) -> None:
    choice = task(result, "eval_choice")
    assert choice.num_ranked == 4
    # xyz is found; of "q" and "xqx" the sum takes the right one and the mean does not; zq is never likely.
    assert (choice.rank_accuracy, choice.rank_accuracy_normalized) == (50.0, 25.0)
    assert choice.rank_chance == pytest.approx(100 * (1 / 3 + 1 / 2 + 1 / 2 + 1 / 4) / 4)
    assert choice.metrics == {"exact_match": 25.0}


def test_means(result: EvalResult) -> None:
    assert result.mean == 50.0
    assert result.overall.exact_match == 50.0
    assert result.overall.num_examples == 10
    assert list(result.clusters) == ["alphabet", "silent"]
    assert result.clusters["alphabet"].score == 50.0
    assert result.clusters["alphabet"].rank_accuracy == 50.0
    assert result.clusters["silent"].score is None


def test_what_cannot_be_computed_is_said(result: EvalResult) -> None:
    assert "it has no metrics" in task(result, "eval_silent").problems[0]
    assert "no split 'validation' is prepared (there is: test)" in task(result, "eval_only_test").problems[0]
    assert len(result.problems) == sum(len(t.problems) for t in result.tasks)


def test_examples_as_they_were_asked(result: EvalResult) -> None:
    texts = [(e.index, e.prompt, e.target, e.prediction) for e in task(result, "eval_letters").examples]
    assert texts == [
        (0, "w", "xyz", "xyz"),
        (1, "v", "wxyz", "wxyz"),
        (2, "say u", "vwxyz", "vwxyz"),
        (3, "t", "wrong", "uvwxyz"),
    ]
    silent = task(result, "eval_silent").examples
    assert [(e.prompt, e.prediction) for e in silent] == [("y", "z"), ("", "")]


def test_the_result_goes_through_json(result: EvalResult) -> None:
    assert EvalResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_another_process_asks_a_subset_without_tensorflow(root: Path, result: EvalResult) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded, values = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    letters, trained = EvalResult.from_json(values).tasks
    assert (letters.num_examples, trained.num_examples) == (2, 1)
    assert [e.index for e in letters.examples] == chosen_indices("eval_letters", 4, 2, seed=0)
    assert set(letters.examples) < set(task(result, "eval_letters").examples)


def test_examples_are_chosen_by_hash() -> None:
    first = list(chosen_indices("a", 1000, 50, seed=0))
    assert first == sorted(set(first))
    assert len(first) == 50
    assert 300 < sum(first) / 50 < 700  # not the first ones
    assert set(chosen_indices("a", 1000, 20, seed=0)) < set(first)
    assert first != chosen_indices("a", 1000, 50, seed=1)
    assert first != chosen_indices("b", 1000, 50, seed=0)
    assert list(chosen_indices("a", 3, 5, 0)) == list(chosen_indices("a", 3, None, 0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["eval_leters"]}, "unknown task 'eval_leters'; nearest: 'eval_letters'"),
        ({"role": "heldout"}, "unknown role 'heldout'; nearest: 'held_out'"),
        ({"modules": ["no_such_module_xyz"], "tasks": ["eval_choice"]}, "no_such_module_xyz"),
    ],
)
def test_what_does_not_exist_is_named(mixture: PreparedMixture, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluated(mixture, **changes)


def test_another_vocabulary_is_refused(mixture: PreparedMixture) -> None:
    class OtherBytes(ByteVocabulary):
        fingerprint = "other"  # type: ignore[assignment]

    lm = LanguageModel(*alphabet_model(), OtherBytes())
    with pytest.raises(DataError, match="was prepared with the vocabulary bytes"):
        evaluate(lm, mixture)
