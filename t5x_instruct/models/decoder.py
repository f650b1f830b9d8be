"""Decoder-only models, from Llama to Gemma and PaLM: configuration, network, and the model as pure functions."""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_instruct.common import types
from t5x_instruct.common.errors import unknown
from t5x_instruct.common.types import Batch, Params
from t5x_instruct.models.api import Cache, Encoded, ReadsInputs
from t5x_instruct.models.heads import HeadKernel
from t5x_instruct.models.layers.attention import Attention, AttentionInputs, KVCache, Tokens
from t5x_instruct.models.layers.embedding import Embed
from t5x_instruct.models.layers.kinds import LayerKind, Window, indexed, repeated, sliding
from t5x_instruct.models.layers.mlp import Mlp
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.remat import named
from t5x_instruct.models.layers.rope import Rope, RopeScaling, rotations
from t5x_instruct.models.layers.splash import Choice, choose
from t5x_instruct.models.layers.stack import run_layers
from t5x_instruct.models.network import (
    LinenModel,
    check_config,
    empty_cache,
    rounded_up,
    slots,
    tokens_of,
    write_slots,
)
from t5x_instruct.partitioning.rules import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only model.

    What every model's weights were trained with has no default: a constant that is forgotten is an error and not a
    slightly wrong model. What only changes speed or memory has one; what only some families have is left out by
    default, which makes a model of the Llama 2 kind.

    Attributes:
        vocab_size: number of token ids.
        emb_dim: width of the residual stream.
        num_layers: number of layers.
        num_heads: query heads.
        num_kv_heads: key/value heads; divides `num_heads`, each serves a group of query heads.
        head_dim: width of a head, even; need not be ``emb_dim / num_heads``.
        mlp_dim: width of the gated MLP.
        activation: of the MLP's gate: "silu", "gelu" (exact), "gelu_tanh", "relu".
        rope_theta: base of the rotary wavelengths ("global" in `layer_ropes`).
        norm_epsilon: added to the mean square in RMSNorm.
        tie_embeddings: whether the head is the transposed embedding.
        rope_scaling: how "global" angles are scaled for a longer context (Llama 3.x, OLMo 3, Gemma 3).
        local_rope_theta: base of the wavelengths that are "local" in `layer_ropes`, which are never scaled (Gemma 3).
        layer_ropes: which positions the layers have: "global", "local" or "none" (SmolLM3). One for each layer, or a
            pattern that is repeated; empty: all "global".
        layer_windows: how many tokens the layers' attention sees, the query itself among them; 0: all before it
            (Mistral, Gemma). One for each layer, or a pattern that is repeated; empty: all 0.
        query_pre_attn_scalar: scores are divided by its square root; None: by that of `head_dim` (Gemma).
        attention_soft_cap: if given, a score x becomes ``cap * tanh(x / cap)`` (Gemma 2).
        logits_soft_cap: if given, the same of the logits (Gemma 2).
        logits_multiplier: factor on the logits (Command R).
        scale_embeddings: whether embeddings are multiplied by ``sqrt(emb_dim)`` (Gemma).
        qkv_bias: whether queries, keys and values have a bias (Qwen2.5).
        out_bias: whether attention's result has one.
        mlp_bias: whether the MLP's matrices have one.
        qk_norm: whether queries and keys are normalised before they are turned: "none", "head" (each head by itself:
            Qwen3, Gemma 3) or "projection" (all heads at once: OLMo 2).
        norm: "rms" or "layer" (which subtracts the mean; without bias).
        norm_around_one: whether norms' parameters are their scales' differences from 1 (Gemma).
        norm_placement: what is normalised: what each sub-layer reads ("pre"), what it adds ("post": OLMo 2), or "both"
            (Gemma).
        parallel_block: whether attention and MLP read the same, normalised once, and are added together (PaLM).
        vocab_multiple: the embedding's and the head's rows are rounded up to a multiple of this (so that a
            mesh axis divides them); rows from `vocab_size` on are never predicted.
        embedding_init_stddev: standard deviation of freshly drawn embeddings.
        dropout_rate: on embeddings and on what each sub-layer adds; used only where a dropout key is given.
        dtype: compute dtype, "float32" or "bfloat16"; parameters, softmax and norms are float32.
        remat: what the backward pass computes again per layer, a key of `layers.remat.REMAT_POLICIES`.
        scan_layers: one compiled layer over stacked parameters, or every layer compiled by itself.
        attention_chunk: queries per piece of attention; scores of one piece at a time are alive.
        attention: "plain", "splash" (the kernel for TPUs) or "auto": see `layers.splash.choose`.
        prefix_lm: whether the inputs see one another, as by an encoder, and only the targets are causal.
        family: "decoder".
    """

    vocab_size: int
    emb_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    activation: str
    rope_theta: float
    norm_epsilon: float
    tie_embeddings: bool
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    layer_ropes: tuple[str, ...] = ()
    layer_windows: tuple[int, ...] = ()
    query_pre_attn_scalar: float | None = None
    attention_soft_cap: float | None = None
    logits_soft_cap: float | None = None
    logits_multiplier: float = 1.0
    scale_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = "none"
    norm: str = "rms"
    norm_around_one: bool = False
    norm_placement: str = "pre"
    parallel_block: bool = False
    vocab_multiple: int = 1
    embedding_init_stddev: float = 0.02
    dropout_rate: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    attention_chunk: int = 64
    attention: str = "auto"
    prefix_lm: bool = False
    family: str = "decoder"

    def __post_init__(self) -> None:
        problems = []
        if self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads:
            problems.append(f"num_heads is {self.num_heads}, must be a multiple of num_kv_heads, {self.num_kv_heads}")
        if self.head_dim % 2:
            problems.append(f"head_dim is {self.head_dim}, must be even: rotary positions turn pairs")
        check_config(self, "decoder", _SIZES, problems + self._problems_of_layers() + self._problems_of_choices())

    def _problems_of_layers(self) -> list[str]:
        problems = []
        for name in ("layer_ropes", "layer_windows"):
            given = len(getattr(self, name))
            if given > max(self.num_layers, 1):
                problems.append(f"{name} has {given} entries, more than num_layers, {self.num_layers}")
        problems += [
            unknown("layer_ropes entry", rope, ROPES) for rope in dict.fromkeys(self.layer_ropes) if rope not in ROPES
        ]
        if any(window < 0 for window in self.layer_windows):
            problems.append(f"layer_windows is {self.layer_windows}, no window may be below 0")
        if ("local" in self.layer_ropes) is (self.local_rope_theta is None):
            problems.append(
                f"local_rope_theta is {self.local_rope_theta} and layer_ropes is {self.layer_ropes}: the first is the "
                "base of the layers that are 'local' in the second"
            )
        return problems

    def _problems_of_choices(self) -> list[str]:
        problems = [
            unknown(name, getattr(self, name), valid)
            for name, valid in CHOICES.items()
            if getattr(self, name) not in valid
        ]
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0.0:
                problems.append(f"{name} is {value}, must be positive")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_theta <= 1.0:
            problems.append(f"rope_theta is {self.rope_theta}, must be above 1 where rope_scaling is 'yarn'")
        if self.parallel_block and self.norm_placement != "pre":
            problems.append(f"norm_placement is {self.norm_placement!r}, must be 'pre' in a parallel_block")
        return problems

    @property
    def ropes(self) -> list[Rope]:
        """Of every layer."""
        meaning = {
            "global": Rope(self.rope_theta, self.rope_scaling),
            "local": Rope(self.local_rope_theta),
            "none": Rope(None),
        }
        return [meaning[name] for name in repeated(self.layer_ropes or ("global",), self.num_layers)]

    @property
    def windows(self) -> list[Window | None]:
        """Of every layer."""
        return [sliding(size) for size in repeated(self.layer_windows or (0,), self.num_layers)]

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up to a multiple of `vocab_multiple`."""
        return rounded_up(self.vocab_size, self.vocab_multiple)


