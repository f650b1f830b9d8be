"""The train step: one pure function, jitted in one place.

``(state, batch) -> (state, metrics)``. The loop runs it, planning compiles it ahead of time, and post-training uses
it with another loss.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_instruct.common import types
from t5x_instruct.common.types import Batch, LossOutput, Params
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.models.api import Model, with_frozen
from t5x_instruct.partitioning.arrays import batch_sharding
from t5x_instruct.partitioning.rules import DEFAULT_RULES, Rules, activation_rules
from t5x_instruct.training.optimizers import Optimizer
from t5x_instruct.training.state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
LossNormalizer = float | Literal["per_example"] | None


class LossFn(Protocol):
    """A loss over a batch, as sum and weight."""

    def __call__(self, params: Params, batch: Batch, dropout_rng: jax.Array | None) -> LossOutput:
        """Sum and weight over the batch; without a key there is no dropout."""


def supervised_loss(model: Model, z_loss: float = 0.0, label_smoothing: float = 0.0) -> LossFn:
    """Masked cross-entropy on the response tokens.

    Args:
        model: gives hidden states and the head.
        z_loss: factor of the squared log-partition penalty.
        label_smoothing: mass spread over the vocabulary.
    """

    def loss(params: Params, batch: Batch, dropout_rng: jax.Array | None = None) -> LossOutput:
        hidden_BTD = model.hidden(params, batch, dropout_rng=dropout_rng)
        return cross_entropy(
            hidden_BTD,
            model.unembedding(params),
            batch[types.DECODER_TARGET_TOKENS],
            batch[types.DECODER_LOSS_WEIGHTS],
            z_loss=z_loss,
            label_smoothing=label_smoothing,
        )

    return loss


def per_example_weights(batch: Batch) -> jax.Array:
    """Loss weights under which every example counts the same, however many of its tokens are trained.

    Known before the loss and a function of each row alone, so that sum and weight add up over micro-batches: the
    weight of a batch is its number of examples with a trained token.

    Args:
        batch: with loss weights and, where rows are packed, segment ids: int32 [batch, length] of at most `length`.

    Returns:
        float32 [batch, length]; sums to 1 over each segment that has a positive weight.
    """
    weights_BT = batch[types.DECODER_LOSS_WEIGHTS].astype(jnp.float32)
    segments_BT = batch.get(types.DECODER_SEGMENT_IDS)
    if segments_BT is None:
        totals_BT = weights_BT.sum(axis=1, keepdims=True)
    else:

        def totals(weights_T: jax.Array, segments_T: jax.Array) -> jax.Array:
            return jnp.zeros(weights_T.size + 1).at[segments_T].add(weights_T)[segments_T]

        totals_BT = jax.vmap(totals)(weights_BT, segments_BT)
    return weights_BT / jnp.where(totals_BT > 0, totals_BT, 1.0)


def batch_metrics(output: LossOutput, batch: Batch, num_tasks: int) -> Metrics:
    """Sums over one batch or micro-batch; every value may be added over micro-batches, steps and hosts.

    Args:
        output: the loss of the batch.
        batch: the batch, with `decoder_task_ids`.
        num_tasks: number of tasks of the mixture.

    Returns:
        Scalars ``loss_sum weight_sum correct_sum target_tokens nonpadding_tokens slots`` (the last two of encoder and
        decoder) and the [num_tasks] arrays ``task_loss_sum``, ``task_correct_sum`` and ``task_weight_sum`` (plain
        cross-entropy, tokens that were the likeliest, and number of trained tokens).
    """
    trained_BT = (batch[types.DECODER_LOSS_WEIGHTS] > 0).astype(jnp.float32)
    # Padding has task -1; scatter-add drops what is out of range, so it is sent beyond the end.
    task_BT = jnp.where(batch[types.DECODER_TASK_IDS] < 0, num_tasks, batch[types.DECODER_TASK_IDS])
    per_token = jnp.stack([output.token_losses_BT, output.token_correct_BT, trained_BT])
    per_task = jnp.zeros((len(per_token), num_tasks)).at[:, task_BT].add(per_token, mode="drop")
    sides = [batch[key] for key in (types.ENCODER_SEGMENT_IDS, types.DECODER_SEGMENT_IDS) if key in batch]
    return {
        "loss_sum": output.loss_sum,
        "weight_sum": output.weight_sum,
        "correct_sum": output.token_correct_BT.sum(),
        "target_tokens": trained_BT.sum(),
        "nonpadding_tokens": sum((segments > 0).sum() for segments in sides).astype(jnp.float32),
        "slots": jnp.float32(sum(segments.size for segments in sides)),
        "task_loss_sum": per_task[0],
        "task_correct_sum": per_task[1],
        "task_weight_sum": per_task[2],
    }


def accumulate(
    loss_fn: LossFn, params: Params, batch: Batch, rng: jax.Array | None, micro_batches: int, num_tasks: int
) -> tuple[Params, Metrics]:
    """Gradient of the loss *sum*, and the metrics' sums, over `micro_batches` equal parts of the batch.

    Row i goes to micro-batch i mod `micro_batches`, so that every device keeps its own rows.
    """

    def value(params: Params, part: Batch, rng: jax.Array | None) -> tuple[jax.Array, Metrics]:
        output = loss_fn(params, part, rng)
        return output.loss_sum, batch_metrics(output, part, num_tasks)

    gradient = jax.grad(value, has_aux=True)
    if micro_batches == 1:
        return gradient(params, batch, rng)
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, micro_batches, *x.shape[1:]), 1, 0), dict(batch))

    def body(total: Any, index_and_part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, part = index_and_part
        part_rng = None if rng is None else jax.random.fold_in(rng, index)
        return jax.tree.map(jnp.add, total, gradient(params, part, part_rng)), None

    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts), rng)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(micro_batches), parts))
    return total


def make_train_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    *,
    num_tasks: int,
    seed: int = 0,
    dropout: bool = False,
    micro_batches: int = 1,
    loss_normalizing_factor: LossNormalizer = None,
) -> TrainStep:
    """The step as a pure function.

    Args:
        loss_fn: gives sum and weight; their quotient is taken here, once per global batch.
        optimizer: direction, schedule and clipping.
        num_tasks: tasks in the mixture, for the loss per task.
        seed: of dropout; the key of a step is a function of (seed, step).
        dropout: whether the loss gets a key at all.
        micro_batches: parts the batch is cut into, one after the other.
        loss_normalizing_factor: None divides by the summed weights (token mean), a number by that number;
            "per_example" takes the mean over examples of their token means (the metrics' loss too).
    """
    per_example = loss_normalizing_factor == "per_example"

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if per_example:
            batch = {**batch, types.DECODER_LOSS_WEIGHTS: per_example_weights(batch)}
        rng = jax.random.fold_in(jax.random.key(seed), state.step) if dropout else None

        def loss_of_trained(params: Params, batch: Batch, dropout_rng: jax.Array | None) -> LossOutput:
            return loss_fn(with_frozen(params, state.frozen), batch, dropout_rng)

        gradient, metrics = accumulate(loss_of_trained, state.params, batch, rng, micro_batches, num_tasks)
        divisor = jnp.maximum(metrics["weight_sum"], 1.0)
        if loss_normalizing_factor is not None and not per_example:
            divisor = jnp.float32(loss_normalizing_factor)
        gradient_norm = optax.tree.norm(gradient) / divisor
        scale = 1.0 / divisor
        if optimizer.clip_norm is not None:
            scale *= jnp.minimum(1.0, optimizer.clip_norm / jnp.maximum(gradient_norm, 1e-30))
        gradient = jax.tree.map(lambda g: g * scale, gradient)
        direction, opt_state = optimizer.transform.update(gradient, state.opt_state, state.params)
        learning_rate = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
        params = jax.tree.map(lambda p, d: (p - learning_rate * d).astype(p.dtype), state.params, direction)
        metrics |= {"gradient_norm": gradient_norm, "learning_rate": learning_rate}
        ema = None
        if (decay := optimizer.ema_decay) is not None:
            ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)
        return TrainState(state.step + 1, params, opt_state, ema, state.frozen), metrics

    return train_step


def make_eval_step(loss_fn: LossFn, *, num_tasks: int) -> Callable[[Params, Batch], Metrics]:
    """``(params, batch) -> metrics``: the sums of `batch_metrics` without a gradient."""

    def eval_step(params: Params, batch: Batch) -> Metrics:
        return batch_metrics(loss_fn(params, batch, None), batch, num_tasks)

    return eval_step


def compile_step(
    step: Callable[..., Any], shardings: Any, mesh: Mesh, *, donate: bool, rules: Rules = DEFAULT_RULES
) -> jax.stages.Wrapped:
    """The one place where steps are jitted: shardings in and out, donation, the activations' rules.

    Args:
        step: from `make_train_step` (gives the state back) or `make_eval_step` (takes parameters only).
        shardings: of its first argument.
        mesh: the mesh.
        donate: whether the first argument's memory is given up to the result (the train step).
        rules: logical axis -> mesh axes.
    """
    replicated = NamedSharding(mesh, PartitionSpec())

    def with_rules(first: Any, batch: Batch) -> Any:
        with activation_rules(mesh, rules):
            return step(first, batch)

    return jax.jit(
        with_rules,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated) if donate else replicated,
        donate_argnums=0 if donate else (),
    )
