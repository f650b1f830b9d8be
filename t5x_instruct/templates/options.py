"""The ways a list of answer options is written into an instruction."""

import string
from collections.abc import Callable, Sequence

from t5x_instruct.common.errors import ConfigError, unknown


def _lettered(options: Sequence[str], pattern: str) -> str:
    if len(options) > len(string.ascii_uppercase):
        raise ConfigError(
            f"{len(options)} options cannot be lettered: the limit is"
            f" {len(string.ascii_uppercase)}; choose another option style"
        )
    letters = string.ascii_uppercase
    return "\n".join(pattern.format(letters[i], option) for i, option in enumerate(options))


def _alternatives(options: Sequence[str]) -> str:
    if len(options) == 1:
        return options[0]
    return ", ".join(options[:-1]) + " or " + options[-1]


_BLOCK: dict[str, Callable[[Sequence[str]], str]] = {
    "dashes": lambda options: "\n".join(f"- {option}" for option in options),
    "stars": lambda options: "\n".join(f"* {option}" for option in options),
    "lines": "\n".join,
    "numbers": lambda options: "\n".join(f"{i}. {o}" for i, o in enumerate(options, start=1)),
    "letters": lambda options: _lettered(options, "({}) {}"),
    "dotted_letters": lambda options: _lettered(options, "{}. {}"),
}
_INLINE: dict[str, Callable[[Sequence[str]], str]] = {
    "commas": ", ".join,
    "slashes": " / ".join,
    "alternatives": _alternatives,
    "quoted": lambda options: ", ".join(f'"{option}"' for option in options),
}
_STYLES = _BLOCK | _INLINE

BLOCK_STYLES: tuple[str, ...] = tuple(_BLOCK)
"""Styles that put each option on a line of its own, for a template's '{options}'."""

INLINE_STYLES: tuple[str, ...] = tuple(_INLINE)
"""Styles that fit inside a sentence, for a template's '{options_inline}'."""


def render_options(options: Sequence[str], style: str) -> str:
    """Writes a list of options.

    Letters and numbers only mark the options: the answer is always an option's text, so that
    every style of one example has the same target.

    Args:
        options: the texts, at least one.
        style: a name from `BLOCK_STYLES` or `INLINE_STYLES`.

    Returns:
        The list as one text, without a heading and without a final line break.

    Raises:
        ConfigError: no options, an unknown style, or more than 26 options in a lettered style.
    """
    if not options:
        raise ConfigError("an option list needs at least one option, got none")
    if style not in _STYLES:
        raise ConfigError(unknown("option style", style, _STYLES))
    return _STYLES[style](options)
