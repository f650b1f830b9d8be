"""Beam search against all answers there are, and against its definition without a cache."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.decoding import Sampling, generate, score
from t5x_instruct.decoding.generate import _decode
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from tests.decoding.tiny_models import TinyAttention

EOS, PAD, VOCAB = 1, 0, 5
PROMPTS = [np.asarray(prompt, np.int32) for prompt in ([2], [3, 4, 0], [4, 4, 2, 3, 0, 2, 3])]


@pytest.fixture(scope="module")
def tiny() -> tuple[TinyAttention, dict[str, Any]]:
    model = TinyAttention(vocab_size=VOCAB, rows=8)
    params = model.init(jax.random.key(10))
    # What only pads the vocabulary would always win.
    return model, params | {"head": (params["head"] / 5).at[:, VOCAB:].set(1e3)}


def run(tiny: Any, prompts: list[np.ndarray], beams: int, alpha: float = 0.6, **changes: Any) -> list[list[int]]:
    arguments: dict[str, Any] = {"max_new_tokens": 4, "eos_id": EOS, "pad_id": PAD} | changes
    sampling = Sampling(num_beams=beams, length_penalty=alpha)
    return [answer.tolist() for answer in generate(*tiny, prompts, sampling=sampling, **arguments)]


def penalized(total: float, length: int, alpha: float) -> float:
    return total / ((5 + length) / 6) ** alpha


def test_with_a_beam_for_each_hypothesis_the_best_of_all_answers_is_found(tiny: Any) -> None:
    others = [token for token in range(VOCAB) if token != EOS]
    answers = [(*begin, EOS) for n in range(4) for begin in itertools.product(others, repeat=n)]
    pairs = [(prompt, np.asarray(answer)) for prompt in PROMPTS for answer in answers]
    totals = score(*tiny, pairs, start_id=PAD, pad_id=PAD, batch_size=256).log_likelihoods
    totals = totals.reshape(len(PROMPTS), len(answers))
    lengths = set()
    for alpha in (0.0, 0.6, 1.0, 4.0):
        scores = np.asarray(
            [[penalized(total, len(a), alpha) for total, a in zip(row, answers, strict=True)] for row in totals]
        )
        best = [list(answers[i]) for i in scores.argmax(axis=1)]
        # 4 x 4 x 4 prefixes of three tokens have 320 extensions.
        assert run(tiny, PROMPTS, beams=160, alpha=alpha, batch_size=480) == best
        lengths |= {len(answer) for answer in best}
    assert lengths == {1, 2, 4}


def next_log_probs(tiny: Any) -> Callable[[list[int]], np.ndarray]:
    """By a pass over the whole sequence; float64 [VOCAB]."""
    model, params = tiny
    forward = jax.jit(lambda tokens: model.logits(params, model.hidden(params, {"decoder_input_tokens": tokens})))

    def log_probs(tokens: list[int]) -> np.ndarray:
        padded = np.zeros((1, 16), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(forward(padded), np.float64)[0, len(tokens) - 1, :VOCAB]
        return logits - np.log(np.exp(logits).sum())

    return log_probs


def plain_search(log_probs: Any, prompt: list[int], beams: int, alpha: float, longest: int, eos: int) -> list[int]:
    """The definition, which keeps as many finished hypotheses as live ones."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, longest + 1):
        candidates = [
            (total + float(p), [*tokens, token])
            for total, tokens in live
            for token, p in enumerate(log_probs([*prompt, *tokens]))
        ]
        candidates = sorted(candidates, reverse=True)[: 2 * beams]
        ended = [(penalized(total, length, alpha), tokens) for total, tokens in candidates if tokens[-1] == eos]
        finished = sorted(finished + ended, reverse=True)[:beams]
        live = [candidate for candidate in candidates if candidate[1][-1] != eos][:beams]
        if len(finished) == beams and finished[-1][0] > penalized(live[0][0], longest, alpha):
            break
    return (finished or live)[0][1]


