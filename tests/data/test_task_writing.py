"""Registrations written as Python."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.task_writing import HEADER, Call, Name, with_call

PATH = Name("pathlib", "Path")
EXISTS = Name("os.path", "exists")


def imports_in(text):
    return [line for line in text.splitlines() if line.startswith(("from ", "import "))]


def test_a_new_module_is_as_a_person_would_write_it():
    source = Call(Name("a.sources", "Jsonl"), [{"train": "x.jsonl"}], {"shape": "alpaca", "validation_percent": 5})
    metrics = [Name("a.metrics", "exact_match")]
    call = Call(Name("a.tasks", "add_task"), ["faq"], {"cluster": "help", "source": source, "metrics": metrics})
    assert with_call("", call, "m.py") == HEADER + (
        "\nfrom a.metrics import exact_match\n"
        "from a.sources import Jsonl\n"
        "from a.tasks import add_task\n"
        "\n"
        "add_task(\n"
        '    "faq",\n'
        '    cluster="help",\n'
        '    source=Jsonl({"train": "x.jsonl"}, shape="alpaca", validation_percent=5),\n'
        "    metrics=[exact_match],\n"
        ")\n"
    )


def test_what_does_not_fit_in_a_line_gets_one_for_each_part():
    call = Call(PATH, [["x" * 60, "y" * 60]])
    assert with_call("", call, "m.py").endswith(
        "Path(\n    [\n        " + repr("x" * 60).replace("'", '"') + ',\n        "' + "y" * 60 + '",\n    ],\n)\n'
    )


VALUES = st.recursive(
    st.text() | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=3))
def test_any_value_is_a_literal_that_says_the_same(values):
    written = ast.parse(with_call("", Call(PATH, values), "m.py")).body[-1].value
    assert written.func.id == "Path"
    assert [ast.literal_eval(argument) for argument in written.args] == values


INJECTIONS = ['"); import os; os.abort() #', "'\"\"\"'''\n\\", "{__import__('os')}", "\udcff\0\x1b[31m", "a\u2028b\rc"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_is_never_code(text):
    module = with_call("", Call(PATH, [text, {text: [text]}]), "m.py")
    module.encode()
    tree = ast.parse(module)
    assert len(tree.body) == 3  # docstring, import, call
    assert ast.literal_eval(tree.body[-1].value.args[0]) == text


OLD = [
    ('"""Mine."""\n', ['"""Mine."""', "from os.path import exists", "", "exists(1)"]),
    ("x = 1", ["from os.path import exists", "", "x = 1", "", "exists(1)"]),
    ("import os\n\n\n\nx = 1\n\n\n", ["import os", "from os.path import exists", "", "", "", "x = 1", "", "exists(1)"]),
    ("from os.path import exists as e, exists\n", ["from os.path import exists as e, exists", "", "exists(1)"]),
    ("from os.path import abspath, join\n", ["from os.path import abspath, exists, join", "", "exists(1)"]),
    (
        "from os.path import (\n    join,\n)\n",
        ["from os.path import (", "    join,", ")", "from os.path import exists", "", "exists(1)"],
    ),
    (
        "import re\nfrom os import sep\nfrom os.z import a\n",
        ["import re", "from os import sep", "from os.path import exists", "from os.z import a", "", "exists(1)"],
    ),
]


@pytest.mark.parametrize(("old", "lines"), OLD, ids=range(len(OLD)))
def test_a_call_is_added_to_what_is_there(old, lines):
    assert with_call(old, Call(EXISTS, [1]), "m.py").splitlines() == [
        line for part in lines for line in (["exists(", "    1,", ")"] if part == "exists(1)" else [part])
    ]


@pytest.mark.parametrize(
    "old",
    [
        "def exists():\n    pass\n",
        "import exists\n",
        "from other import exists\n",
        "for exists in (): pass\n",
        "from x import y as exists\n",
        "a, (exists, b) = 1, (2, 3)\n",
    ],
)
def test_a_name_that_means_something_else_is_told(old):
    with pytest.raises(ConfigError, match="m.py:2: 'exists' is not that of os.path there"):
        with_call("\n" + old, Call(EXISTS), "m.py")


def test_what_is_no_python_is_left_alone():
    with pytest.raises(ConfigError, match="m.py is not Python"):
        with_call("def f(:\n", Call(EXISTS), "m.py")
