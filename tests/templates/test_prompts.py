import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.templates.options import BLOCK_STYLES, INLINE_STYLES, render_options
from t5x_instruct.templates.prompts import Template, draw

NAMES = st.sampled_from(["question", "answer", "a_1", "größe"])
PIECES = st.lists(st.one_of(st.tuples(st.just("text"), st.text()), st.tuples(st.just("field"), NAMES)))


def written(pieces: list[tuple[str, str]]) -> str:
    literal = [p.replace("{", "{{").replace("}", "}}") if kind == "text" else f"{{{p}}}" for kind, p in pieces]
    return "".join(literal)


@given(PIECES, PIECES, st.fixed_dictionaries(dict.fromkeys(["question", "answer", "a_1", "größe"], st.text())))
def test_render_puts_values_between_literals_and_reads_no_value_again(inputs, targets, fields):
    template = Template(written(inputs), written(targets))
    expected = tuple("".join(fields[p] if kind == "field" else p for kind, p in side) for side in (inputs, targets))
    assert template.render(fields) == expected
    assert template.fields == {p for kind, p in inputs + targets if kind == "field"}


@given(st.text(alphabet="ab{}!:.[0] \n"))
def test_any_text_is_refused_at_construction_or_renders(text):
    template, message = None, ""
    try:
        template = Template(text)
    except ConfigError as error:
        message = str(error)
    if template is None:
        assert repr(text) in message
        return
    values = {name: f"<{name}>" for name in template.fields}
    inputs, targets = template.render(values)
    assert targets == "<answer>"
    assert all(value in inputs for name, value in values.items() if name in template.input_fields)


@pytest.mark.parametrize("text", ["{", "}", "{a", "a}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a b}"])
def test_what_is_no_plain_placeholder_is_refused(text):
    with pytest.raises(ConfigError, match="template"):
        Template(text)
    with pytest.raises(ConfigError, match="template"):
        Template("fine", text)


def test_a_missing_field_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown field 'contry'; nearest: 'country'.*Where is \{contry\}"):
        Template("Where is {contry}?").render({"country": "Peru", "answer": "x"})


def test_templates_are_values():
    assert Template("a {b}") == Template("a {b}", "{answer}")
    assert len({Template("a"), Template("a"), Template("a", "b")}) == 2


def test_draws_are_fixed_for_all_time():
    assert [draw(1000, 0, "task", i, 0) for i in range(4)] == [763, 771, 140, 55]


@given(st.integers(1, 10**9), st.lists(st.one_of(st.text(), st.integers()), max_size=4))
def test_draw_is_in_range_and_repeats(n, key):
    assert 0 <= draw(n, *key) < n
    assert draw(n, *key) == draw(n, *key)


def test_draws_are_even():
    counts = collections.Counter(draw(7, 3, "task", i, 0) for i in range(7000))
    assert set(counts) == set(range(7))
    assert max(abs(count - 1000) for count in counts.values()) < 150  # five standard deviations


def test_parts_of_a_key_are_kept_apart():
    keys = [("a", "b"), ("ab",), ("b", "a"), (1,), ("1",), (1, 2), (12,), (), ("",)]
    assert len({draw(2**60, *key) for key in keys}) == len(keys)


@pytest.mark.parametrize("n", [0, -3])
def test_nothing_to_choose_from(n):
    with pytest.raises(ValueError, match=f"n={n}"):
        draw(n, "key")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8), st.sampled_from(BLOCK_STYLES + INLINE_STYLES))
def test_every_style_shows_every_option_in_order(options, style):
    text = render_options(options, style)
    position = 0
    for option in options:
        position = text.index(option, position) + len(option)


def test_styles():
    options = ["red", "light green", "blue"]
    assert render_options(options, "letters") == "(A) red\n(B) light green\n(C) blue"
    assert render_options(options, "numbers") == "1. red\n2. light green\n3. blue"
    assert render_options(options, "alternatives") == "red, light green or blue"
    assert render_options(["red"], "alternatives") == "red"
    assert all("\n" not in render_options(options, style) for style in INLINE_STYLES)
    assert all(render_options(options, style).count("\n") == 2 for style in BLOCK_STYLES)
    assert len({render_options(options, style) for style in BLOCK_STYLES + INLINE_STYLES}) == 10


def test_braces_in_an_option_stay():
    assert render_options(["{0}", "{}"], "letters") == "(A) {0}\n(B) {}"


def test_option_faults():
    with pytest.raises(ConfigError, match="nearest: 'letters'"):
        render_options(["a"], "leters")
    with pytest.raises(ConfigError, match="at least one"):
        render_options([], "lines")
    with pytest.raises(ConfigError, match="27 options.*26"):
        render_options(["x"] * 27, "letters")
