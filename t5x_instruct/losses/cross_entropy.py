"""Cross-entropy of the next token, in pieces of target positions.

The logits [batch, length, vocab] of an instruction batch would be by far its largest array, and most of its
positions are prompt, which is not trained on. So each row's trained positions are gathered to its front, the
head runs over pieces of them, and a piece that holds no trained position is skipped. The forward pass computes
the gradients at once, while a piece's logits are alive: no logits are stored, and none are computed twice.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_instruct.common.types import LossOutput, Unembedding
from t5x_instruct.partitioning.rules import constrain, shard_count

# exp of it is 0, and it is finite.
_NEVER = -1e30


class _Settings(NamedTuple):
    """The constants of a loss; hashable, so that they are static under `jax.custom_vjp`."""

    z_loss: float
    label_smoothing: float
    multiplier: float
    soft_cap: float | None
    vocab_size: int
    chunk: int


class _Piece(NamedTuple):
    """Values and gradients at the positions of one piece; [batch, chunk] float32 unless said."""

    losses_BC: jax.Array
    token_losses_BC: jax.Array
    correct_BC: jax.Array
    hidden_grad_BCD: Any  # in the compute dtype; None where no gradient is asked for


def cross_entropy(
    hidden_BTD: jax.Array,
    unembedding: Unembedding,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk_size: int | None = 128,
) -> LossOutput:
    """Weighted sum of cross-entropies and its weight.

    With logits ``l = soft_cap(multiplier * hidden @ kernel)`` over the V real ids, ``log Z = logsumexp(l)``, target t,
    smoothing a and ``b = a / (V - 1)``, a position's loss is

        (1 - a) (log Z - l_t) + b sum_{j != t} (log Z - l_j) - C + z_loss (log Z)^2

    where ``C = -(1 - a) log(1 - a) - a log b`` is the entropy of the smoothed target: as in T5X, a perfect
    prediction costs 0 for any smoothing. C moves no gradient. The softmax is float32 whatever the compute dtype.

    `loss_sum` is differentiable by hidden states, kernel and weights; the other outputs have gradient zero.

    Args:
        hidden_BTD: final hidden states [batch, length, embed]; their dtype is the head's compute dtype.
        unembedding: the head.
        targets_BT: int32 [batch, length]; any id may stand where the weight is 0.
        weights_BT: float [batch, length]; 0 where nothing is trained.
        z_loss: factor of ``(log Z)^2``, which keeps logits from drifting (PaLM: 1e-4).
        label_smoothing: probability mass taken from the target and spread over the other ids.
        chunk_size: positions of every row per piece; a [batch, chunk, vocab] array is the largest there is.
            None is one piece. Each piece adds to the kernel's gradient (an array of the kernel's size), so
            that very small pieces cost time.

    Returns:
        The sum, the weight, and per position the plain cross-entropy (no smoothing, no z-loss) and whether the
        target is the most likely id.

    Raises:
        ValueError: `label_smoothing` is not in [0, 1), or `chunk_size` is below 1.

    Source: Chowdhery et al. 2022, section 5 (z-loss); Szegedy et al. 2016, section 7 (smoothing).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, must be in [0, 1)")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, must be at least 1 (or None for one piece)")
    T = hidden_BTD.shape[1]
    vocab_rows = unembedding.kernel_DV.shape[1]
    settings = _Settings(
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        multiplier=unembedding.multiplier,
        soft_cap=unembedding.soft_cap,
        vocab_size=vocab_rows if unembedding.vocab_size is None else unembedding.vocab_size,
        chunk=T if chunk_size is None else min(chunk_size, T),
    )
    weights_BT = weights_BT.astype(jnp.float32)
    loss_sum, token_losses_BT, correct_BT = _summed(settings, hidden_BTD, unembedding.kernel_DV, targets_BT, weights_BT)
    return LossOutput(
        loss_sum=loss_sum,
        weight_sum=jax.lax.stop_gradient(weights_BT.sum()),
        token_losses_BT=jax.lax.stop_gradient(token_losses_BT),
        token_correct_BT=jax.lax.stop_gradient(correct_BT),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    settings: _Settings,
    hidden_BTD: jax.Array,
    kernel_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(loss sum, token losses, correctness), without gradients."""
    values, _ = _run(settings, hidden_BTD, kernel_DV, targets_BT, weights_BT, with_gradients=False)
    return values


def _summed_forward(
    settings: _Settings,
    hidden_BTD: jax.Array,
    kernel_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[Any, Any]:
    return _run(settings, hidden_BTD, kernel_DV, targets_BT, weights_BT, with_gradients=True)


def _summed_backward(settings: _Settings, gradients: Any, cotangents: Any) -> tuple[Any, ...]:
    hidden_BTD, kernel_DV, weights_BT = gradients
    scale = cotangents[0]
    # The cast back keeps float32 gradients of float32 kernels and bfloat16 ones of bfloat16 hidden states.
    scaled_hidden = (hidden_BTD * scale).astype(hidden_BTD.dtype)
    return scaled_hidden, (kernel_DV * scale).astype(kernel_DV.dtype), None, weights_BT * scale


_summed.defvjp(_summed_forward, _summed_backward)


def _run(
    settings: _Settings,
    hidden_BTD: jax.Array,
    kernel_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    with_gradients: bool,
) -> tuple[Any, Any]:
    """The loop over pieces; gives the values and the gradients of the sum (None without)."""
    B, T, D = hidden_BTD.shape
    C = settings.chunk
    count = -(-T // C)
    # Stable, so that within a row trained positions keep their order, then all others.
    order_BT = jnp.argsort(weights_BT == 0.0, axis=1, stable=True)
    place_BT = jnp.argsort(order_BT, axis=1)
    # Gathered once, before the loop, and sharded by vocabulary alone, so that no piece gathers it again.
    compute_DV = constrain(kernel_DV.astype(hidden_BTD.dtype), (None, "vocab"))
    one = partial(_piece, settings, kernel_DV=compute_DV, with_gradients=with_gradients)

    def pieces_of(x_BT: jax.Array) -> jax.Array:
        return x_BT.reshape(B, count, C).transpose(1, 0, 2)

    padded_order = jnp.pad(order_BT, ((0, 0), (0, count * C - T)))
    padded_weights = jnp.pad(jnp.take_along_axis(weights_BT, order_BT, axis=1), ((0, 0), (0, count * C - T)))

    def body(kernel_grad_GDV: Any, piece: tuple[jax.Array, jax.Array]) -> tuple[Any, _Piece]:
        order_BC, weights_BC = piece

        def run(kernel_grad_GDV: Any) -> tuple[Any, _Piece]:
            hidden_BCD = jnp.take_along_axis(hidden_BTD, order_BC[:, :, None], axis=1)
            targets_BC = jnp.take_along_axis(targets_BT, order_BC, axis=1)
            return one(hidden_BCD, targets_BC, weights_BC, kernel_grad_GDV)

        def skip(kernel_grad_GDV: Any) -> tuple[Any, _Piece]:
            zeros_BC = jnp.zeros((B, C), jnp.float32)
            hidden_grad = jnp.zeros((B, C, D), hidden_BTD.dtype) if with_gradients else None
            return kernel_grad_GDV, _Piece(zeros_BC, zeros_BC, zeros_BC, hidden_grad)

        return jax.lax.cond((weights_BC != 0.0).any(), run, skip, kernel_grad_GDV)

    # Each device's part of the batch adds up its own gradient, and the parts are summed once after the loop: a sum over
    # the devices in every piece would send the kernel's gradient as many times as there are pieces.
    parts = shard_count("batch") if B % shard_count("batch") == 0 else 1
    start: Any = _placed(jnp.zeros((parts, *kernel_DV.shape), jnp.float32)) if with_gradients else None
    kernel_grad_GDV, pieces = jax.lax.scan(body, start, (pieces_of(padded_order), pieces_of(padded_weights)))

    def back(x: jax.Array) -> jax.Array:
        """Pieces [count, batch, chunk, ...] to [batch, length, ...] in the order of the row."""
        x = jnp.moveaxis(x, 0, 1).reshape(B, count * C, *x.shape[3:])
        return jnp.take_along_axis(x, place_BT.reshape(B, T, *(1,) * (x.ndim - 2)), axis=1)

    losses_BT, token_losses_BT, correct_BT = map(back, pieces[:3])
    values = ((losses_BT * weights_BT).sum(), token_losses_BT, correct_BT)
    if not with_gradients:
        return values, None
    hidden_grad_BTD = back(pieces.hidden_grad_BCD)
    # The sum over the batch leaves each device with its own rows of the kernel's gradient.
    kernel_grad_DV = constrain(kernel_grad_GDV.sum(axis=0), ("embed", "vocab"))
    return values, (hidden_grad_BTD, kernel_grad_DV.astype(kernel_DV.dtype), losses_BT)


def _piece(
    settings: _Settings,
    hidden_BCD: jax.Array,
    targets_BC: jax.Array,
    weights_BC: jax.Array,
    kernel_grad_GDV: Any,
    *,
    kernel_DV: jax.Array,
    with_gradients: bool,
) -> tuple[Any, _Piece]:
    """Losses of [batch, chunk] positions and, if asked for, their gradients (the kernel's is added)."""
    logits_BCV = _logits(settings, hidden_BCD, kernel_DV)
    ids_V = jnp.arange(logits_BCV.shape[-1])[None, None, :]
    largest_BC = logits_BCV.max(axis=-1)
    exp_BCV = jnp.exp(logits_BCV - largest_BC[:, :, None])
    sum_BC = exp_BCV.sum(axis=-1)
    log_z_BC = jnp.log(sum_BC) + largest_BC
    target_BC = jnp.take_along_axis(logits_BCV, targets_BC[:, :, None], axis=-1)[:, :, 0]
    # The first of the largest, as argmax, which XLA's CPU backend does not vectorise.
    first_BC = jnp.where(logits_BCV == largest_BC[:, :, None], ids_V, ids_V.size).min(axis=-1)
    trained_BC = weights_BC != 0.0
    token_losses_BC = jnp.where(trained_BC, log_z_BC - target_BC, 0.0)
    losses_BC = token_losses_BC + settings.z_loss * jnp.square(log_z_BC)
    off, excess = _smoothing(settings)
    if settings.label_smoothing:
        real_BCV = jnp.where(ids_V < settings.vocab_size, logits_BCV, 0.0)
        spread_BC = settings.vocab_size * log_z_BC - real_BCV.sum(axis=-1)
        losses_BC += off * spread_BC + (excess - 1.0) * token_losses_BC - _entropy(settings)
    losses_BC = jnp.where(trained_BC, losses_BC, 0.0)
    correct_BC = jnp.where(trained_BC, first_BC == targets_BC, False).astype(jnp.float32)
    if not with_gradients:
        return None, _Piece(losses_BC, token_losses_BC, correct_BC, None)

    # d loss / d l_j = (1 + 2 z_loss log Z) p_j - q_j, with the smoothed target q.
    pull_BC = weights_BC * (1.0 + 2.0 * settings.z_loss * log_z_BC) / sum_BC
    grad_BCV = pull_BC[:, :, None] * exp_BCV - jnp.where(
        ids_V == targets_BC[:, :, None],
        (weights_BC * (off + excess))[:, :, None],
        (weights_BC * off)[:, :, None],
    )
    grad_BCV = _before_cap(settings, grad_BCV, logits_BCV, ids_V)
    grad_BCV = grad_BCV.astype(hidden_BCD.dtype)
    hidden_grad_BCD = jnp.einsum("bcv,dv->bcd", grad_BCV, kernel_DV)
    G = kernel_grad_GDV.shape[0]
    hidden_GBCD, grad_GBCV = (x.reshape(G, -1, *x.shape[1:]) for x in (hidden_BCD, grad_BCV))
    added_GDV = jnp.einsum("gbcd,gbcv->gdv", hidden_GBCD, grad_GBCV, preferred_element_type=jnp.float32)
    return _placed(kernel_grad_GDV + added_GDV), _Piece(losses_BC, token_losses_BC, correct_BC, hidden_grad_BCD)


def _placed(kernel_grad_GDV: jax.Array) -> jax.Array:
    """Gradients of the kernel, each on the devices of its part of the batch; one alone on all of them."""
    alone = kernel_grad_GDV.shape[0] < shard_count("batch")
    return constrain(kernel_grad_GDV, (None, "embed", "vocab") if alone else ("batch", None, "vocab"))


def _logits(settings: _Settings, hidden_BCD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
    """float32 [batch, chunk, rows]; rows that are padding hold a value whose exponential is 0."""
    hidden_BCD = constrain(hidden_BCD, ("batch", "length", None))
    logits_BCV = jnp.einsum("bcd,dv->bcv", hidden_BCD, kernel_DV, preferred_element_type=jnp.float32)
    logits_BCV = constrain(logits_BCV, ("batch", "length", "vocab"))
    if settings.multiplier != 1.0:
        logits_BCV *= settings.multiplier
    if settings.soft_cap is not None:
        logits_BCV = settings.soft_cap * jnp.tanh(logits_BCV / settings.soft_cap)
    rows = logits_BCV.shape[-1]
    if settings.vocab_size < rows:
        real_V = jnp.arange(rows) < settings.vocab_size
        logits_BCV = jnp.where(real_V[None, None, :], logits_BCV, _NEVER)
    return logits_BCV


def _before_cap(settings: _Settings, grad_BCV: jax.Array, logits_BCV: jax.Array, ids_V: jax.Array) -> jax.Array:
    """Gradient by ``hidden @ kernel`` from the gradient by the logits; 0 on padding rows."""
    if settings.vocab_size < logits_BCV.shape[-1]:
        grad_BCV = jnp.where(ids_V < settings.vocab_size, grad_BCV, 0.0)
        logits_BCV = jnp.where(ids_V < settings.vocab_size, logits_BCV, 0.0)
    if settings.soft_cap is not None:
        grad_BCV *= 1.0 - jnp.square(logits_BCV / settings.soft_cap)
    if settings.multiplier != 1.0:
        grad_BCV *= settings.multiplier
    return grad_BCV


def _smoothing(settings: _Settings) -> tuple[float, float]:
    """The smoothed target as (mass on every real id, extra mass on the target)."""
    off = settings.label_smoothing / max(settings.vocab_size - 1, 1)
    return off, 1.0 - settings.label_smoothing - off


def _entropy(settings: _Settings) -> float:
    """Entropy of the smoothed target, in nats."""
    off, excess = _smoothing(settings)
    on = off + excess
    return -on * math.log(on) - settings.label_smoothing * math.log(off)
