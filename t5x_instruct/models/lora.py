"""Low-rank adapters beside the kernels of a frozen model: ``x W + alpha / rank * dropout(x) A B``.

The factors are multiplied with the layer's input, not merged into its kernel within the step: a merged kernel would
need its whole gradient to get at those of its factors, so that a step would cost what a full one does, and dropout on
the adapter's input has no merged form. Two thin products a layer are a few per cent of the thick one, whose gradient by
the kernel, a third of a step's operations, is never computed.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.trees import flatten_with_names, unflatten
from t5x_instruct.common.types import Batch, Params, Unembedding
from t5x_instruct.models.api import ADAPTERS, QUANTIZED, Cache, Encoded, Model, ReadsInputs
from t5x_instruct.models.layers.linear import LORA_A, LORA_B, LORA_KEEP
from t5x_instruct.models.layers.splash import Choice
from t5x_instruct.models.quantization import QVALUE, SCALE, STORED, quantize

#: What a target is called -> the modules of any family that it means.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "q": ("query",),
    "k": ("key",),
    "v": ("value",),
    "o": ("out",),
    "gate": ("wi_0",),
    "up": ("wi_1", "wi"),
    "down": ("wo",),
}
ALL = "all"
BASE_DTYPES = ("float32", "bfloat16", *STORED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which kernels get adapters, and of what size.

    Attributes:
        rank: inner size of the factors.
        alpha: the product counts ``alpha / rank``.
        dropout: share of an adapter's inputs dropped in training.
        targets: keys of `TARGETS`; "all" means all that the model has. T5's q, k, v and o are those of all three kinds
            of attention; without a gate "up" is the MLP's first kernel.
        base_dtype: how the frozen kernels and tables are kept: "float32", "bfloat16", "int8" or "nf4". The last two
            are for the layers' kernels (all of them, adapted or not); tables and the head are bfloat16 then.
    """

    rank: int
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL,)
    base_dtype: str = "float32"

    def __post_init__(self) -> None:
        problems = [f"LORA_TARGETS: {unknown('target', t, [ALL, *TARGETS])}" for t in self.targets if t not in _NAMES]
        if not self.targets:
            problems.append("LORA_TARGETS is empty: nothing would be trained")
        if self.rank < 1:
            problems.append(f"LORA_RANK = {self.rank}: must be at least 1, or None to train all parameters")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            problems.append(f"LORA_ALPHA = {self.alpha}: must be positive")
        if not 0.0 <= self.dropout < 1.0:
            problems.append(f"LORA_DROPOUT = {self.dropout}: must be in [0, 1)")
        if self.base_dtype not in BASE_DTYPES:
            problems.append(f"BASE_DTYPE: {unknown('type', self.base_dtype, BASE_DTYPES)}")
        if problems:
            raise ConfigError(problems)

    @property
    def scale(self) -> float:
        """The factor on ``A B``."""
        return self.alpha / self.rank


_NAMES = frozenset([ALL, *TARGETS])


def lora(
    rank: int | None,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: tuple[str, ...] = (ALL,),
    base_dtype: str = "float32",
) -> LoraConfig | None:
    """`LoraConfig`, or None without a rank: all parameters are trained.

    Args:
        rank: see `LoraConfig`, as for the others.
        alpha: see `LoraConfig`.
        dropout: see `LoraConfig`.
        targets: see `LoraConfig`.
        base_dtype: see `LoraConfig`.

    Raises:
        ConfigError: a value is out of its range.
    """
    if rank is None:
        return None
    return LoraConfig(rank=rank, alpha=alpha, dropout=dropout, targets=tuple(targets), base_dtype=base_dtype)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A kernel with an adapter.

    Attributes:
        axes: the kernel's logical axes.
        shape: the kernel's shape.
    """

    axes: tuple[str | None, ...]
    shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        """Whether the first axis is that of scanned layers."""
        return self.axes[0] == "layers"

    @property
    def split(self) -> int:
        """Where the kernel's contracted axes end: they, or the others, are the residual stream's one axis."""
        first = int(self.stacked)
        if self.axes[first] == "embed":
            return first + 1
        if self.axes[-1] == "embed":
            return len(self.axes) - 1
        raise ConfigError(f"a kernel with the axes {self.axes} neither reads nor writes the residual stream")

    def factors(self, rank: int) -> dict[str, "Adapted"]:
        """The two factors' axes and shapes, sharded as the kernel is; the rank is not sharded."""
        first, split = int(self.stacked), self.split
        return {
            LORA_A: Adapted((*self.axes[:split], None), (*self.shape[:split], rank)),
            LORA_B: Adapted(
                (*self.axes[:first], None, *self.axes[split:]), (*self.shape[:first], rank, *self.shape[split:])
            ),
        }

    @property
    def fan_in(self) -> int:
        """Inputs of the layer."""
        return math.prod(self.shape[int(self.stacked) : self.split])


