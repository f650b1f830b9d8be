"""Nested dictionaries of arrays by path name."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def flatten_with_names(tree: Any, separator: str = "/") -> dict[str, Any]:
    """Flattens nested mappings into ``{'a/b/c': leaf}``; anything that is no mapping is a leaf."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                visit(f"{prefix}{separator}{key}" if prefix else str(key), value)
        else:
            flat[prefix] = node

    visit("", tree)
    return flat


def unflatten(flat: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """The inverse of `flatten_with_names`."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split(separator)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def num_parameters(tree: Any) -> int:
    """Number of array elements in a nested mapping; leaves need only a `shape`."""
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in flatten_with_names(tree).values())


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in a nested mapping; leaves need `shape` and `dtype`."""
    return sum(
        int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize
        for leaf in flatten_with_names(tree).values()
    )
