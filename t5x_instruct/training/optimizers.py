"""Optimizers: an optax direction and a learning-rate schedule, kept apart.

The step multiplies the direction by the schedule's value itself, so that the rate that is logged is the rate that
was used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import Params


class Optimizer(NamedTuple):
    """What the step needs of an optimizer.

    Attributes:
        transform: gradients -> direction of descent, before the learning rate and its sign.
        learning_rate: step (from the start of this run) -> rate.
        clip_norm: gradients are scaled down to this global norm; None leaves them.
        ema_decay: decay of the average of the parameters that the state carries; None: it carries none.
        transform_for: logical axes of the parameters -> `transform`, where that depends on them.
    """

    transform: optax.GradientTransformation
    learning_rate: optax.Schedule
    clip_norm: float | None = 1.0
    ema_decay: float | None = None
    transform_for: Callable[[Any], optax.GradientTransformation] | None = None

    def for_axes(self, param_axes: Any) -> "Optimizer":
        """This optimizer for parameters with these logical axes; itself, if it does not look at them."""
        if self.transform_for is None:
            return self
        return self._replace(transform=self.transform_for(param_axes), transform_for=None)


#: Last names of the parameters that weight decay spares: norm scales, biases, and T5's tables of relative positions,
#: which are biases of attention scores (transformers' Trainer spares them too, by the "bias" in their name). The mask
#: goes by names: a dimension more, of stacked layers, changes nothing.
NOT_DECAYED = frozenset({"scale", "bias", "rel_embedding"})


def decay_mask(params: Params) -> Any:
    """True for the parameters that weight decay applies to: all but `NOT_DECAYED`."""

    def decayed(path: Any, _: Any) -> bool:
        return getattr(path[-1], "key", None) not in NOT_DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def optimizer_problems(name: str, *, weight_decay: float, clip_norm: float | None, **decays: float) -> list[str]:
    """What is wrong with the values that all optimizers take, and with decays of averages."""
    problems = [f"{name}.{key} = {value}: must be in [0, 1)" for key, value in decays.items() if not 0 <= value < 1]
    if weight_decay < 0:
        problems.append(f"{name}.weight_decay = {weight_decay}: must not be negative")
    if clip_norm is not None and clip_norm <= 0:
        problems.append(f"{name}.clip_norm = {clip_norm}: must be positive, or None for no clipping")
    return problems


def decayed(transform: optax.GradientTransformation, weight_decay: float) -> optax.GradientTransformation:
    """`transform` with decoupled weight decay (see `decay_mask`); itself for a decay of 0."""
    if not weight_decay:
        return transform
    return optax.chain(transform, optax.add_decayed_weights(weight_decay, decay_mask))


def adamw(
    learning_rate: optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """AdamW (arXiv:1711.05101): decay is decoupled and scaled by the learning rate.

    Args:
        learning_rate: a schedule of `training.schedules`.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        weight_decay: decay per unit of learning rate; norm scales and biases are exempt.
        clip_norm: largest global gradient norm; None for no clipping.

    Raises:
        ConfigError: a value is out of its range.
    """
    if problems := optimizer_problems("adamw", weight_decay=weight_decay, clip_norm=clip_norm, b1=b1, b2=b2):
        raise ConfigError(problems)
    return Optimizer(decayed(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), weight_decay), learning_rate, clip_norm)


def lion(
    learning_rate: optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """Lion (arXiv:2302.06675): the sign of an average of gradients; half of AdamW's memory.

    Every step moves every weight by the learning rate: take a rate 3 to 10 times below AdamW's, and as much more decay.

    Args:
        learning_rate: a schedule of `training.schedules`.
        b1: share of the average, against this step's gradient, in what the sign is taken of.
        b2: decay of the average.
        weight_decay: decay per unit of learning rate; norm scales and biases are exempt.
        clip_norm: largest global gradient norm; None for no clipping.

    Raises:
        ConfigError: a value is out of its range.
    """
    if problems := optimizer_problems("lion", weight_decay=weight_decay, clip_norm=clip_norm, b1=b1, b2=b2):
        raise ConfigError(problems)
    return Optimizer(decayed(optax.scale_by_lion(b1=b1, b2=b2), weight_decay), learning_rate, clip_norm)


def sgd(
    learning_rate: optax.Schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """Stochastic gradient descent with momentum: ``m = momentum * m + gradient``.

    Args:
        learning_rate: a schedule of `training.schedules`.
        momentum: decay of the sum of gradients; 0 keeps no sum.
        nesterov: whether to look one step ahead.
        weight_decay: decay per unit of learning rate, outside of the momentum; norm scales and biases are exempt.
        clip_norm: largest global gradient norm; None for no clipping.

    Raises:
        ConfigError: a value is out of its range.
    """
    if problems := optimizer_problems("sgd", weight_decay=weight_decay, clip_norm=clip_norm, momentum=momentum):
        raise ConfigError(problems)
    transform = optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
    return Optimizer(decayed(transform, weight_decay), learning_rate, clip_norm)


def with_ema(optimizer: Optimizer, decay: float) -> Optimizer:
    """The same optimizer with an average of the parameters beside them.

    After every step ``ema = decay * ema + (1 - decay) * params``; before the first, ema is the parameters.

    Args:
        optimizer: how the parameters move.
        decay: of the average; an average over about ``1 / (1 - decay)`` steps.

    Raises:
        ConfigError: the decay is not between 0 and 1.
    """
    if not 0 < decay < 1:
        raise ConfigError(f"with_ema.decay = {decay}: must be between 0 and 1; without an average, leave with_ema out")
    return optimizer._replace(ema_decay=decay)
