"""Components of a run that know nothing of gin, for the tests of the configuration."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from t5x_instruct.common.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Layer:
    width: int
    rate: float = 0.5
    kind: Literal["dense", "sparse"] = "dense"


@dataclasses.dataclass(frozen=True)
class Network:
    layer: Layer
    sizes: tuple[int, ...] = (1,)
    names: Mapping[str, int] = dataclasses.field(default_factory=dict)
    activation: Callable[[float], float] | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if len(self.sizes) > 3:
            raise ConfigError(f"{len(self.sizes)} sizes: at most 3")


@dataclasses.dataclass(frozen=True)
class Loop:
    itself: Any = None


def scale(x: float, factor: float = 1.0) -> float:
    return x * factor


def anything(**options: Any) -> dict[str, Any]:
    return options


NOT_CALLABLE = 3
