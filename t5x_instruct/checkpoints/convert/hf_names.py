"""Our parameters from tensors under Hugging Face's names. NumPy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_instruct.checkpoints.convert.hf_tables import HfLayout, HfTensor, llama_layout, t5_layout
from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.common.trees import unflatten
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.t5 import T5Config


def params_from_hf(tensors: Mapping[str, np.ndarray], config: DecoderConfig | T5Config) -> dict[str, Any]:
    """Our parameters from Hugging Face's tensors.

    Args:
        tensors: name -> array of any float dtype, as the `state_dict` of `LlamaForCausalLM` or
            `T5ForConditionalGeneration` names them. Copies of the embedding (``lm_head.weight`` beside a tied head,
            T5's ``encoder.embed_tokens.weight``) are ignored where they equal it.
        config: sizes; layers are stacked if its layers are scanned, the vocabulary's padding rows are zero.

    Returns:
        Nested dictionary of float32 arrays, as the model's `init` gives.

    Raises:
        CheckpointError: tensors are missing, unknown or of the wrong shape (all are listed), or a copy differs.
    """
    layout = llama_layout(config) if isinstance(config, DecoderConfig) else t5_layout(config)
    tensors = _without_copies(tensors, layout)
    _check(tensors, layout)
    flat = {tensor.ours: _converted(tensor, tensors[name]) for name, tensor in layout.top.items()}
    for stack in layout.stacks:
        for theirs, tensor in stack.tensors.items():
            names = [f"{stack.theirs.format(i=i)}{theirs}" for i in range(stack.num_layers)]
            layers = [_converted(tensor, tensors[name]) for name in names]
            if config.scan_layers:
                flat[f"{stack.ours}/layers/{tensor.ours}"] = np.stack(layers)
            else:
                flat |= {f"{stack.ours}/layers_{i}/{tensor.ours}": layer for i, layer in enumerate(layers)}
    return unflatten(flat)


def _converted(tensor: HfTensor, array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tensor.convert(np.asarray(array, np.float32)))


def _without_copies(tensors: Mapping[str, np.ndarray], layout: HfLayout) -> dict[str, np.ndarray]:
    for name, original in layout.copies.items():
        if name in tensors and original in tensors and not np.array_equal(tensors[name], tensors[original]):
            advice = "; set tie_embeddings=False" if name == "lm_head.weight" else ""
            raise CheckpointError(f"by the configuration {name} is {original}, but the two differ{advice}")
    return {name: array for name, array in tensors.items() if name not in (*layout.copies, *layout.unused)}


def _check(tensors: Mapping[str, np.ndarray], layout: HfLayout) -> None:
    shapes = {name: tensor.shape for name, tensor in layout.top.items()}
    for stack in layout.stacks:
        for i in range(stack.num_layers):
            shapes |= {f"{stack.theirs.format(i=i)}{name}": t.shape for name, t in stack.tensors.items()}
    problems = [f"tensor {name!r} is missing" for name in shapes if name not in tensors]
    for name, array in tensors.items():
        if name not in shapes:
            problems.append(unknown("tensor", name, shapes))
        elif array.shape != shapes[name]:
            problems.append(f"tensor {name!r} has shape {array.shape}, the configuration asks for {shapes[name]}")
    if problems:
        shown = "\n  - ".join(problems[:20])
        raise CheckpointError(f"{len(problems)} tensors do not fit the model:\n  - {shown}")
