"""Micro-batches give the whole batch's gradient, for real models and every loss; what dropout's keys decide."""

import itertools

import jax
import numpy as np
import pytest

from benchmarks.exactness import (
    CONFIGS,
    LOSSES,
    NORMALIZERS,
    NUM_TASKS,
    TOLERANCE,
    gradient_difference,
    initial_params,
    packed_batch,
    step_gradient,
    tiny_model,
)
from t5x_instruct.training import schedules
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.state import create_state
from t5x_instruct.training.step import accumulate, make_eval_step, make_train_step, per_example_weights, supervised_loss


def check_gradients(kind, loss, normalizer, micro_batches):
    whole = step_gradient(kind, loss, normalizer, 1)
    parts = step_gradient(kind, loss, normalizer, micro_batches)
    assert gradient_difference(parts, whole) < TOLERANCE
    assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(whole))


@pytest.mark.parametrize("kind", CONFIGS)
def test_four_micro_batches_give_the_whole_batch_s_gradient(kind):
    examples = np.asarray(per_example_weights(packed_batch(tiny_model(kind), 0))).sum(axis=1)
    examples = examples.reshape(-1, 4).sum(axis=0)
    assert examples.max() > 1.1 * examples.min()  # a mean of the micro-batches' means would be another gradient
    check_gradients(kind, "both", "per_example", 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "loss", "normalizer", "micro_batches"), list(itertools.product(CONFIGS, LOSSES, NORMALIZERS, (2, 4)))
)
def test_any_micro_batches_give_the_whole_batch_s_gradient(kind, loss, normalizer, micro_batches):
    check_gradients(kind, loss, normalizer, micro_batches)


def test_a_micro_batch_drops_what_its_own_key_says():
    model, batch = tiny_model("decoder", dropout_rate=0.3), packed_batch(tiny_model("decoder"), 0)
    params, key = initial_params("decoder"), jax.random.key(5)

    def compiled(batch, micro_batches):
        def gradient(batch, key):
            return accumulate(supervised_loss(model), params, batch, key, micro_batches, NUM_TASKS)[0]

        return jax.jit(gradient).lower(batch, key).compile()

    both = compiled(batch, 2)(batch, key)
    halves = [{name: rows[index::2] for name, rows in batch.items()} for index in range(2)]
    of_half = compiled(halves[0], 1)
    apart = [of_half(half, jax.random.fold_in(key, index)) for index, half in enumerate(halves)]
    assert gradient_difference(both, jax.tree.map(np.add, *apart)) < TOLERANCE
    # Another key drops something else, and both halves do not share a mask.
    other = of_half(halves[1], jax.random.fold_in(key, 0))
    assert gradient_difference(other, apart[1]) > 1e-2


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_dropout_no_random_number_is_drawn(kind):
    batch = packed_batch(tiny_model(kind), 0)
    optimizer = adamw(schedules.constant(1e-3))

    def random_parts(dropout_rate):
        model = tiny_model(kind, dropout_rate)
        step = make_train_step(
            supervised_loss(model), optimizer, num_tasks=NUM_TASKS, dropout=dropout_rate > 0, micro_batches=2
        )
        state = jax.eval_shape(lambda: create_state(initial_params(kind), optimizer))
        evaluation = make_eval_step(supervised_loss(model), num_tasks=NUM_TASKS)
        texts = (str(jax.make_jaxpr(step)(state, batch)), str(jax.make_jaxpr(evaluation)(state.params, batch)))
        return ["random_" in text or "threefry" in text for text in texts]

    assert random_parts(0.0) == [False, False]
    assert random_parts(0.1) == [True, False]
