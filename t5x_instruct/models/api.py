"""What a model is to the rest of the house: pure functions over plain nested dictionaries.

The trainer, the decoder and the checkpoints know this protocol and no Module, so that the library the
layers are written in can be changed here alone.
"""

from typing import Any, Literal, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from t5x_instruct.common.types import Batch, Params, Unembedding
from t5x_instruct.models.layers.splash import Choice

#: Parts of a model's parameters that stand beside its own top-level names where the model is frozen: what is trained
#: instead, and kernels that are kept in few bits. Both follow the names of the modules they belong to.
ADAPTERS = "adapters"
QUANTIZED = "quantized"

#: An incremental decoding state: a pytree with at least the scalar int32 `index`, the next free slot. Arrays of all
#: layers are [layers, batch, ...] (`key`, `value`, `cross_key`, `cross_value`), all others [batch, ...].
Cache = dict[str, Any]

#: How a model reads the inputs: "causal": in one row with the targets, every token sees those before it; "prefix": in
#: the same row, but the inputs see one another; "encoder": in a row of their own.
ReadsInputs = Literal["causal", "prefix", "encoder"]


class Encoded(NamedTuple):
    """What an encoder gives to the decoder.

    Attributes:
        hidden_BSD: [batch, source, embed] in the compute dtype.
        segments_BS: int32 [batch, source]; 0 is padding. While decoding, segment 1 is attended to.
    """

    hidden_BSD: jax.Array
    segments_BS: jax.Array


def split_trained(tree: Params) -> tuple[Params, Params | None]:
    """A tree of parameters (or axes, shardings, ...) as what is trained and what is frozen; None: nothing is."""
    if ADAPTERS not in tree:
        return tree, None
    return tree[ADAPTERS], {name: part for name, part in tree.items() if name != ADAPTERS}


def with_frozen(trained: Params, frozen: Params | None) -> Params:
    """The inverse of `split_trained`."""
    return trained if frozen is None else {**frozen, ADAPTERS: trained}


class Model(Protocol):
    """A model as functions of its parameters; see the class docstrings of the families for the batch keys."""

    @property
    def config(self) -> Any:
        """The configuration it was made from: a frozen dataclass of JSON-able fields, among them `family` (the
        class of models, e.g. "decoder"), `vocab_size` (token ids) and `dtype` (of the computation)."""
        ...

    @property
    def reads_inputs(self) -> ReadsInputs:
        """How it reads the inputs."""
        ...

    def attention_choice(self, length: int, mesh: Mesh | None) -> Choice:
        """Which attention reads whole rows of so many slots on a mesh, and why."""
        ...

    @property
    def has_dropout(self) -> bool:
        """Whether a dropout key changes anything."""
        ...

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Random float32 parameters from a PRNG key."""
        ...

    def param_axes(self) -> dict[str, Any]:
        """The tree of `init` with a tuple of logical axis names for each array."""
        ...

    def hidden(self, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
        """Final hidden states [batch, length, embed] of all targets at once; no dropout without a key."""
        ...

    def unembedding(self, params: Params) -> Unembedding:
        """What turns hidden states into logits."""
        ...

    def logits(self, params: Params, hidden_BTD: jax.Array) -> jax.Array:
        """float32 logits [batch, length, vocab] of hidden states."""
        ...

    def encode(self, params: Params, batch: Batch) -> Encoded | None:
        """What the encoder gives to the decoder, from the batch's encoder keys; None where there is no encoder."""
        ...

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoded: Encoded | None = None,
        params: Params | None = None,
    ) -> Cache:
        """An empty cache of `max_length` slots a row; an encoder-decoder needs `encoded` and `params`."""
        ...

    def step(
        self, params: Params, cache: Cache, tokens_BT: jax.Array, positions_BT: jax.Array, *, prefix: bool = False
    ) -> tuple[jax.Array, Cache]:
        """Writes T new slots at ``cache['index']`` and attends to all valid slots up to them.

        Prefill is T = prompt length (prompts padded on the left), decoding is T = 1.

        Args:
            params: the parameters.
            cache: from `init_cache` or an earlier step.
            tokens_BT: int32 [batch, new].
            positions_BT: int32 [batch, new]; -1 marks padding, which nothing ever attends to. A row's tokens stand at
                consecutive positions in consecutive slots.
            prefix: the new tokens are inputs. A model that reads its inputs as "prefix" lets them see one another,
                and needs all inputs in one step, since what is written later is not seen; other models ignore it.

        Returns:
            Hidden states [batch, new, embed] and the new cache. The caller keeps ``index + T`` within the
            slots: past the end the last slots would be overwritten.
        """
        ...
