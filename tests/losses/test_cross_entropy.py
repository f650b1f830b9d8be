from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.types import LossOutput, Unembedding
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import activation_rules

B, T, D, V = 3, 7, 5, 11
HEADS: list[dict[str, Any]] = [
    {},
    {"multiplier": 0.3, "vocab_size": 9},
    {"soft_cap": 1.5},
    {"multiplier": 1.7, "soft_cap": 4.0, "vocab_size": 10},
]


def arrays(seed: int, *, dtype: Any = jnp.float32, rows: int = B) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(rows, T, D)), dtype)
    return hidden, jnp.asarray(rng.normal(size=(D, V)), jnp.float32), rng.integers(0, 9, (rows, T))


def naive(
    hidden: Any, head: Unembedding, targets: Any, weights: Any, z_loss: float, smoothing: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sum, token losses and correctness, written out: Kullback-Leibler from the smoothed target."""
    logits = head.multiplier * jnp.einsum("btd,dv->btv", hidden, head.kernel_DV)
    if head.soft_cap is not None:
        logits = head.soft_cap * jnp.tanh(logits / head.soft_cap)
    logits = logits[..., : head.vocab_size]
    size = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(targets, size)
    q = one_hot * (1 - smoothing) + (1 - one_hot) * smoothing / (size - 1)
    divergence = (jax.scipy.special.xlogy(q, q) - q * log_p).sum(-1)
    total = weights * (divergence + z_loss * jax.nn.logsumexp(logits, -1) ** 2)
    trained = weights != 0
    token_losses = jnp.where(trained, -(one_hot * log_p).sum(-1), 0.0)
    return total.sum(), token_losses, (logits.argmax(-1) == targets) & trained


@settings(max_examples=24)
@given(
    seed=st.integers(0, 999),
    weights=st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.25, 3.0]), min_size=B * T, max_size=B * T),
    chunk_size=st.sampled_from([1, 3, 7, 100, None]),
    z_loss=st.sampled_from([0.0, 0.05]),
    smoothing=st.sampled_from([0.0, 0.2]),
    head=st.sampled_from(HEADS),
)
def test_equals_the_naive_loss(
    seed: int,
    weights: list[float],
    chunk_size: int | None,
    z_loss: float,
    smoothing: float,
    head: dict[str, Any],
) -> None:
    hidden, kernel, targets = arrays(seed)
    weights_BT = np.array(weights, np.float32).reshape(B, T)

    def ours(hidden: Any, kernel: Any) -> tuple[jax.Array, LossOutput]:
        out = cross_entropy(
            hidden,
            Unembedding(kernel, **head),
            targets,
            weights_BT,
            z_loss=z_loss,
            label_smoothing=smoothing,
            chunk_size=chunk_size,
        )
        return 1.7 * out.loss_sum, out

    def theirs(hidden: Any, kernel: Any) -> tuple[jax.Array, Any]:
        out = naive(hidden, Unembedding(kernel, **head), targets, weights_BT, z_loss, smoothing)
        return 1.7 * out[0], out

    (value, out), gradient = jax.value_and_grad(ours, (0, 1), has_aux=True)(hidden, kernel)
    (expected, parts), expected_gradient = jax.value_and_grad(theirs, (0, 1), has_aux=True)(hidden, kernel)
    close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    close(value, expected)
    close(out.token_losses_BT, parts[1])
    np.testing.assert_array_equal(out.token_correct_BT, parts[2])
    close(out.weight_sum, weights_BT.sum())
    jax.tree.map(close, gradient, expected_gradient)
    # Without a gradient another program runs; it gives the same.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), ours(hidden, kernel)[1], out)


def test_gradient_by_the_weights() -> None:
    hidden, kernel, targets = arrays(0)
    weights = jnp.asarray(np.random.default_rng(1).uniform(0.5, 2.0, (B, T)), jnp.float32)
    settings_ = {"z_loss": 0.1, "label_smoothing": 0.1}

    def ours(weights: Any) -> jax.Array:
        head = Unembedding(kernel)
        return cross_entropy(hidden, head, targets, weights, chunk_size=2, **settings_).loss_sum

    expected = jax.grad(lambda w: naive(hidden, Unembedding(kernel), targets, w, 0.1, 0.1)[0])(weights)
    np.testing.assert_allclose(jax.grad(ours)(weights), expected, rtol=1e-5)


def test_only_the_sum_has_a_gradient() -> None:
    hidden, kernel, targets = arrays(0)

    def others(hidden: Any) -> jax.Array:
        out = cross_entropy(hidden, Unembedding(kernel), targets, jnp.ones((B, T)))
        return out.token_losses_BT.sum() + out.token_correct_BT.sum() + out.weight_sum

    assert (jax.grad(others)(hidden) == 0).all()


def test_a_perfect_prediction_costs_nothing_under_smoothing() -> None:
    smoothing = 0.2
    q = np.full((1, 1, V), smoothing / (V - 1), np.float32)
    q[0, 0, 4] = 1 - smoothing
    out = cross_entropy(
        jnp.log(q),
        Unembedding(jnp.eye(V)),
        np.array([[4]]),
        jnp.ones((1, 1)),
        label_smoothing=smoothing,
    )
    np.testing.assert_allclose(out.loss_sum, 0.0, atol=1e-6)


def test_all_zero_weights() -> None:
    hidden, kernel, targets = arrays(0)

    def loss(hidden: Any, kernel: Any) -> tuple[jax.Array, LossOutput]:
        out = cross_entropy(hidden, Unembedding(kernel), targets, jnp.zeros((B, T)), z_loss=0.1, label_smoothing=0.1)
        return out.loss_sum, out

    (value, out), gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, kernel)
    for leaf in jax.tree.leaves((value, out, gradient)):
        assert (np.asarray(leaf) == 0).all()


def test_pieces_without_weight_are_not_computed() -> None:
    # Trained positions are gathered to the front, so that the NaNs fall into a piece that is skipped.
    hidden, kernel, targets = arrays(0)
    weights = np.zeros((B, T), np.float32)
    weights[:, [2, 5]] = 1.0
    hidden = jnp.where(weights[..., None] > 0, hidden, jnp.nan)

    def loss(hidden: Any, kernel: Any, chunk: int) -> jax.Array:
        head = Unembedding(kernel)
        return cross_entropy(hidden, head, targets, weights, chunk_size=chunk).loss_sum

    for leaf in jax.tree.leaves(jax.value_and_grad(loss, (0, 1))(hidden, kernel, 2)):
        assert np.isfinite(leaf).all()
    # The same NaNs in the trained piece do show.
    assert not np.isfinite(jax.grad(loss, 1)(hidden, kernel, 3)).all()


@pytest.mark.parametrize("bad", [-1, 9, 10**6])
def test_target_that_is_no_token(bad: int) -> None:
    hidden, kernel, targets = arrays(0)
    targets[0, 0] = bad
    weights = np.ones((B, T), np.float32)
    weights[0, 0] = 0.0
    head = Unembedding(kernel, vocab_size=9)
    assert np.isfinite(cross_entropy(hidden, head, targets, weights).loss_sum)


def test_equal_logits_count_the_first_as_predicted() -> None:
    targets = np.array([[0, 1, 2]])
    out = cross_entropy(jnp.ones((1, 3, D)), Unembedding(jnp.zeros((D, V))), targets, jnp.ones((1, 3)))
    np.testing.assert_array_equal(out.token_correct_BT, [[1.0, 0.0, 0.0]])


def test_bfloat16_hidden_states() -> None:
    hidden, kernel, targets = arrays(0, dtype=jnp.bfloat16)

    def loss(hidden: Any, kernel: Any) -> jax.Array:
        return cross_entropy(hidden, Unembedding(kernel), targets, jnp.ones((B, T))).loss_sum

    value, gradient = jax.value_and_grad(loss, (0, 1))(hidden, kernel)
    exact, exact_gradient = jax.value_and_grad(loss, (0, 1))(hidden.astype(jnp.float32), kernel)
    assert gradient[0].dtype == jnp.bfloat16
    assert gradient[1].dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=0.01)
    for ours, theirs in zip(gradient, exact_gradient, strict=True):
        ours = np.asarray(ours, np.float32)
        assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


def test_micro_batches_in_a_scan_add_up() -> None:
    hidden, kernel, targets = arrays(0, rows=8)
    weights = jnp.asarray(np.random.default_rng(2).integers(0, 2, (8, T)), jnp.float32)

    def loss(kernel: Any, hidden: Any, targets: Any, weights: Any) -> jax.Array:
        return cross_entropy(hidden, Unembedding(kernel), targets, weights, chunk_size=2).loss_sum

    def parts(kernel: Any) -> Any:
        def body(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(kernel, *part)), None

        split = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), (hidden, jnp.asarray(targets), weights))
        return jax.lax.scan(body, (jnp.zeros(()), jnp.zeros_like(kernel)), split)[0]

    whole = jax.value_and_grad(loss)(kernel, hidden, targets, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), jax.jit(parts)(kernel), whole)


def test_sharded_equals_single_device() -> None:
    rng = np.random.default_rng(3)
    rows, width, vocab = 8, 4, 12
    hidden = jnp.asarray(rng.normal(size=(rows, T, width)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(width, vocab)), jnp.float32)
    targets, weights = (
        rng.integers(0, 10, (rows, T)),
        rng.integers(0, 2, (rows, T)).astype(np.float32),
    )

    def loss(hidden: Any, kernel: Any, targets: Any, weights: Any) -> tuple[jax.Array, LossOutput]:
        head = Unembedding(kernel, vocab_size=10)
        out = cross_entropy(hidden, head, targets, weights, z_loss=0.1, chunk_size=2)
        return out.loss_sum, out

    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    place = partial(jax.NamedSharding, mesh)
    spec = jax.sharding.PartitionSpec
    rows_cut, kernel_cut = place(spec(("data", "fsdp"))), place(spec("fsdp", "model"))
    with activation_rules(mesh):
        got = jax.jit(run, in_shardings=(rows_cut, kernel_cut, rows_cut, rows_cut))(hidden, kernel, targets, weights)
    expected = jax.jit(run)(hidden, kernel, targets, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, expected)


@pytest.mark.parametrize(("name", "value"), [("label_smoothing", 1.0), ("chunk_size", 0)])
def test_wrong_values(name: str, value: float) -> None:
    hidden, kernel, targets = arrays(0)
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        cross_entropy(hidden, Unembedding(kernel), targets, jnp.ones((B, T)), **{name: value})


def shapes_in(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of all values in a jaxpr and the jaxprs within it."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield getattr(variable.aval, "shape", ())
        for parameter in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


def test_no_array_of_all_logits() -> None:
    rows, length, width, vocab, chunk = 4, 32, 3, 101, 8
    hidden, kernel = jnp.zeros((rows, length, width)), jnp.zeros((width, vocab))
    targets, weights = jnp.zeros((rows, length), jnp.int32), jnp.ones((rows, length))

    def sizes(loss: Any) -> list[int]:
        jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(hidden, kernel)
        return [int(np.prod(shape)) for shape in shapes_in(jaxpr.jaxpr) if vocab in shape]

    def chunked(hidden: Any, kernel: Any) -> jax.Array:
        head = Unembedding(kernel, soft_cap=3.0, vocab_size=100)
        return cross_entropy(hidden, head, targets, weights, z_loss=0.1, label_smoothing=0.1, chunk_size=chunk).loss_sum

    def whole(hidden: Any, kernel: Any) -> jax.Array:
        return naive(hidden, Unembedding(kernel), targets, weights, 0.0, 0.0)[0]

    assert max(sizes(chunked)) == rows * chunk * vocab
    assert max(sizes(whole)) >= rows * length * vocab  # the walk does see such arrays
