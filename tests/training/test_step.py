from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.training import schedules
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.state import abstract_state, create_state, place_state, state_shardings
from t5x_instruct.training.step import accumulate, compile_step, make_eval_step, make_train_step, supervised_loss

from .tiny import NUM_TASKS, ragged_batch, tiny_model, tiny_params


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def params(model):
    return tiny_params(model)


@partial(jax.jit, static_argnums=(0, 3))
def gradient_sums(model, params, batch, micro_batches):
    return accumulate(supervised_loss(model), params, batch, None, micro_batches, NUM_TASKS)


def relative_difference(a, b):
    difference = jax.tree.map(lambda x, y: float(jnp.linalg.norm(x - y) / (jnp.linalg.norm(y) + 1e-12)), a, b)
    return max(jax.tree.leaves(difference))


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_any_number_of_micro_batches_gives_the_same_gradient(model, params, micro_batches):
    batch = ragged_batch()
    whole, whole_sums = gradient_sums(model, params, batch, 1)
    parts, parts_sums = gradient_sums(model, params, batch, micro_batches)
    assert relative_difference(parts, whole) < 1e-5
    for name, value in whole_sums.items():
        np.testing.assert_allclose(parts_sums[name], value, rtol=1e-5)
    per_row = batch["decoder_loss_weights"].sum(1)
    assert per_row.min() == 0
    assert per_row.max() > 4  # uneven, so that a mean of means would differ


def test_the_mean_of_micro_batch_means_would_be_seen(model, params):
    """The fault the test above guards against is larger than its tolerance."""
    batch = ragged_batch()
    whole, sums = gradient_sums(model, params, batch, 1)
    halves = []
    for rows in (slice(0, 4), slice(4, 8)):
        half, half_sums = gradient_sums(model, params, {k: v[rows] for k, v in batch.items()}, 1)
        halves.append(jax.tree.map(lambda g, w=half_sums["weight_sum"]: g / w, half))
    mean_of_means = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert relative_difference(mean_of_means, jax.tree.map(lambda g: g / sums["weight_sum"], whole)) > 1e-2


def test_metrics_count_trained_tokens_only_and_by_task(model, params):
    batch = ragged_batch()
    sums = jax.jit(make_eval_step(supervised_loss(model), num_tasks=NUM_TASKS))(params, batch)
    logits = np.asarray(jax.jit(lambda p: model.logits(p, model.hidden(p, batch)))(params), np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_probs, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    trained = batch["decoder_loss_weights"] > 0
    assert sums["target_tokens"] == trained.sum()
    assert sums["nonpadding_tokens"] == (batch["decoder_segment_ids"] > 0).sum()
    assert sums["slots"] == trained.size
    np.testing.assert_allclose(sums["loss_sum"], losses[trained].sum(), rtol=1e-5)
    correct = (logits.argmax(-1) == batch["decoder_target_tokens"]) & trained
    assert sums["correct_sum"] == correct.sum()
    for task in range(NUM_TASKS):
        of_task = trained & (batch["decoder_task_ids"] == task)
        np.testing.assert_allclose(sums["task_loss_sum"][task], losses[of_task].sum(), rtol=1e-5)
        assert sums["task_weight_sum"][task] == of_task.sum()


def test_the_step_takes_the_mean_over_trained_tokens_clips_and_moves_by_the_logged_rate(model, params):
    schedule = schedules.linear(0.02, total_steps=10, warmup_steps=3)
    batch = ragged_batch()
    step = jax.jit(make_train_step(supervised_loss(model), adamw(schedule, clip_norm=1e-3), num_tasks=NUM_TASKS))
    gradient, sums = gradient_sums(model, params, batch, 1)
    mean = jax.tree.map(lambda g: g / sums["weight_sum"], gradient)
    norm = np.sqrt(sum(float(np.square(np.asarray(g, np.float64)).sum()) for g in jax.tree.leaves(mean)))
    state, metrics = step(create_state(params, adamw(schedule)), batch)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 1e-3
    # After one step Adam's first moment is (1 - b1) times the gradient it was given.
    clipped = jax.tree.map(lambda m: m / 0.1, state.opt_state.mu)
    assert relative_difference(clipped, jax.tree.map(lambda g: g * 1e-3 / norm, mean)) < 1e-4
    assert metrics["learning_rate"] == pytest.approx(0.02 / 3)
    second, metrics = step(state, batch)
    assert metrics["learning_rate"] == pytest.approx(2 * 0.02 / 3)
    assert int(second.step) == 2


def test_a_constant_normalizer_divides_the_sum_by_it(model, params):
    batch, optimizer = ragged_batch(), adamw(schedules.constant(0.0), clip_norm=None)
    states = {}
    for factor in (None, 7.0):
        step = make_train_step(supervised_loss(model), optimizer, num_tasks=NUM_TASKS, loss_normalizing_factor=factor)
        states[factor], metrics = jax.jit(step)(create_state(params, optimizer), batch)
    ratio = float(metrics["weight_sum"]) / 7.0
    scaled = jax.tree.map(lambda m: m * ratio, states[None].opt_state.mu)
    assert relative_difference(states[7.0].opt_state.mu, scaled) < 1e-5


def test_dropout_depends_on_seed_and_step_alone():
    model = tiny_model(dropout_rate=0.3)
    params, batch = tiny_params(model), ragged_batch()
    optimizer = adamw(schedules.constant(0.0))

    def losses(seed):
        step = jax.jit(make_train_step(supervised_loss(model), optimizer, num_tasks=NUM_TASKS, seed=seed, dropout=True))
        state = create_state(params, optimizer)
        values = []
        for _ in range(2):
            state, metrics = step(state, batch)
            values.append(float(metrics["loss_sum"]))
        return values

    first = losses(0)
    assert first == losses(0)
    assert first[0] != first[1]
    assert first[0] != losses(1)[0]


@pytest.mark.parametrize("mesh_config", [MeshConfig(data=2, fsdp=2, model=2), MeshConfig(replica=2, fsdp=4)])
def test_a_mesh_trains_like_one_device_and_compiles_once(model, params, mesh_config):
    optimizer = adamw(schedules.constant(0.01))

    def losses(config, devices):
        mesh = make_mesh(config, devices)
        shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)
        step = compile_step(
            make_train_step(supervised_loss(model), optimizer, num_tasks=NUM_TASKS), shardings, mesh, donate=True
        )
        copied = jax.device_put(jax.tree.map(np.asarray, params), shardings.params)
        state = place_state(copied, optimizer, shardings)
        values = []
        for seed in range(5):
            state, metrics = step(state, to_global(ragged_batch(seed), mesh))
            values.append(float(metrics["loss_sum"]))
        assert step._cache_size() == 1
        return np.array(values), state

    one, _ = losses(MeshConfig(fsdp=1), jax.devices()[:1])
    many, state = losses(mesh_config, jax.devices())
    np.testing.assert_allclose(many, one, rtol=1e-5)
    kernel = state.params["decoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert not kernel.sharding.is_fully_replicated
    moments = state.opt_state.mu["decoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert moments.sharding == kernel.sharding
