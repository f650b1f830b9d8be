"""How tokens are chosen from the logits: greedily, drawn reproducibly, or by beam search."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import Params

if TYPE_CHECKING:
    from t5x_instruct.models.api import Model


@dataclass(frozen=True)
class Sampling:
    """A way to choose tokens.

    Attributes:
        temperature: 0 takes the most likely token; otherwise the logits are divided by it before a token is drawn.
        top_k: draw from the `top_k` most likely tokens only; 0 means all of them.
        top_p: draw from the smallest set of most likely tokens whose probability reaches `top_p`, after
            temperature and `top_k`; 1 means all of them.
        num_beams: above 1, the answer is the best that this many beams find (see `beam.search`); 1 chooses token by
            token.
        length_penalty: with beams: an answer of n tokens scores its log-probability over
            ``((5 + n) / 6) ** length_penalty``. 0 compares plain log-probabilities; more favours longer answers.

    Raises:
        ConfigError: a value is out of its range, or beams with a temperature; all problems are named.

    Source:
        top_k: Fan et al. 2018, arXiv:1805.04833, section 5.2. top_p: Holtzman et al. 2020, arXiv:1904.09751,
        equations 2 and 3. length_penalty: Wu et al. 2016, arXiv:1609.08144, equation 14; 0.6 (with 4 beams) is
        T5's: Raffel et al. 2020, arXiv:1910.10683, section 3.7.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 1
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        problems = []
        if not 0.0 <= self.temperature < float("inf"):
            problems.append(f"temperature {self.temperature} must be 0 (greedy) or a positive number")
        if self.top_k < 0:
            problems.append(f"top_k {self.top_k} must be 0 (all tokens) or positive")
        if not 0.0 < self.top_p <= 1.0:
            problems.append(f"top_p {self.top_p} must be above 0 and at most 1 (all tokens)")
        if self.num_beams < 1:
            problems.append(f"num_beams {self.num_beams} must be at least 1 (no beam search)")
        if not 0.0 <= self.length_penalty < float("inf"):
            problems.append(f"length_penalty {self.length_penalty} must be 0 (none) or a positive number")
        if self.num_beams > 1 and self.temperature > 0.0:
            problems.append(
                f"num_beams {self.num_beams} with temperature {self.temperature}: beam search draws nothing; "
                "set temperature to 0, or num_beams to 1"
            )
        if problems:
            raise ConfigError(problems)


GREEDY = Sampling()


def known_tokens_only(model: "Model", params: Params, hidden_BTD: jax.Array) -> jax.Array:
    """float32 logits [batch, length, vocab] with -inf on the rows that only pad the vocabulary's matrix."""
    logits_BTV = model.logits(params, hidden_BTD).astype(jnp.float32)
    vocab_size = model.unembedding(params).vocab_size
    if vocab_size is None or vocab_size >= logits_BTV.shape[-1]:
        return logits_BTV
    return jnp.where(jnp.arange(logits_BTV.shape[-1]) < vocab_size, logits_BTV, -jnp.inf)


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
