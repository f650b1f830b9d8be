import math
import re
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.layers.attention import Tokens, attend
from t5x_instruct.models.layers.kinds import Window, indexed, repeated, shortest_pattern
from t5x_instruct.models.layers.relative_bias import RelativeBias, bucket_starts
from t5x_instruct.models.layers.rope import Rope, rotate, rotation
from t5x_instruct.models.layers.sequence import over_sequence
from t5x_instruct.partitioning.arrays import batch_sharding
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import activation_rules
from t5x_instruct.plan.hlo import Program

B, T, S, N, K, H = 2, 7, 9, 6, 2, 4


def inputs() -> tuple[tuple[Any, Any, Any, Any], Tokens, Tokens]:
    """Queries, keys, values and a bias, and where queries and keys stand."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, *shape, H)).astype(np.float32) for shape in ((T, N), (S, K), (S, K)))
    bias = rng.normal(size=(N, T + S - 1)).astype(np.float32)
    queries = Tokens(rng.integers(0, 3, (B, T)), rng.integers(0, 6, (B, T)))
    keys = Tokens(rng.integers(0, 3, (B, S)), rng.integers(0, 6, (B, S)), rng.integers(0, 2, (B, S)))
    return tuple(jnp.asarray(x) for x in (q, k, v, bias)), queries, keys


def naive(
    q: Any,
    k: Any,
    v: Any,
    bias: Any,
    queries: Tokens,
    keys: Tokens,
    causal: bool,
    window: Window | None = None,
    soft_cap: float | None = None,
) -> np.ndarray:
    """Query by query, in float64."""
    out = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        seen = (keys.segments[b] == queries.segments[b, t]) & (keys.segments[b] > 0)
        if causal:
            before = keys.positions[b] <= queries.positions[b, t]
            seen &= before if keys.inputs is None else before | (keys.inputs[b] > 0)
        if window is not None:
            behind = queries.positions[b, t] - keys.positions[b]
            seen &= (-window.ahead <= behind) & (behind <= window.behind)
        if seen.any():
            group = n // (N // K)
            scores = np.asarray(k, np.float64)[b, seen, group] @ np.asarray(q, np.float64)[b, t, n]
            if soft_cap is not None:
                scores = soft_cap * np.tanh(scores / soft_cap)
            if bias is not None:
                scores += np.array([bias[n, s - t + T - 1] for s in np.flatnonzero(seen)])
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights / weights.sum() @ np.asarray(v)[b, seen, group]
    return out


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
@pytest.mark.parametrize("kind", ["causal", "bias", "inputs", "both ways with bias"])
def test_equals_the_naive_attention(chunk: int, kind: str) -> None:
    (q, k, v, bias), queries, keys = inputs()
    bias = bias if "bias" in kind else None
    keys = keys if kind == "inputs" else keys._replace(inputs=None)
    causal = kind != "both ways with bias"
    expected = naive(q, k, v, bias, queries, keys, causal)
    blind = ~expected.any(axis=(2, 3))
    assert blind.any()
    assert not blind.all()
    found = np.asarray(attend(q, k, v, queries, keys, chunk, causal=causal, bias_NL=bias))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[blind] == 0).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("window", "soft_cap"), [(Window(1, 0), None), (Window(2, 1), 0.7), (None, 1.3)])
def test_windows_and_soft_caps(causal: bool, window: Window | None, soft_cap: float | None) -> None:
    (q, k, v, _), queries, keys = inputs()
    expected = naive(q, k, v, None, queries, keys, causal, window, soft_cap)
    without = naive(q, k, v, None, queries, keys, causal)
    found = attend(q, k, v, queries, keys, 3, causal=causal, window=window, soft_cap=soft_cap)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - without).max() > 0.1


def test_patterns_of_layers() -> None:
    layers = repeated((4, 4, 0), 7)
    assert layers == [4, 4, 0, 4, 4, 0, 4]
    assert shortest_pattern(layers) == (4, 4, 0)
    assert shortest_pattern([4, 4, 0, 0]) == (4, 4, 0, 0)
    distinct, which = indexed(layers)
    assert distinct == (4, 0)
    assert which.tolist() == [0, 0, 1, 0, 0, 1, 0]


def test_pieces_have_the_same_gradient() -> None:
    arrays, queries, keys = inputs()

    def gradient(chunk: int) -> Any:
        def total(arrays: Any) -> jax.Array:
            return jnp.sin(attend(*arrays[:3], queries, keys, chunk, bias_NL=arrays[3])).sum()

        return jax.jit(jax.grad(total))(arrays)

    whole = gradient(T)
    for pieces, array in zip(gradient(3), whole, strict=True):
        np.testing.assert_allclose(pieces, array, atol=1e-6)
        assert np.isfinite(array).all()
        assert np.abs(array).max() > 1e-2


def test_the_bias_has_its_gradient() -> None:
    # The bias is differentiated by hand; here by finite differences, in one random direction.
    (q, k, v, bias), queries, keys = inputs()
    direction = np.random.default_rng(3).normal(size=bias.shape).astype(np.float32)

    @jax.jit
    def total(bias: Any) -> jax.Array:
        return jnp.sin(attend(q, k, v, queries, keys, 3, causal=False, bias_NL=bias)).sum()

    step = 1e-2
    expected = (total(bias + step * direction) - total(bias - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(total)(bias), direction), expected, rtol=2e-3)


def test_devices_add_up_the_gradient_of_the_bias_and_not_of_the_scores() -> None:
    (q, k, v, bias), queries, keys = inputs()
    mesh = make_mesh(MeshConfig(data=B, fsdp=1), jax.devices()[:B])

    def gradient(sharded: bool) -> Any:
        def total(bias: Any, arrays: Any) -> jax.Array:
            return jnp.sin(attend(*arrays, queries, keys, 3, bias_NL=bias)).sum()

        def run(bias: Any, arrays: Any) -> Any:
            with activation_rules(mesh) if sharded else nullcontext():
                return jax.grad(total)(bias, arrays)

        rows = batch_sharding(mesh) if sharded else None
        return jax.jit(run).lower(bias, [jax.device_put(x, rows) for x in (q, k, v)]).compile()

    compiled = gradient(sharded=True)
    whole, parts = (np.asarray(one(bias, [q, k, v])) for one in (gradient(sharded=False), compiled))
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    program = Program(compiled.as_text())
    instructions = [one for part in program.computations.values() for one in part.instructions.values()]
    sent = [buffer.elements for one in instructions if one.opcode == "all-reduce" for buffer in one.buffers]
    assert sent
    assert max(sent) <= N * (T + S + 2) < N * 3 * S


def test_buckets_of_distances() -> None:
    # T5's own: 32 buckets up to 128, half of them for each direction in the encoder.
    causal = [*range(1, 17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    assert bucket_starts(32, 128).tolist() == causal
    assert bucket_starts(16, 128).tolist() == [*range(1, 9), 12, 16, 23, 32, 46, 64, 91]
    # Beyond max_distance nothing changes; a bound that is a whole number belongs to the farther bucket.
    assert bucket_starts(4, 8).tolist() == [1, 2, 4]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_relative_bias_reads_its_table(bidirectional: bool) -> None:
    layer = RelativeBias(num_heads=1, buckets=8, max_distance=12, bidirectional=bidirectional)
    params = {"params": {"rel_embedding": jnp.arange(8.0)[None]}}
    found = np.asarray(layer.apply(params, 3, 20, 15))[0]
    assert found.shape == (22,)
    # Queries stand in slots 15 to 17, keys in 0 to 19: from key 0 and query 17 to key 19 and query 15.
    distances = np.arange(-17, 5)
    starts = bucket_starts(4 if bidirectional else 8, 12)
    for distance, bucket in zip(distances, found, strict=True):
        back = sum(-distance >= start for start in starts)
        ahead = 4 + sum(distance >= start for start in starts) if bidirectional else 0
        assert bucket == (back if distance <= 0 else ahead), distance


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
        turn = [rotation(jnp.array([[p]]), 8, Rope(100.0)) for p in (at, other)]
        return float(jnp.vdot(rotate(q, turn[0]), rotate(k, turn[1])))

    np.testing.assert_allclose(score(9, 4), score(35, 30), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3
    np.testing.assert_allclose(score(6, 6), float(jnp.vdot(q, k)), rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_queries_spread_over_a_sequence_axis_give_the_same(causal: bool) -> None:
    rng = np.random.default_rng(2)
    rows, slots = 4, 24
    q, k, v = (jnp.asarray(rng.normal(size=(rows, slots, n, H)), jnp.float32) for n in (4, 2, 2))
    bias = None if causal else jnp.asarray(rng.normal(size=(4, 2 * slots - 1)), jnp.float32)
    where = Tokens(jnp.asarray(np.sort(rng.integers(0, 3, (rows, slots)))), jnp.arange(slots)[None].repeat(rows, 0))

    def run(mesh: Any, *arrays: Any) -> Any:
        def loss(q: Any, k: Any, v: Any, bias: Any) -> Any:
            plain = partial(attend, chunk=4, causal=causal)
            out = over_sequence(plain, q, k, v, where, where, bias_NL=bias)
            return jnp.sin(out).sum(), out

        with nullcontext() if mesh is None else activation_rules(mesh):
            return jax.grad(loss, argnums=(0, 1, 2) if causal else (0, 1, 2, 3), has_aux=True)(*arrays)

    mesh = make_mesh(MeshConfig(fsdp=1, sequence=4, model=2))
    spread = jax.jit(partial(run, mesh)).lower(q, k, v, bias).compile()
    for got, wanted in zip(*map(jax.tree.leaves, (spread(q, k, v, bias), run(None, q, k, v, bias))), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    # A device has scores of its own queries and heads only: a piece of 4 queries, not of 16.
    shapes = re.findall(r"f32\[([\d,]+)\]", spread.as_text())
    assert not [one for one in shapes if math.prod(map(int, one.split(","))) >= rows * 4 * 4 * slots * 2]
