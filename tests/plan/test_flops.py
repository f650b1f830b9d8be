"""Operations are counted as often as they run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.layers.remat import REMAT_POLICIES
from t5x_instruct.models.presets import make_model
from t5x_instruct.plan.flops import count_flops, model_flops
from t5x_instruct.training.step import supervised_loss
from tests.models.tiny import config

BATCH, INPUTS, TARGETS = 3, 8, 4


def batch_for(kind):
    shape = (BATCH, TARGETS if kind == "t5" else INPUTS)
    names = ["input_tokens", "target_tokens", "segment_ids", "positions"]
    batch = {f"decoder_{name}": jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
    batch["decoder_loss_weights"] = jax.ShapeDtypeStruct(shape, jnp.float32)
    if kind == "t5":
        names = ["input_tokens", "segment_ids", "positions"]
        batch |= {f"encoder_{name}": jax.ShapeDtypeStruct((BATCH, INPUTS), jnp.int32) for name in names}
    return batch


def flops_of(kind, **changes):
    model = make_model(config(kind, **changes))
    params = jax.eval_shape(model.init, jax.random.key(0))
    return model_flops(supervised_loss(model), params, batch_for(kind)), params, model.config


def test_loops_branches_and_products():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    assert count_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7
    looped = jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, None, length=4)[0]
    assert looped.shape == a.shape
    assert count_flops(lambda a: jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, None, length=4)[0], a) == (
        4 * 2 * (2 * 3 * 5 * 7)
    )
    branch = lambda p, a: jax.lax.cond(p, lambda a: a @ b, lambda a: (a @ b @ b.T) @ b, a)  # noqa: E731
    assert count_flops(branch, True, a) == 3 * 2 * 3 * 5 * 7
    assert count_flops(jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), a, b) == 3 * 2 * 3 * 5 * 7
    convolved = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "VALID")  # noqa: E731
    assert count_flops(convolved, jnp.zeros((2, 3, 8, 8)), jnp.zeros((5, 3, 3, 3))) == 2 * (2 * 5 * 6 * 6) * (3 * 3 * 3)


def test_against_the_compiler_where_it_has_no_loop():
    a, b = jnp.zeros((16, 32)), jnp.zeros((32, 8))
    compiled = jax.jit(lambda a, b: a @ b).lower(a, b).compile()
    assert count_flops(lambda a, b: a @ b, a, b) == compiled.cost_analysis()["flops"]


@pytest.mark.parametrize("kind", ["decoder", "prefix", "t5"])
def test_scanned_rematerialised_and_unrolled_models_count_the_same(kind):
    counts = {
        flops_of(kind, scan_layers=scan, remat=remat)[0]
        for scan, remat in [(True, "none"), (False, "none"), (True, "full"), (False, "save_dots")]
    }
    assert len(counts) == 1


def test_a_decoder_counts_what_the_formula_says():
    total, params, sizes = flops_of("decoder", vocab_multiple=1)
    tokens = BATCH * INPUTS
    # The embedding is looked up, norms are no products; every other parameter meets every token once.
    products = sum(
        int(np.prod(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1
        and "norm" not in jax.tree_util.keystr(path)
        and "token_embedder" not in jax.tree_util.keystr(path)
    )
    attention = 2 * sizes.num_layers * BATCH * sizes.num_heads * INPUTS * INPUTS * sizes.head_dim
    assert total == 3 * 2 * (products * tokens + attention)


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_what_is_recomputed_counts_in_the_step_alone(kind):
    def with_gradient(remat):
        # In pieces attention computes its scores again whatever the policy.
        model = make_model(config(kind, remat=remat, attention_chunk=2))
        params = jax.eval_shape(model.init, jax.random.key(0))
        loss = supervised_loss(model)
        gradient = jax.grad(lambda p, b: loss(p, b, None).loss_sum)
        return count_flops(gradient, params, batch_for(kind))

    work = {policy: with_gradient(policy) for policy in REMAT_POLICIES}
    assert work["none"] == work["minimal"] == work["offloaded"] < work["save_dots"] < work["full"]
