"""Beam search against transformers', from stored files: no torch is needed (see make.py)."""

from collections.abc import Callable

import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.decoding.generate import generate
from t5x_instruct.decoding.sampling import Sampling
from t5x_instruct.decoding.scoring import score
from t5x_instruct.models.presets import make_model
from tests.parity.goldens import Golden, cases, config_of, load, tensors

CASES = [case for family in ("llama", "t5") for case in cases(family) if "beam/scores" in load(case)]


def prompts_of(golden: Golden) -> list[np.ndarray]:
    lengths = golden["beam/prompt_lengths"]
    return [row[:length] for row, length in zip(golden["beam/prompts"], lengths, strict=True)]


def answers_of(golden: Golden, rule: str) -> list[list[int]]:
    """With the end token, without padding; `rule` is "sequences" (transformers') or "wider_sequences" (ours)."""
    eos_id = int(golden["beam/eos_id"])
    rows = golden[f"beam/{rule}"].tolist()
    return [row[: row.index(eos_id) + 1] for row in rows]


def search(
    golden: Golden, num_beams: int, vocab_multiple: int = 1
) -> tuple[list[list[int]], Callable[..., np.ndarray]]:
    """Our answers, and a function that scores answers to the same prompts."""
    model = make_model(config_of(golden, vocab_multiple=vocab_multiple))
    params = params_from_hf(tensors(golden, "tensor"), model.config)
    prompts = prompts_of(golden)
    found = generate(
        model,
        params,
        prompts,
        max_new_tokens=golden["beam/sequences"].shape[1],
        eos_id=int(golden["beam/eos_id"]),
        pad_id=int(golden["beam/pad_id"]),
        sampling=Sampling(num_beams=num_beams, length_penalty=0.0),
    )

    def scores(answers: list[list[int]]) -> np.ndarray:
        pairs = [(prompt, np.asarray(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        return score(model, params, pairs, start_id=0, pad_id=0).log_likelihoods

    return [row.tolist() for row in found], scores


def test_the_goldens_say_something() -> None:
    assert {case.partition("_")[0] for case in CASES} == {"llama", "t5"}
    for case in CASES:
        theirs, wider = (answers_of(load(case), rule) for rule in ("sequences", "wider_sequences"))
        # Some answers are the same by both rules, some are not.
        same = sum(a == b for a, b in zip(theirs, wider, strict=True))
        assert 3 <= same < len(wider)
        assert len({len(answer) for answer in wider}) > 3
        assert (load(case)["beam/gaps"] > 1e-3).all()


@pytest.mark.parametrize("case", CASES)
def test_the_same_answers_and_scores(case: str) -> None:
    golden = load(case)
    found, scores = search(golden, int(golden["beam/num_beams"]), vocab_multiple=16)
    theirs, wider = (answers_of(golden, rule) for rule in ("sequences", "wider_sequences"))
    assert found == wider
    np.testing.assert_allclose(scores(theirs), golden["beam/scores"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores(wider), golden["beam/wider_scores"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_one_beam_finds_others(case: str) -> None:
    # Otherwise greedy decoding would pass for beam search.
    golden = load(case)
    found, _ = search(golden, 1)
    assert found != answers_of(golden, "wider_sequences")