ROPES = ("global", "local", "none")
CHOICES = {
    "qk_norm": ("none", "head", "projection"),
    "norm": ("rms", "layer"),
    "norm_placement": ("pre", "post", "both"),
}
_POSITIVE = (
    "rope_theta",
    "local_rope_theta",
    "query_pre_attn_scalar",
    "attention_soft_cap",
    "logits_soft_cap",
    "logits_multiplier",
)
_SIZES = (
    "vocab_size",
    "emb_dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "mlp_dim",
    "vocab_multiple",
    "attention_chunk",
)


def _norm(config: DecoderConfig) -> Callable[..., RMSNorm]:
    c = config
    return partial(
        RMSNorm,
        c.norm_epsilon,
        jnp.dtype(c.dtype),
        around_one=c.norm_around_one,
        subtract_mean=c.norm == "layer",
    )


def _attention(config: DecoderConfig) -> Callable[..., Attention]:
    c = config
    return partial(
        Attention,
        num_heads=c.num_heads,
        num_kv_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        chunk=c.attention_chunk,
        setting=c.attention,
        dtype=jnp.dtype(c.dtype),
        scaled_by=c.query_pre_attn_scalar,
        soft_cap=c.attention_soft_cap,
        windows=indexed(c.windows)[0],
        qkv_bias=c.qkv_bias,
        out_bias=c.out_bias,
        qk_norm=None if c.qk_norm == "none" else _norm(c),
        qk_norm_over=c.qk_norm,
    )


