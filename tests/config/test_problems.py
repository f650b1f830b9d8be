"""Every problem of a configuration is reported at once, at its place, with the nearest names."""

from pathlib import Path

import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config.schema import MACROS, REQUIRED
from t5x_instruct.config.validate import resolve

ONE_PROBLEM = [
    ("MODEL_DRI = 'x'", "run.gin:1: unknown macro 'MODEL_DRI': defined but nothing uses it; nearest: 'MODEL_DIR'"),
    ("\nNetwrk.sizes = (1,)", "run.gin:2: unknown configurable 'Netwrk'; nearest: 'Network'"),
    ("scale.factr = 2.0", "run.gin:1: unknown parameter of scale 'factr'; nearest: 'factor'"),
    ("scale.factor = %FACTOR", "run.gin:1: macro %FACTOR is used but never defined"),
    ("scale.factor = %gin.REQUIRED", "run.gin:1: scale.factor is REQUIRED and has no value"),
    ("BATCH_SIZE = %gin.REQUIRED", "run.gin:1: BATCH_SIZE is REQUIRED and has no value (int: rows of a global"),
    ("scale.factor = 'two'", "run.gin:1: scale.factor = 'two': expected float"),
    ("BATCH_SIZE = '8'", "run.gin:1: BATCH_SIZE = '8': expected int"),
    ("BATCH_SIZE = True", "run.gin:1: BATCH_SIZE = True: expected int"),
    ("BATCH_SIZE = 0", "run.gin:1: BATCH_SIZE = 0: expected at least 1"),
    ("TASK_FEATURE_LENGTHS = {'inputs': 1.5}", "expected dict[str, int]"),
    ("HOLD_OUT = ('a', 3)", "expected tuple[str, ...]"),
    ("Layer.kind = 'dens'", "run.gin:1: Layer.kind = 'dens': expected one of 'dense', 'sparse'"),
    ("Layer.width = 3\nLayer.width = 4", "run.gin:2: Layer.width is bound a second time (first at run.gin:1)"),
    ("Layer:\n  width = 3\n\nLayer.width = 4", "run.gin:4: Layer.width is bound a second time (first at run.gin:2)"),
    ("BATCH_SIZE = 1\nBATCH_SIZE = 2", "run.gin:2: BATCH_SIZE is bound a second time"),
    ("include 'no.gin'", "run.gin:1: no file 'no.gin'; looked for no.gin"),
    ("BATCH_SIZE = [1, 2", "run.gin:1: syntax error"),
    ("BATCH_SIZE = a\n", "run.gin:1: syntax error: a is no value (a string needs quotes)\n      BATCH_SIZE = a"),
    ("BATCH_SIZE = $", "run.gin:1: syntax error"),
    ("BATCH_SIZE 8", "run.gin:1: syntax error"),
    ("X = {[]: 1}\nanything.x = %X", "run.gin:1: syntax error: unhashable type"),
    ("anything.x = 1j", "run.gin:1: gin has no text for a complex"),
    ("anything.x = @Network()", "run.gin:1: @Network() is called without a value for Network.layer"),
    ("Loop.itself = @Loop()\nanything.x = @Loop()", "Loop is part of its own value: Loop -> Loop"),
    ("A = %B\nB = %A\nanything.x = %A", "is part of its own value: B -> A -> B"),
    ("X = 3\nLayer.kind = %X", "run.gin:2: Layer.kind = 3 (%X is defined at run.gin:1): expected one of"),
    ("X = [1]\nanything.x = {%X: 1}", "run.gin:2: {%X: 1} needs plain values as keys"),
    ("MODEL_DIR = @Layer()\nLayer.width = 1", "run.gin:1: MODEL_DIR = @Layer(): expected str"),
    ("anything.x = @Missing", "run.gin:1: unknown configurable 'Missing'"),
    ("from no_such_module import Thing", "run.gin:1: cannot load 'Thing' from no_such_module:Thing: ModuleNotFound"),
    ("from tests.config.components import Nothing", "has no 'Nothing'"),
    ("from tests.config.components import NOT_CALLABLE", "is a int, not a class or function"),
    ("from tests.config.components import Loop as scale", "run.gin:1: 'scale' is already a configurable"),
    ("import tests.config.components", "run.gin:1: 'import tests.config.components' adds no names"),
    ("from __gin__ import dynamic_registration", "run.gin:1: dynamic registration is not needed"),
]


