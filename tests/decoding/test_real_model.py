"""Decoding with the package's own model: its cache, its left padding, its vocabulary padding."""

from typing import Any

import jax
import numpy as np
import pytest

from t5x_instruct.decoding import Sampling, generate, score, score_options
from t5x_instruct.decoding.prompts import PREFILL_PIECE
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.presets import make_model
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import tree_shardings

EOS, PAD = 1, 0


@pytest.fixture(scope="module")
def decoder() -> tuple[Any, Any]:
    config = DecoderConfig(
        vocab_size=61,
        emb_dim=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=24,
        activation="silu",
        rope_theta=1e4,
        norm_epsilon=1e-5,
        tie_embeddings=False,
        vocab_multiple=8,
        embedding_init_stddev=1.0,
        attention_chunk=16,
    )
    model = make_model(config)
    params = jax.tree.map(lambda p: p * 3 if p.ndim > 1 else p, model.init(jax.random.key(2)))
    return model, params


def random_prompts(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, 61, length) for length in lengths]


def slow_greedy(model: Any, params: Any, prompt: np.ndarray, max_new_tokens: int) -> list[int]:
    """The definition: a full forward pass for every token, without a cache and without padding on the left."""
    tokens = prompt.tolist()
    forward = jax.jit(lambda p, batch: model.logits(p, model.hidden(p, batch)))
    padded_length = 64 * -(-(len(prompt) + max_new_tokens) // 64)
    for _ in range(max_new_tokens):
        padded = np.zeros((1, padded_length), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(forward(params, {"decoder_input_tokens": padded}))[0, len(tokens) - 1]
        tokens.append(int(np.argmax(logits[:61])))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


def run(decoder: Any, prompts: list[np.ndarray], **changes: Any) -> list[list[int]]:
    arguments = {"max_new_tokens": 12, "eos_id": EOS, "pad_id": PAD} | changes
    return [out.tolist() for out in generate(*decoder, prompts, **arguments)]


def test_greedy_with_cache_is_argmax_of_repeated_full_passes(decoder: Any) -> None:
    prompts = random_prompts([1, 5, 16, 17, 40, PREFILL_PIECE + 20])
    expected = [slow_greedy(*decoder, prompt, 12) for prompt in prompts]
    assert run(decoder, prompts) == expected
    assert len({tuple(e) for e in expected}) == len(prompts)


def test_batch_composition_does_not_matter(decoder: Any) -> None:
    prompts = random_prompts([3, 30, 9, 11])
    drawn = Sampling(1.0)
    together = run(decoder, prompts, sampling=drawn)
    alone = [run(decoder, [p], sampling=drawn, example_ids=[i])[0] for i, p in enumerate(prompts)]
    by_three = run(decoder, prompts, sampling=drawn, batch_size=3)
    assert together == alone == by_three


def test_left_padding_does_not_matter(decoder: Any) -> None:
    short = random_prompts([7])[0]
    longer = random_prompts([7, 60, 150])[1:]
    alone = run(decoder, [short])[0]
    for other in longer:  # puts the short prompt into buckets of 64 and 192
        assert run(decoder, [other, short])[1] == alone


def test_rows_that_pad_the_vocabulary_are_never_drawn(decoder: Any) -> None:
    outputs = run(decoder, random_prompts([4] * 16), sampling=Sampling(100.0), max_new_tokens=40)
    assert 50 < max(max(output) for output in outputs) < 61


def test_the_greedy_token_scores_best(decoder: Any) -> None:
    prompt = random_prompts([9])[0]
    first = run(decoder, [prompt], max_new_tokens=1)[0][0]
    scores = score(*decoder, [(prompt, [t]) for t in range(61)], start_id=EOS, pad_id=PAD)
    assert int(np.argmax(scores.log_likelihoods)) == first
    assert np.exp(scores.log_likelihoods).sum() == pytest.approx(1.0, abs=1e-4)


def test_a_mesh_changes_nothing(decoder: Any) -> None:
    model, params = decoder
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    spread = jax.device_put(params, tree_shardings(params, model.param_axes(), mesh))
    prompts = random_prompts([5, 11, 20, 3])
    assert run((model, spread), prompts) == run(decoder, prompts)


def test_options_that_share_their_inputs_score_as_by_themselves(decoder: Any) -> None:
    rng = np.random.default_rng(4)
    questions = [
        (rng.integers(2, 61, length).astype(np.int32), [rng.integers(1, 61, n).astype(np.int32) for n in sizes])
        for length, sizes in [(5, (1, 2, 7)), (0, (3, 1)), (1, (2, 2, 1, 1, 5)), (40, (0, 3)), (17, (1,))]
    ]
    shared = score_options(*decoder, questions, start_id=EOS, pad_id=PAD, batch_size=2)
    pairs = [(inputs, targets) for inputs, options in questions for targets in options]
    alone = score(*decoder, pairs, start_id=EOS, pad_id=PAD)
    assert [len(scores.log_likelihoods) for scores in shared] == [3, 2, 5, 2, 1]
    np.testing.assert_allclose(np.concatenate([s.log_likelihoods for s in shared]), alone.log_likelihoods, rtol=1e-4)
    np.testing.assert_array_equal(np.concatenate([s.num_tokens for s in shared]), alone.num_tokens)
    assert score_options(*decoder, [], start_id=EOS, pad_id=PAD) == []