class DecoderLayer(nn.Module):
    """Attention and MLP, each added to the residual stream, normalised before, after, or both.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, KVCache | None], numbered: tuple[jax.Array, LayerKind], inputs: AttentionInputs
    ) -> tuple[tuple[jax.Array, KVCache | None], None]:
        """One layer as `run_layers` runs it; the carry is ([batch, length, embed], cache)."""
        c = self.config
        x_BTD, cache = carry
        x_BTD = named(x_BTD, "layer_input")
        layer, kind = numbered
        norm = _norm(c)
        attention = _attention(c)(name="self_attention")
        mlp = Mlp(c.mlp_dim, c.activation, jnp.dtype(c.dtype), use_bias=c.mlp_bias, name="mlp")
        dropout = nn.Dropout(c.dropout_rate, deterministic=self.deterministic)
        if c.parallel_block:
            h_BTD = norm(name="pre_layer_norm")(x_BTD)
            attended_BTD, cache = attention(h_BTD, inputs, cache, layer, kind=kind)
            x_BTD += dropout(attended_BTD + mlp(h_BTD))
        else:
            before, after = c.norm_placement != "post", c.norm_placement != "pre"
            h_BTD = norm(name="pre_self_attention_layer_norm")(x_BTD) if before else x_BTD
            h_BTD, cache = attention(h_BTD, inputs, cache, layer, kind=kind)
            x_BTD += dropout(norm(name="post_self_attention_layer_norm")(h_BTD) if after else h_BTD)
            h_BTD = mlp(norm(name="pre_mlp_layer_norm")(x_BTD) if before else x_BTD)
            x_BTD += dropout(norm(name="post_mlp_layer_norm")(h_BTD) if after else h_BTD)
        return (constrain(x_BTD, ("batch", "length", "activation_embed")), cache), None


class DecoderStack(nn.Module):
    """All layers, the last norm, and the head's matrix if it is not tied.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, inputs: AttentionInputs, cache: KVCache | None
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps embeddings [batch, length, embed] to final hidden states of the same shape."""
        c = self.config
        kinds = LayerKind(indexed(c.windows)[1], indexed(c.ropes)[1])
        x_BTD, cache = run_layers(DecoderLayer, c, c.num_layers, self.deterministic, (x_BTD, cache), inputs, kinds)
        if not c.tie_embeddings:
            # Only makes the parameter: its product with hidden states is the loss's business.
            HeadKernel(c.emb_dim, c.vocab_rows, name="logits_dense")()
        return _norm(c)(name="decoder_norm")(x_BTD), cache


class DecoderNetwork(nn.Module):
    """Embedding and stack.

    Attributes:
        config: the model's.
        deterministic: whether dropout is off.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, queries: Tokens, keys: Tokens, cache: KVCache | None
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps int32 tokens [batch, length] to hidden states [batch, length, embed]."""
        c = self.config
        embed = Embed(
            c.vocab_rows,
            c.emb_dim,
            c.embedding_init_stddev,
            jnp.dtype(c.dtype),
            name="token_embedder",
        )
        x_BTD = embed(tokens_BT)
        if c.scale_embeddings:
            x_BTD *= jnp.asarray(c.emb_dim**0.5, x_BTD.dtype)
        x_BTD = nn.Dropout(c.dropout_rate, deterministic=self.deterministic)(x_BTD)
        turn = rotations(queries.positions, c.head_dim, indexed(c.ropes)[0])
        stack = DecoderStack(c, self.deterministic, name="decoder")
        return stack(x_BTD, AttentionInputs(queries, keys, turn), cache)


class DecoderModel(LinenModel):
    """A decoder-only model; implements `models.api.Model`.

    `hidden` reads of a batch ``decoder_input_tokens`` and, where present, ``decoder_segment_ids`` (0 is padding;
    absent: one segment without padding) and ``decoder_positions`` (absent: 0, 1, 2, ... along the row). A prefix-LM
    also reads ``decoder_causal_attention`` (1 on the slots that hold inputs, which all of their segment see; absent:
    there are none).

    Args:
        config: sizes and constants.
    """

    config: DecoderConfig

    def __init__(self, config: DecoderConfig):
        tokens_BT = jnp.zeros((1, 1), jnp.int32)
        where = Tokens(tokens_BT + 1, tokens_BT)
        super().__init__(
            config, DecoderNetwork, (tokens_BT, where, where, None), config.logits_multiplier, config.logits_soft_cap
        )

    @property
    def reads_inputs(self) -> ReadsInputs:
        """ "prefix" or "causal"."""
        return "prefix" if self.config.prefix_lm else "causal"

    def attention_choice(self, length: int, mesh: Mesh | None) -> Choice:
        """Which attention reads whole rows of so many slots on a mesh, and why."""
        c = self.config
        return choose(
            c.attention,
            mesh,
            length=length,
            num_heads=c.num_heads,
            num_kv_heads=c.num_kv_heads,
            obstacle="inputs see one another (prefix_lm)" if c.prefix_lm else "",
        )

    def hidden(self, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
        """Final hidden states of all tokens at once.

        Args:
            params: from `init`.
            batch: int32 [batch, length] arrays, see the class.
            dropout_rng: PRNG key; None turns dropout off.

        Returns:
            [batch, length, embed] in the compute dtype.
        """
        queries = keys = tokens_of(batch, "decoder")
        if self.config.prefix_lm:
            keys = keys._replace(inputs=batch.get(types.DECODER_CAUSAL_ATTENTION))
        hidden_BTD: jax.Array
        hidden_BTD, _ = self._run(params, dropout_rng, batch[types.DECODER_INPUT_TOKENS], queries, keys, None)
        return hidden_BTD

    def encode(self, params: Params, batch: Batch) -> None:
        """Nothing: there is no encoder."""
        return

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoded: Encoded | None = None,
        params: Params | None = None,
    ) -> Cache:
        """An empty cache.

        Args:
            batch_size: rows.
            max_length: slots a row, for the longest prompt and all that is generated.
            encoded: unused, there is no encoder.
            params: unused, nothing is projected ahead.

        Returns:
            What `empty_cache` gives; for a prefix-LM also ``inputs`` int32 [batch, slots], 1 where a slot holds inputs.
        """
        c = self.config
        cache = empty_cache(c, c.num_layers, c.num_kv_heads, batch_size, max_length)
        if c.prefix_lm:
            cache["inputs"] = jnp.zeros((batch_size, max_length), jnp.int32)
        return cache

    def step(
        self, params: Params, cache: Cache, tokens_BT: jax.Array, positions_BT: jax.Array, *, prefix: bool = False
    ) -> tuple[jax.Array, Cache]:
        """Writes T new slots and attends to all valid ones, see `models.api.Model.step`.

        Raises:
            ValueError: more new tokens than the cache has slots.
        """
        after = {"positions": write_slots(cache, "positions", positions_BT)}
        if self.config.prefix_lm:
            after["inputs"] = write_slots(cache, "inputs", jnp.full(tokens_BT.shape, int(prefix)))
        keys = slots(after["positions"])._replace(inputs=after.get("inputs"))
        kv = KVCache(cache["key"], cache["value"], cache["index"])
        hidden_BTD, kv = self._run(params, None, tokens_BT, slots(positions_BT), keys, kv)
        after |= {"index": cache["index"] + tokens_BT.shape[1], "key": kv.key_LBSKH, "value": kv.value_LBSKH}
        return hidden_BTD, after
