"""Decoding with models whose inputs see one another: a prefix-LM, and an encoder-decoder."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from t5x_instruct.decoding import Sampling, beam, generate, score, score_options
from t5x_instruct.decoding.batches import plan_batches
from t5x_instruct.decoding.prompts import PREFILL_PIECE, Prompts, reader_of
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.models.t5gemma import GemmaStack, T5GemmaConfig
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import tree_shardings

EOS, PAD, START, VOCAB = 1, 0, 2, 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 24,
    "activation": "silu",
    "norm_epsilon": 1e-5,
    "tie_embeddings": False,
    "vocab_multiple": 8,
    "embedding_init_stddev": 1.0,
    "attention_chunk": 16,
}
DECODER: dict[str, Any] = COMMON | {"num_layers": 2, "num_kv_heads": 2, "rope_theta": 1e4}
T5: dict[str, Any] = COMMON | {
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "gated_mlp": True,
    "relative_buckets": 8,
    "relative_max_distance": 20,
    "scale_decoder_outputs": False,
    "decoder_start_id": 3,
}
STACK = GemmaStack(
    emb_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=24,
    activation="silu",
    rope_theta=1e4,
    local_rope_theta=1e2,
    query_pre_attn_scalar=6.0,
    attention_soft_cap=None,
    layer_windows=(3, 0),
    norm_epsilon=1e-5,
    qk_norm=True,
)
MERGED = T5GemmaConfig(
    vocab_size=VOCAB,
    encoder=STACK,
    decoder=STACK,
    tie_embeddings=False,
    logits_soft_cap=None,
    decoder_start_id=3,
    vocab_multiple=8,
    embedding_init_stddev=0.25,  # scaled by 4
    attention_chunk=16,
    merged_attention=True,
    share_embeddings=True,
    encoder_window="centered",
)


CONFIGS: dict[str, Any] = {
    "causal": DecoderConfig(**DECODER),
    "prefix": DecoderConfig(**DECODER, prefix_lm=True),
    "encoder": T5Config(**T5),
    "merged": MERGED,
}


class Case(NamedTuple):
    """A model, and its logits at all positions of (prompt, answer) by its definition: one row, no cache."""

    model: Any
    params: Any
    logits: Callable[[np.ndarray, list[int]], np.ndarray]


@functools.cache
def case(kind: str) -> Case:
    config = CONFIGS[kind]
    model = make_model(config)
    params = jax.tree.map(lambda p: p * 1.5 if p.ndim > 1 else p, jax.jit(model.init)(jax.random.key(2)))
    forward = jax.jit(lambda batch: model.logits(params, model.hidden(params, batch)))

    def of_decoder(prompt: np.ndarray, answer: list[int]) -> np.ndarray:
        # Prompt and answer stand at the row's start; padding is behind them.
        tokens, inputs = np.zeros((2, 1, 448), np.int32)
        tokens[0, : len(prompt) + len(answer)] = [*prompt, *answer]
        inputs[0, : len(prompt)] = 1
        batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": np.ones_like(tokens)}
        batch["decoder_segment_ids"][0, len(prompt) + len(answer) :] = 0
        logits = forward(batch | {"decoder_causal_attention": inputs})
        return np.asarray(logits)[0, len(prompt) - 1 : len(prompt) + len(answer), :VOCAB]

    def of_t5(prompt: np.ndarray, answer: list[int]) -> np.ndarray:
        source, segments = np.zeros((2, 1, 336), np.int32)
        source[0, : len(prompt)] = prompt
        segments[0, : len(prompt)] = 1
        tokens = np.zeros((1, 24), np.int32)
        tokens[0, : len(answer) + 1] = [config.decoder_start_id, *answer]
        batch = {"encoder_input_tokens": source, "encoder_segment_ids": segments, "decoder_input_tokens": tokens}
        return np.asarray(forward(batch))[0, : len(answer) + 1, :VOCAB]

    return Case(model, params, of_t5 if model.reads_inputs == "encoder" else of_decoder)


@pytest.fixture(params=["prefix", "encoder", "merged"])
def reader(request: Any) -> Case:
    return case(request.param)


def random_ids(lengths: list[int], seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB, length).astype(np.int32) for length in lengths]


def empty_if_allowed(reader: Case) -> list[int]:
    return [0] if reader.model.reads_inputs == "encoder" else []


def run(model: Any, params: Any, prompts: list[np.ndarray], **changes: Any) -> list[list[int]]:
    arguments: dict[str, Any] = {"max_new_tokens": 7, "eos_id": EOS, "pad_id": PAD} | changes
    return [answer.tolist() for answer in generate(model, params, prompts, **arguments)]


def test_greedy_with_cache_is_argmax_of_repeated_full_passes(reader: Case) -> None:
    prompts = random_ids([1, 2, 16, 17, 40, PREFILL_PIECE + 20, *empty_if_allowed(reader)])
    expected = []
    for prompt in prompts:
        answer: list[int] = []
        while len(answer) < 7 and EOS not in answer:
            answer.append(int(reader.logits(prompt, answer)[-1].argmax()))
        expected.append(answer)
    assert run(reader.model, reader.params, prompts) == expected
    assert len({tuple(answer) for answer in expected}) == len(prompts)


def test_scores_are_sums_of_log_probabilities_also_where_options_share_their_inputs(reader: Case) -> None:
    rng = np.random.default_rng(4)
    questions = [
        (rng.integers(2, VOCAB, length), [rng.integers(1, VOCAB, n) for n in sizes])
        for length, sizes in [(5, (1, 2, 7)), (0, (3, 1)), (1, (2, 2, 1, 1, 5)), (20, (0, 3)), (17, (1,)), (3, ())]
    ]
    pairs = [(inputs, targets) for inputs, options in questions for targets in options]
    expected = []
    for inputs, targets in pairs:
        prompt = inputs if len(inputs) or reader.model.reads_inputs == "encoder" else np.asarray([START])
        logits = reader.logits(prompt, targets.tolist())[:-1].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected.append(log_probs[np.arange(len(targets)), targets].sum())
    alone = score(reader.model, reader.params, pairs, start_id=START, pad_id=PAD)
    np.testing.assert_allclose(alone.log_likelihoods, expected, rtol=1e-4, atol=1e-5)
    assert alone.num_tokens.tolist() == [1, 2, 7, 3, 1, 2, 2, 1, 1, 5, 0, 3, 1]
    shared = score_options(reader.model, reader.params, questions, start_id=START, pad_id=PAD)
    assert [len(scores.log_likelihoods) for scores in shared] == [3, 2, 5, 2, 1, 0]
    together = np.concatenate([scores.log_likelihoods for scores in shared])
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)


def test_beams_score_with_their_cache_what_their_answers_score_without(reader: Case) -> None:
    model, params, _ = reader
    prompts = random_ids([3, 12, 7, *empty_if_allowed(reader)])
    (batch,) = plan_batches([len(prompt) for prompt in prompts], 4)
    settings = beam.BeamSettings(5, 7, np.int32(EOS), np.int32(PAD), np.float32(0.6))

    @jax.jit
    def search(rows: Any, dummy_B: Any) -> beam.Found:
        return beam.search(model, params, rows, dummy_B, settings)

    rows = reader_of(model).prompt_rows(batch, prompts, PAD)
    tokens_BM, scores_B = map(np.asarray, search(rows, np.arange(4) >= len(prompts)))
    one_by_one = run(model, params, prompts, sampling=Sampling(num_beams=5), batch_size=1)
    assert len({tuple(answer) for answer in one_by_one}) == len(prompts)
    for row, index in enumerate(batch.indices):
        assert tokens_BM[row, : len(one_by_one[index])].tolist() == one_by_one[index]
    pairs = list(zip(prompts, map(np.asarray, one_by_one), strict=True))
    totals = score(model, params, pairs, start_id=START, pad_id=PAD)
    expected = totals.log_likelihoods / ((5 + totals.num_tokens) / 6) ** 0.6
    np.testing.assert_allclose(scores_B[: len(prompts)], expected[batch.indices], rtol=1e-4)


@pytest.mark.parametrize("kind", ["encoder", "merged"])
def test_a_mesh_changes_nothing_for_an_encoder_and_beams(kind: str) -> None:
    model, params, _ = case(kind)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    spread = jax.device_put(params, tree_shardings(params, model.param_axes(), mesh))
    prompts = random_ids([5, 11, 12, 3])
    sampling = Sampling(num_beams=5)
    one_by_one = run(model, params, prompts, sampling=sampling, batch_size=1)
    assert run(model, spread, prompts, sampling=sampling) == one_by_one


def test_beams_copy_only_what_new_tokens_are_in() -> None:
    for kind, expected in (
        ("causal", {"index": (None, None), "positions": (0, 1), "key": (1, 2), "value": (1, 2)}),
        ("encoder", {"cross_key": (1, None), "cross_value": (1, None), "encoder_segments": (0, None)}),
        ("merged", {"index": (None, None), "key": (1, 2), "value": (1, 2)}),
    ):
        model, params, _ = case(kind)
        prompts = Prompts(np.zeros((2, 16), np.int32), np.zeros((2, 16), np.int32))
        reader = reader_of(model)
        layout = beam.cache_layout(model, params, reader, prompts, 7)
        names = jax.eval_shape(lambda p, m=model, r=reader, q=prompts: r.cache(m, p, q, 7), params)
        assert expected.items() <= jax.tree.unflatten(jax.tree.structure(names), map(tuple, layout)).items()
