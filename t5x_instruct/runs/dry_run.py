"""What a training run would do, before it costs anything."""

import math
from typing import Any

import jax

from t5x_instruct.common import types
from t5x_instruct.common.trees import num_parameters
from t5x_instruct.data.vocabularies import token_strings
from t5x_instruct.partitioning.arrays import check_batch_size
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import make_loader, open_data, open_model
from t5x_instruct.runs.train import TrainRun
from t5x_instruct.training.state import abstract_state, state_shardings

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
    check_batch_size(run.data.batch_size, mesh, jax.process_count(), run.loop.micro_batches)
    opened = open_model(run.model, seed=run.data.seed)
    param_axes = opened.model.param_axes()
    optimizer = run.optimizer.for_axes(param_axes)
    abstract = abstract_state(opened.model.init, optimizer)
    shardings = state_shardings(abstract, param_axes, optimizer, mesh)
    mixture = open_data(run.data, opened.vocabulary)
    loader = make_loader(run.data, mixture, opened.vocabulary)
    realised = loader.realised_mixture()["tasks"]
    state_bytes = _leaf_bytes(abstract)
    lines = [
        config_text.rstrip(),
        "",
        f"mesh: {' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items())} on {mesh.size} "
        f"{mesh.devices.flat[0].device_kind} devices",
        f"model: {opened.description}; {num_parameters(abstract.params):,} parameters, state {state_bytes / _GIB:.2f} "
        f"GiB in all, {_device_bytes(abstract, shardings) / _GIB:.2f} GiB on a device",
        f"data: {len(realised)} tasks trained, {len(mixture.held_out_tasks)} held out "
        f"({', '.join(sorted({task.cluster for task in mixture.held_out_tasks})) or 'none'}); one epoch is "
        f"{sum(task['examples'] for task in realised.values()):,} examples, "
        f"{sum(task['target_tokens'] for task in realised.values()):,} target tokens, "
        f"{sum(task['cut_examples'] for task in realised.values()):,} examples cut",
        "",
        "the first row's examples, trained tokens between « and »:",
    ]
    batch = loader.batch(0)
    lines += _shown(batch, loader.tasks, opened.vocabulary, num_examples)
    return "\n".join(lines)


def _leaf_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _device_bytes(abstract: Any, shardings: Any) -> int:
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize, abstract, shardings
    )
    return sum(jax.tree.leaves(sizes))


def _shown(batch: Any, tasks: Any, vocabulary: Any, num_examples: int) -> list[str]:
    lines = []
    segments = batch[types.DECODER_SEGMENT_IDS][0]
    for segment in range(1, min(int(segments.max()), num_examples) + 1):
        where = segments == segment
        inputs = batch[types.DECODER_INPUT_TOKENS][0][where]
        targets = batch[types.DECODER_TARGET_TOKENS][0][where]
        trained = batch[types.DECODER_LOSS_WEIGHTS][0][where] > 0
        text, inside = "".join(token_strings(vocabulary, inputs[:1].tolist())), False
        for token, is_trained in zip(token_strings(vocabulary, targets.tolist()), trained, strict=True):
            if is_trained != inside:
                text += "«" if is_trained else "»"
                inside = bool(is_trained)
            text += token
        name = tasks[int(batch[types.DECODER_TASK_IDS][0][where][0])]
        lines.append(f"[{name}] {len(targets)} tokens, {int(trained.sum())} trained")
        lines.append(text + ("»" if inside else ""))
    return lines
