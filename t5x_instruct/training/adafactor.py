"""Adafactor, factored by the parameters' logical axes and blind to whether layers are stacked.

What is a row and what a column of a parameter follows from the names of its axes, not from the sizes of its
dimensions: a [embed, heads, kv] kernel is the matrix [embed, heads x kv] that it is in the paper, and the scanned
[layers, ...] stack of a parameter is as many parameters, each with its own statistics, clipping and scale.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.types import Params
from t5x_instruct.training.optimizers import Optimizer, decayed, optimizer_problems

#: Axes along which separate parameters are stacked: nothing is averaged over them.
STACK_AXES = frozenset({"layers"})
#: Axes that make the rows of a matrix; all other axes together make its columns.
ROW_AXES = frozenset({"embed"})


class Factored(NamedTuple):
    """Statistics of a matrix, or what belongs to them (axes, shardings).

    Attributes:
        row: mean over the columns' dimensions; the parameter's shape without these.
        column: mean over the rows' dimensions.
    """

    row: Any
    column: Any


class AdafactorState(NamedTuple):
    """The optimizer's state.

    Attributes:
        updates: int32 scalar, updates done.
        statistics: like the parameters; averaged squares as `Factored`, or as one array of the parameter's shape.
    """

    updates: jax.Array
    statistics: Any


class _Dims(NamedTuple):
    """Dimensions of a parameter: those of one layer (`own`), and how they split into rows and columns."""

    own: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def _dims(axes: tuple[str | None, ...]) -> _Dims:
    own = tuple(dim for dim, axis in enumerate(axes) if axis not in STACK_AXES)
    rows = tuple(dim for dim in own if axes[dim] in ROW_AXES)
    return _Dims(own, rows, tuple(dim for dim in own if dim not in rows))


def factored_dims(axes: tuple[str | None, ...]) -> Factored:
    """The dimensions of a parameter with these logical axes that remain in its statistics where it is factored."""
    dims = _dims(axes)
    row, column = (tuple(dim for dim in range(len(axes)) if dim not in gone) for gone in (dims.columns, dims.rows))
    return Factored(row, column)


def factored_axes(axes: tuple[str | None, ...]) -> Factored:
    """The logical axes that remain in the statistics of a factored parameter, from which their shardings follow."""
    row, column = (tuple(axes[dim] for dim in kept) for kept in factored_dims(axes))
    return Factored(row, column)


def scale_by_adafactor(
    param_axes: Any,
    *,
    decay_exponent: float = 0.8,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
    eps: float = 1e-30,
    scale_eps: float = 1e-3,
) -> optax.GradientTransformation:
    """The direction of Adafactor, before momentum, weight decay and learning rate; see `adafactor`.

    Args:
        param_axes: logical axes of the parameters; parameters are found in it by their path.
        decay_exponent: see `adafactor`, as are the others.
        clipping_threshold: see `adafactor`.
        multiply_by_parameter_scale: see `adafactor`.
        min_dim_size_to_factor: see `adafactor`.
        eps: see `adafactor`.
        scale_eps: see `adafactor`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(param_axes, is_leaf=lambda node: isinstance(node, tuple))
    known = {_name(path): _dims(axes) for path, axes in leaves}

    def first(path: Any, param: jax.Array) -> jax.Array | Factored:
        dims = _known(known, path)

        def size(of: tuple[int, ...]) -> int:
            return math.prod(param.shape[dim] for dim in of) if of else 0

        if min(size(dims.rows), size(dims.columns)) < max(min_dim_size_to_factor, 1):
            return jnp.zeros(param.shape, jnp.float32)
        row, column = (
            tuple(size for dim, size in enumerate(param.shape) if dim not in gone) for gone in (dims.columns, dims.rows)
        )
        return Factored(jnp.zeros(row, jnp.float32), jnp.zeros(column, jnp.float32))

    def init(params: Params) -> AdafactorState:
        return AdafactorState(jnp.zeros((), jnp.int32), jax.tree_util.tree_map_with_path(first, params))

    def update(gradient: Params, state: AdafactorState, params: Params | None = None) -> tuple[Params, AdafactorState]:
        updates = state.updates + 1
        decay = 1.0 - updates.astype(jnp.float32) ** -decay_exponent

        def one(path: Any, g: jax.Array, statistic: Any, param: Any) -> _Result:
            dims, g = _known(known, path), g.astype(jnp.float32)
            direction, statistic = _normalised(g, statistic, dims, decay, eps)
            if clipping_threshold is not None:
                direction /= jnp.maximum(1.0, _rms(direction, dims) / clipping_threshold)
            if multiply_by_parameter_scale:
                direction *= jnp.maximum(_rms(param.astype(jnp.float32), dims), scale_eps)
            return _Result(direction, statistic)

        results = jax.tree_util.tree_map_with_path(one, gradient, state.statistics, params)
        direction, statistics = (_each(results, index) for index in (0, 1))
        return direction, AdafactorState(updates, statistics)

    return optax.GradientTransformation(init, update)


