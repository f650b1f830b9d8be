"""Floating-point operations of a traced function, loops counted as often as they run."""

import math
from typing import Any

import jax

from t5x_instruct.common.types import Params


def count_flops(function: Any, *arguments: Any) -> int:
    """Multiplications and additions in the matrix products of a function, over all devices.

    A scan counts its body times its length, a Pallas kernel its body times its grid, a branch the larger of its sides.
    XLA's own count (`cost_analysis`) takes a loop's body once.

    Args:
        function: a pure function.
        *arguments: arrays or their shapes (`jax.ShapeDtypeStruct`).
    """
    return flops_of(jax.make_jaxpr(function)(*arguments))


def flops_of(traced: Any, open_trips: int = 1) -> int:
    """`count_flops` of what is traced already.

    Args:
        traced: a jaxpr.
        open_trips: how often a loop runs that ends when it likes (`while`).
    """
    return _of_jaxpr(getattr(traced, "jaxpr", traced), open_trips)


def model_flops(loss_fn: Any, params: Params, batch: Any, frozen: bool = False) -> int:
    """What a step has to compute whatever is recomputed: three times the forward pass's matrix products.

    Attention counts whole, the half that a causal mask throws away included. With a frozen model it is twice: no
    gradient by its kernels (and what adapters and attention need of the third is left out).

    Args:
        loss_fn: ``(params, batch, dropout_rng) -> LossOutput``.
        params: shapes of the parameters.
        batch: shapes of a batch.
        frozen: whether the kernels are not trained.

    Source: Chowdhery et al. 2022, PaLM, appendix B (the backward pass takes twice the forward pass).
    """
    return (2 if frozen else 3) * count_flops(lambda p, b: loss_fn(p, b, None).loss_sum, params, batch)


def _of_jaxpr(jaxpr: Any, open_trips: int) -> int:
    return sum(_of_equation(equation, open_trips) for equation in jaxpr.eqns)


def _of_equation(equation: Any, open_trips: int) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_dot(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [flops_of(jaxpr, open_trips) for jaxpr in _jaxprs_in(equation.params)]
    if not inner:
        return 0
    if name == "cond":
        return max(inner)
    times = 1
    if name == "scan":
        times = equation.params["length"]
    elif name == "while":
        times = open_trips
    elif name == "pallas_call":
        times = math.prod(equation.params["grid_mapping"].grid)
    elif name == "shard_map":
        times = equation.params["mesh"].size
    return times * sum(inner)


def _jaxprs_in(params: Any) -> list[Any]:
    found = []
    for value in params.values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if hasattr(one, "eqns") or hasattr(getattr(one, "jaxpr", None), "eqns"):
                found.append(one)
    return found


def _of_dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_features
