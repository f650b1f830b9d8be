"""What the families' models have in common: a Linen network as pure functions, its configuration, its batches."""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.types import Batch, Params, Unembedding
from t5x_instruct.models.api import ADAPTERS, QUANTIZED, Cache
from t5x_instruct.models.heads import logits_of
from t5x_instruct.models.layers.attention import Tokens
from t5x_instruct.models.layers.mlp import ACTIVATIONS
from t5x_instruct.models.layers.remat import REMAT_POLICIES
from t5x_instruct.models.layers.splash import SETTINGS

DTYPES = ("float32", "bfloat16")


def check_config(config: Any, family: str, sizes: Iterable[str], problems: list[str]) -> None:
    """Checks what configurations of all families hold.

    Args:
        config: with `activation`, `dtype`, `attention`, `remat`, `family`, `dropout_rate`, `norm_epsilon`.
        family: the only valid family.
        sizes: fields that are at least 1.
        problems: what the family itself has found.

    Raises:
        ConfigError: there are problems; all of them.
    """
    found = [f"{name} is {getattr(config, name)}, must be at least 1" for name in sizes if getattr(config, name) < 1]
    for name, value, valid in (
        ("activation", config.activation, ACTIVATIONS),
        ("dtype", config.dtype, DTYPES),
        ("attention", config.attention, SETTINGS),
        ("remat policy", config.remat, REMAT_POLICIES),
        (f"{family} family", config.family, (family,)),
    ):
        if value not in valid:
            found.append(unknown(name, value, valid))
    if not 0.0 <= config.dropout_rate < 1.0:
        found.append(f"dropout_rate is {config.dropout_rate}, must be in [0, 1)")
    if config.norm_epsilon <= 0.0:
        found.append(f"norm_epsilon is {config.norm_epsilon}, must be positive")
    found += problems
    if found:
        raise ConfigError([f"{type(config).__name__}: {problem}" for problem in found])


def rounded_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def collections_of(params: Params) -> dict[str, Any]:
    """A model's parameters as Linen has them: its own in the collection "params", parts beside them in their own."""
    beside = {name: params[name] for name in (ADAPTERS, QUANTIZED) if name in params}
    return {"params": {name: part for name, part in params.items() if name not in beside}} | beside


class LinenModel:
    """A Linen network as functions of its parameters, with dropout and without.

    Args:
        config: sizes and constants.
        network: made with (config, deterministic).
        example: arguments it can be initialised with.
        logits_multiplier: factor on the logits.
        logits_soft_cap: see `Unembedding`.
    """

    def __init__(
        self,
        config: Any,
        network: type[nn.Module],
        example: tuple[Any, ...],
        logits_multiplier: float = 1.0,
        logits_soft_cap: float | None = None,
    ):
        self.config = config
        self._network: Any = network(config, deterministic=True)
        self._network_with_dropout: Any = network(config, deterministic=False)
        self._example = example
        self._logits_multiplier = logits_multiplier
        self._logits_soft_cap = logits_soft_cap

    @property
    def has_dropout(self) -> bool:
        """Whether a dropout key changes anything."""
        return bool(self.config.dropout_rate > 0)

    def _init_boxed(self, rng: jax.Array) -> Any:
        return self._network.init(rng, *self._example)["params"]

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Random float32 parameters from a PRNG key."""
        params: dict[str, Any] = nn.meta.unbox(self._init_boxed(rng))
        return params

    def param_axes(self) -> dict[str, Any]:
        """The tree of `init` with a tuple of logical axis names for each array."""
        boxed = jax.eval_shape(self._init_boxed, jax.random.key(0))
        axes: dict[str, Any] = jax.tree.map(
            lambda box: tuple(box.names), boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
        )
        return axes

    def unembedding(self, params: Params) -> Unembedding:
        """What turns hidden states into logits: the head's matrix or the transposed embedding, in float32."""
        if self.config.tie_embeddings:
            kernel_DV = params["token_embedder"]["embedding"].T
        else:
            kernel_DV = params["decoder"]["logits_dense"]["kernel"]
        return Unembedding(kernel_DV, self._logits_multiplier, self._logits_soft_cap, self.config.vocab_size)

    def logits(self, params: Params, hidden_BTD: jax.Array) -> jax.Array:
        """float32 logits [batch, length, vocab_rows]; ids from `vocab_size` on hold -1e30."""
        return logits_of(hidden_BTD, self.unembedding(params))

    def _run(self, params: Params, dropout_rng: jax.Array | None, *args: Any, method: str = "__call__") -> Any:
        variables = collections_of(params)
        if dropout_rng is None:
            return self._network.apply(variables, *args, method=method)
        rngs = {"dropout": dropout_rng}
        return self._network_with_dropout.apply(variables, *args, rngs=rngs, method=method)


def tokens_of(batch: Batch, side: str) -> Tokens:
    """Segments and positions of one side of a batch, with what absent keys mean filled in.

    Args:
        batch: int32 [batch, length] arrays.
        side: "encoder" or "decoder".
    """
    tokens_BT = batch[f"{side}_input_tokens"]
    segments_BT = batch.get(f"{side}_segment_ids")
    if segments_BT is None:
        segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
    positions_BT = batch.get(f"{side}_positions")
    if positions_BT is None:
        # Positions along the whole row order every segment and give rotary angles the same differences.
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
    return Tokens(segments_BT, positions_BT)


def empty_cache(config: Any, num_layers: int, num_kv_heads: int, batch_size: int, max_length: int) -> Cache:
    """A cache of self-attention.

    Returns:
        ``index`` int32 scalar, ``positions`` int32 [batch, slots] (-1: empty or padding), ``key`` and ``value``
        [layers, batch, slots, kv heads, head_dim] in the compute dtype.
    """
    shape = (num_layers, batch_size, max_length, num_kv_heads, config.head_dim)
    return {
        "index": jnp.zeros((), jnp.int32),
        "positions": jnp.full((batch_size, max_length), -1, jnp.int32),
        "key": jnp.zeros(shape, jnp.dtype(config.dtype)),
        "value": jnp.zeros(shape, jnp.dtype(config.dtype)),
    }


def write_slots(cache: Mapping[str, Any], name: str, new_BT: jax.Array) -> jax.Array:
    """The cache's [batch, slots] array `name` with a step's new entries.

    Raises:
        ValueError: more new tokens than the cache has slots.
    """
    T, S = new_BT.shape[1], cache[name].shape[1]
    if T > S:
        raise ValueError(f"a step of {T} tokens does not fit a cache of {S} slots; init_cache needs at least {T}")
    all_BS: jax.Array = jax.lax.dynamic_update_slice(
        cache[name], new_BT.astype(jnp.int32), (jnp.zeros((), jnp.int32), cache["index"])
    )
    return all_BS


def slots(positions_BT: jax.Array) -> Tokens:
    """Tokens of a cache by their positions: one segment, and padding where the position is -1."""
    return Tokens((positions_BT >= 0).astype(jnp.int32), positions_BT)
