"""T5X's parameters to ours and back: the model's sizes from their shapes, names, joined heads, scanned layers.

Our trees have T5X's names. What differs is where layers are stacked and whether an attention's heads are one axis:

| | T5X, layer by layer | T5X, scanned | ours, scanned |
|---|---|---|---|
| names | ``encoder/layers_3/...`` | ``encoder/encoder/...`` | ``encoder/layers/...`` |
| axis of layers | none | the second | the first |
| query, key, value | [embed, heads x head_dim], or as ours | the same | [embed, heads, head_dim] |
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from t5x_instruct.checkpoints.convert.t5x_folder import PARAMS, READ_TYPES, Box, T5xArray, T5xFolder
from t5x_instruct.checkpoints.leaves import LeafSpec, mismatches
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.errors import CheckpointError, ConfigError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.models.t5 import T5Config, T5Model

_STACKS = ("encoder", "decoder")
_SHOWN = 100


class T5xLayout(NamedTuple):
    """Which of the ways of the module's table a checkpoint has gone.

    Attributes:
        scanned: whether layers are stacked, along the second axis.
        joined: whether heads and head_dim are one axis.
    """

    scanned: bool
    joined: bool


class T5xParam(NamedTuple):
    """One of our parameters, layers stacked, and where it is.

    Attributes:
        ours: its name in our tree.
        our_shape: of all of it.
        theirs: their names: one, or one a layer.
        their_shape: of each of theirs.
        layers: whether the first of our axes is that of layers.
        scanned: whether theirs has it too, as the second.
        heads_at: which of a layer's axes, with the next one, is one axis of theirs; None: all are as ours.
    """

    ours: str
    our_shape: tuple[int, ...]
    theirs: tuple[str, ...]
    their_shape: tuple[int, ...]
    layers: bool
    scanned: bool
    heads_at: int | None

    def read(self, folder: T5xFolder, box: Box) -> np.ndarray:
        """A box of our parameter, float32, of which no more is read than is asked for."""
        if not self.layers:
            return folder.read([f"{PARAMS}/{self.theirs[0]}"], box)[0]
        (first, end), inner = box[0], box[1:]
        theirs = self._their_box(inner)
        if self.scanned:
            (stored,) = folder.read([f"{PARAMS}/{self.theirs[0]}"], (theirs[0], (first, end), *theirs[1:]))
            return self._split(np.moveaxis(stored, 1, 0), inner)
        layers = folder.read([f"{PARAMS}/{name}" for name in self.theirs[first:end]], theirs)
        return self._split(np.stack(layers), inner)

    def join(self, layer: np.ndarray) -> np.ndarray:
        """One layer of ours (or all of a parameter outside the layers) as theirs, not scanned."""
        return layer.reshape(self.their_shape)

    def _their_box(self, inner: Box) -> Box:
        if self.heads_at is None:
            return inner
        at, head_dim = self.heads_at, self.our_shape[2 + self.heads_at]
        first, end = inner[at]
        return (*inner[:at], (first * head_dim, end * head_dim), *inner[at + 2 :])

    def _split(self, stored: np.ndarray, inner: Box) -> np.ndarray:
        """[layers, ...] with joined heads to that with heads apart."""
        if self.heads_at is None:
            return stored
        at, head_dim = 1 + self.heads_at, self.our_shape[2 + self.heads_at]
        apart = stored.reshape(*stored.shape[:at], -1, head_dim, *stored.shape[at + 1 :])
        return apart[(slice(None),) * (at + 1) + (slice(*inner[self.heads_at + 1]),)]


def t5x_params(config: T5Config, layout: T5xLayout) -> Iterator[T5xParam]:
    """All parameters of a model in our scanned tree, and where they are in a T5X checkpoint."""
    stacked = dataclasses.replace(config, scan_layers=True)
    shapes = flatten_with_names(jax.eval_shape(T5Model(stacked).init, jax.random.key(0)))
    for name, leaf in shapes.items():
        in_layers = re.fullmatch(r"(encoder|decoder)/layers/(.+)", name)
        if in_layers is None:
            yield T5xParam(name, leaf.shape, (name,), leaf.shape, layers=False, scanned=False, heads_at=None)
            continue
        stack, inner = in_layers.groups()
        count, *layer = leaf.shape
        heads_at = {"query": 1, "key": 1, "value": 1, "out": 0}.get(inner.split("/")[-2]) if layout.joined else None
        if heads_at is not None:
            layer[heads_at : heads_at + 2] = [math.prod(layer[heads_at : heads_at + 2])]
        names: tuple[str, ...] = tuple(f"{stack}/layers_{i}/{inner}" for i in range(count))
        theirs = tuple(layer)
        if layout.scanned:
            names, theirs = (f"{stack}/{stack}/{inner}",), (layer[0], count, *layer[1:])
        yield T5xParam(name, leaf.shape, names, theirs, True, layout.scanned, heads_at)


def config_from_t5x(params: Mapping[str, T5xArray], where: str) -> tuple[T5Config, T5xLayout]:
    """The model that a checkpoint's shapes describe.

    What shapes do not say is what T5X's own models have: a gated MLP's activation is the approximated gelu (T5 1.1 and
    its heirs), the other's relu (T5 1.0); a tied head is scaled; distances share a bucket from 128 on; norms add 1e-6.

    Args:
        params: name -> array.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: it is no encoder-decoder, or tensors that tell its sizes are missing; all are listed.
    """
    shapes = {name: array.shape for name, array in params.items()}
    if not all(any(name.startswith(f"{stack}/") for name in shapes) for stack in _STACKS):
        tops = ", ".join(sorted({name.partition("/")[0] for name in shapes})) or "nothing"
        raise CheckpointError(f"{where}: only encoder-decoders are supported; the checkpoint's parameters have: {tops}")
    sizes = _Sizes(shapes)
    vocab_size, emb_dim = sizes.top("token_embedder/embedding", 2)
    shared = any(f"{stack}/relpos_bias/rel_embedding" in shapes for stack in _STACKS)
    if shared:
        num_heads, buckets = sizes.top("encoder/relpos_bias/rel_embedding", 2)
    else:
        num_heads, buckets = sizes.layer("relpos_bias/rel_embedding", 2)
    query = sizes.any_layer("attention/query/kernel", (2, 3))
    mlp_dim, _ = sizes.layer("mlp/wo/kernel", 2)
    if sizes.problems:
        raise CheckpointError(f"{where}: the model's sizes cannot be told:\n  " + "\n  ".join(sizes.problems))
    gated = any(name.endswith("/mlp/wi_0/kernel") for name in shapes)
    tied = "decoder/logits_dense/kernel" not in shapes
    layers = {stack: sizes.num_layers(stack) for stack in _STACKS}
    if max(layers.values()) > len(shapes):
        raise CheckpointError(f"{where}: {max(layers.values())} layers, but only {len(shapes)} tensors")
    try:
        config = T5Config(
            vocab_size=vocab_size,
            emb_dim=emb_dim,
            num_encoder_layers=layers["encoder"],
            num_decoder_layers=layers["decoder"],
            num_heads=num_heads,
            head_dim=query[-1] if len(query) == 3 else query[-1] // max(num_heads, 1),
            mlp_dim=mlp_dim,
            activation="gelu_tanh" if gated else "relu",
            gated_mlp=gated,
            relative_buckets=buckets,
            relative_max_distance=128,
            norm_epsilon=1e-6,
            tie_embeddings=tied,
            scale_decoder_outputs=tied,
            bias_per_layer=not shared,
            vocab_multiple=1,  # the rows are what they are
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return config, T5xLayout(sizes.scanned, joined=len(query) == 2)


def lazy_params(folder: T5xFolder, config: T5Config, layout: T5xLayout) -> dict[str, LazyTensor]:
    """Our parameters by name, layers stacked; nothing is read.

    Args:
        folder: the opened checkpoint.
        config: from `config_from_t5x`.
        layout: from there too.

    Raises:
        CheckpointError: parameters are missing, unknown, of the wrong shape or no floats; all are listed.
    """
    params = list(t5x_params(config, layout))
    found = {name: LeafSpec(array.shape, array.dtype) for name, array in folder.params().items()}
    wanted = {name: param.their_shape for param in params for name in param.theirs}
    problems = mismatches(
        found,
        {name: LeafSpec(shape, found[name].dtype if name in found else "float32") for name, shape in wanted.items()},
    )
    problems += [
        f"{name} is {found[name]}; types that are read: {', '.join(READ_TYPES)}"
        for name in wanted
        if name in found and found[name].dtype not in READ_TYPES
    ]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        shown = "\n  - ".join(problems[:_SHOWN] + more)
        raise CheckpointError(f"{folder.folder}: {len(problems)} tensors do not fit the model:\n  - {shown}")
    return {param.ours: _lazy(folder, param) for param in params}


def _lazy(folder: T5xFolder, param: T5xParam) -> LazyTensor:
    whole = tuple((0, size) for size in param.our_shape)
    part = partial(param.read, folder)
    if not param.layers or param.scanned:  # a layer by itself would read the chunks of all of them
        return LazyTensor(param.our_shape, [lambda: part(whole)], stacked=False, part=part)
    pieces = [lambda i=i: part(((i, i + 1), *whole[1:]))[0] for i in range(param.our_shape[0])]
    return LazyTensor(param.our_shape, pieces, stacked=True, part=part)


class _Sizes:
    """Shapes of tensors that tell the model's sizes; those that are not there are noted."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self._shapes = shapes
        self.scanned = any(name.startswith(tuple(f"{stack}/{stack}/" for stack in _STACKS)) for name in shapes)
        self.problems: list[str] = []

    def top(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of a parameter outside the layers."""
        return self._checked(name, self._shapes.get(name), (rank,))

    def layer(self, inner: str, rank: int) -> tuple[int, ...]:
        """The shape of a layer's parameter, of any layer that has it."""
        return self.any_layer(inner, (rank,))

    def any_layer(self, inner: str, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """The same, of one of several ranks."""
        if self.scanned:
            found = next((self._shapes[n] for n in (f"{s}/{s}/{inner}" for s in _STACKS) if n in self._shapes), None)
            return self._checked(f"encoder/encoder/{inner}", found and found[:1] + found[2:], ranks)
        pattern = re.compile(rf"(encoder|decoder)/layers_\d+/{re.escape(inner)}")
        found = next((shape for name, shape in self._shapes.items() if pattern.fullmatch(name)), None)
        return self._checked(f"encoder/layers_0/{inner}", found, ranks)

    def num_layers(self, stack: str) -> int:
        """Layers of a stack."""
        if self.scanned:
            shape = next((s for name, s in self._shapes.items() if name.startswith(f"{stack}/{stack}/")), ())
            return shape[1] if len(shape) > 1 else 0
        numbers = [re.match(rf"{stack}/layers_(\d+)/", name) for name in self._shapes]
        return 1 + max((int(number[1]) for number in numbers if number), default=-1)

    def _checked(self, name: str, shape: tuple[int, ...] | None, ranks: tuple[int, ...]) -> tuple[int, ...]:
        if shape is not None and len(shape) in ranks:
            return shape
        axes = " or ".join(map(str, ranks))
        said = "is missing" if shape is None else f"has the shape {shape}"
        self.problems.append(f"tensor {name!r} {said}; one of {axes} axes is needed")
        return (1,) * ranks[0]
