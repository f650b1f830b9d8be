"""The one train step with a frozen model: only adapters move, and only they have gradients and moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t5x_instruct.models.api import ADAPTERS, split_trained
from t5x_instruct.models.lora import LoraConfig, LoraModel
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.training.optimizers import adamw, with_ema
from t5x_instruct.training.schedules import constant
from t5x_instruct.training.state import abstract_state, create_state, state_shardings
from t5x_instruct.training.step import make_train_step, supervised_loss
from tests.training.tiny import NUM_TASKS, ragged_batch, tiny_model

OPTIMIZER = with_ema(adamw(constant(1e-2), weight_decay=0.1), 0.9)


@pytest.fixture(scope="module")
def model():
    return LoraModel(tiny_model(), LoraConfig(rank=2))


def test_only_adapters_move(model):
    params = jax.jit(model.init)(jax.random.key(0))
    state = create_state(params, OPTIMIZER)
    step = jax.jit(make_train_step(supervised_loss(model), OPTIMIZER, num_tasks=NUM_TASKS, micro_batches=2))
    losses = []
    for _ in range(4):
        state, metrics = step(state, ragged_batch())
        losses.append(float(metrics["loss_sum"]))
    assert losses == sorted(losses, reverse=True)
    trained, frozen = split_trained(params)
    jax.tree.map(np.testing.assert_array_equal, state.frozen, frozen)
    moved = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), state.params, trained)
    assert all(jax.tree.leaves(moved))
    # Two moments and a counter, and no array of them is as large as a kernel.
    sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
    assert sum(sizes) == 2 * sum(leaf.size for leaf in jax.tree.leaves(trained)) + 1
    assert jax.tree.structure(state.averaged_params) == jax.tree.structure(params)
    assert jax.tree.structure(state.saved) == jax.tree.structure(create_state(trained, OPTIMIZER))


def test_no_gradient_by_a_frozen_kernel(model):
    state = abstract_state(model.init, OPTIMIZER)
    step = make_train_step(supervised_loss(model), OPTIMIZER, num_tasks=NUM_TASKS)
    lowered = jax.jit(step, donate_argnums=0).lower(state, ragged_batch())
    analysis = lowered.compile().memory_analysis()
    # All that comes in goes out in place: nothing is copied.
    assert analysis.alias_size_in_bytes >= sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def test_frozen_parts_lie_where_the_mesh_puts_them(model):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    shardings = state_shardings(abstract_state(model.init, OPTIMIZER), model.param_axes(), OPTIMIZER, mesh)
    query = shardings.frozen["decoder"]["layers"]["self_attention"]["query"]["kernel"]
    assert query.spec == PartitionSpec(None, "fsdp", "model", None)
    layer = shardings.params["decoder"]["layers"]["self_attention"]["query"]
    assert layer["lora_a"].spec == PartitionSpec(None, "fsdp", None)
    assert layer["lora_b"].spec == PartitionSpec(None, None, "model", None)
    moments = shardings.opt_state[0].mu["decoder"]["layers"]["self_attention"]["query"]
    assert moments == layer
    assert shardings.ema == shardings.params
    assert shardings.model_params[ADAPTERS] == shardings.params