def adapted_kernels(shapes: Mapping[str, tuple[int, ...]], axes: Params, config: LoraConfig) -> dict[str, Adapted]:
    """The kernels that get adapters.

    Args:
        shapes: name like `decoder/layers/mlp/wo/kernel` -> shape, of the model's parameters.
        axes: the tree of their logical axes.
        config: names the targets.

    Returns:
        Name of the module, without `kernel` -> the kernel.

    Raises:
        ConfigError: the model has none of a target's modules.
    """
    kernels = {
        name.removesuffix("/kernel"): Adapted(names, shapes[name])
        for name, names in flatten_with_names(axes).items()
        if name.endswith("/kernel")
    }
    has = {target: [n for n in kernels if n.split("/")[-1] in modules] for target, modules in TARGETS.items()}
    wanted = [t for t in TARGETS if has[t]] if ALL in config.targets else config.targets
    if problems := [
        f"LORA_TARGETS: this model has no {target!r}; it has {', '.join(t for t in TARGETS if has[t])}"
        for target in wanted
        if not has[target]
    ]:
        raise ConfigError(problems)
    return {name: kernels[name] for target in wanted for name in has[target]}


class LoraModel:
    """A frozen model with adapters; implements `models.api.Model`.

    Its parameters are those of the model it wraps, kept as `LoraConfig.base_dtype` says, and under `ADAPTERS` two
    factors for each adapted kernel, float32.

    Args:
        base: the model.
        lora: the adapters.

    Raises:
        ConfigError: the model has none of a target's modules.
    """

    def __init__(self, base: Model, lora: LoraConfig):
        self.base = base
        self.lora = lora
        base_shapes = flatten_with_names(jax.eval_shape(base.init, jax.random.key(0)))
        shapes = {name: leaf.shape for name, leaf in base_shapes.items()}
        self._base_axes = base.param_axes()
        self.adapted = adapted_kernels(shapes, self._base_axes, lora)

    @property
    def config(self) -> Any:
        """The wrapped model's."""
        return self.base.config

    @property
    def reads_inputs(self) -> ReadsInputs:
        """The wrapped model's."""
        return self.base.reads_inputs

    def attention_choice(self, length: int, mesh: Mesh | None) -> Choice:
        """The wrapped model's."""
        return self.base.attention_choice(length, mesh)

    @property
    def has_dropout(self) -> bool:
        """Whether a dropout key changes anything."""
        return self.base.has_dropout or self.lora.dropout > 0

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Random parameters: the wrapped model's in their kept types, and fresh adapters."""
        base_rng, rng = jax.random.split(rng)
        kept: dict[str, Any] = {}
        for name, leaf in flatten_with_names(self.base.init(base_rng)).items():
            if is_quantized(name, self.lora):
                kept |= quantized_names(name, quantize(leaf, self.lora.base_dtype))
            else:
                kept[name] = leaf.astype(kept_dtype(name, self.lora))
        return {**unflatten(kept), ADAPTERS: self.init_adapters(rng)}

    def init_adapters(self, rng: jax.Array) -> dict[str, Any]:
        """Fresh adapters, which change nothing: B is zero, A uniform with standard deviation ``(3 fan_in) ** -0.5``.

        The distribution is PEFT's; the paper's normal A differs by a factor that the learning rate takes up.
        """
        drawn = {}
        for i, (name, kernel) in enumerate(sorted(self.adapted.items())):
            factors = kernel.factors(self.lora.rank)
            bound = kernel.fan_in**-0.5
            key = jax.random.fold_in(rng, i)
            drawn[f"{name}/{LORA_A}"] = jax.random.uniform(key, factors[LORA_A].shape, jnp.float32, -bound, bound)
            drawn[f"{name}/{LORA_B}"] = jnp.zeros(factors[LORA_B].shape, jnp.float32)
        return unflatten(drawn)

    def param_axes(self) -> dict[str, Any]:
        """The tree of `init` with a tuple of logical axis names for each array."""
        factors = {
            f"{name}/{factor}": part.axes
            for name, kernel in self.adapted.items()
            for factor, part in kernel.factors(self.lora.rank).items()
        }
        base: dict[str, Any] = {}
        for name, axes in flatten_with_names(self._base_axes).items():
            if is_quantized(name, self.lora):
                base |= quantized_names(name, dict.fromkeys((QVALUE, SCALE), axes))
            else:
                base[name] = axes
        return {**unflatten(base), ADAPTERS: unflatten(factors)}

    def hidden(self, params: Params, batch: Batch, *, dropout_rng: jax.Array | None = None) -> jax.Array:
        """See `models.api.Model.hidden`."""
        return self.base.hidden(self._scaled(params, dropout_rng is not None), batch, dropout_rng=dropout_rng)

    def unembedding(self, params: Params) -> Unembedding:
        """See `models.api.Model.unembedding`."""
        return self.base.unembedding(params)

    def logits(self, params: Params, hidden_BTD: jax.Array) -> jax.Array:
        """See `models.api.Model.logits`."""
        return self.base.logits(params, hidden_BTD)

    def encode(self, params: Params, batch: Batch) -> Encoded | None:
        """See `models.api.Model.encode`."""
        return self.base.encode(self._scaled(params), batch)

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoded: Encoded | None = None,
        params: Params | None = None,
    ) -> Cache:
        """See `models.api.Model.init_cache`."""
        scaled = None if params is None else self._scaled(params)
        return self.base.init_cache(batch_size, max_length, encoded, scaled)

    def step(
        self, params: Params, cache: Cache, tokens_BT: jax.Array, positions_BT: jax.Array, *, prefix: bool = False
    ) -> tuple[jax.Array, Cache]:
        """See `models.api.Model.step`."""
        return self.base.step(self._scaled(params), cache, tokens_BT, positions_BT, prefix=prefix)

    def _scaled(self, params: Params, dropout: bool = False) -> Params:
        """Parameters as the layers read them: B with the factor in it, and the share of inputs that is kept."""
        leaves = flatten_with_names(params[ADAPTERS])
        leaves |= {name: leaf * self.lora.scale for name, leaf in leaves.items() if name.endswith(LORA_B)}
        if dropout and self.lora.dropout:
            for name, kernel in self.adapted.items():
                layers = kernel.shape[: int(kernel.stacked)]
                leaves[f"{name}/{LORA_KEEP}"] = jnp.full(layers, 1.0 - self.lora.dropout)
        return {**params, ADAPTERS: unflatten(leaves)}


def is_quantized(name: str, config: LoraConfig) -> bool:
    """Whether a parameter of the frozen base is kept in few bits: the kernels that might have adapters are."""
    *_, module, last = f"/{name}".split("/")
    return config.base_dtype in STORED and last == "kernel" and any(module in names for names in TARGETS.values())


def quantized_names(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for a quantised kernel, by the names it has among the model's parameters."""
    return {f"{QUANTIZED}/{name.removesuffix('kernel')}{part}": array for part, array in arrays.items()}


def kept_dtype(name: str, config: LoraConfig) -> str:
    """The type of a parameter of the frozen base that is not quantised: norms and biases are float32 in any case."""
    if name.rpartition("/")[2] not in ("kernel", "embedding"):
        return "float32"
    return "bfloat16" if config.base_dtype in STORED else config.base_dtype