@pytest.mark.parametrize(("text", "expected"), ONE_PROBLEM, ids=[text[:40] for text, _ in ONE_PROBLEM])
def test_one_problem_is_named_once(problems_of, text: str, expected: str) -> None:
    problems = problems_of(text)
    assert len(problems) == 1, problems
    assert expected in problems[0]


def test_all_problems_of_all_files_are_reported_at_once(problems_of, tmp_path: Path) -> None:
    (tmp_path / "inner.gin").write_text("Layer.kind = 'dens'\nBATCH_SIZE = = 3\nSEED = 'x'\n")
    text = "include 'inner.gin'\nMODEL_DRI = 'x'\nscale.factr = 1\nscale.factor = %GONE\ninclude 'no.gin'\n"
    problems = problems_of(text, "TRAIN_STEPS=many", "nonsense", verb="train")
    wanted = [
        "inner.gin:1: Layer.kind",
        "inner.gin:2: syntax error",
        "inner.gin:3: SEED = 'x': expected int",
        "run.gin:2: unknown macro 'MODEL_DRI'",
        "run.gin:3: unknown parameter",
        "run.gin:4: macro %GONE",
        "run.gin:5: no file 'no.gin'",
        "command line: --gin.TRAIN_STEPS=many: TRAIN_STEPS = 'many': expected int",
        "command line: --gin.nonsense: write --gin.NAME=VALUE",
        "train: MODEL_DIR is REQUIRED",
    ]
    for part in wanted:
        assert sum(problem.startswith(part) for problem in problems) == 1, part
    required = [name for name, macro in MACROS.items() if macro.defaults.get("train") is REQUIRED]
    assert len(problems) == len(wanted) - 1 + len(required) - 1  # all but TRAIN_STEPS, which has a problem


def test_reading_goes_on_after_a_syntax_error(problems_of) -> None:
    text = """
Layer:
  width = = 3
  rate = 0.1
X = [1,
Y = (2
SEED = 'text'
anything.x = %X
anything.y = %Y
"""
    problems = problems_of(text)
    places = [problem.split(": ")[0] for problem in problems]
    assert "run.gin:3" in places
    assert "run.gin:7" in places
    assert not any("defined but nothing uses it" in p or "never defined" in p for p in problems), problems


def test_a_name_that_a_broken_line_assigns_is_not_missing_too(problems_of) -> None:
    problems = problems_of("MODEL_DIR = /tmp/x\n", verb="train")
    assert [p for p in problems if "MODEL_DIR" in p and "REQUIRED" in p] == []
    assert any("run.gin:1: syntax error" in p for p in problems)


def test_many_syntax_errors_end_with_a_note(problems_of) -> None:
    problems = problems_of("SEED ==\n" * 100)
    assert sum("syntax error:" in p for p in problems) == 20
    assert any("more syntax errors follow" in p for p in problems)


def test_an_include_of_itself_is_a_problem(problems_of, tmp_path: Path) -> None:
    (tmp_path / "b.gin").write_text("include 'run.gin'\n")
    assert problems_of("include 'b.gin'\n") == ["b.gin:1: run.gin includes itself"]


def test_includes_that_double_end(problems_of, tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"f{n}.gin").write_text(f"include 'f{n + 1}.gin'\ninclude 'f{n + 1}.gin'\n")
    (tmp_path / "f30.gin").write_text("")
    assert any("more than 500 files" in p for p in problems_of("include 'f0.gin'\n"))


def test_values_that_double_end(problems_of) -> None:
    lines = [f"X{n} = [%X{n + 1}, %X{n + 1}]" for n in range(40)]
    problems = problems_of("\n".join([*lines, "X40 = 0", "anything.x = %X0"]))
    assert any("more than 100000 parts" in p for p in problems)


@pytest.mark.parametrize("name", ["", ".", "a\0b", "x" * 5000, "/dev/zero"])
def test_names_that_are_no_files(name: str) -> None:
    with pytest.raises(ConfigError, match="no file"):
        resolve([name])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.gin").write_bytes(b"SEED = 1\nX = '\xff'\n")
    with pytest.raises(ConfigError, match=r"bad.gin:2: not UTF-8 text"):
        resolve(["bad.gin"])


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.gin").write_bytes(b"#" * (5 * 2**20))
    with pytest.raises(ConfigError, match="larger than"):
        resolve(["huge.gin"])
