"""The train state: step, parameters, optimizer state; how it is made and sharded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_instruct.common.types import Params
from t5x_instruct.models.api import split_trained, with_frozen
from t5x_instruct.partitioning.rules import DEFAULT_RULES, Rules, partition_spec, tree_shardings
from t5x_instruct.training.adafactor import Factored, factored_axes
from t5x_instruct.training.optimizers import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes.

    Attributes:
        step: int32 scalar, steps done in this run.
        params: float32 parameters that are trained, nested dicts.
        opt_state: the optimizer's state.
        ema: average of the parameters over steps; None (no arrays) unless the optimizer asks for it.
        frozen: the model's other parameters, where only adapters are trained: they have no gradient and no moments,
            go through the step in place, and are in no checkpoint. None: there are none.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema: Params | None = None
    frozen: Params | None = None

    @property
    def model_params(self) -> Params:
        """All parameters, as the model takes them."""
        return with_frozen(self.params, self.frozen)

    @property
    def averaged_params(self) -> Params:
        """The same with the average in place of what is trained, where there is one."""
        return with_frozen(self.params if self.ema is None else self.ema, self.frozen)

    @property
    def saved(self) -> "TrainState":
        """What a checkpoint holds."""
        return dataclasses.replace(self, frozen=None)


def create_state(params: Params, optimizer: Optimizer) -> TrainState:
    """The state before the first step, around a model's parameters that are already there."""
    params, frozen = split_trained(params)
    # A copy: the step gives up the memory of parameters and average both.
    ema = None if optimizer.ema_decay is None else jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.transform.init(params), ema, frozen)


def abstract_state(init: Callable[[jax.Array], Params], optimizer: Optimizer) -> TrainState:
    """Shapes and dtypes of the whole state; no array is made."""
    return jax.eval_shape(lambda rng: create_state(init(rng), optimizer), jax.random.key(0))


def state_shardings(
    abstract: TrainState, param_axes: Any, optimizer: Optimizer, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> TrainState:
    """Shardings of the state: moments lie where their parameters lie, scalars are replicated.

    Factored moments are sharded by the axes that are left of their parameters'.

    Args:
        abstract: the state's shapes.
        param_axes: logical axes of the model's parameters.
        optimizer: the optimizer whose state it is.
        mesh: the mesh.
        rules: logical axis -> mesh axes.

    Raises:
        ConfigError: the mesh does not divide some parameters; all of them are named.
    """
    params, frozen = split_trained(tree_shardings(abstract.model_params, param_axes, mesh, rules))
    trained_axes, _ = split_trained(param_axes)
    replicated: Any = NamedSharding(mesh, PartitionSpec())

    def moment(leaf: Any, sharding: NamedSharding, axes: tuple[str | None, ...]) -> Any:
        if not isinstance(leaf, Factored):
            return sharding
        specs = (
            partition_spec(left, statistic.shape, mesh, rules)
            for left, statistic in zip(factored_axes(axes), leaf, strict=True)
        )
        return Factored(*(NamedSharding(mesh, spec) for spec in specs))

    opt_state = optax.tree_map_params(
        optimizer.transform,
        moment,
        abstract.opt_state,
        params,
        trained_axes,
        transform_non_params=lambda _: replicated,
        is_leaf=lambda node: isinstance(node, Factored),
    )
    return TrainState(replicated, params, opt_state, None if optimizer.ema_decay is None else params, frozen)


def place_state(params: Params, optimizer: Optimizer, shardings: TrainState) -> TrainState:
    """The state before the first step, on the mesh; `params` are given up to it."""
    create = jax.jit(lambda params: create_state(params, optimizer), out_shardings=shardings, donate_argnums=0)
    return create(params)
