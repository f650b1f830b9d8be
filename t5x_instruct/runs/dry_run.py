"""What a training run would do, before it costs anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_instruct.common import types
from t5x_instruct.common.paths import as_path
from t5x_instruct.common.trees import num_parameters
from t5x_instruct.data.vocabularies import Vocabulary, token_strings
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import (
    check_data,
    check_fits,
    make_loader,
    open_data,
    open_model,
    own_prompt_format,
    validation_tasks,
)
from t5x_instruct.runs.training_run import TrainRun, device_bytes, run_parts
from t5x_instruct.training.keep_best import keep_best_by

_GIB = 1 << 30


def dry_run(run: TrainRun, config_text: str, num_examples: int = 3) -> str:
    """Opens everything but the parameters and describes it; the state of the run is not made.

    Args:
        run: the run.
        config_text: its resolved configuration.
        num_examples: how many of the first examples to show.

    Returns:
        The resolved configuration, mesh, sizes, mixture, and the first examples with trained tokens between « and ».

    Raises:
        InstructError: what `train` would raise before its first step.
    """
    mesh = make_mesh(MeshConfig(**run.mesh))
    opened = open_model(run.model, seed=run.data.seed)
    check_fits(opened.model, run.data, run.loop.micro_batches, mesh)
    state = run_parts(run, opened.model, mesh).state
    own_format = own_prompt_format(as_path(run.model_dir), opened)
    mixture = open_data(run.data, opened.model, opened.vocabulary, own_format, run.evaluation)
    checked = check_data(run.data, mixture, opened.vocabulary, run.audit)
    keep_best_by(run.loop.keep_best, validation_tasks(mixture))
    loader = make_loader(run.data, mixture, opened.model, opened.vocabulary)
    realised = loader.realised_mixture()["tasks"]
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    lines = [
        config_text.rstrip(),
        "",
        f"mesh: {' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items())} on {mesh.size} "
        f"{mesh.devices.flat[0].device_kind} devices",
        f"model: {opened.description}; {num_parameters(state.model_params):,} parameters, "
        f"{num_parameters(state.params):,} of them trained, state {state_bytes / _GIB:.2f} "
        f"GiB in all, {device_bytes(state) / _GIB:.2f} GiB on a device",
        f"data: {len(realised)} tasks trained, {len(mixture.held_out_tasks)} held out "
        f"({', '.join(sorted({task.cluster for task in mixture.held_out_tasks})) or 'none'}); one epoch is "
        f"{sum(task['examples'] for task in realised.values()):,} examples, "
        f"{sum(task['target_tokens'] for task in realised.values()):,} target tokens, "
        f"{sum(task['cut_examples'] for task in realised.values()):,} examples cut",
        *(f"left out: {name}: {why}" for name, why in mixture.left_out.items()),
        *(f"warning: {warning}" for warning in checked.warnings),
        "",
        "the first row's examples, trained tokens between « and »:",
    ]
    batch = loader.batch(0)
    lines += _shown(batch, loader.tasks, opened.vocabulary, num_examples)
    return "\n".join(lines)


def _shown(batch: Mapping[str, Any], tasks: Sequence[str], vocabulary: Vocabulary, num_examples: int) -> list[str]:
    """The first examples of the first row: what is read, and what is predicted with marks around what is trained."""
    row = {key: values[0] for key, values in batch.items()}
    segments = row[types.DECODER_SEGMENT_IDS]
    lines = []
    for segment in range(1, min(int(segments.max()), num_examples) + 1):
        where = segments == segment
        trained = row[types.DECODER_LOSS_WEIGHTS][where] > 0
        read = row[types.DECODER_INPUT_TOKENS][where][:1]
        counts = f"{len(trained)} tokens"
        if types.ENCODER_INPUT_TOKENS in row:
            inputs = row[types.ENCODER_INPUT_TOKENS][row[types.ENCODER_SEGMENT_IDS] == segment]
            counts = f"{len(inputs)} + {counts}"
            read = np.concatenate([inputs, read])
        name = tasks[int(row[types.DECODER_TASK_IDS][where][0])]
        lines.append(f"[{name}] {counts}, {int(trained.sum())} trained")
        text = "".join(token_strings(vocabulary, read.tolist()))
        lines.append(text + _marked(vocabulary, row[types.DECODER_TARGET_TOKENS][where], trained))
    return lines


def _marked(vocabulary: Vocabulary, tokens: np.ndarray, trained: np.ndarray) -> str:
    text, inside = "", False
    for token, is_trained in zip(token_strings(vocabulary, tokens.tolist()), trained.tolist(), strict=True):
        if is_trained != inside:
            text += "«" if is_trained else "»"
            inside = is_trained
        text += token
    return text + ("»" if inside else "")
