"""Attention: one implementation for self- and cross-attention, training, prefill and decoding."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_instruct.models.layers.kinds import LayerKind, Window
from t5x_instruct.models.layers.linear import Linear
from t5x_instruct.models.layers.norm import RMSNorm
from t5x_instruct.models.layers.remat import named
from t5x_instruct.models.layers.rope import Rotation, rotate
from t5x_instruct.models.layers.sequence import over_sequence
from t5x_instruct.models.layers.splash import choose, splash_attend
from t5x_instruct.partitioning.rules import active_rules, constrain, shard_count

# Far below any score and far above the end of float32, so that adding a score to it stays finite.
_HIDDEN = -1e30


class Tokens(NamedTuple):
    """Where tokens stand: what masks are made of.

    Attributes:
        segments: int32 [batch, length], 0 is padding.
        positions: int32 [batch, length], order within a segment.
        inputs: of keys only, int32 [batch, length]: where 1, the whole segment sees the key, the tokens before it too;
            None: nowhere.
        elsewhere: of keys only, int32 [batch, length]: where 1, the key is another text's (the encoder's), which has
            no place among the queries: its segment sees it whatever the positions and the window; None: nowhere.
    """

    segments: jax.Array
    positions: jax.Array
    inputs: jax.Array | None = None
    elsewhere: jax.Array | None = None

    def after(self, source_segments_BS: jax.Array) -> "Tokens":
        """Keys of the encoder's tokens and, after them, these."""

        def joined(source_BS: jax.Array, own_BT: jax.Array) -> jax.Array:
            return jnp.concatenate([source_BS.astype(jnp.int32), own_BT], axis=1)

        nowhere_BS, own_BT = jnp.zeros_like(source_segments_BS), jnp.zeros_like(self.segments)
        return Tokens(
            joined(source_segments_BS, self.segments),
            joined(nowhere_BS, self.positions),
            elsewhere=joined(nowhere_BS + 1, own_BT),
        )


class KVCache(NamedTuple):
    """Keys and values of all layers, and where the step writes.

    Attributes:
        key_LBSKH: [layers, batch, slots, kv heads, head_dim].
        value_LBSKH: the same.
        slot: int32 scalar, where the step's first token goes.
    """

    key_LBSKH: jax.Array
    value_LBSKH: jax.Array
    slot: jax.Array

    def updated(self, layer: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, jax.Array, "KVCache"]:
        """Writes one layer's new slots; gives all slots of the layer and the new cache."""

        def write(all_LBSKH: jax.Array, new_BTKH: jax.Array) -> jax.Array:
            new = new_BTKH[None].astype(all_LBSKH.dtype)
            zero = jnp.zeros((), jnp.int32)
            return jax.lax.dynamic_update_slice(all_LBSKH, new, (layer, zero, self.slot, zero, zero))

        keys, values = write(self.key_LBSKH, k_BTKH), write(self.value_LBSKH, v_BTKH)
        at_layer = partial(jax.lax.dynamic_index_in_dim, index=layer, axis=0, keepdims=False)
        return at_layer(keys), at_layer(values), KVCache(keys, values, self.slot)


