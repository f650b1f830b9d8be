"""What weight decay leaves alone, in an encoder-decoder's own tree, for every optimizer."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.exactness import CONFIGS
from t5x_instruct.models.presets import make_model
from t5x_instruct.training import schedules
from t5x_instruct.training.adafactor import adafactor
from t5x_instruct.training.optimizers import adamw, lion, sgd

DECAY = 0.25
OPTIMIZERS = {
    "adamw": lambda: adamw(schedules.constant(1.0), weight_decay=DECAY),
    "lion": lambda: lion(schedules.constant(1.0), weight_decay=DECAY),
    "sgd": lambda: sgd(schedules.constant(1.0), weight_decay=DECAY),
    "adafactor": lambda: adafactor(schedules.constant(1.0), weight_decay=DECAY, b1=0.9, min_dim_size_to_factor=8),
}


def moved_by_decay(model, optimizer):
    """Name of each parameter -> what is left of it after a step with a gradient of zero, as a factor."""
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 2.0, np.float32), abstract)
    transform = optimizer.for_axes(model.param_axes()).transform

    def step(params):
        gradient = jax.tree.map(lambda p: p * 0, params)
        direction, _ = transform.update(gradient, transform.init(params), params)
        return jax.tree.map(lambda p, d: (p - d) / p, params, direction)

    left = jax.device_get(jax.jit(step)(params))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): factor
        for path, factor in jax.tree_util.tree_leaves_with_path(left)
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scan_layers", [True, False], ids=["stacked", "unrolled"])
def test_norms_and_biases_are_spared_and_all_else_decays(scan_layers, name):
    model = make_model(dataclasses.replace(CONFIGS["t5"], scan_layers=scan_layers))
    factors = moved_by_decay(model, OPTIMIZERS[name]())
    spared = {name for name, factor in factors.items() if (factor == 1.0).all()}
    for name, factor in factors.items():
        if name not in spared:
            np.testing.assert_allclose(factor, 1 - DECAY, rtol=1e-6, err_msg=name)
    assert spared == {name for name in factors if "norm" in name or "relpos_bias" in name}
    assert len(spared) == (9 if scan_layers else 14)
