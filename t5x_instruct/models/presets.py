"""From a configuration, or its JSON, to a model."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.models.api import Model
from t5x_instruct.models.decoder import DecoderConfig, DecoderModel
from t5x_instruct.models.t5 import T5Config, T5Model
from t5x_instruct.models.t5gemma import T5GemmaConfig, T5GemmaModel

_FAMILIES: dict[str, type[Any]] = {"decoder": DecoderConfig, "t5": T5Config, "t5gemma": T5GemmaConfig}
_MODELS: dict[type[Any], Callable[[Any], Model]] = {
    DecoderConfig: DecoderModel,
    T5Config: T5Model,
    T5GemmaConfig: T5GemmaModel,
}


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
    problems: list[str] = []
    config = _built(_FAMILIES[family], values, family, problems)
    if problems:
        raise ConfigError(problems)
    return config


def _built(dataclass: type[Any], values: Mapping[str, Any], what: str, problems: list[str]) -> Any:
    """The instance with these values; None, and what is wrong with them, if it cannot be made."""
    before = len(problems)
    fields = {field.name: field for field in dataclasses.fields(dataclass)}
    problems += [unknown(f"{what} field", name, fields) for name in values if name not in fields]
    found = {}
    for name, field in fields.items():
        if name in values:
            found[name] = _read(values[name], field.type, f"{what} field {name!r}", problems)
        elif field.default is dataclasses.MISSING:
            problems.append(f"{what} field {name!r} is missing")
    return None if len(problems) > before else dataclass(**found)


def _read(value: Any, kind: Any, what: str, problems: list[str]) -> Any:
    """A value of JSON as a field's type has it; what does not fit is noted."""
    alternatives = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in alternatives:
        return None
    (kind,) = (one for one in alternatives if one is not type(None))
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        item = typing.get_args(kind)[0]
        return tuple(_read(one, item, f"an entry of {what}", problems) for one in value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _built(kind, value, what, problems)
    if not _fits(value, kind):
        problems.append(f"{what} is {value!r}, must be {_type_name(kind)}")
    return value


def _fits(value: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    kind = typing.get_origin(kind) or kind
    return isinstance(value, (int, float) if kind is float else kind)


def _type_name(kind: Any) -> str:
    return str(kind) if typing.get_origin(kind) else kind.__name__
