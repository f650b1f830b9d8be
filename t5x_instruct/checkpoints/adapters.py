"""Adapters on disk: what a run keeps of them beside its checkpoints, and kernels with their adapters merged in."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import jax.numpy as jnp
import numpy as np

from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common import hosts
from t5x_instruct.common.errors import CheckpointError, ConfigError
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.common.paths import AnyPath
from t5x_instruct.models.layers.linear import LORA_A, LORA_B
from t5x_instruct.models.lora import Adapted, LoraConfig, is_quantized, kept_dtype, quantized_names
from t5x_instruct.models.quantization import abstract, on_host, rounded_on_host

ADAPTER_FILE = "adapter.json"
_BLOCK_BYTES = 1 << 16
_BLOCKS = 64


class BaseReference(NamedTuple):
    """The model that adapters belong to.

    Attributes:
        name: what `restore.open_source` finds it by.
        fingerprint: of its weights' files, see `fingerprint_of`.
    """

    name: str
    fingerprint: str


class Adapters(NamedTuple):
    """Adapters that are not merged.

    Attributes:
        config: their size and targets.
        base: the model they belong to.
        tensors: name like `decoder/layers/mlp/wo/lora_a` -> factor.
        kernels: name of a module -> its kernel.
    """

    config: LoraConfig
    base: BaseReference
    tensors: Mapping[str, LazyTensor]
    kernels: Mapping[str, Adapted]


def fingerprint_of(files: Iterable[AnyPath]) -> str:
    """What tells a model's files from those of another model, or of another training of the same.

    Sizes, and crc32c of 64 blocks of 64 KiB spread over each file: reading all of a large model a second time is not
    worth it for a reference. It is no check against damage.

    Args:
        files: the weights' files, in an order of their own.

    Raises:
        CheckpointError: a file cannot be read.
    """
    checksum = google_crc32c.Checksum()
    total = 0
    for path in files:
        if not isinstance(path, Path):  # a run's list of checksums, which may be in a bucket
            content = path.read_bytes()
            checksum.update(content)
            total += len(content)
            continue
        try:
            with open(path, "rb") as file:
                size = path.stat().st_size
                for start in sorted({size * i // _BLOCKS for i in range(_BLOCKS)} | {max(0, size - _BLOCK_BYTES)}):
                    file.seek(start)
                    checksum.update(file.read(_BLOCK_BYTES))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        total += size
    return f"{total}:{checksum.hexdigest().decode()}"


def save_adapter_identity(model_dir: AnyPath, config: LoraConfig, base: BaseReference) -> None:
    """Writes `adapter.json` of a run whose checkpoints hold adapters only. Host 0 writes."""
    if hosts.process_index() == 0:
        write_json(model_dir / ADAPTER_FILE, {"base": base._asdict(), "lora": dataclasses.asdict(config)})
    hosts.barrier("adapter identity written")


def read_adapter_identity(model_dir: AnyPath) -> tuple[LoraConfig, BaseReference] | None:
    """What `save_adapter_identity` has written; None: the run's checkpoints hold whole models.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = model_dir / ADAPTER_FILE
    if not path.exists():
        return None
    content = read_json(path)
    try:
        values = dict(content["lora"])
        values["targets"] = tuple(values["targets"])
        return LoraConfig(**values), BaseReference(**content["base"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} does not describe adapters: {error}") from error


def check_base(model_dir: AnyPath, config: LoraConfig | None, base: BaseReference | None) -> None:
    """Refuses to go on with a run whose adapters were of another kind or for another model.

    Args:
        model_dir: the run's folder, which has a checkpoint.
        config: the adapters that are configured now; None: none.
        base: what they are for.

    Raises:
        CheckpointError: what was and what is.
    """
    saved = read_adapter_identity(model_dir)
    was = None if saved is None else (saved[0], saved[1].fingerprint)
    now = None if config is None or base is None else (config, base.fingerprint)
    if was == now:
        return
    if was is None or now is None:
        kinds = ["whole models" if one is None else "adapters" for one in (was, now)]
        raise CheckpointError(
            f"{model_dir} has checkpoints of {kinds[0]}, and LORA_RANK asks for {kinds[1]} now; take another MODEL_DIR"
        )
    fields = dataclasses.asdict(was[0])
    changed = [f"{n}: was {v!r}, is {getattr(now[0], n)!r}" for n, v in fields.items() if v != getattr(now[0], n)]
    if was[1] != now[1]:
        changed.append(f"base model: was {saved and saved[1].name} ({was[1]}), is {base and base.name} ({now[1]})")
    raise CheckpointError(
        f"{model_dir / ADAPTER_FILE} and this run's adapters differ: {'; '.join(changed)}. Go on with what it was, or "
        "take another MODEL_DIR"
    )


def kept_tensors(tensors: Mapping[str, LazyTensor], config: LoraConfig) -> dict[str, LazyTensor]:
    """The frozen base's parameters in the types that they are kept in on the devices."""
    kept = {}
    for name, tensor in tensors.items():
        if is_quantized(name, config):
            for whole, like in quantized_names(name, abstract(tensor.shape, config.base_dtype)).items():
                part = whole.rpartition("/")[2]
                pieces = [_mapped(piece, _quantizing(config.base_dtype, part)) for piece in tensor.pieces]
                kept[whole] = LazyTensor(like.shape, pieces, tensor.stacked, like.dtype)
            continue
        dtype = jnp.dtype(kept_dtype(name, config))
        kept[name] = tensor._replace(pieces=[_mapped(piece, _cast(dtype)) for piece in tensor.pieces], dtype=dtype)
    return kept


def merged_tensors(base: Mapping[str, LazyTensor], adapters: Adapters) -> dict[str, LazyTensor]:
    """The parameters of a whole model: each adapted kernel with ``alpha / rank * A B`` added, when it is read.

    The base is rounded as it was when the adapters were trained, so that the result is the model that was trained.

    Args:
        base: the base's parameters.
        adapters: the adapters.

    Raises:
        CheckpointError: the base has no such kernels, or of other shapes.
    """
    problems = [
        f"{name}/kernel {kernel.shape} is adapted, the base has {getattr(base.get(f'{name}/kernel'), 'shape', 'none')}"
        for name, kernel in adapters.kernels.items()
        if f"{name}/kernel" not in base or base[f"{name}/kernel"].shape != kernel.shape
    ]
    if problems:
        raise CheckpointError(f"the adapters do not fit {adapters.base.name}:\n  " + "\n  ".join(problems))
    merged = {}
    for name, tensor in base.items():
        rounding = _rounding(jnp.dtype(kept_dtype(name, adapters.config)))
        if is_quantized(name, adapters.config):
            rounding = functools.partial(rounded_on_host, kind=adapters.config.base_dtype)
        pieces = [_mapped(piece, rounding) for piece in tensor.pieces]
        module = name.removesuffix("/kernel")
        if module in adapters.kernels:
            delta = _delta(adapters, module)
            numbers = range(len(pieces)) if tensor.stacked else [slice(None)]
            pieces = [_mapped(p, _adding(delta, number)) for p, number in zip(pieces, numbers, strict=True)]
        merged[name] = tensor._replace(pieces=pieces)
    return merged


def _mapped(read: Callable[[], np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: change(read())


def _cast(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array.astype(dtype)


def _quantizing(kind: str, part: str) -> Callable[[np.ndarray], np.ndarray]:
    # Each part is read by itself: the other is computed in vain, once, instead of being kept for all layers.
    return lambda array: on_host(array, kind)[part]


def _rounding(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array.astype(dtype).astype(np.float32)


def _adding(delta: Callable[[Any], np.ndarray], layer: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array + delta(layer).reshape(array.shape)


def _delta(adapters: Adapters, module: str) -> Callable[[Any], np.ndarray]:
    """Of a module: layer (or all of them) -> ``alpha / rank * A B``, [layers,] inputs x outputs."""
    rank, scale = adapters.config.rank, adapters.config.scale
    layers = (adapters.kernels[module].shape[0],) if adapters.kernels[module].stacked else ()

    @functools.cache
    def factors() -> tuple[np.ndarray, np.ndarray]:
        a, b = (adapters.tensors[f"{module}/{name}"].read() for name in (LORA_A, LORA_B))
        return a.reshape(*layers, -1, rank), b.reshape(*layers, rank, -1)

    def product(layer: Any) -> np.ndarray:
        a, b = factors()
        return np.float32(scale) * (a[layer] @ b[layer])

    return product
