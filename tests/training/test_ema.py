import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import LossOutput
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.training import schedules
from t5x_instruct.training.optimizers import adamw, sgd, with_ema
from t5x_instruct.training.state import abstract_state, create_state, place_state, state_shardings
from t5x_instruct.training.step import compile_step, make_train_step

AXES = {"mlp": {"kernel": ("embed", "mlp")}}


def init(rng):
    return {"mlp": {"kernel": jax.random.normal(rng, (4, 8))}}


def squared(params, batch, dropout_rng):
    """A loss that reads of the batch only what the metrics do."""
    weights = batch["decoder_loss_weights"]
    loss = jnp.square(params["mlp"]["kernel"]).sum()
    return LossOutput(loss * weights.sum(), weights.sum(), weights, weights)


BATCH = {
    "decoder_loss_weights": np.ones((8, 2), np.float32),
    "decoder_segment_ids": np.ones((8, 2), np.int32),
    "decoder_task_ids": np.zeros((8, 2), np.int32),
}


def test_the_average_follows_its_formula_on_a_mesh_and_is_sharded_as_the_parameters():
    optimizer = with_ema(sgd(schedules.linear(0.1, total_steps=5)), 0.9)
    mesh = make_mesh(MeshConfig(fsdp=2, model=4))
    shardings = state_shardings(abstract_state(init, optimizer), AXES, optimizer, mesh)
    assert shardings.ema == shardings.params
    params = jax.device_put(jax.tree.map(np.asarray, init(jax.random.key(1))), shardings.params)
    state = place_state(params, optimizer, shardings)
    step = compile_step(make_train_step(squared, optimizer, num_tasks=1), shardings, mesh, donate=True)
    expected = np.asarray(state.params["mlp"]["kernel"])
    np.testing.assert_array_equal(state.ema["mlp"]["kernel"], expected)
    for _ in range(4):
        state, _ = step(state, BATCH)
        expected = 0.9 * expected + 0.1 * np.asarray(state.params["mlp"]["kernel"])
        np.testing.assert_allclose(state.ema["mlp"]["kernel"], expected, rtol=1e-5, atol=1e-7)
    assert state.ema["mlp"]["kernel"].sharding == state.params["mlp"]["kernel"].sharding
    assert not np.allclose(state.ema["mlp"]["kernel"], state.params["mlp"]["kernel"])


def test_without_it_the_state_holds_nothing_more_and_moves_the_same():
    plain = adamw(schedules.constant(0.1), weight_decay=0.1)
    states = {}
    for name, optimizer in (("plain", plain), ("ema", with_ema(plain, 0.5))):
        step = jax.jit(make_train_step(squared, optimizer, num_tasks=1))
        state = create_state(init(jax.random.key(0)), optimizer)
        for _ in range(2):
            state, _ = step(state, BATCH)
        states[name] = state
    assert states["plain"].ema is None
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(states["plain"])]
    assert not [name for name in names if "ema" in name]
    assert len(jax.tree.leaves(states["ema"])) == len(names) + 1
    np.testing.assert_array_equal(states["plain"].params["mlp"]["kernel"], states["ema"].params["mlp"]["kernel"])


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ConfigError, match="with_ema.decay"):
        with_ema(adamw(schedules.constant(0.1)), decay)
