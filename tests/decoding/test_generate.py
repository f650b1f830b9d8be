from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.decoding import Sampling, generate
from t5x_instruct.decoding.generate import _decode
from t5x_instruct.decoding.prompts import PREFILL_PIECE
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh

EOS, PAD = 7, 0
WARM = Sampling(temperature=1.0)


def run(model_and_params: Any, prompts: list[Any], **changes: Any) -> list[list[int]]:
    arguments = {"max_new_tokens": 9, "eos_id": EOS, "pad_id": PAD} | changes
    return [out.tolist() for out in generate(*model_and_params, prompts, **arguments)]


def slow_greedy(model: Any, params: Any, prompt: list[int], max_new_tokens: int) -> list[int]:
    """The definition: a full forward pass for every token."""
    tokens = list(prompt)
    forward = jax.jit(lambda p, t: model.logits(p, model.hidden(p, {"decoder_input_tokens": t})))
    while len(tokens) < len(prompt) + max_new_tokens and tokens[-1:] != [EOS]:
        padded = np.zeros((1, 64 * -(-len(tokens) // 64)), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(forward(params, padded))[0, len(tokens) - 1, : model.config.vocab_size]
        tokens.append(int(np.argmax(logits)))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


def random_prompts(lengths: list[int], vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(8, vocab_size, length) for length in lengths]


def test_counts_until_eos(counter: Any) -> None:
    assert run(counter, [[3], [5, 4], [9, 10, 11]]) == [[4, 5, 6, 7], [5, 6, 7], list(range(12, 21))]


def test_greedy_is_argmax_of_repeated_full_passes(attention: Any) -> None:
    model, params = attention
    prompts = random_prompts([1, 2, 15, 16, 17, 30, 33], model.vocab_size)
    expected = [slow_greedy(model, params, prompt.tolist(), 9) for prompt in prompts]
    assert run(attention, prompts) == expected
    assert len({tuple(e) for e in expected}) > 3  # the model is not a trivial one


def test_prompts_longer_than_a_prefill_piece(attention: Any) -> None:
    model, params = attention
    prompts = random_prompts([PREFILL_PIECE + 3, 2 * PREFILL_PIECE + 1, 4], model.vocab_size)
    assert run(attention, prompts) == [slow_greedy(model, params, p.tolist(), 9) for p in prompts]


@pytest.mark.parametrize("sampling", [Sampling(), WARM, Sampling(0.8, top_k=5, top_p=0.9)])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_what_else_is_in_the_batch_does_not_matter(attention: Any, sampling: Sampling, batch_size: int) -> None:
    prompts = random_prompts([3, 20, 5, 40, 9], 23, seed=1)
    ids = [11, 2**40 + 3, 5, 6, 7]
    alone = [
        run(attention, [prompt], sampling=sampling, seed=4, example_ids=[i])[0]
        for prompt, i in zip(prompts, ids, strict=True)
    ]
    assert run(attention, prompts, sampling=sampling, seed=4, example_ids=ids, batch_size=batch_size) == alone
    backwards = run(attention, prompts[::-1], sampling=sampling, seed=4, example_ids=ids[::-1], batch_size=batch_size)
    assert backwards == alone[::-1]


def test_seed_and_example_id_matter_for_drawn_tokens(attention: Any) -> None:
    prompt = [random_prompts([6], 23)[0]]
    drawn = [
        run(attention, prompt, sampling=WARM, seed=seed, example_ids=[i])[0] for seed, i in ((0, 0), (1, 0), (0, 1))
    ]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] == run(attention, prompt, sampling=WARM, seed=0, example_ids=[0])[0]


def test_padding_rows_of_the_vocabulary_are_never_chosen(attention: Any) -> None:
    model, params = attention
    # The rows beyond the vocabulary get by far the largest logits.
    params = params | {"head": params["head"].at[:, model.vocab_size :].set(1e3)}
    hot = Sampling(temperature=50.0)
    for sampling in (Sampling(), hot, Sampling(50.0, top_k=27), Sampling(50.0, top_p=0.999)):
        outputs = run((model, params), random_prompts([4] * 8, 23), sampling=sampling, max_new_tokens=20)
        assert max(max(output) for output in outputs) < model.vocab_size


def test_pad_id_may_be_eos_or_any_other(attention: Any) -> None:
    prompts = random_prompts([3, 18, 7], 23)
    assert run(attention, prompts, pad_id=EOS) == run(attention, prompts, pad_id=13)


def test_the_loop_stops_when_all_rows_have_ended(counter: Any) -> None:
    steps = []

    class Watched(type(counter[0])):  # type: ignore[misc]
        def step(self, params: Any, cache: Any, tokens: Any, positions: Any, *, prefix: bool = False) -> Any:
            jax.debug.callback(lambda _: steps.append(tokens.shape[1]), cache["index"])
            return super().step(params, cache, tokens, positions)

    outputs = run((Watched(), counter[1]), [[3], [4], [5]], max_new_tokens=40)
    jax.effects_barrier()
    assert max(map(len, outputs)) == 4
    assert len(steps) == 1 + 3  # the prefill and a step for every further token of the longest row


def test_one_compilation_for_each_shape(attention: Any) -> None:
    model = type(attention[0])()  # another identity: nothing is compiled for it yet
    before = _decode._cache_size()
    for seed in range(3):
        run((model, attention[1]), random_prompts([4, 9, 12, 16, 30] * 3, 23, seed), batch_size=4, seed=seed)
    assert _decode._cache_size() - before == 2  # buckets 16 and 32
    run((model, attention[1]), random_prompts([4] * 4, 23), batch_size=4, sampling=WARM)
    run((model, attention[1]), random_prompts([4] * 4, 23), batch_size=4, sampling=Sampling(0.3))
    assert _decode._cache_size() - before == 3


def test_sharded_parameters_spread_the_rows_and_change_nothing(attention: Any) -> None:
    model, params = attention
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    sharded = {
        name: jax.device_put(p, NamedSharding(mesh, PartitionSpec("fsdp" if p.shape[0] % 4 == 0 else None)))
        for name, p in params.items()
    }
    prompts = random_prompts([5, 11, 20, 3, 8, 9, 10, 31, 30], 23)
    assert run((model, sharded), prompts, batch_size=8) == run(attention, prompts, batch_size=8)


def test_nothing_to_do(counter: Any) -> None:
    assert run(counter, []) == []


def test_progress_counts_prompts(counter: Any) -> None:
    seen: list[tuple[int, int]] = []
    run(counter, [[3]] * 5, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"example_ids": [1, 2]}, "2 example_ids for 1 prompts"),
    ],
)
def test_wrong_arguments_are_named(counter: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(counter, [[3]], **changes)


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "prompt 1 has shape"), ([3, 50], "token 50.*0 to 49"), ([-1], "token -1")]
)
def test_wrong_prompts_are_named(counter: Any, prompt: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(counter, [[3], prompt])


def test_result_arrays_are_int32(counter: Any) -> None:
    outputs = generate(*counter, [jnp.asarray([3])], max_new_tokens=2, eos_id=EOS, pad_id=PAD)
    assert outputs[0].dtype == np.int32
