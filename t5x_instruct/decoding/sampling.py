"""How the next token is chosen from the logits: greedily, or drawn reproducibly."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t5x_instruct.common.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """A way to choose tokens.

    Attributes:
        temperature: 0 takes the most likely token; otherwise the logits are divided by it before a token is drawn.
        top_k: draw from the `top_k` most likely tokens only; 0 means all of them.
        top_p: draw from the smallest set of most likely tokens whose probability reaches `top_p`, after
            temperature and `top_k`; 1 means all of them.

    Raises:
        ConfigError: a value is out of its range; all of them are named.

    Source:
        top_k: Fan et al. 2018, arXiv:1805.04833, section 5.2. top_p: Holtzman et al. 2020, arXiv:1904.09751,
        equations 2 and 3.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if not 0.0 <= self.temperature < float("inf"):
            problems.append(f"temperature {self.temperature} must be 0 (greedy) or a positive number")
        if self.top_k < 0:
            problems.append(f"top_k {self.top_k} must be 0 (all tokens) or positive")
        if not 0.0 < self.top_p <= 1.0:
            problems.append(f"top_p {self.top_p} must be above 0 and at most 1 (all tokens)")
        if problems:
            raise ConfigError(problems)


GREEDY = Sampling()


def token_keys(seed: jax.Array, example_ids_B: jax.Array, step: jax.Array | int) -> jax.Array:
    """One random key a row: a function of (seed, example, step) and of nothing else in the batch.

    Args:
        seed: uint32 scalar.
        example_ids_B: uint32 [batch].
        step: which new token of the example it is, from 0.

    Returns:
        [batch] keys.
    """
    base = jax.random.key(seed)

    def one(example_id: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(base, example_id), step)

    return jax.vmap(one)(example_ids_B)


def choose_greedy(logits_BV: jax.Array) -> jax.Array:
    """The most likely token of each row, int32 [batch]; the lowest id among equals."""
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def choose_random(
    logits_BV: jax.Array,
    keys_B: jax.Array,
    temperature: jax.Array | float,
    top_p: jax.Array | float,
    *,
    top_k: int,
    nucleus: bool,
) -> jax.Array:
    """Draws one token a row.

    Args:
        logits_BV: float32 [batch, vocab]; -inf where a token may not be chosen.
        keys_B: [batch] random keys.
        temperature: positive scalar.
        top_p: scalar in (0, 1]; read only if `nucleus`.
        top_k: see `Sampling`; 0 for all tokens.
        nucleus: whether to apply `top_p` at all (it costs a sort of the vocabulary).

    Returns:
        int32 [batch].
    """
    logits_BV = logits_BV / temperature
    if top_k:
        best_BK = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0]
        logits_BV = jnp.where(logits_BV < best_BK[:, -1:], -jnp.inf, logits_BV)
    if nucleus:
        logits_BV = _keep_nucleus(logits_BV, top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def _keep_nucleus(logits_BV: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Puts -inf on the tokens outside of the nucleus; tokens as likely as its last one stay in."""
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    least_B1 = jnp.min(jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
