"""A stack of equal layers: scanned or unrolled, rematerialised or not."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.models.api import ADAPTERS, QUANTIZED
from t5x_instruct.models.layers.remat import REMAT_POLICIES


def run_layers(
    layer_class: type[nn.Module],
    config: Any,
    num_layers: int,
    deterministic: bool,
    carry: Any,
    shared: Any,
    per_layer: Any = None,
) -> Any:
    """Runs a stack of layers, within the module whose parameters they are: `layers`, or `layers_0`, `layers_1`, ...

    Args:
        layer_class: made with (config, deterministic); maps (carry, (layer's number, its part of `per_layer`), shared)
            to (carry, None).
        config: with `scan_layers` and `remat`.
        num_layers: number of layers.
        deterministic: whether dropout is off.
        carry: what the first layer gets.
        shared: what every layer gets.
        per_layer: arrays [layers, ...], of which each layer gets its own.

    Returns:
        The carry after the last layer.
    """
    if config.remat != "none":
        # Within a scan the recomputation cannot be merged away, and the barriers would only cost time.
        layer_class = nn.remat(layer_class, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    numbered = (jnp.arange(num_layers), per_layer)
    if config.scan_layers:
        scanned = nn.scan(
            layer_class,
            variable_axes={"params": 0, ADAPTERS: 0, QUANTIZED: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        carry, _ = scanned(config, deterministic, name="layers")(carry, numbered, shared)
        return carry
    for i in range(num_layers):
        # NumPy's numbers stay numbers, so that a layer's kind is known when it is traced.
        its_own = jax.tree.map(lambda x, i=i: x[i], numbered)
        carry, _ = layer_class(config, deterministic, name=f"layers_{i}")(carry, its_own, shared)
    return carry
