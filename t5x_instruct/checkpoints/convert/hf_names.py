"""Our parameters from tensors under Hugging Face's names. NumPy only."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_instruct.checkpoints.convert.hf_tables import (
    EMBEDDING,
    HEAD,
    SHARED,
    HfLayout,
    HfTensor,
    ModelConfig,
    layout_of,
)
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.errors import CheckpointError, nearest
from t5x_instruct.common.trees import unflatten

_SHOWN, _HINTS = 100, 20

log = logging.getLogger(__name__)


class HfTensors(Protocol):
    """Tensors by their names, read one at a time.

    Attributes:
        shapes: name -> shape, of all of them.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """See the class."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        ...

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors of the same shape hold the same numbers."""
        ...


def lazy_params(tensors: HfTensors, config: ModelConfig) -> dict[str, LazyTensor]:
    """Our parameters by name; nothing is read but copies, which are compared.

    Args:
        tensors: under the names that the `state_dict` of `LlamaForCausalLM` or `T5ForConditionalGeneration` has.
            Copies of the embedding (``lm_head.weight`` beside a tied head, T5's ``encoder.embed_tokens.weight``) are
            ignored where they equal it. Tensors of a part that we do not have (T5Gemma 2's vision tower) are left out,
            and a warning counts them.
        config: sizes; layers are stacked if its layers are scanned, the vocabulary's padding rows are zero.

    Raises:
        CheckpointError: tensors are missing, unknown or of the wrong shape (all are listed), or a copy differs.
    """
    layout = layout_of(config)
    tensors = _Known(tensors, layout)
    _check(tensors.shapes, layout)
    _check_copies(tensors, layout)

    def piece(name: str, tensor: HfTensor) -> Callable[[], np.ndarray]:
        return lambda: tensor.to_ours(tensors.read(name))

    return {
        ours: LazyTensor(shape, [piece(name, tensor) for name in names], stacked)
        for ours, shape, tensor, names, stacked in our_params(layout, config.scan_layers)
    }


class OurParam(NamedTuple):
    """One of our parameters and what it is made of.

    Attributes:
        name: in our tree.
        shape: of all of it.
        tensor: how one of their tensors becomes ours.
        theirs: their tensors' names: one, or one a layer.
        stacked: whether layers are stacked.
    """

    name: str
    shape: tuple[int, ...]
    tensor: HfTensor
    theirs: tuple[str, ...]
    stacked: bool


def our_params(layout: HfLayout, scan_layers: bool) -> Iterator[OurParam]:
    """All our parameters, with layers stacked or each by itself."""
    for theirs, tensor in layout.top.items():
        yield OurParam(tensor.ours, tensor.our_shape, tensor, (theirs,), False)
    for stack in layout.stacks:
        for theirs, tensor in stack.tensors.items():
            names = tuple(f"{stack.theirs.format(i=i)}{theirs}" for i in range(stack.num_layers))
            if scan_layers:
                shape = (stack.num_layers, *tensor.our_shape)
                yield OurParam(f"{stack.ours}/layers/{tensor.ours}", shape, tensor, names, True)
                continue
            for i, name in enumerate(names):
                yield OurParam(f"{stack.ours}/layers_{i}/{tensor.ours}", tensor.our_shape, tensor, (name,), False)


def params_from_hf(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    """Our parameters from tensors in memory, see `lazy_params`.

    Args:
        tensors: name -> array of any float dtype.
        config: sizes.

    Returns:
        Nested dictionary of float32 arrays, as the model's `init` gives.

    Raises:
        CheckpointError: see `lazy_params`.
    """
    return unflatten({name: lazy.read() for name, lazy in lazy_params(_InMemory(tensors), config).items()})


def owns_head(tensors: HfTensors) -> bool:
    """Whether there is a head that is not the embedding; compares the two if there are two of one shape."""
    embedding = next((name for name in (SHARED, EMBEDDING) if name in tensors.shapes), None)
    if HEAD not in tensors.shapes or embedding is None:
        return HEAD in tensors.shapes
    return tensors.shapes[HEAD] != tensors.shapes[embedding] or not tensors.equal(HEAD, embedding)


class _Known:
    """Tensors under the names that a layout gives them, without those that it leaves out."""

    def __init__(self, tensors: HfTensors, layout: HfLayout):
        self._tensors = tensors
        left_out = Counter(one for name in tensors.shapes for one in layout.left_out if name.startswith(one))
        if left_out:
            parts = ", ".join(f"{one}* ({count})" for one, count in left_out.items())
            log.warning("%d tensors are left out on purpose, only texts are read: %s", left_out.total(), parts)
        self._names = {layout.from_file(name): name for name in tensors.shapes if not name.startswith(layout.left_out)}
        self.shapes = {known: tensors.shapes[name] for known, name in self._names.items()}

    def read(self, name: str) -> np.ndarray:
        return self._tensors.read(self._names[name])

    def equal(self, name: str, other: str) -> bool:
        return self._tensors.equal(self._names[name], self._names[other])


class _InMemory:
    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors
        self.shapes = {name: array.shape for name, array in tensors.items()}

    def read(self, name: str) -> np.ndarray:
        return np.asarray(self._tensors[name], np.float32)

    def equal(self, name: str, other: str) -> bool:
        return np.array_equal(self._tensors[name], self._tensors[other])


def _check_copies(tensors: HfTensors, layout: HfLayout) -> None:
    for name, original in layout.copies.items():
        if name in tensors.shapes and not tensors.equal(name, original):
            advice = "; set tie_embeddings=False (tie_word_embeddings in config.json)" if name == HEAD else ""
            raise CheckpointError(f"by the configuration {name} is {original}, but the two differ{advice}")


def _check(found: Mapping[str, tuple[int, ...]], layout: HfLayout) -> None:
    for stack in layout.stacks:
        if stack.num_layers > len(found):  # a damaged configuration: their names alone would fill the memory
            raise CheckpointError(
                f"the configuration has {stack.num_layers} layers, but there are {len(found)} tensors"
            )
    shapes = {name: tensor.shape for name, tensor in layout.top.items()}
    for stack in layout.stacks:
        for i in range(stack.num_layers):
            shapes |= {f"{stack.theirs.format(i=i)}{name}": t.shape for name, t in stack.tensors.items()}
    copies = {name: shapes[original] for name, original in layout.copies.items() if name in found}
    extra = [name for name in found if name not in shapes and name not in copies and name not in layout.unused]
    missing = [name for name in shapes if name not in found]
    problems = [
        f"tensor {name!r} is missing, shape {shapes[name]}{_hint(i, name, extra)}" for i, name in enumerate(missing)
    ]
    problems += [
        f"tensor {name!r}, shape {found[name]}, is not part of this model{_hint(i, name, missing)}"
        for i, name in enumerate(extra)
    ]
    for name, shape in (shapes | copies).items():
        if name in found and found[name] != shape:
            problems.append(f"tensor {name!r} has shape {found[name]}, the configuration asks for {shape}")
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        shown = "\n  - ".join(problems[:_SHOWN] + more)
        raise CheckpointError(f"{len(problems)} tensors do not fit the model:\n  - {shown}")


def _hint(position: int, name: str, candidates: list[str]) -> str:
    # Comparing every name with every other takes seconds when all differ; the first ones show the pattern.
    close = nearest(name, candidates) if position < _HINTS else []
    return f"; nearest: {', '.join(map(repr, close))}" if close else ""
