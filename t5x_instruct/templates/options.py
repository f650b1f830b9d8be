"""The ways a list of answer options is written into an instruction."""

import string
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.templates.prompts import draw

OptionsShown = Literal["as_written", "shown", "hidden"]
"""Where options stand: as templates have placeholders for them, always, or never."""

MAX_LETTERED = len(string.ascii_uppercase)
_LONGEST_INLINE = 60  # characters of one option; longer ones get a line each


def _alternatives(options: Sequence[str]) -> str:
    if len(options) == 1:
        return options[0]
    return ", ".join(options[:-1]) + " or " + options[-1]


_BLOCK: dict[str, str] = {
    "dashes": "- {option}",
    "stars": "* {option}",
    "lines": "{option}",
    "numbers": "{number}. {option}",
    "letters": "({letter}) {option}",
    "dotted_letters": "{letter}. {option}",
}
# Further ones where the block is put there by the renderer: templates that have '{options}' keep the list above.
_APPENDED: dict[str, str] = _BLOCK | {
    "bullets": "• {option}",
    "bracketed_numbers": "[{number}] {option}",
    "closed_letters": "{letter}) {option}",
    "bracketed_letters": "[{letter}] {option}",
    "letters_with_colon": "{letter}: {option}",
    "small_letters": "{small}) {option}",
}
_INLINE: dict[str, Callable[[Sequence[str]], str]] = {
    "commas": ", ".join,
    "slashes": " / ".join,
    "alternatives": _alternatives,
    "quoted": lambda options: ", ".join(f'"{option}"' for option in options),
}

BLOCK_STYLES: tuple[str, ...] = tuple(_BLOCK)
"""Styles that put each option on a line of its own, for a template's '{options}'."""

INLINE_STYLES: tuple[str, ...] = tuple(_INLINE)
"""Styles that fit inside a sentence, for a template's '{options_inline}'."""

APPENDED_STYLES: tuple[str, ...] = (*_APPENDED, *_INLINE)
"""Styles of the options that are put after an instruction."""

HEADINGS: tuple[str, ...] = (
    "Options:",
    "Choices:",
    "Choose one of these:",
    "Possible answers:",
    "Pick your answer from:",
    "The answer is one of the following:",
    "Answer with one of these:",
    "Select one:",
    "You may answer:",
    "Which one is it?",
)
"""What stands before options whose text is the answer."""

LETTER_HEADINGS: tuple[str, ...] = (
    "Options (answer with the letter):",
    "Choose a letter:",
    "Give the letter of your choice:",
    "Which letter is right?",
    "Answer with a single letter.",
    "Name the letter of the right one:",
    "Reply with one of the letters below.",
)
"""What stands before options whose letter is the answer."""


def render_options(options: Sequence[str], style: str) -> str:
    """Writes a list of options.

    Args:
        options: the texts, at least one.
        style: a name from `BLOCK_STYLES`, `INLINE_STYLES` or `APPENDED_STYLES`.

    Returns:
        The list as one text, without a heading and without a final line break.

    Raises:
        ConfigError: no options, an unknown style, or more than 26 options in a lettered style.
    """
    if not options:
        raise ConfigError("an option list needs at least one option, got none")
    if style in _INLINE:
        return _INLINE[style](options)
    if style not in _APPENDED:
        raise ConfigError(unknown("option style", style, _APPENDED | _INLINE))
    marks = letters_of(options, style) or [""] * len(options)
    pattern = _APPENDED[style]
    return "\n".join(
        pattern.format(option=option, number=i, letter=mark, small=mark)
        for i, (option, mark) in enumerate(zip(options, marks, strict=True), start=1)
    )


def letters_of(options: Sequence[str], style: str) -> list[str] | None:
    """The letter of each option where a style has letters, else None.

    Raises:
        ConfigError: more than 26 options.
    """
    pattern = _APPENDED.get(style, "")
    alphabet = {"{letter}": string.ascii_uppercase, "{small}": string.ascii_lowercase}
    for placeholder, letters in alphabet.items():
        if placeholder not in pattern:
            continue
        if len(options) > MAX_LETTERED:
            raise ConfigError(
                f"{len(options)} options cannot be lettered: the limit is {MAX_LETTERED}; choose another option style"
            )
        return list(letters[: len(options)])
    return None


def styles_for(options: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Those of some styles that suit the options: letters up to 26 of them, one line for short ones only."""
    inline = all(len(option) <= _LONGEST_INLINE and "\n" not in option for option in options)
    lettered = len(options) <= MAX_LETTERED
    return [
        style
        for style in styles
        if (inline or style not in _INLINE) and (lettered or letters_of(options[:1], style) is None)
    ]


class ShownOptions(NamedTuple):
    """Options as they are put after an instruction.

    Attributes:
        text: heading and list, with the line break before them.
        letters: the letter of each option where letters are the answers, else None.
    """

    text: str
    letters: list[str] | None


def draw_shown(options: Sequence[str], letters: bool, *key: str | int) -> ShownOptions:
    """Options with a heading and a style that are drawn for an example.

    Args:
        options: the texts, at least one.
        letters: whether the letter is the answer where the drawn style has letters.
        *key: see `templates.prompts.draw`.
    """
    styles = styles_for(options, APPENDED_STYLES)
    style = styles[draw(len(styles), *key, "shown style")]
    marks = letters_of(options, style) if letters else None
    headings = HEADINGS if marks is None else LETTER_HEADINGS
    heading = headings[draw(len(headings), *key, "shown heading")]
    gap = "\n\n" if draw(2, *key, "shown gap") else "\n"
    before_list = " " if style in _INLINE else "\n"
    return ShownOptions(f"{gap}{heading}{before_list}{render_options(options, style)}", marks)


def check_options_shown(value: str) -> OptionsShown:
    """A value of `OptionsShown`.

    Raises:
        ConfigError: it is none.
    """
    for known in get_args(OptionsShown):
        if value == known:
            return known
    raise ConfigError(unknown("way to show options", value, get_args(OptionsShown)))