@pytest.mark.parametrize("beams", [2, 4])
def test_narrow_beams_find_what_the_definition_finds(tiny: Any, beams: int) -> None:
    log_probs = next_log_probs(tiny)
    greedy = [answer.tolist() for answer in generate(*tiny, PROMPTS, max_new_tokens=6, eos_id=EOS, pad_id=PAD)]
    found = []
    for alpha, eos in itertools.product((0.0, 4.0), (EOS, 3, VOCAB)):
        expected = [plain_search(log_probs, prompt.tolist(), beams, alpha, 6, eos) for prompt in PROMPTS]
        assert run(tiny, PROMPTS, beams, alpha, max_new_tokens=6, eos_id=eos) == expected
        if eos == VOCAB:  # it never comes: the best live hypothesis is the answer
            assert [len(answer) for answer in expected] == [6, 6, 6]
        found.append(expected)
    assert any(answers != greedy for answers in found)
    assert found[:3] != found[3:]  # the penalty matters


def test_what_else_is_in_the_batch_does_not_matter(tiny: Any) -> None:
    alone = [run(tiny, [prompt], 4)[0] for prompt in PROMPTS]
    assert run(tiny, PROMPTS, 4) == alone  # three prompts and a dummy
    assert run(tiny, PROMPTS[::-1], 4, batch_size=3) == alone[::-1]  # fewer rows than beams: one prompt at a time


def test_sharded_parameters_change_nothing(tiny: Any) -> None:
    model, params = tiny
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    sharded = {
        name: jax.device_put(p, NamedSharding(mesh, PartitionSpec("fsdp" if p.shape[0] % 4 == 0 else None)))
        for name, p in params.items()
    }
    prompts = PROMPTS * 3
    assert run((model, sharded), prompts, 4) == run(tiny, PROMPTS, 4) * 3


def test_one_beam_is_greedy(tiny: Any) -> None:
    before = _decode._cache_size()
    greedy = generate(*tiny, PROMPTS, max_new_tokens=6, eos_id=EOS, pad_id=PAD)
    compiled = _decode._cache_size()
    assert run(tiny, PROMPTS, 1, alpha=3.0, max_new_tokens=6) == [answer.tolist() for answer in greedy]
    assert _decode._cache_size() == compiled > before - 1


def test_a_search_goes_on_while_a_longer_answer_may_win(counter: Any) -> None:
    # After 3 the answer ends, or goes on 4, 5, 6 and ends: both have half of the probability.
    table = np.full((50, 50), -30.0, np.float32)
    for token, following in ((3, EOS), (3, 4), (4, 5), (5, 6), (6, EOS)):
        table[token, following] = 0.0
    model = (counter[0], {"next": table})
    assert run(model, [np.asarray([3])], 2, alpha=1.0, max_new_tokens=6) == [[4, 5, 6, EOS]]
    assert run(model, [np.asarray([3])], 2, alpha=0.0, max_new_tokens=6) == [[EOS]]


def test_a_search_ends_when_nothing_better_can_come(counter: Any) -> None:
    steps = []

    class Watched(type(counter[0])):  # type: ignore[misc]
        def step(self, params: Any, cache: Any, tokens: Any, positions: Any, *, prefix: bool = False) -> Any:
            jax.debug.callback(lambda _: steps.append(tokens.shape), cache["index"])
            return super().step(params, cache, tokens, positions)

    found = run(
        (Watched(), counter[1]), [np.asarray([3]), np.asarray([4]), np.asarray([6])], 2, max_new_tokens=40, eos_id=7
    )
    jax.effects_barrier()
    assert found == [[4, 5, 6, 7], [5, 6, 7], [7]]
    # Each of four prompts is read once; then two hypotheses of each go on until the longest answer has ended.
    assert steps == [(4, 16)] + [(8, 1)] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 0}, "num_beams 0"),
        ({"length_penalty": -0.1}, "length_penalty -0.1"),
        ({"length_penalty": math.nan}, "length_penalty nan"),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams 2 with temperature 0.5"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**changes)
