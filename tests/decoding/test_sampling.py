import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.decoding.sampling import Sampling, choose_greedy, choose_random, token_keys

PROBABILITIES = np.asarray([0.4, 0.3, 0.15, 0.1, 0.05], np.float32)
DRAWS = 4000


def draw(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> np.ndarray:
    """How often each token is drawn."""
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (DRAWS, 5))
    keys = token_keys(jnp.uint32(3), jnp.arange(DRAWS, dtype=jnp.uint32), 0)
    tokens = choose_random(logits, keys, temperature, top_p, top_k=top_k, nucleus=top_p < 1)
    return np.bincount(np.asarray(tokens), minlength=5) / DRAWS


def expected(kept: int, temperature: float = 1.0) -> np.ndarray:
    weights = np.where(np.arange(5) < kept, PROBABILITIES ** (1 / temperature), 0)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({}, 5),
        ({"temperature": 0.5}, 5),
        ({"temperature": 2.0}, 5),
        ({"top_k": 2}, 2),
        ({"top_k": 99}, 5),
        ({"top_p": 0.69}, 2),  # 0.4 does not reach it, 0.7 does
        ({"top_p": 0.71}, 3),
        ({"top_p": 1e-6}, 1),  # the most likely token always stays
        ({"top_k": 3, "top_p": 0.6}, 2),  # of the three: 0.47, 0.35, 0.18
    ],
)
def test_frequencies(arguments: dict[str, float], kept: int) -> None:
    frequencies = draw(**arguments)  # type: ignore[arg-type]
    wanted = expected(kept, arguments.get("temperature", 1.0))
    assert set(np.flatnonzero(frequencies)) == set(range(kept))
    # Five standard errors of a frequency.
    assert np.all(np.abs(frequencies - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / DRAWS) + 1e-9)


def test_keys_depend_on_seed_example_and_step() -> None:
    def data(seed: int, example: int, step: int) -> tuple[int, ...]:
        keys = token_keys(jnp.uint32(seed), jnp.asarray([example], jnp.uint32), step)
        return tuple(np.asarray(jax.random.key_data(keys)).ravel().tolist())

    grid = {data(seed, example, step) for seed in range(3) for example in range(3) for step in range(3)}
    assert len(grid) == 27


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert choose_greedy(jnp.asarray([[1.0, 3.0, 3.0], [5.0, 5.0, 0.0]])).tolist() == [1, 0]


def test_all_wrong_values_are_named() -> None:
    with pytest.raises(ConfigError) as raised:
        Sampling(temperature=-1.0, top_k=-2, top_p=0.0)
    assert len(raised.value.problems) == 3
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="temperature"):
            Sampling(temperature=value)