# Why in pieces of queries, with the keys transposed: XLA's CPU backend runs the textbook einsum over [batch, heads, T,
# S] at 50 GFLOP/s, because it is bound by passes over the scores. A piece's scores stay in the caches and are computed
# again in the backward pass, instead of being stored. Batch and heads stay whole axes, so that a mesh can shard them: a
# loop over (batch, head) is as fast on one CPU, but would gather everything on a pod. Measured forward and backward in
# float32 on two cores, 4 rows, 9 heads of 64, 3 kv heads: at 512 tokens 85 ms and 24 MB of temporaries (textbook
# 190-230 ms and 194 MB, loop over batch and head 84 ms and 23 MB); at 256 tokens 22 ms (textbook 38-68 ms, loop 19-24
# ms). The bias is spread out over a piece's scores when they are computed, and its gradient summed over them at once: a
# [heads, T, S] array exists neither forward nor backward.
def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    queries: Tokens,
    keys: Tokens,
    chunk: int,
    *,
    causal: bool = True,
    bias_NL: jax.Array | None = None,
    window: Window | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """Softmax attention within segments.

    A query sees the keys of its own segment that stand at its position or before, or, if not `causal`, all of them;
    of these those within the `window`; and all keys of its segment that stand elsewhere. Padding is seen by nothing and
    sees nothing, nor does a query whose segment has no keys see anything: their result is zero.

    Args:
        q_BTNH: queries [batch, T, heads, head_dim], already scaled.
        k_BSKH: keys [batch, S, kv heads, head_dim].
        v_BSKH: values, the same shape.
        queries: of the T queries.
        keys: of the S keys.
        chunk: queries per piece.
        causal: whether positions matter.
        bias_NL: float32 [heads, T + S - 1], added to the scores: entry ``s - t + T - 1`` between query t and key s.
        window: how far a query sees; None: all of its segment.
        soft_cap: if given, a score x becomes ``soft_cap * tanh(x / soft_cap)``.

    Returns:
        [batch, T, heads, head_dim].

    Source: Ainslie et al. 2023 (grouped queries); Rabe and Staats 2021 (pieces with recomputation); Beltagy et al.
    2020 (windows); Gemma team 2024, "Gemma 2", section 2 (soft cap).
    """
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    k_BKHS = k_BSKH.transpose(0, 2, 3, 1)
    v_BKSH = v_BSKH.transpose(0, 2, 1, 3)

    def piece(q_BCNH: jax.Array, piece_of: Tokens, window_NL: jax.Array | None) -> jax.Array:
        C = q_BCNH.shape[1]
        # The queries that share a key head are rows of one matrix.
        q_BKMH = q_BCNH.reshape(B, C, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
        seen_BCS = _seen(piece_of, keys, causal, window)
        scores = jnp.einsum("bkmh,bkhs->bkms", q_BKMH, k_BKHS, preferred_element_type=jnp.float32)
        if soft_cap is not None:
            scores = soft_cap * jnp.tanh(scores / soft_cap)
        scores = scores.reshape(B, K, N // K, C, S)
        if window_NL is not None:
            scores = _with_bias(scores, window_NL)
        scores += jnp.where(seen_BCS, 0.0, _HIDDEN)[:, None, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(v_BKSH.dtype).reshape(*q_BKMH.shape[:3], -1)
        out_BKMH = jnp.einsum("bkms,bksh->bkmh", weights, v_BKSH)
        out_BCNH = out_BKMH.reshape(B, K, N // K, C, H).transpose(0, 3, 1, 2, 4).reshape(B, C, N, H)
        return out_BCNH * seen_BCS.any(axis=-1)[:, :, None, None]

    if chunk >= T:
        return piece(q_BTNH, queries, bias_NL)
    count, missing = -(-T // chunk), -T % chunk

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, count, chunk, *x.shape[2:]), 1, 0)

    # The queries' side of the bias runs backwards: what is added after the last query stands in front.
    padded_NL = None if bias_NL is None else jnp.pad(bias_NL, ((0, 0), (missing, 0)))

    def body(args: tuple[jax.Array, jax.Array, Tokens]) -> jax.Array:
        number, q_BCNH, piece_of = args
        if padded_NL is None:
            return piece(q_BCNH, piece_of, None)
        start = (count - 1 - number) * chunk
        return piece(q_BCNH, piece_of, jax.lax.dynamic_slice_in_dim(padded_NL, start, chunk + S - 1, axis=1))

    pieces = (jnp.arange(count), split(q_BTNH), Tokens(split(queries.segments), split(queries.positions)))
    # prevent_cse=False: inside a loop XLA cannot merge the recomputation with the first computation.
    out = jnp.moveaxis(jax.lax.map(jax.checkpoint(body, prevent_cse=False), pieces), 0, 1)
    return out.reshape(B, count * chunk, N, H)[:, :T]


def _seen(queries: Tokens, keys: Tokens, causal: bool, window: Window | None) -> jax.Array:
    """Which key each query sees, bool [batch, T, S]."""
    seen = (queries.segments[:, :, None] == keys.segments[:, None, :]) & (keys.segments > 0)[:, None, :]
    if not causal and window is None:
        return seen
    behind_BTS = queries.positions[:, :, None] - keys.positions[:, None, :]
    near = seen
    if causal:
        before = behind_BTS >= 0
        near &= before if keys.inputs is None else before | (keys.inputs > 0)[:, None, :]
    if window is not None:
        near &= (behind_BTS <= window.behind) & (behind_BTS >= -window.ahead)
    return near if keys.elsewhere is None else near | (seen & (keys.elsewhere > 0)[:, None, :])


@jax.custom_vjp
def _with_bias(scores_BKGCS: jax.Array, window_NL: jax.Array) -> jax.Array:
    """Adds to the score of query c and key s, in all rows, entry ``s - c + C - 1`` of [heads, C + S - 1].

    The window, made one longer, is laid end to end and cut into rows of its first length, each of which begins one
    entry earlier than the one before. So there is no gather, whose gradient would be a scatter from every score; and
    the sums of the gradient are matrix products, since XLA's CPU backend takes 20 x as long to sum over outer axes.
    """
    _, K, G, C, S = scores_BKGCS.shape
    N = K * G
    end_to_end = jnp.tile(jnp.pad(window_NL, ((0, 0), (0, 1))), (1, C))
    bias_NCS = end_to_end[:, : C * (C + S - 1)].reshape(N, C, C + S - 1)[:, :, C - 1 :]
    return scores_BKGCS + bias_NCS.reshape(1, K, G, C, S)


def _with_bias_forward(scores_BKGCS: jax.Array, window_NL: jax.Array) -> tuple[jax.Array, None]:
    return _with_bias(scores_BKGCS, window_NL), None


def _with_bias_backward(_: None, grad_BKGCS: jax.Array) -> tuple[jax.Array, jax.Array]:
    B, K, G, C, S = grad_BKGCS.shape
    exact = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def along_diagonals(grad_KGCS: jax.Array) -> jax.Array:
        rows_NX = jnp.pad(grad_KGCS.reshape(K * G, C, S), ((0, 0), (0, 0), (C - 1, 0))).reshape(K * G, C * (C + S - 1))
        rows_NCX = jnp.pad(rows_NX, ((0, 0), (0, C))).reshape(K * G, C, C + S)
        return exact("ncx,c->nx", rows_NCX, jnp.ones(C))[:, :-1]

    shards = shard_count("batch")
    if shards == 1 or B % shards:
        return grad_BKGCS, along_diagonals(exact("bkgcs,b->kgcs", grad_BKGCS, jnp.ones(B)))
    # Every device sums over its own rows and their diagonals first: what is added up between devices is [heads,
    # C + S - 1] and not [heads, C, S].
    own_PBKGCS = grad_BKGCS.reshape(shards, B // shards, K, G, C, S)
    own_PKGCS = exact("pbkgcs,b->pkgcs", own_PBKGCS, jnp.ones(B // shards))
    own_PKGCS = constrain(own_PKGCS, ("batch", "kv_heads", None, None, None))
    return grad_BKGCS, jax.vmap(along_diagonals)(own_PKGCS).sum(axis=0)


_with_bias.defvjp(_with_bias_forward, _with_bias_backward)


def _by_kernel(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    queries: Tokens,
    keys: Tokens,
    *,
    bias_NL: None,
    window: Window | None,
    soft_cap: float | None,
) -> jax.Array:
    """`splash_attend` with the arguments of `attend`."""
    behind = None if window is None else window.behind
    return splash_attend(q_BTNH, k_BTKH, v_BTKH, queries.segments, behind=behind, soft_cap=soft_cap)


class AttentionInputs(NamedTuple):
    """What all layers' attention shares, computed once a forward pass.

    Attributes:
        queries: of the tokens of this call.
        keys: of all that can be attended to: the same tokens, the cache's slots, the encoder's tokens, or these before
            the same tokens.
        rotation: of the queries' positions, where positions are rotary. If layers are of several kinds: with one more
            axis in front, of all rotations that any layer has.
        bias_NL: where positions are a bias, see `attend`.
    """

    queries: Tokens
    keys: Tokens
    rotation: Rotation | None = None
    bias_NL: jax.Array | None = None


class KeysValues(NamedTuple):
    """Keys and values of one layer (or, with one more axis in front, of all), projected ahead.

    Attributes:
        k_BSKH: [batch, source, kv heads, head_dim].
        v_BSKH: the same.
    """

    k_BSKH: jax.Array
    v_BSKH: jax.Array


class Attention(nn.Module):
    """Self- or cross-attention; optionally with fewer key/value heads than query heads.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key/value heads.
        head_dim: width of a head.
        chunk: queries per piece, see `attend`.
        dtype: compute dtype.
        causal: whether a token sees only keys at its position or before.
        scaled: whether scores are divided by a square root. If not, fresh query kernels are smaller by it.
        scaled_by: what it is the square root of; None: of `head_dim`.
        soft_cap: of the scores, see `attend`.
        windows: how far queries see; where there are several, a layer's kind says which.
        qkv_bias: whether queries, keys and values have a bias.
        out_bias: whether the result has one.
        qk_norm: what normalises queries and keys before they are turned; takes a name. None: nothing.
        qk_norm_over: "head" (each head by itself, with one scale for all) or "projection" (all heads at once).
        dropout_rate: share of the keys dropped for each head, the same ones for all queries of a row. Dropping a key's
            weight is dropping its value, which costs no pass over the scores.
        deterministic: whether dropout is off.
        setting: whether whole rows are read by the Splash kernel, see `splash.choose`.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    chunk: int
    dtype: jnp.dtype
    causal: bool = True
    scaled: bool = True
    scaled_by: float | None = None
    soft_cap: float | None = None
    windows: tuple[Window | None, ...] = (None,)
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Callable[..., RMSNorm] | None = None
    qk_norm_over: str = "head"
    dropout_rate: float = 0.0
    deterministic: bool = True
    setting: str = "plain"

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        inputs: AttentionInputs,
        cache: KVCache | None = None,
        layer: Any = None,
        source: jax.Array | KeysValues | None = None,
        kind: LayerKind | None = None,
        before_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps [batch, length, embed] to the same shape.

        Args:
            x_BTD: what queries are made of.
            inputs: where queries and keys stand.
            cache: to write the new keys and values to, and to read all from.
            layer: of the cache.
            source: what keys and values are made of, [batch, source, embed]; or the keys and values; None: `x_BTD`.
            kind: of this layer; None: there is one window and one rotation.
            before_BSD: the encoder's result, if it is attended to besides, [batch, source, embed]: its keys and values
                are projected as the own ones are but not turned, and stand before them. A cache holds them already.

        Returns:
            The result and the cache.
        """
        scale = (self.head_dim if self.scaled_by is None else self.scaled_by) ** -0.5
        rotation = inputs.rotation
        if rotation is not None and kind is not None:
            number = kind.rotation if len(rotation.cos_BTh) > 1 else 0
            rotation = jax.tree.map(lambda x: x[number], rotation)
        q_BTNH = self._projection("query", 1.0 if self.scaled else scale)(x_BTD, rotation)
        if isinstance(source, KeysValues):
            k_BSKH, v_BSKH = source
        else:
            k_BSKH, v_BSKH = self._keys_values(x_BTD if source is None else source, rotation, before_BSD)
        if cache is not None:
            k_BSKH, v_BSKH, cache = cache.updated(layer, k_BSKH, v_BSKH)
        if self.scaled:
            q_BTNH *= jnp.asarray(scale, self.dtype)
        v_BSKH = nn.Dropout(self.dropout_rate, broadcast_dims=(-1,), deterministic=self.deterministic)(v_BSKH)
        whole_row = self.causal and cache is None and source is None and before_BSD is None
        out_BTNH = self._attended(q_BTNH, k_BSKH, v_BSKH, inputs, 0 if kind is None else kind.window, whole_row)
        out = Linear((x_BTD.shape[-1],), ("heads", "kv"), ("embed",), self.dtype, use_bias=self.out_bias, name="out")
        return out(out_BTNH), cache

    def _attended(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        inputs: AttentionInputs,
        window: Any,
        whole_row: bool,
    ) -> jax.Array:
        """`attend` or the kernel, with the window of this number.

        Each window is a constant of a program of its own, so that a kernel can leave out what no query sees; a scanned
        stack holds one program a window, not one a layer, and runs one of them.
        """
        by_kernel = whole_row and self._has_splash(inputs)
        several: list[Callable[..., jax.Array]] = [
            partial(_by_kernel, window=one, soft_cap=self.soft_cap)
            if by_kernel
            else partial(
                over_sequence, partial(attend, chunk=self.chunk, causal=self.causal, window=one, soft_cap=self.soft_cap)
            )
            for one in self.windows
        ]
        arrays = (q_BTNH, k_BSKH, v_BSKH, inputs.queries, inputs.keys)
        if len(several) == 1 or isinstance(window, int | np.integer):
            out_BTNH = several[int(window) if len(several) > 1 else 0](*arrays, bias_NL=inputs.bias_NL)
            if by_kernel:
                return out_BTNH  # which has its name already
        else:

            def switched(window: jax.Array, *arrays: Any) -> jax.Array:
                *others, bias_NL = arrays
                out: jax.Array = jax.lax.switch(window, [partial(one, bias_NL=bias_NL) for one in several], *others)
                return out

            # Without the checkpoint the backward pass would keep, for each window, what its program has computed.
            run: Callable[..., jax.Array] = jax.checkpoint(switched, prevent_cse=False)
            out_BTNH = run(window, *arrays, inputs.bias_NL)
        return named(constrain(out_BTNH, ("batch", "length", "heads", "kv")), "attention")

    def _has_splash(self, inputs: AttentionInputs) -> bool:
        active = active_rules()
        return choose(
            self.setting,
            None if active is None else active[0],
            length=inputs.queries.segments.shape[1],
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            obstacle="" if inputs.bias_NL is None and inputs.keys.inputs is None else "scores are not only causal",
        ).splash

    def _keys_values(
        self, own_BTD: jax.Array, rotation: Rotation | None, before_BSD: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        projections = self._projection("key"), self._projection("value")
        own = [project(own_BTD, rotation) for project in projections]
        if before_BSD is not None:
            before = [project(before_BSD, None) for project in projections]
            own = [jnp.concatenate(pair, axis=1) for pair in zip(before, own, strict=True)]
        k_BSKH, v_BSKH = own
        return k_BSKH, v_BSKH

    def _projection(self, name: str, init_scale: float = 1.0) -> Callable[[jax.Array, Rotation | None], jax.Array]:
        """From [batch, length, embed] and the rotation of its positions to heads; all uses share the parameters."""
        heads, axis = (self.num_heads, "heads") if name == "query" else (self.num_kv_heads, "kv_heads")
        out_axes = (axis, "kv")
        linear = Linear(
            (heads, self.head_dim), ("embed",), out_axes, self.dtype, init_scale, use_bias=self.qkv_bias, name=name
        )
        norm = None if self.qk_norm is None or name == "value" else self.qk_norm(name=f"{name}_norm")

        def project(x_BTD: jax.Array, rotation: Rotation | None) -> jax.Array:
            projected_BTKH = linear(x_BTD)
            if norm is not None and self.qk_norm_over == "head":
                projected_BTKH = norm(projected_BTKH)
            elif norm is not None:
                flat_BTX = projected_BTKH.reshape(*projected_BTKH.shape[:2], -1)
                projected_BTKH = norm(flat_BTX).reshape(projected_BTKH.shape)
            projected_BTKH = constrain(projected_BTKH, ("batch", "length", *out_axes))
            return projected_BTKH if rotation is None or name == "value" else rotate(projected_BTKH, rotation)

        return project
