"""What a `config.json` says of a stack's layers: how many there are, and which of them have windows."""

from collections.abc import Callable

from t5x_instruct.checkpoints.convert.hf_settings import Settings, short

FULL, SLIDING = "full_attention", "sliding_attention"
_MOST_LAYERS = 100_000


def layer_count(s: Settings, default: int | None = None) -> int:
    """``num_hidden_layers``; 1 if that is no number of layers, which is noted."""
    layers: int = s.take("num_hidden_layers", int, default)
    if layers > _MOST_LAYERS:  # a damaged file: their kinds alone would fill the memory
        s.problem(f"num_hidden_layers is {layers}, more than {_MOST_LAYERS:,}")
        return 1
    return layers


def layer_types(s: Settings, num_layers: int, otherwise: Callable[[int], bool]) -> list[str]:
    """Of every layer; `otherwise` says of a layer's number whether it is sliding in files without `layer_types`."""
    if not s.has("layer_types"):
        return [SLIDING if otherwise(i) else FULL for i in range(num_layers)]
    types: list[str] = s.take("layer_types", list)
    if len(types) != num_layers or any(one not in (FULL, SLIDING) for one in types):
        s.problem(f"layer_types is {short(types)}, must be {FULL!r} or {SLIDING!r} for each of {num_layers} layers")
        return [FULL] * num_layers
    return types
