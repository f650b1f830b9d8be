"""Names shared by all rooms.

Einsum letters and shape suffixes: B batch, T target (query) length, S source (key) length, D embed,
H head_dim, K key/value heads, N query heads, F mlp, V vocabulary.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jax


ENCODER_INPUT_TOKENS = "encoder_input_tokens"
ENCODER_SEGMENT_IDS = "encoder_segment_ids"
ENCODER_POSITIONS = "encoder_positions"
DECODER_INPUT_TOKENS = "decoder_input_tokens"
DECODER_TARGET_TOKENS = "decoder_target_tokens"
DECODER_LOSS_WEIGHTS = "decoder_loss_weights"
DECODER_SEGMENT_IDS = "decoder_segment_ids"
DECODER_POSITIONS = "decoder_positions"
DECODER_CAUSAL_ATTENTION = "decoder_causal_attention"
DECODER_TASK_IDS = "decoder_task_ids"

Params = Mapping[str, Any]
Batch = Mapping[str, Any]


class Unembedding(NamedTuple):
    """What turns a hidden state into logits: ``soft_cap(multiplier * hidden @ kernel)``.

    Attributes:
        kernel_DV: [embed, vocab] matrix.
        multiplier: factor on the logits (T5 with a tied head: embed ** -0.5).
        soft_cap: if given, logits become ``soft_cap * tanh(logits / soft_cap)`` (Gemma 2).
        vocab_size: ids from here on are padding rows of the matrix and are never predicted.
    """

    kernel_DV: "jax.Array"
    multiplier: float = 1.0
    soft_cap: float | None = None
    vocab_size: int | None = None


class LossOutput(NamedTuple):
    """A loss as sum and weight; the quotient is taken once per global batch.

    Attributes:
        loss_sum: float32 scalar, sum over targets of weight x loss (differentiable).
        weight_sum: float32 scalar, sum of the weights.
        token_losses_BT: float32 [batch, length] plain cross-entropy, 0 where the weight is 0.
        token_correct_BT: float32 [batch, length], 1 where the most likely token is the target and the
            weight is not 0.
    """

    loss_sum: "jax.Array"
    weight_sum: "jax.Array"
    token_losses_BT: "jax.Array"
    token_correct_BT: "jax.Array"
