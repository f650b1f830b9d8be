"""The model and the loss together: what packing and memory promise."""

from typing import Any

import jax
import numpy as np
import pytest

from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.models.decoder import DecoderModel
from t5x_instruct.models.heads import NEVER, logits_of
from tests.models import tiny


def with_targets(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds next tokens as targets, and as weights the second half of every segment."""
    tokens, segments = row["decoder_input_tokens"], row["decoder_segment_ids"]
    targets = np.roll(tokens, -1, axis=1)
    weights = np.zeros(tokens.shape, np.float32)
    for segment in range(1, segments.max() + 1):
        here = np.flatnonzero(segments[0] == segment)
        targets[0, here[-1]] = 1
        weights[0, here[len(here) // 2 :]] = 1.0
    return row | {"decoder_target_tokens": targets, "decoder_loss_weights": weights}


def loss(model: Any, params: Any, batch: dict[str, np.ndarray]) -> jax.Array:
    return cross_entropy(
        model.hidden(params, batch),
        model.unembedding(params),
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        chunk_size=4,
    ).loss_sum


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_packed_loss_is_the_sum_of_unpacked_losses(kind: str) -> None:
    model, params = tiny.model_and_params(kind, attention_chunk=64)
    examples = [tiny.tokens(n, seed=n) for n in (6, 3, 8)]

    def row(numbers: list[int]) -> dict[str, np.ndarray]:
        targets = tiny.packed([examples[i] for i in numbers], 20)
        # One has no inputs; a decoder does not look at them.
        inputs = [tiny.tokens(n, seed=n) for n in (4, 0, 13)]
        return with_targets(targets) | tiny.packed([inputs[i] for i in numbers], 18, "encoder")

    run = jax.jit(jax.value_and_grad(lambda p, batch: loss(model, p, batch)))
    together = run(params, row([0, 1, 2]))
    alone = [run(params, row([i])) for i in range(3)]
    total = jax.tree.map(lambda *x: sum(x), *alone)

    def close(a: Any, b: Any) -> None:
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)

    jax.tree.map(close, together, total)


def test_token_losses_agree_with_the_logits() -> None:
    model, params = tiny.model_and_params(vocab_multiple=16, tie_embeddings=True)
    tokens = tiny.tokens(2, 6)
    hidden = jax.jit(model.hidden)(params, {"decoder_input_tokens": tokens})
    head = model.unembedding(params)._replace(multiplier=0.5, soft_cap=2.0)
    out = cross_entropy(hidden, head, tokens, np.ones((2, 6), np.float32))
    log_p = jax.nn.log_softmax(logits_of(hidden, head))
    expected = -np.take_along_axis(np.asarray(log_p), tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(out.token_losses_BT, expected, atol=1e-5)
    assert (logits_of(hidden, head)[..., tiny.VOCAB :] == NEVER).all()


def test_the_gradient_holds_no_one_hot_of_the_vocabulary() -> None:
    # Neither for the embedding nor for the head: only pieces [batch, 4, vocab] and the tables have the axis.
    model = DecoderModel(tiny.config())
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = with_targets(tiny.packed([tiny.tokens(60)], 64))
    gradient = jax.jit(jax.grad(lambda p: loss(model, p, batch)))
    text = gradient.lower(params).as_text()
    assert f"tensor<1x4x{tiny.VOCAB}xf32>" in text
    assert f"tensor<1x64x{tiny.VOCAB}x" not in text
    assert f"tensor<64x{tiny.VOCAB}x" not in text
