"""What differs from layer to layer of one stack: which tokens a layer's attention reaches, and how positions turn."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Window(NamedTuple):
    """How far attention reaches, in positions; ``Window(w - 1, w - 1)`` is what is called a sliding window of w.

    Attributes:
        behind: a query sees no key that stands more than this before it.
        ahead: nor one that stands more than this after it; where attention is causal, it sees none of those anyway.
    """

    behind: int
    ahead: int


class LayerKind(NamedTuple):
    """Which of the model's windows and rotations a layer has.

    Arrays int32 [layers] for a stack, of which a scan gives each layer its own number. Parameters do not depend on
    it: all layers are stacked under one name, whatever the pattern.

    Attributes:
        window: index into the windows of `Attention`.
        rotation: index into the first axis of the rotations.
    """

    window: Any
    rotation: Any


def sliding(size: int) -> Window | None:
    """The window of `size` tokens to both sides, the query among them; None for 0: all of the segment."""
    return Window(size - 1, size - 1) if size else None


def repeated(pattern: Sequence[Any], num_layers: int) -> list[Any]:
    """What every layer has: the pattern again and again, cut off after the last layer."""
    return [pattern[i % len(pattern)] for i in range(num_layers)]


def shortest_pattern(per_layer: Sequence[Any]) -> tuple[Any, ...]:
    """The inverse of `repeated`: the shortest pattern that gives these layers."""
    n = len(per_layer)
    for size in range(1, n):
        if list(per_layer) == repeated(per_layer[:size], n):
            return tuple(per_layer[:size])
    return tuple(per_layer)


def indexed(per_layer: Sequence[Any]) -> tuple[tuple[Any, ...], np.ndarray]:
    """The distinct values in the order of their first layers, and which of them each layer has: int32 [layers]."""
    distinct = tuple(dict.fromkeys(per_layer))
    return distinct, np.asarray([distinct.index(value) for value in per_layer], np.int32)
