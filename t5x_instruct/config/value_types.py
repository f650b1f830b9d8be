"""Whether a value of a gin file fits a parameter's annotation, and how it is read from a shell word."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """`@scope/name` (the function itself, its bindings applied) or `@scope/name()` (its result).

    Args:
        scope: scopes joined by '/', '' for none.
        name: the configurable's name.
        evaluate: whether it is called where it is used.
    """

    scope: str
    name: str
    evaluate: bool

    def __repr__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"@{scope}{self.name}{'()' if self.evaluate else ''}"


@dataclass(frozen=True)
class MacroUse:
    """`%NAME`: the value of a macro."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class Unknown:
    """Stands where a value cannot be known because of a problem that is reported already."""


UNKNOWN = Unknown()


def leaves(value: Any) -> list[Any]:
    """Everything inside nested dicts (keys too), lists and tuples, in order."""
    if isinstance(value, dict):
        return [leaf for pair in value.items() for part in pair for leaf in leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same nesting with `function` applied to every leaf and dict key.

    Raises:
        TypeError: a dict's key became a list or dict.
    """
    if isinstance(value, dict):
        return {map_leaves(k, function): map_leaves(v, function) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_leaves(item, function) for item in value)
    return function(value)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(a for arg in typing.get_args(annotation) for a in _alternatives(arg))
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    return (annotation,)


def _sequence_item(annotation: Any) -> Any:
    """The item annotation of `tuple[X, ...]`, `list[X]`, `Sequence[X]`; None when it is no such thing."""
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return args[0]
    if origin in (list, collections.abc.Sequence, collections.abc.Iterable):
        return args[0] if args else Any
    return Any if origin is tuple and not args else None


def _mapping_items(annotation: Any) -> tuple[Any, Any] | None:
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return (args[0], args[1]) if len(args) == 2 else (Any, Any)
    return None


def _fits_number(value: Any, annotation: Any) -> bool:
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool)


def _fits_container(value: Any, annotation: Any) -> bool:
    pairs = _mapping_items(annotation)
    if pairs is not None:
        return isinstance(value, dict) and all(fits(k, pairs[0]) and fits(v, pairs[1]) for k, v in value.items())
    if not isinstance(value, list | tuple):
        return False
    item = _sequence_item(annotation)
    if item is not None:
        return all(fits(v, item) for v in value)
    args = [a for a in typing.get_args(annotation) if a != ()]
    return len(value) == len(args) and all(map(fits, value, args))


def _fits_one(value: Any, annotation: Any) -> bool:
    if annotation in (None, type(None)):
        return value is None
    if annotation in (int, float):
        return _fits_number(value, annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin is typing.Literal:
        return any(value == v and type(value) is type(v) for v in typing.get_args(annotation))
    if origin is tuple or _sequence_item(annotation) is not None or _mapping_items(annotation):
        return _fits_container(value, annotation)
    if not inspect.isclass(origin) or getattr(origin, "_is_protocol", False):
        return origin is not collections.abc.Callable
    if origin is collections.abc.Callable or origin is type:
        return False
    return isinstance(value, origin)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a gin value may be passed to a parameter with this annotation.

    References fit everything (their class is compared by `validate`), as do values that are unknown
    because of another problem; an int fits a float; a list fits a tuple; a bool is no number.
    """
    if isinstance(value, Unknown | Reference | MacroUse) or annotation in (Any, inspect.Parameter.empty):
        return True
    return any(
        a is Any or isinstance(a, str | typing.TypeVar | typing.ForwardRef) or _fits_one(value, a)
        for a in _alternatives(annotation)
    )


def normalise(value: Any, annotation: Any) -> Any:
    """A fitting value in the exact type of the annotation: lists to tuples, ints to floats."""
    options = _alternatives(annotation)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if float in options and int not in options else value
    for option in options:
        pairs, item = _mapping_items(option), _sequence_item(option)
        if isinstance(value, dict) and pairs is not None:
            return {k: normalise(v, pairs[1]) for k, v in value.items()}
        if isinstance(value, list | tuple) and (typing.get_origin(option) or option) is tuple:
            args = typing.get_args(option)
            each = [item] * len(value) if item is not None else args
            return tuple(map(normalise, value, each))
    return value


def describe(annotation: Any) -> str:
    """An annotation as it is shown in an error message."""
    if annotation in (None, type(None)):
        return "None"
    parts = _alternatives(annotation)
    if len(parts) > 1:
        return " or ".join(map(describe, parts))
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if typing.get_origin(annotation) is None and inspect.isclass(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def _split_words(text: str, options: Sequence[Any]) -> Any:
    """`a,b` for a tuple of strings, `a=1,b=2` for a mapping; the text itself when neither is meant."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for option in options:
        pairs, item = _mapping_items(option), _sequence_item(option)
        if item in (str, Any) and pairs is None and item is not None:
            return tuple(words)
        if pairs is not None and words and all("=" in word for word in words):
            pieces = [word.split("=", 1) for word in words]
            if pairs[1] in (int, float) and all(_is_number(v, pairs[1]) for _, v in pieces):
                return {k: pairs[1](v) for k, v in pieces}
            return dict(typing.cast(Any, pieces))
    return text


def _is_number(text: str, number: Any) -> bool:
    try:
        number(text)
    except ValueError:
        return False
    return True


def read_word(text: str, parsed: Any, annotation: Any) -> Any:
    """The value of a shell word such as the `/tmp/x` of `--gin.MODEL_DIR=/tmp/x`.

    Args:
        text: the word as the shell passed it.
        parsed: the word read as a gin value, or UNKNOWN when it is none.
        annotation: what the parameter takes.

    Returns:
        The gin value where it fits; else the bare word as a string, a list of words or a mapping,
        whichever the annotation takes; else whatever was parsed, for the error message.
    """
    options = _alternatives(annotation)
    if not isinstance(parsed, Unknown) and fits(parsed, annotation):
        return parsed
    if fits(text, annotation):
        return text
    words = _split_words(text, options)
    if words is not text and fits(words, annotation):
        return words
    return text if isinstance(parsed, Unknown) else parsed


def as_words(value: Any) -> Any:
    """A repeatable macro's value as a tuple: one string, none, or several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def format_value(value: Any) -> str:
    """A value as gin text that is read back as the same value.

    Raises:
        ValueError: gin has no text for such a value.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{format_value(k)}: {format_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(format_value, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(format_value, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "1e999" if value > 0 else "-1e999"
    if isinstance(value, Reference | MacroUse | str | bytes | bool | int | float | None):
        return repr(value)  # ints of more digits than Python prints raise ValueError here
    raise ValueError(f"gin has no text for a {type(value).__name__}")
