"""Causal self-attention by the Splash kernel of JAX, where it can be had, and the choice between it and the plain one.

The kernel computes tile by tile in the memory of the core, forwards and backwards: no score ever reaches HBM, and tiles
that nothing sees (the causal half, what is beyond a window) are not computed at all.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_instruct.partitioning.rules import activation_spec, active_rules

Setting = Literal["auto", "plain", "splash"]
SETTINGS: tuple[str, ...] = get_args(Setting)
#: Rows of the kernel's tiles are a multiple of this.
TILE = 128
_LARGEST_TILE = 512


class Choice(NamedTuple):
    """Which attention a layer has.

    Attributes:
        splash: whether it is the kernel; otherwise it is plain.
        why: for people.
    """

    splash: bool
    why: str

    @property
    def name(self) -> str:
        """In a word: "splash" or "plain"."""
        return "splash" if self.splash else "plain"

    def __str__(self) -> str:
        return f"{self.name} attention: {self.why}"


def choose(
    setting: str, mesh: Mesh | None, *, length: int, num_heads: int, num_kv_heads: int, obstacle: str = ""
) -> Choice:
    """Which attention a causal layer has over a whole row.

    Args:
        setting: "plain"; "splash"; or "auto": the kernel where the devices are TPUs and the shape allows it.
        mesh: where it runs; None: one device, of which nothing is known.
        length: slots of a row.
        num_heads: query heads.
        num_kv_heads: key/value heads.
        obstacle: what of the layer the kernel does not know, "" if there is nothing.

    Returns:
        The choice. "splash" may be in vain: of a run's rows that is for the run to refuse; other rows (a prompt that
        is scored, a step of decoding) are then read plainly.
    """
    if setting == "plain":
        return Choice(False, "as configured")
    platform = "no device known" if mesh is None else mesh.devices.flat[0].platform
    if setting == "auto" and platform != "tpu":
        return Choice(False, f"the devices are no TPUs ({platform})")
    obstacle = obstacle or _obstacle(mesh, length, num_heads, num_kv_heads)
    if not obstacle:
        return Choice(True, "the shape allows it" if platform == "tpu" else "as configured; interpreted, which is slow")
    return Choice(False, obstacle)


def _obstacle(mesh: Mesh | None, length: int, num_heads: int, num_kv_heads: int) -> str:
    """What of a shape is in the kernel's way."""
    parts = 1 if mesh is None else mesh.shape["sequence"]
    if length % (TILE * parts):
        shown = f"{TILE} x sequence={parts}" if parts > 1 else str(TILE)
        return f"{length} slots a row are no multiple of {shown}"
    if length % parts**2:
        return f"{length} slots a row are no multiple of the square of sequence={parts}"
    model = 1 if mesh is None else mesh.shape["model"]
    if num_heads % model or num_kv_heads % model:
        return f"{num_heads} heads with {num_kv_heads} key heads are not divisible by model={model}"
    return ""


def splash_attend(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array,
    *,
    behind: int | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """Causal softmax attention within segments, each device over its own rows, queries and heads.

    The same as `attention.attend` where positions rise from slot to slot within a segment. Where a mesh has a sequence
    axis each device has a part of the queries and gathers the keys and values. Of what it computes policies know
    ("attention") the result and the scores' log-sums, which the backward pass needs.

    Args:
        q_BTNH: queries [batch, T, heads, head_dim], already scaled.
        k_BTKH: keys [batch, T, kv heads, head_dim].
        v_BTKH: values, the same shape.
        segments_BT: int32 [batch, T]; 0 is padding, whose result is zero.
        behind: if given, a query sees no key that stands more than this before it.
        soft_cap: if given, a score x becomes ``soft_cap * tanh(x / soft_cap)``.

    Returns:
        [batch, T, heads, head_dim].

    Source: Dao et al. 2022, FlashAttention; jax.experimental.pallas.ops.tpu.splash_attention.
    """
    # Imported here: a run that is not on TPUs need not wait for it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, N = q_BTNH.shape[1:3]
    mesh, _ = active_rules() or (None, None)
    one_device = mesh is None or mesh.size == 1
    parts, heads = (1, 1) if mesh is None else (mesh.shape["sequence"], mesh.shape["model"])
    on_tpu = mesh is not None and mesh.devices.flat[0].platform == "tpu"
    mask: Any
    if behind is None:
        mask = masks.CausalMask((T, T), shard_count=parts)
    else:
        mask = masks.LocalMask((T, T), (behind, 0), 0, shard_count=parts)
    # The largest tiles that divide the lengths: fewer and larger ones are faster as long as they fit the core.
    rows, columns = math.gcd(T // parts, _LARGEST_TILE), math.gcd(T, _LARGEST_TILE)
    tiles = kernels.BlockSizes(rows, columns, columns, rows, columns, columns, rows, columns)
    kernel = kernels.make_splash_mha(
        mask=masks.MultiHeadMask([mask] * N),
        head_shards=heads,
        q_seq_shards=parts,
        block_sizes=tiles,
        residual_checkpoint_name="attention",
        attn_logits_soft_cap=soft_cap,
        interpret=not on_tpu,
    )

    def local(q_BTNH: Any, k_BSKH: Any, v_BSKH: Any, segments_BT: Any, segments_BS: Any, kernel: Any) -> jax.Array:
        heads_first = (x.transpose(0, 2, 1, 3) for x in (q_BTNH, k_BSKH, v_BSKH))
        out_BNTH = jax.vmap(kernel)(*heads_first, segment_ids=kernels.SegmentIds(segments_BT, segments_BS))
        return out_BNTH.transpose(0, 2, 1, 3) * (segments_BT > 0)[:, :, None, None]

    arguments = (q_BTNH, k_BTKH, v_BTKH, segments_BT, segments_BT)
    if one_device or mesh is None:
        out: jax.Array = local(*arguments, kernel)
        return out
    axes = ("batch", "length", "heads", None)
    queries = activation_spec(axes, q_BTNH.shape)
    keys = activation_spec(("batch", None, "kv_heads", None), k_BTKH.shape)
    head_axes, length_axes = queries[2], queries[1]
    of_kernel = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(head_axes, length_axes)))
    sharded: Callable[..., jax.Array] = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(queries, keys, keys, PartitionSpec(*queries[:2]), PartitionSpec(queries[0]), of_kernel),
        out_specs=queries,
        check_vma=False,
    )
    return sharded(*arguments, kernel)
