"""No text whatsoever raises anything but ConfigError, and what is accepted reads back as the same."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config.validate import ResolvedConfig, resolve
from t5x_instruct.config.value_types import MacroUse, Reference, format_value

PIECES = [
    *("SEED", "MODEL_DIR", "X", "%X", "%SEED", "%gin.REQUIRED", "Layer", "Layer.width", "Network.layer", "scale"),
    *("anything.x", "a/Layer.rate", "a/X", "@Layer()", "@a/Layer", "@scale", "@Loop()", "Loop.itself", "macro.value"),
    *(" = ", "=", ":", "\n", "\n  ", "\t", " ", ",", "(", ")", "[", "]", "{", "}", "#", "\\", "'", '"', '"""', "\r"),
    *("include", "'run.gin'", "from", "import", "as", "1", "-", "1e999", "0x1f", "1j", "'s'", "b'x'", "f'{x}'", "é"),
    *("None", "True", "...", "$", "?", "!", ";", "@", "%", "/", ".", "\0", "\x0c", "\ufeff", "\u2028", "lambda"),
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.tuples(st.sampled_from(PIECES), st.just(" = "), st.sampled_from(PIECES)), max_size=12).map(
        lambda rows: "\n".join("".join(row) for row in rows)
    ),
    st.text(max_size=200),
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        st.sampled_from([MacroUse("X"), Reference("a", "Layer", False)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def accepted(*files: str, overrides: tuple[str, ...] = (), verb: str | None = None) -> ResolvedConfig | None:
    try:
        return resolve(files, overrides, verb=verb)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(isinstance(problem, str) and problem for problem in problems)
    return None


def write(text: str) -> None:
    Path("run.gin").write_bytes(text.encode("utf-8", errors="surrogatepass"))


@QUICK
@given(TEXTS)
@example("[" * 5000)
@example("SEED = " + "[" * 5000)
@example("SEED = " + "-" * 3000 + "1")
@example("SEED = 0x" + "f" * 20000)
@example("SEED = " + "9" * 20000)
@example("X:\n  y = 1\n z = 2\n")
@example("include 'run.gin'")
@example("\ufeffSEED = 1")
@example("%X = 3\n@Layer.width = 3\nmacro.value = 3\n/macro.value = 1\nX.value.value = 2")
def test_no_text_raises_anything_else(text: str) -> None:
    write(text)
    config = accepted("run.gin")
    if config is not None:
        Path("again.gin").write_text(config.text, encoding="utf-8")
        again = resolve(["again.gin"])
        assert again.text == config.text
        assert again.macros == config.macros


@QUICK
@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    Path("run.gin").write_bytes(data)
    accepted("run.gin", verb="train")


@QUICK
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
@example("MODEL_DIR=" + "[" * 5000)
@example("a/b/c=1")
def test_no_override_raises_anything_else(override: str) -> None:
    accepted(overrides=(override, f"SEED={override}", f"HOLD_OUT={override}", f"Layer.rate={override}"))


@QUICK
@given(VALUES)
def test_every_value_is_written_so_that_it_reads_back(value: object) -> None:
    write(f"X = 1\nLayer.width = %X\nanything.x = {format_value(value)}\n")
    config = resolve(["run.gin"])
    assert config.bindings["anything.x"].value == value
    assert repr(config.bindings["anything.x"].value) == repr(value)


@pytest.mark.parametrize("depth", [10, 50, 2000])
def test_deep_macros_are_values_or_problems(depth: int) -> None:
    write("\n".join([*(f"X{n} = [%X{n + 1}]" for n in range(depth)), f"X{depth} = 0", "anything.x = %X0"]))
    config = accepted("run.gin")
    assert (config is not None) == (depth < 100)