class _Result(NamedTuple):
    direction: jax.Array
    statistic: Any


def _each(results: Any, index: int) -> Any:
    return jax.tree.map(lambda result: result[index], results, is_leaf=lambda node: isinstance(node, _Result))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _known(known: Mapping[str, _Dims], path: Any) -> _Dims:
    name = _name(path)
    if not known:
        raise ConfigError("adafactor needs the parameters' axes: use Optimizer.for_axes(model.param_axes())")
    if name not in known:
        raise ConfigError(f"adafactor: no logical axes for {unknown('parameter', name, known)}")
    return known[name]


def _rms(x: jax.Array, dims: _Dims) -> jax.Array:
    """Root mean square of each layer's array; keeps the dimensions."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=dims.own, keepdims=True))


def _normalised(g: jax.Array, old: Any, dims: _Dims, decay: jax.Array, eps: float) -> tuple[jax.Array, Any]:
    """The gradient over the root of its averaged square, and the new average."""
    square = jnp.square(g) + eps
    if not isinstance(old, Factored):
        new = decay * old + (1.0 - decay) * square
        return g * jax.lax.rsqrt(new), new
    row = decay * old.row + (1.0 - decay) * square.mean(dims.columns)
    column = decay * old.column + (1.0 - decay) * square.mean(dims.rows)
    wide_row = jnp.expand_dims(row, dims.columns)
    # Two roots and not one of the product: the product of two tiny means is below float32's range.
    row_factor = jax.lax.rsqrt(wide_row / wide_row.mean(dims.rows, keepdims=True))
    return g * row_factor * jax.lax.rsqrt(jnp.expand_dims(column, dims.rows)), Factored(row, column)


def adafactor(
    learning_rate: optax.Schedule,
    decay_exponent: float = 0.8,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    b1: float | None = None,
    weight_decay: float = 0.0,
    min_dim_size_to_factor: int = 128,
    eps: float = 1e-30,
    scale_eps: float = 1e-3,
    clip_norm: float | None = None,
) -> Optimizer:
    """Adafactor (arXiv:1804.04235, algorithms 4 and 5) as T5 and T5X use it.

    A parameter with an ``embed`` axis and others is a matrix of embed rows; its second moment is the outer product of
    the means over rows and columns. Everything else (norm scales, biases) keeps a second moment of its own shape.
    Statistics, clipping and scale are those of one layer, stacked or not. The learning rate is relative to the size
    of the parameters (T5: constant 1e-3 for fine-tuning), unless `multiply_by_parameter_scale` is off.

    Args:
        learning_rate: a schedule of `training.schedules`.
        decay_exponent: the second moment's decay at update t (from 1) is ``1 - t ** -decay_exponent``.
        clipping_threshold: largest root mean square of a layer's update; None for no clipping.
        multiply_by_parameter_scale: whether updates are scaled by the root mean square of the layer's parameter.
        b1: decay of an average over updates; None: no first moment, and no memory for one.
        weight_decay: decay per unit of learning rate; norm scales and biases are exempt.
        min_dim_size_to_factor: matrices with fewer rows or columns than this are not factored.
        eps: added to squared gradients.
        scale_eps: least scale of a parameter.
        clip_norm: largest global gradient norm; None for no clipping.

    Returns:
        An optimizer that has to be given the model's axes: ``adafactor(...).for_axes(model.param_axes())``.

    Raises:
        ConfigError: a value is out of its range.
    """
    decays = {} if b1 is None else {"b1": b1}
    problems = optimizer_problems("adafactor", weight_decay=weight_decay, clip_norm=clip_norm, **decays)
    problems += [
        f"adafactor.{name} = {value}: must be positive{hint}"
        for name, value, hint in (
            ("decay_exponent", decay_exponent, ""),
            ("clipping_threshold", clipping_threshold, ", or None for no clipping"),
            ("eps", eps, ""),
            ("scale_eps", scale_eps, ""),
        )
        if value is not None and value <= 0
    ]
    if problems:
        raise ConfigError(problems)

    def transform_for(param_axes: Any) -> optax.GradientTransformation:
        transform = scale_by_adafactor(
            param_axes,
            decay_exponent=decay_exponent,
            clipping_threshold=clipping_threshold,
            multiply_by_parameter_scale=multiply_by_parameter_scale,
            min_dim_size_to_factor=min_dim_size_to_factor,
            eps=eps,
            scale_eps=scale_eps,
        )
        if b1 is not None:
            transform = optax.chain(transform, optax.ema(b1, debias=False))
        return decayed(transform, weight_decay)

    return Optimizer(transform_for({}), learning_rate, clip_norm, transform_for=transform_for)
