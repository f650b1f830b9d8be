from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_instruct.common.errors import DataError
from t5x_instruct.decoding import score
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh

START, PAD = 2, 0


def plain_score(model: Any, params: Any, inputs: list[int], targets: list[int]) -> float:
    """The definition, in float64 and with all logits at once."""
    sequence = [*(inputs or [START]), *targets]
    hidden = model.hidden(params, {"decoder_input_tokens": np.asarray([sequence])})
    logits = np.asarray(model.logits(params, hidden), np.float64)[0, :, : model.vocab_size]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    first = len(sequence) - len(targets)
    return sum(log_probs[i - 1, sequence[i]] for i in range(first, len(sequence)))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(3)
    lengths = [(5, 3), (1, 1), (0, 4), (20, 1), (3, 17), (9, 0), (0, 0), (30, 30)]
    return [(rng.integers(1, 23, i).tolist(), rng.integers(1, 23, t).tolist()) for i, t in lengths]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_sums_of_log_probabilities(attention: Any, pairs: Any, batch_size: int) -> None:
    scores = score(*attention, pairs, start_id=START, pad_id=PAD, batch_size=batch_size)
    expected = [plain_score(*attention, inputs, targets) for inputs, targets in pairs]
    np.testing.assert_allclose(scores.log_likelihoods, expected, rtol=1e-5, atol=1e-6)
    assert scores.log_likelihoods.dtype == np.float32
    assert scores.num_tokens.tolist() == [3, 1, 4, 1, 17, 0, 0, 30]
    counts = np.maximum(scores.num_tokens, 1)
    np.testing.assert_allclose(scores.per_token, scores.log_likelihoods / counts, rtol=1e-6)


def test_empty_targets_score_zero(attention: Any) -> None:
    scores = score(*attention, [([3, 4], []), ([], [])], start_id=START, pad_id=PAD)
    assert scores.log_likelihoods.tolist() == [0.0, 0.0]
    assert scores.per_token.tolist() == [0.0, 0.0]


def test_continuations_of_one_token_are_a_distribution(attention: Any) -> None:
    model, params = attention
    scores = score(model, params, [([4, 9, 2], [t]) for t in range(model.vocab_size)], start_id=START, pad_id=PAD)
    assert np.exp(scores.log_likelihoods).sum() == pytest.approx(1.0, abs=1e-5)


def test_padding_id_has_no_influence(attention: Any, pairs: Any) -> None:
    first, second = (score(*attention, pairs, start_id=START, pad_id=pad) for pad in (0, 19))
    np.testing.assert_array_equal(first.log_likelihoods, second.log_likelihoods)


def test_sharded_parameters_change_nothing(attention: Any, pairs: Any) -> None:
    model, params = attention
    mesh = make_mesh(MeshConfig(fsdp=8))
    sharded = {
        name: jax.device_put(p, NamedSharding(mesh, PartitionSpec("fsdp" if p.shape[0] % 8 == 0 else None)))
        for name, p in params.items()
    }
    whole, spread = (score(model, p, pairs, start_id=START, pad_id=PAD) for p in (params, sharded))
    np.testing.assert_allclose(whole.log_likelihoods, spread.log_likelihoods, rtol=1e-5)


def test_nothing_to_do(attention: Any) -> None:
    scores = score(*attention, [], start_id=START, pad_id=PAD)
    assert scores.log_likelihoods.shape == scores.num_tokens.shape == (0,)


def test_a_token_outside_of_the_vocabulary_is_named(attention: Any) -> None:
    with pytest.raises(DataError, match="pair 1 holds token 23; the model knows 0 to 22"):
        score(*attention, [([1], [2]), ([1], [23])], start_id=START, pad_id=PAD)
