"""LOSS_NORMALIZING_FACTOR: what the gradient is divided by, for any packing and any number of micro-batches."""

import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import Unembedding
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.training import schedules
from t5x_instruct.training.loop import LoopConfig
from t5x_instruct.training.optimizers import sgd
from t5x_instruct.training.state import create_state
from t5x_instruct.training.step import make_train_step, per_example_weights, supervised_loss

from .tiny import NUM_TASKS, VOCAB, ragged_batch

EXTRAS = {"z_loss": 0.05, "label_smoothing": 0.1}
# Gives hidden states and a head as a model does, and compiles at once.
BIGRAMS = types.SimpleNamespace(
    hidden=lambda params, batch, dropout_rng=None: params["embedding"][batch["decoder_input_tokens"]],
    unembedding=lambda params: Unembedding(params["kernel"]),
)
PLAIN_SGD = sgd(schedules.constant(1.0), momentum=0.0, clip_norm=None)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(3)
    shapes = {"embedding": (VOCAB, 8), "kernel": (8, VOCAB)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def gradient_of_step(params, batch, factor, micro_batches=1):
    """What a step of plain descent with rate 1 subtracts, and its metrics."""
    loss = supervised_loss(BIGRAMS, **EXTRAS)
    step = make_train_step(
        loss, PLAIN_SGD, num_tasks=NUM_TASKS, micro_batches=micro_batches, loss_normalizing_factor=factor
    )
    state, metrics = jax.jit(step)(create_state(params, PLAIN_SGD), batch)
    return jax.tree.map(lambda before, after: before - after, params, state.params), metrics


def assert_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jnp.linalg.norm(x - y) <= tolerance * jnp.linalg.norm(y)


def segments_of(batch):
    """Masks [batch, length] of the packed examples with a trained token."""
    for row, ids in enumerate(batch["decoder_segment_ids"]):
        for segment in range(1, ids.max() + 1):
            mask = np.zeros(batch["decoder_segment_ids"].shape, bool)
            mask[row] = (ids == segment) & (batch["decoder_loss_weights"][row] > 0)
            if mask.any():
                yield mask


@partial(jax.jit, static_argnums=2)
def mean_loss_gradient(params, batch, extras, weights):
    def loss(params):
        output = cross_entropy(
            BIGRAMS.hidden(params, batch),
            BIGRAMS.unembedding(params),
            batch["decoder_target_tokens"],
            weights,
            **dict(extras),
        )
        return output.loss_sum / output.weight_sum

    return jax.grad(loss)(params)


def test_per_example_is_the_mean_over_examples_of_their_means(params):
    batch = ragged_batch()
    masks = list(segments_of(batch))
    lengths = [int(mask.sum()) for mask in masks]
    assert max(lengths) > 2 * min(lengths)
    assert len(masks) < (batch["decoder_segment_ids"].max(1)).sum()  # some examples have nothing to train
    gradients = [mean_loss_gradient(params, batch, tuple(EXTRAS.items()), jnp.float32(mask)) for mask in masks]
    expected = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
    got, metrics = gradient_of_step(params, batch, "per_example")
    assert_close(got, expected, 1e-5)
    assert metrics["weight_sum"] == pytest.approx(len(masks), rel=1e-6)
    assert metrics["target_tokens"] == sum(lengths)
    token_mean, _ = gradient_of_step(params, batch, None)
    with pytest.raises(AssertionError):
        assert_close(token_mean, expected, 0.05)


@pytest.mark.parametrize("factor", [None, 7.0, "per_example"])
def test_accumulated_gradients_are_the_whole_batch_s(params, factor):
    batch = ragged_batch()
    whole, whole_metrics = gradient_of_step(params, batch, factor)
    parts, metrics = gradient_of_step(params, batch, factor, micro_batches=4)
    assert_close(parts, whole, 1e-5)
    np.testing.assert_allclose(metrics["loss_sum"], whole_metrics["loss_sum"], rtol=1e-6)
    np.testing.assert_allclose(metrics["weight_sum"], whole_metrics["weight_sum"], rtol=1e-6)


def test_per_example_does_not_see_how_examples_are_packed():
    batch = ragged_batch()
    weights = np.asarray(per_example_weights(batch))
    totals = [weights[mask].sum() for mask in segments_of(batch)]
    np.testing.assert_allclose(totals, 1.0, rtol=1e-6)
    assert weights.sum() == pytest.approx(len(totals))
    assert ((weights > 0) == (batch["decoder_loss_weights"] > 0)).all()
    alone = {"decoder_loss_weights": batch["decoder_loss_weights"] * (batch["decoder_segment_ids"] == 2)}
    unpacked = np.asarray(per_example_weights(alone))  # one segment a row, without segment ids
    np.testing.assert_allclose(unpacked, weights * (batch["decoder_segment_ids"] == 2), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, -1, "per_token"])
def test_a_factor_that_makes_no_sense_is_refused(factor):
    with pytest.raises(ConfigError, match="LOSS_NORMALIZING_FACTOR.*per_example"):
        LoopConfig(train_steps=1, loss_normalizing_factor=factor)
