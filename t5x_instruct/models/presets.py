"""From a configuration, or its JSON, to a model."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.models.api import Model
from t5x_instruct.models.decoder import DecoderConfig, DecoderModel
from t5x_instruct.models.t5 import T5Config, T5Model

_FAMILIES: dict[str, type[Any]] = {"decoder": DecoderConfig, "t5": T5Config}
_MODELS: dict[type[Any], Callable[[Any], Model]] = {DecoderConfig: DecoderModel, T5Config: T5Model}


def make_model(config: Any) -> Model:
    """The model a configuration describes.

    Args:
        config: an instance of one of the families' dataclasses.

    Raises:
        ConfigError: `config` is none of them.
    """
    if type(config) not in _MODELS:
        raise ConfigError(
            f"no model is configured by a {type(config).__name__}; valid: {', '.join(c.__name__ for c in _MODELS)}"
        )
    return _MODELS[type(config)](config)


#: What a run may choose anew for the weights of a checkpoint.
CHOSEN_BY_THE_RUN = frozenset(
    ("dropout_rate", "dtype", "remat", "attention_chunk", "prefix_lm", "embedding_init_stddev", "vocab_multiple")
)


def contradictions(given: Any, own: Any) -> list[str]:
    """What a run's configuration says otherwise than the checkpoint that it starts from.

    Args:
        given: the run's.
        own: the checkpoint's.

    Returns:
        A line for every field that decides how weights are read or used and differs; nothing if there is none.
    """
    if type(given) is not type(own):
        return [f"the run configures a {type(given).__name__}, the checkpoint is a {type(own).__name__}"]
    names = [field.name for field in dataclasses.fields(own) if field.name not in CHOSEN_BY_THE_RUN]
    return [
        f"{name} is {getattr(given, name)!r}, the checkpoint's is {getattr(own, name)!r}"
        for name in [*names, "vocab_rows"]
        if getattr(given, name) != getattr(own, name)
    ]


def config_from_dict(values: Mapping[str, Any]) -> Any:
    """The inverse of ``dataclasses.asdict``, for JSON.

    Args:
        values: field name -> value, with `family`.

    Returns:
        The configuration of that family.

    Raises:
        ConfigError: unknown family or fields (with the nearest names), missing fields, values of the wrong
            type or out of range; all that were found.
    """
    family = values.get("family")
    if family not in _FAMILIES:
        raise ConfigError(unknown("model family", str(family), _FAMILIES))
    fields = {field.name: field for field in dataclasses.fields(_FAMILIES[family])}
    problems = [unknown(f"{family} field", name, fields) for name in values if name not in fields]
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                problems.append(f"{family} field {name!r} is missing")
        elif not _fits(values[name], field.type):
            problems.append(f"{family} field {name!r} is {values[name]!r}, must be {_type_name(field.type)}")
    if problems:
        raise ConfigError(problems)
    return _FAMILIES[family](**values)


def _fits(value: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _type_name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
