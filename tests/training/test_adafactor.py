import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.training import schedules
from t5x_instruct.training.adafactor import Factored, adafactor, factored_axes
from t5x_instruct.training.state import abstract_state, create_state, place_state, state_shardings
from t5x_instruct.training.step import compile_step, make_train_step, supervised_loss

from .tiny import NUM_TASKS, ragged_batch, tiny_model, tiny_params

RATE = schedules.constant(1e-3)
AXES = {
    "embedding": ("vocab", "embed"),
    "layers": {
        "query": {"kernel": ("layers", "embed", "heads", "kv")},
        "out": {"kernel": ("layers", "heads", "kv", "embed")},
        "norm": {"scale": ("layers", "norm")},
    },
}
SHAPES = {
    "embedding": (11, 8),
    "layers": {"query": {"kernel": (3, 8, 2, 5)}, "out": {"kernel": (3, 2, 5, 8)}, "norm": {"scale": (3, 8)}},
}


def is_tuple(node):
    return isinstance(node, tuple)


def drawn(seed, shapes=SHAPES):
    """Arrays whose layers differ a hundredfold, so that sharing anything over the stack would be seen."""
    rng = np.random.default_rng(seed)

    def one(shape):
        sizes = 10.0 ** np.arange(-1, shape[0] - 1) if shape[0] == 3 else np.ones(shape[0])
        return (rng.normal(size=shape) * sizes.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)

    return jax.tree.map(one, shapes, is_leaf=is_tuple)


def unstacked(tree, is_leaf=None):
    """`layers/x` [3, ...] as `layers_0/x`, `layers_1/x`, `layers_2/x`."""
    take = lambda i: jax.tree.map(lambda x: x[1:] if is_tuple(x) else x[i], tree["layers"], is_leaf=is_leaf)  # noqa: E731
    return {"embedding": tree["embedding"]} | {f"layers_{i}": take(i) for i in range(3)}


def run(optimizer, params, gradients):
    transform, directions = optimizer.transform, []
    state, update = transform.init(params), jax.jit(transform.update)
    for gradient in gradients:
        direction, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
        directions.append(direction)
    return params, state, directions


def assert_close(a, b, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(y)


def bound(axes=AXES, **options):
    return adafactor(RATE, **({"min_dim_size_to_factor": 2} | options)).for_axes(axes)


@pytest.mark.parametrize("options", [{}, {"b1": 0.9, "weight_decay": 0.1}, {"min_dim_size_to_factor": 9}])
def test_a_stack_of_layers_moves_as_the_layers_do(options):
    gradients = [drawn(seed) for seed in range(1, 5)]
    stacked, _, directions = run(bound(**options), drawn(0), gradients)
    apart = bound(unstacked(AXES, is_leaf=is_tuple), **options)
    single, _, expected = run(apart, unstacked(drawn(0)), [unstacked(g) for g in gradients])
    assert_close(unstacked(stacked), single)
    for direction, wanted in zip(directions, expected, strict=True):
        assert_close(unstacked(direction), wanted)


def test_optax_on_the_stack_is_another_optimizer():
    """What the test above guards against is far above its tolerance."""
    theirs = optax.adafactor(None, min_dim_size_to_factor=2)
    params, gradient = drawn(0)["layers"]["norm"], drawn(1)["layers"]["norm"]
    direction, _ = theirs.update(gradient, theirs.init(params), params)
    ours, _ = bound({"scale": ("layers", "norm")}).transform.update(
        gradient, bound({"scale": ("layers", "norm")}).transform.init(params), params
    )
    assert np.abs(np.asarray(-direction["scale"]) / ours["scale"] - 1).max() > 0.5


def published(x, gradients, threshold=1.0, scaled=True, factored=True):
    """Algorithms 4 and 5 of arXiv:1804.04235 on one matrix or vector in float64; gives the updates."""
    r = c = v = 0.0
    updates = []
    for t, g in enumerate(gradients, start=1):
        decay = 1 - t**-0.8
        square = g * g + 1e-30
        if factored:
            r = decay * r + (1 - decay) * square.sum(1)
            c = decay * c + (1 - decay) * square.sum(0)
            estimate = np.outer(r, c) / r.sum()
        else:
            v = decay * v + (1 - decay) * square
            estimate = v
        u = g / np.sqrt(estimate)
        u /= max(1.0, np.sqrt((u * u).mean()) / threshold)
        if scaled:
            u *= max(1e-3, np.sqrt((x * x).mean()))
        updates.append(u)
        x = x - 0.1 * u
    return updates


@pytest.mark.parametrize("options", [{}, {"multiply_by_parameter_scale": False, "clipping_threshold": 0.5}])
def test_it_is_the_published_algorithm_on_the_matrices_the_axes_name(options):
    params, gradients = drawn(0), [drawn(seed) for seed in range(1, 5)]
    _, _, directions = run(bound(**options), params, gradients)
    settings = {"threshold": options.get("clipping_threshold", 1.0), "scaled": not options}

    def compare(pick, shape, factored=True):
        x, *gs = (np.asarray(pick(tree), np.float64).reshape(shape) for tree in [params, *gradients])
        wanted = published(x, gs, factored=factored, **settings)
        for direction, update in zip(directions, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(pick(direction)).reshape(shape), update, rtol=2e-5)

    compare(lambda tree: tree["embedding"], (11, 8))
    for layer in range(3):
        compare(lambda tree, i=layer: tree["layers"]["query"]["kernel"][i], (8, 10))
        compare(lambda tree, i=layer: tree["layers"]["out"]["kernel"][i], (10, 8))
        compare(lambda tree, i=layer: tree["layers"]["norm"]["scale"][i], (8,), factored=False)


@pytest.mark.parametrize("scaled", [True, False])
def test_it_is_optax_on_one_matrix(scaled):
    axes, shapes = {"kernel": ("embed", "mlp")}, {"kernel": (6, 9)}
    params, gradients = drawn(0, shapes), [drawn(seed, shapes) for seed in range(1, 4)]
    _, _, ours = run(bound(axes, multiply_by_parameter_scale=scaled), params, gradients)
    theirs = optax.adafactor(None, multiply_by_parameter_scale=scaled, min_dim_size_to_factor=2)
    state = theirs.init(params)
    for gradient, direction in zip(gradients, ours, strict=True):
        expected, state = theirs.update(gradient, state, params)
        assert_close(direction, jax.tree.map(jnp.negative, expected), 2e-6)
        params = jax.tree.map(lambda p, d: p + 0.1 * d, params, expected)


def test_statistics_have_the_shapes_of_rows_and_columns():
    statistics = bound().transform.init(drawn(0)).statistics
    shapes = jax.tree.map(jnp.shape, statistics)
    assert shapes["embedding"] == Factored((8,), (11,))
    assert shapes["layers"]["query"]["kernel"] == Factored((3, 8), (3, 2, 5))
    assert shapes["layers"]["out"]["kernel"] == Factored((3, 8), (3, 2, 5))
    assert shapes["layers"]["norm"]["scale"] == (3, 8)  # vectors, also stacked ones, are not factored
    small = bound(min_dim_size_to_factor=9).transform.init(drawn(0)).statistics
    assert small["layers"]["query"]["kernel"].shape == (3, 8, 2, 5)
    assert factored_axes(("layers", "heads", "kv", "embed")) == Factored(("layers", "embed"), ("layers", "heads", "kv"))


def test_zero_gradients_leave_the_parameters():
    params = drawn(0)
    _, _, directions = run(bound(), params, [jax.tree.map(np.zeros_like, params)] * 2)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(directions))


