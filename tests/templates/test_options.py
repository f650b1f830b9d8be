"""Options that are put after an instruction: every form is drawn, the same for the same key, and letters are right."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.templates.options import (
    APPENDED_STYLES,
    BLOCK_STYLES,
    HEADINGS,
    INLINE_STYLES,
    LETTER_HEADINGS,
    check_options_shown,
    draw_shown,
    letters_of,
    render_options,
    styles_for,
)

LINES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
OPTIONS = st.lists(LINES, min_size=1, max_size=30, unique=True)
SHORT = ["red", "light green", "blue"]
LETTERED = [style for style in APPENDED_STYLES if letters_of(SHORT, style)]


def test_every_style_and_heading_is_reached():
    texts = [draw_shown(SHORT, False, "task", i).text for i in range(1500)]
    for style in APPENDED_STYLES:
        assert any(text.endswith(f"\n{render_options(SHORT, style)}") or style in INLINE_STYLES for text in texts), (
            style
        )
        assert any(render_options(SHORT, style) in text for text in texts), style
    for heading in HEADINGS:
        assert any(text.strip().startswith(heading) for text in texts), heading
    assert {text[:2] == "\n\n" for text in texts} == {True, False}
    lettered = [draw_shown(SHORT, True, "task", i) for i in range(600)]
    for heading in LETTER_HEADINGS:
        assert any(one.letters and one.text.strip().startswith(heading) for one in lettered), heading
    for style in LETTERED:
        assert any(one.text.endswith(render_options(SHORT, style)) for one in lettered), style
    assert {one.letters is None for one in lettered} == {True, False}


@settings(max_examples=60)
@given(OPTIONS, st.booleans(), st.integers(0, 50))
def test_shown_options_are_those_of_the_key_and_all_there(options, letters, key):
    shown = draw_shown(options, letters, "task", key)
    assert shown == draw_shown(options, letters, "task", key)
    position = 0
    for i, option in enumerate(options):
        position = shown.text.index(option, position)
        if shown.letters:
            line = shown.text[: position + len(option)].rpartition("\n")[2]
            mark, _, rest = line.partition(" ")
            assert rest == option
            assert mark.strip("()[].:") == shown.letters[i]
        position += len(option)
    if shown.letters:
        assert len(set(shown.letters)) == len(options) <= 26
        assert any(heading in shown.text for heading in LETTER_HEADINGS)


def test_styles_suit_the_options():
    assert styles_for(SHORT, APPENDED_STYLES) == list(APPENDED_STYLES)
    assert not set(styles_for(["x" * 61, "y"], APPENDED_STYLES)) & set(INLINE_STYLES)
    assert not set(styles_for(["a\nb", "y"], APPENDED_STYLES)) & set(INLINE_STYLES)
    many = [str(i) for i in range(27)]
    assert not set(styles_for(many, APPENDED_STYLES)) & set(LETTERED)
    assert set(styles_for(many, BLOCK_STYLES)) == set(BLOCK_STYLES) - set(LETTERED)
    with pytest.raises(ConfigError, match="27 options.*26"):
        letters_of(many, "small_letters")


def test_letters_stand_where_the_style_says():
    assert render_options(SHORT, "small_letters") == "a) red\nb) light green\nc) blue"
    assert render_options(SHORT, "bracketed_letters") == "[A] red\n[B] light green\n[C] blue"
    assert letters_of(SHORT, "small_letters") == ["a", "b", "c"]
    assert letters_of(SHORT, "numbers") is None
    assert letters_of(SHORT, "commas") is None


def test_an_unknown_way_is_told():
    assert check_options_shown("hidden") == "hidden"
    with pytest.raises(ConfigError, match="'shon'; nearest: 'shown'"):
        check_options_shown("shon")
