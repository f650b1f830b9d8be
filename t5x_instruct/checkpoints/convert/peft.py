"""Adapters in PEFT's format, in and out: `adapter_config.json` and `adapter_model.safetensors`. NumPy only."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t5x_instruct.checkpoints.adapters import Adapters
from t5x_instruct.checkpoints.convert.hf_tables import HfTensor, layout_of
from t5x_instruct.checkpoints.convert.new_folder import new_folder, refuse_used
from t5x_instruct.checkpoints.convert.safetensors_folder import SafetensorsFolder, read_bounded_json
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.io import write_json
from t5x_instruct.models.layers.linear import LORA_A, LORA_B
from t5x_instruct.models.lora import TARGETS, Adapted, LoraConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_SHOWN = 20
# Settings that, switched on, make the adapter another function than x A B.
_UNSUPPORTED = (
    "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias",
    "trainable_token_indices", "target_parameters", "layer_replication", "alora_invocation_tokens", "use_qalora",
)  # fmt: skip


class Module(NamedTuple):
    """One of their linear layers.

    Attributes:
        ours: name of our module, without the number of the layer where layers are stacked.
        layer: its number in our module; None where layers are not stacked.
        tensor: its kernel in the table of the family.
    """

    ours: str
    layer: int | None
    tensor: HfTensor


def modules_of(config: Any) -> dict[str, Module]:
    """Their names of all linear layers that may have adapters, e.g. `model.layers.0.self_attn.q_proj`."""
    wanted = {f"{module}/kernel" for modules in TARGETS.values() for module in modules}
    found = {}
    for stack in layout_of(config).stacks:
        for rest, tensor in stack.tensors.items():
            if "/".join(tensor.ours.split("/")[-2:]) not in wanted:
                continue
            module = tensor.ours.removesuffix("/kernel")
            for i in range(stack.num_layers):
                name = (stack.theirs.format(i=i) + rest).removesuffix(".weight")
                inside = "layers" if config.scan_layers else f"layers_{i}"
                found[name] = Module(f"{stack.ours}/{inside}/{module}", i if config.scan_layers else None, tensor)
    return found


def read_settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """The base model's name in a folder's `adapter_config.json`, and all of its content.

    Raises:
        CheckpointError: it is missing or damaged, or describes something else than plain LoRA; all that is.
    """
    path = folder / CONFIG_FILE
    content = read_bounded_json(path)
    problems = [f"{name} is {content[name]!r}" for name in _UNSUPPORTED if content.get(name)]
    problems += [
        f"{name} is {content.get(name)!r}, only {value!r} is supported"
        for name, value in (("peft_type", "LORA"), ("bias", "none"))
        if content.get(name, value) != value
    ]
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        problems.append("base_model_name_or_path does not name the base model")
    for name in ("r", "lora_alpha"):
        value = content.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            problems.append(f"{name} is {value!r}, must be a positive number")
    if problems:
        raise CheckpointError(f"{path} describes adapters that are not supported:\n  " + "\n  ".join(problems))
    assert isinstance(base, str)
    return base, content


def read_peft(
    folder: Path, config: Any, kernels_of: Callable[[LoraConfig], Mapping[str, Adapted]]
) -> tuple[LoraConfig, dict[str, LazyTensor]]:
    """The adapters of a folder as ours; layers that have none get zeros.

    Args:
        folder: of PEFT's layout.
        config: the base model's configuration.
        kernels_of: what the base model has for a configuration of adapters (`LoraModel.adapted`).

    Returns:
        Their configuration, and the factors by name.

    Raises:
        CheckpointError: not plain LoRA, tensors that the model has no place for, or of wrong shapes; all of them.
    """
    _, settings = read_settings(folder)
    rank = int(settings["r"])
    alpha = float(settings["lora_alpha"]) * (rank**0.5 if settings.get("use_rslora") else 1.0)
    stored, modules = stored_tensors(folder), modules_of(config)
    found: dict[tuple[str, int | None, str], str] = {}
    problems = []
    for name, shape in stored.shapes.items():
        match = _FACTOR.fullmatch(name)
        module = modules.get(match[1]) if match else None
        if match is None or module is None:
            problems.append(f"tensor {name!r}, shape {shape}, belongs to no layer that may have an adapter")
            continue
        out, inputs = module.tensor.shape
        wanted = (rank, inputs) if match[2] == "A" else (out, rank)
        if shape != wanted:
            problems.append(f"tensor {name!r} has shape {shape}, the model asks for {wanted}")
        found[module.ours, module.layer, LORA_A if match[2] == "A" else LORA_B] = name
    problems += [f"{ours}: one of two factors is missing" for ours, layer in {key[:2] for key in found}
                 if len({key for key in found if key[:2] == (ours, layer)}) != 2]  # fmt: skip
    if problems or not found:
        shown = "\n  ".join(problems[:_SHOWN] or ["it has no tensors"])
        raise CheckpointError(f"{folder / WEIGHTS_FILE} does not fit the model ({len(problems)} problems):\n  {shown}")
    present = {ours.split("/")[-1] for ours, _, _ in found}
    targets = tuple(target for target, names in TARGETS.items() if present & set(names))
    lora = LoraConfig(rank=rank, alpha=alpha, dropout=float(settings.get("lora_dropout", 0.0)), targets=targets)
    tensors = {}
    for ours, kernel in kernels_of(lora).items():
        for factor, part in kernel.factors(rank).items():
            numbers = range(part.shape[0]) if kernel.stacked else [None]
            shape = part.shape[1:] if kernel.stacked else part.shape
            pieces = [functools.partial(_read, stored, found.get((ours, number, factor)), shape) for number in numbers]
            tensors[f"{ours}/{factor}"] = LazyTensor(part.shape, pieces, kernel.stacked)
    return lora, tensors


def stored_tensors(folder: Path) -> SafetensorsFolder:
    """The tensors of a folder, by their names.

    Raises:
        CheckpointError: there are none, or they are no floats.
    """
    stored = SafetensorsFolder(folder, WEIGHTS_FILE)
    stored.check_types()
    return stored


def _read(stored: SafetensorsFolder, name: str | None, shape: tuple[int, ...]) -> np.ndarray:
    if name is None:
        return np.zeros(shape, np.float32)
    return np.ascontiguousarray(stored.read(name).T).reshape(shape)


def export_peft(adapters: Adapters, config: Any, folder: Path) -> None:
    """Writes adapters, without their base, as PEFT keeps them.

    Args:
        adapters: the adapters; the base is named as they name it, an `hf://` model by its name on the hub.
        config: the base model's configuration.
        folder: must not exist, or be empty.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    from safetensors.numpy import save_file

    refuse_used(folder)
    modules = {name: module for name, module in modules_of(config).items() if module.ours in adapters.kernels}
    whole = {name: tensor.read() for name, tensor in adapters.tensors.items()}
    tensors: dict[str, np.ndarray] = {}
    for name, module in modules.items():
        for factor, letter in ((LORA_A, "A"), (LORA_B, "B")):
            array = whole[f"{module.ours}/{factor}"]
            array = array if module.layer is None else array[module.layer]
            flat = array.reshape((-1, adapters.config.rank) if letter == "A" else (adapters.config.rank, -1))
            tensors[f"{_PREFIX}{name}.lora_{letter}.weight"] = np.ascontiguousarray(flat.T)
    settings = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if config.family in ("t5", "t5gemma") else "CAUSAL_LM",
        "base_model_name_or_path": adapters.base.name.removeprefix("hf://"),
        "r": adapters.config.rank,
        "lora_alpha": adapters.config.alpha,
        "lora_dropout": adapters.config.dropout,
        # By their full names: T5's "o" or "k" alone would mean more than is there.
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with new_folder(folder) as new:
        save_file(tensors, new / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(new / CONFIG_FILE, settings)
