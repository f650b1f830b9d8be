from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.decoding import LanguageModel
from t5x_instruct.evaluation.rank_classification import Choice, Question, question, rank, rank_figures
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.t5 import T5Config
from tests.decoding.alphabet import alphabet_model

VOCABULARY = ByteVocabulary()
PROMPT = np.asarray(VOCABULARY.encode("w"), np.int32)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel(*alphabet_model(), VOCABULARY)


def ask(*options: str, right: Sequence[int] = (0,), ends: bool = True) -> Question:
    return Question(PROMPT, options, frozenset(right), ends)


def test_the_likeliest_option_wins(lm: LanguageModel) -> None:
    questions = [ask("abc", "xyz", "xy"), ask("xyz", "zyx"), ask("wrong", "xyz")]
    assert rank(lm, questions) == [Choice(1, 1), Choice(0, 0), Choice(1, 1)]
    assert rank(lm, questions, batch_size=1) == rank(lm, questions)
    assert rank(lm, []) == []


def test_sum_and_mean_over_tokens_differ(lm: LanguageModel) -> None:
    # Both are unlikely; the longer one has one likely token more, and more unlikely ones.
    assert rank(lm, [ask("q", "xqx")]) == [Choice(by_sum=0, by_mean=1)]


def test_the_end_counts_only_where_targets_end(lm: LanguageModel) -> None:
    # "xyz" ends as the model would end, "xy" does not.
    assert rank(lm, [ask("xy", "xyz", ends=True)]) == [Choice(1, 1)]
    ended, unended = (rank(lm, [ask("xy", "q", "xyzq", ends=ends)])[0] for ends in (True, False))
    assert (ended.by_sum, unended.by_sum) == (0, 0)
    assert rank(lm, [ask("xyq", "xy", ends=False)]) == [Choice(1, 1)]


def test_the_first_of_equals_is_chosen(lm: LanguageModel) -> None:
    assert rank(lm, [ask("xyz", "xyz")]) == [Choice(0, 0)]


ENCODER_DECODER = {
    "vocab_size": 259,
    "emb_dim": 16,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 16,
    "activation": "relu",
    "gated_mlp": False,
    "relative_buckets": 8,
    "relative_max_distance": 16,
    "norm_epsilon": 1e-6,
    "tie_embeddings": False,
    "scale_decoder_outputs": False,
}


def test_an_encoder_decoder_chooses_what_it_scores_highest() -> None:
    model = make_model(T5Config(**ENCODER_DECODER))
    lm = LanguageModel(model, jax.jit(model.init)(jax.random.key(3)), VOCABULARY)
    options = ("abc", "b", "xyz", "a longer one")
    (choice,) = rank(lm, [Question(lm.prompt_ids("which?"), options, frozenset([0]))])
    by_sum, by_mean = (lm.score(["which?"] * 4, options, per_token=per_token) for per_token in (False, True))
    assert choice == (by_sum.argmax(), by_mean.argmax())


@pytest.mark.parametrize(
    ("target", "meta", "right"),
    [
        ("b", {"options": ["a", "b"]}, {1}),
        ("b", {"options": ["a", "b", "c"], "accepted_targets": ["b", "c"]}, {1, 2}),
        ("b", {"options": ["b", "b"]}, {0, 1}),
        ("b", {"options": ["a", "c"]}, None),  # the answer is not among them
        ("b", {"options": ["b"]}, None),  # nothing to choose
        ("b", {"options": []}, None),
        ("b", {}, None),
    ],
)
def test_which_examples_are_questions(target: str, meta: dict[str, Any], right: set[int] | None) -> None:
    asked = question(PROMPT, target, meta)
    assert (None if asked is None else asked.right) == right


def test_figures_are_percentages() -> None:
    questions = [ask("a", "b", right=[0]), ask("a", "b", "c", "d", right=[1, 2])]
    figures = rank_figures(questions, [Choice(0, 1), Choice(2, 3)])
    assert figures == (100.0, 0.0, 50.0)
    assert rank_figures([], []) == (None, None, None)
