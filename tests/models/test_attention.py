from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.layers.attention import Tokens, attend
from t5x_instruct.models.layers.rope import rotate, rotation

B, T, S, N, K, H = 2, 7, 9, 6, 2, 4


def inputs() -> tuple[tuple[Any, Any, Any], Tokens, Tokens]:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, *shape, H)).astype(np.float32) for shape in ((T, N), (S, K), (S, K)))
    queries = Tokens(rng.integers(0, 3, (B, T)), rng.integers(0, 6, (B, T)))
    keys = Tokens(rng.integers(0, 3, (B, S)), rng.integers(0, 6, (B, S)))
    return (jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)), queries, keys


def naive(q: Any, k: Any, v: Any, queries: Tokens, keys: Tokens) -> np.ndarray:
    """Query by query, in float64."""
    out = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        seen = (
            (keys.segments[b] == queries.segments[b, t])
            & (keys.segments[b] > 0)
            & (keys.positions[b] <= queries.positions[b, t])
        )
        if seen.any():
            group = n // (N // K)
            scores = np.asarray(k, np.float64)[b, seen, group] @ np.asarray(q, np.float64)[b, t, n]
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights / weights.sum() @ np.asarray(v)[b, seen, group]
    return out


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_equals_the_naive_attention(chunk: int) -> None:
    arrays, queries, keys = inputs()
    expected = naive(*arrays, queries, keys)
    blind = ~expected.any(axis=(2, 3))
    assert blind.any()
    assert not blind.all()
    found = np.asarray(attend(*arrays, queries, keys, chunk))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[blind] == 0).all()


def test_pieces_have_the_same_gradient() -> None:
    arrays, queries, keys = inputs()

    def gradient(chunk: int) -> Any:
        def total(arrays: Any) -> jax.Array:
            return jnp.sin(attend(*arrays, queries, keys, chunk)).sum()

        return jax.grad(total)(arrays)

    whole = gradient(T)
    for pieces, array in zip(gradient(3), whole, strict=True):
        np.testing.assert_allclose(pieces, array, atol=1e-6)
        assert np.isfinite(array).all()


def test_scores_are_float32_in_bfloat16() -> None:
    # Scores 256 and 257, which are the same number in bfloat16.
    q, k, v = (
        jnp.array(values, jnp.bfloat16)[None, :, None, :]
        for values in ([[16.0, 1.0]], [[16.0, 0.0], [16.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]])
    )
    ones = jnp.ones((1, 2), jnp.int32)
    out = attend(q, k, v, Tokens(ones[:, :1], ones[:, :1]), Tokens(ones, ones), 64)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1 / (1 + np.exp(-1.0)), atol=0.01)


def test_rotation_depends_on_the_difference_alone() -> None:
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def score(at: int, other: int) -> float:
        turn = [rotation(jnp.array([[p]]), 8, 100.0) for p in (at, other)]
        return float(jnp.vdot(rotate(q, turn[0]), rotate(k, turn[1])))

    np.testing.assert_allclose(score(9, 4), score(35, 30), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3
    np.testing.assert_allclose(score(6, 6), float(jnp.vdot(q, k)), rtol=1e-5)