def test_eight_devices_step_as_one_with_sharded_statistics():
    model, batch = tiny_model(), ragged_batch()
    params = tiny_params(model)
    optimizer = adafactor(RATE, min_dim_size_to_factor=8, b1=0.9, weight_decay=0.1).for_axes(model.param_axes())

    def stepped(config, devices):
        mesh = make_mesh(config, devices)
        shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)
        step = make_train_step(supervised_loss(model), optimizer, num_tasks=NUM_TASKS)
        state = place_state(jax.device_put(jax.tree.map(np.asarray, params), shardings.params), optimizer, shardings)
        return compile_step(step, shardings, mesh, donate=True)(state, to_global(batch, mesh))[0]

    one = stepped(MeshConfig(fsdp=1), jax.devices()[:1])
    many = stepped(MeshConfig(data=2, fsdp=2, model=2), jax.devices())
    assert_close(many.params, one.params)
    assert_close(many.opt_state, one.opt_state, 1e-4)
    layers = many.opt_state[0][0].statistics["decoder"]["layers"]
    query, wi = layers["self_attention"]["query"]["kernel"], layers["mlp"]["wi_0"]["kernel"]
    assert (query.row.sharding.spec, query.column.sharding.spec) == (P(None, "fsdp"), P(None, "model", None))
    assert (wi.row.sharding.spec, wi.column.sharding.spec) == (P(None, "fsdp"), P(None, "model"))
    momentum = many.opt_state[0][1].ema["decoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert momentum.sharding == many.params["decoder"]["layers"]["mlp"]["wi_0"]["kernel"].sharding


def test_the_axes_have_to_be_known():
    with pytest.raises(ConfigError, match="for_axes"):
        create_state(drawn(0), adafactor(RATE))
    with pytest.raises(ConfigError, match="layers/nrm/scale.*layers/norm/scale"):
        bound().transform.init({"layers": {"nrm": {"scale": np.ones((3, 8))}}})


def test_every_bad_value_is_reported():
    with pytest.raises(ConfigError) as error:
        adafactor(
            RATE, decay_exponent=0, clipping_threshold=0, b1=1.0, weight_decay=-1, eps=0, scale_eps=0, clip_norm=0
        )
    assert len(error.value.problems) == 7
