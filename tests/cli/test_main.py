"""Exit codes, messages and the parts that all verbs share."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from t5x_instruct.cli import main as cli
from t5x_instruct.cli import output
from t5x_instruct.cli.data_arguments import read_pairs
from t5x_instruct.cli.gin_arguments import add_gin_arguments, split_overrides
from t5x_instruct.common.errors import ConfigError, DataError, StoppedOnRequest
from t5x_instruct.config.schema import MACROS

Verb = Callable[..., None]


@pytest.fixture
def add_verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Adds a verb named 'probe' that does what a test says."""

    def add_verb(run: Callable[[argparse.Namespace], int], *, gin: bool = False) -> None:
        module = ModuleType("t5x_instruct.cli.probe")
        module.run = run  # type: ignore[attr-defined]
        module.add_arguments = lambda parser: add_gin_arguments(parser, "train") if gin else None  # type: ignore
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.VERBS, "probe", "do what a test says")

    return add_verb


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_the_verb_gives_the_exit_code(add_verb: Verb) -> None:
    add_verb(lambda args: 0)
    assert cli.main(["probe"]) == 0
    add_verb(lambda args: 3)
    assert cli.main(["probe"]) == 3


CODES = [(ConfigError("wrong"), 2), (DataError("torn"), 1), (StoppedOnRequest("saved"), 42)]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_errors_of_the_project_are_messages(add_verb: Verb, capsys, error: Exception, code: int) -> None:
    add_verb(raising(error))
    assert cli.main(["probe"]) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_several_problems_are_all_shown(add_verb: Verb, capsys) -> None:
    add_verb(raising(ConfigError(["first thing", "second thing"])))
    assert cli.main(["probe"]) == 2
    shown = capsys.readouterr().err
    assert "first thing" in shown
    assert "second thing" in shown


def test_other_errors_keep_their_traceback(add_verb: Verb, capsys) -> None:
    add_verb(raising(KeyError("a bug")))
    assert cli.main(["probe"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "KeyError: 'a bug'" in shown


def test_an_interrupt_is_a_fault_without_traceback(add_verb: Verb, capsys) -> None:
    add_verb(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_unknown_verb_gets_the_nearest(capsys) -> None:
    assert cli.main(["taks"]) == 2
    assert "unknown verb 'taks'; nearest: 'tasks'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--nonsense"], ["tasks"], ["tasks", "list", "--nonsense"], ["prepare"]])
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2


def test_gin_words_reach_a_verb_that_takes_them(add_verb: Verb) -> None:
    seen = []
    add_verb(lambda args: seen.append((args.gin_file, args.gin_overrides)) or 0, gin=True)
    words = ["--gin.MODEL_DIR=/tmp/x y", "--gin_file=a.gin", "--gin_file", "b.gin", "--gin.A.b=[1, 2]"]
    assert cli.main(["probe", *words]) == 0
    assert seen == [(["a.gin", "b.gin"], ["MODEL_DIR=/tmp/x y", "A.b=[1, 2]"])]


def test_gin_words_are_refused_by_other_verbs(add_verb: Verb, capsys) -> None:
    add_verb(lambda args: 0)
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--gin.SEED=1"])
    assert stop.value.code == 2
    assert "probe is not configured by gin, it has no --gin.SEED" in capsys.readouterr().err


def test_the_help_of_a_gin_verb_lists_its_macros(add_verb: Verb, capsys) -> None:
    add_verb(lambda args: 0, gin=True)
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name, macro in MACROS.items():
        assert (f"  {name} " in shown) == ("train" in macro.defaults)


def test_an_override_is_one_word() -> None:
    assert split_overrides(["--gin.A=1", "x"]) == (["x"], ["A=1"])
    with pytest.raises(ConfigError, match="--gin.A: write --gin.NAME=VALUE, in one word"):
        split_overrides(["--gin.A", "1"])


def test_pairs_name_every_wrong_word() -> None:
    assert read_pairs(["a=1=2", "b="], "option") == {"a": "1=2", "b": ""}
    with pytest.raises(ConfigError) as caught:
        read_pairs(["a", "b=1", "c"], "option")
    assert caught.value.problems == ["--option a: write NAME=VALUE", "--option c: write NAME=VALUE"]


ROWS = [{"name": "a", "count": 1234, "list": ["x", "y"]}, {"name": "longer", "count": None, "list": []}]


def test_tables_are_aligned_with_numbers_to_the_right(capsys) -> None:
    output.print_table(("name", "count", "list"), ROWS, as_json=False)
    assert capsys.readouterr().out == "name    count  list\na       1,234  x, y\nlonger      -\n"


def test_a_table_without_rows_is_its_head(capsys) -> None:
    output.print_table(("name", "count"), [], as_json=False)
    assert capsys.readouterr().out == "name  count\n"


def test_tables_are_json_on_request(capsys) -> None:
    output.print_table(("name", "count"), ROWS, as_json=True)
    assert json.loads(capsys.readouterr().out) == [{k: row[k] for k in ("name", "count")} for row in ROWS]


class Terminal:
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.colour("text", output.RED, Terminal()) == "\033[31mtext\033[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.colour("text", output.RED, Terminal()) == "text"  # type: ignore[arg-type]


def test_a_closed_pipe_is_no_traceback() -> None:
    code = (
        "import argparse, sys, types\n"
        "from t5x_instruct.cli import main as cli\n"
        "module = types.ModuleType('probe')\n"
        "module.add_arguments = lambda parser: None\n"
        "module.run = lambda args: [print('x' * 1000) for _ in range(1000)] and 0\n"
        "sys.modules['t5x_instruct.cli.probe'] = module\n"
        "cli.VERBS['probe'] = ''\n"
        "sys.exit(cli.main(['probe']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    shown = process.stderr.read().decode()
    assert process.wait() == 1
    assert "Traceback" not in shown
    assert "BrokenPipe" not in shown
