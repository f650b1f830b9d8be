"""Frozen kernels in few bits: int8, or 4-bit NormalFloat, with a scale for every block of a row; by qwix.

A layer unpacks its own kernel, so that with scanned layers one kernel at a time is whole.

Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3 and appendix E (no double quantisation: scales are
bfloat16, a quarter of a bit for each weight).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: What may be asked for -> the type of the stored numbers. "nf4" stores numbers of buckets.
STORED = {"int8": jnp.int8, "nf4": jnp.uint4}
BLOCK = 64
#: Names of the two arrays that stand for a layer's kernel in the collection `QUANTIZED`.
QVALUE, SCALE = "kernel_qvalue", "kernel_scale"


def block_size(features: int) -> int:
    """Numbers of the last axis that share a scale: the largest power of two up to 64 that divides it."""
    return min(BLOCK, features & -features)


def abstract(shape: tuple[int, ...], kind: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what `quantize` gives for a kernel."""
    scales = (*shape[:-1], shape[-1] // block_size(shape[-1]))
    return {
        QVALUE: jax.ShapeDtypeStruct(shape, STORED[kind]),
        SCALE: jax.ShapeDtypeStruct(scales, jnp.bfloat16),
    }


@partial(jax.jit, static_argnames="kind")
def quantize(kernel: jax.Array, kind: str) -> dict[str, jax.Array]:
    """A kernel as its stored numbers and bfloat16 scales.

    Args:
        kernel: float [..., features].
        kind: a key of `STORED`.

    Returns:
        Arrays by name, see `abstract`.
    """
    import qwix  # takes a second, and is only needed here

    last = kernel.ndim - 1
    found = qwix.quantize(
        kernel.astype(jnp.float32),
        _qtype(STORED[kind]),
        channelwise_axes=tuple(range(last)),
        tiled_axes={last: block_size(kernel.shape[-1])},
        scale_dtype=jnp.bfloat16,
    )
    return {QVALUE: found.qvalue, SCALE: found.scale}


def dequantize(qvalue: jax.Array, scale: jax.Array, dtype: Any) -> jax.Array:
    """The kernel that stored numbers stand for, in a compute dtype."""
    import qwix

    kernel: jax.Array = qwix.dequantize(qwix.QArray(qvalue, scale.astype(dtype), qtype=_qtype(qvalue.dtype)))
    return kernel


def on_host(kernel: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """`quantize` in host memory, whatever devices there are."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return {name: np.asarray(array) for name, array in quantize(kernel, kind).items()}


def rounded_on_host(kernel: np.ndarray, kind: str) -> np.ndarray:
    """A kernel as it is after `quantize` and `dequantize`, float32, in host memory."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        stored = quantize(kernel, kind)
        return np.asarray(dequantize(stored[QVALUE], stored[SCALE], jnp.float32))


def _qtype(stored: Any) -> Any:
    return "nf4" if stored == jnp.uint4 else jnp.int8
