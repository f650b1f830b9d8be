"""How the arrays of a step lay on the devices that saved them, from Orbax's own metadata, in words."""

import base64
import json
import math
from typing import Any

from etils import epath

from t5x_instruct.common.errors import CheckpointError

SHARDING_FILE = "_sharding"


def saved_shardings(folder: epath.Path) -> dict[str, str]:
    """The sharding of each array, by names like ``params/decoder/decoder_norm/scale``.

    Args:
        folder: of the arrays, in a step's folder.

    Returns:
        E.g. ``fsdp, - on data=2 fsdp=4``: for each dimension the mesh axes it is cut along, or ``-``; then
        the mesh's axes that are larger than 1. ``replicated on ...`` where nothing is cut, ``one device`` where there
        was only one. Empty where the step holds no such metadata.

    Raises:
        CheckpointError: the metadata are damaged.
    """
    path = folder / SHARDING_FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return {
            base64.b64decode(name).decode().replace(".", "/"): _in_words(json.loads(sharding))
            for name, sharding in content.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _in_words(sharding: dict[str, Any]) -> str:
    if sharding["sharding_type"] == "SingleDeviceSharding":
        return "one device"
    if sharding["sharding_type"] != "NamedSharding":
        return str(sharding["sharding_type"])
    sizes = {str(name): int(size) for name, size in zip(sharding["axis_names"], sharding["shape"], strict=True)}
    if math.prod(sizes.values()) == 1:
        return "one device"
    cut = [_axes(entry, sizes) for entry in sharding["partition_spec"]]
    mesh = " ".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
    return f"{', '.join(axes or '-' for axes in cut) if any(cut) else 'replicated'} on {mesh}"


def _axes(entry: Any, sizes: dict[str, int]) -> str:
    """The mesh axes of one dimension that do cut it."""
    names = [] if entry is None else [entry] if isinstance(entry, str) else entry
    return "+".join(name for name in names if sizes[name] > 1)
