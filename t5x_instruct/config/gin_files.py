"""Reads gin files and `--gin.NAME=VALUE` overrides into bindings, each with the place it was written.

Gin's own parser does the reading; unlike gin's loader this goes on after an error, so that a user
sees every problem of every file at once.
"""

import re
import sysconfig
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from t5x_instruct.common.paths import AnyPath, as_path, is_bucket
from t5x_instruct.config.value_types import (
    UNKNOWN,
    MacroUse,
    Reference,
    format_value,
    leaves,
)

# Beside the package in a checkout; among the installation's data files otherwise.
_CHECKOUT = Path(__file__).parents[2] / "gin_configs"
_INSTALLED = Path(sysconfig.get_path("data"), "share", "t5x_instruct", "gin_configs")
GIN_CONFIGS = _CHECKOUT if _CHECKOUT.is_dir() else _INSTALLED
MAX_FILE_BYTES = 4 * 2**20
MAX_FILES = 500
MAX_SYNTAX_PROBLEMS = 20
COMMAND_LINE = "command line"


class Place(NamedTuple):
    """Where a thing is written: a file and line, or a word of the command line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Binding:
    """One assignment.

    Args:
        scope: scopes joined by '/', '' for none.
        name: the configurable's name, or the macro's with its scopes.
        parameter: the configurable's parameter; '' for a macro.
        value: the parsed value; References and MacroUses inside are as written. UNKNOWN if the text
            is no gin value: a syntax error, or a bare word of the command line.
        place: where it is written.
        word: for the command line, the text of the value as the shell passed it.
    """

    scope: str
    name: str
    parameter: str
    value: Any
    place: Place
    word: str | None = None

    @property
    def key(self) -> str:
        """The left side of the assignment."""
        prefix = f"{self.scope}/" if self.scope else ""
        return f"{prefix}{self.name}{'.' if self.parameter else ''}{self.parameter}"

    @property
    def is_macro(self) -> bool:
        """Whether it defines a macro rather than binding a parameter."""
        return not self.parameter


class Import(NamedTuple):
    """`from module import attribute as name`: a configurable from outside of the table."""

    module: str
    attribute: str
    name: str
    place: Place


@dataclass
class Parsed:
    """Everything that files and overrides say, in order; a later binding wins.

    Args:
        bindings: assignments; their order is that of reading, includes in their place.
        imports: names that `from ... import ...` adds.
        problems: what could not be read, each with its place.
        uses: macros named in text that could not be parsed (so that they do not count as unused).
    """

    bindings: list[Binding] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    uses: set[str] = field(default_factory=set)


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as data instead of looking them up."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name: str) -> MacroUse:
        return MacroUse(macro_name)


def search(name: str, beside: AnyPath | None = None) -> tuple[AnyPath | None, list[AnyPath]]:
    """Finds a gin file.

    Args:
        name: absolute (also `gs://...`), or relative to the working folder, the including file, or `gin_configs/`.
        beside: folder of the including file.

    Returns:
        The file or None, and every path that was looked at.
    """
    if is_bucket(name):
        path = as_path(name)
        return (path if path.is_file() else None), [path]
    folders: list[AnyPath] = [Path.cwd(), *([beside] if beside else []), GIN_CONFIGS, GIN_CONFIGS.parent]
    paths = [folder / name for folder in folders[:-1]]
    if name.startswith("gin_configs/"):  # as it is written from a checkout, from anywhere
        paths.append(folders[-1] / name)
    paths = list(dict.fromkeys(paths))
    for path in paths:
        try:
            if path.is_file():
                return path, paths
        except (OSError, ValueError):  # a name no file can have
            continue
    return None, paths


def _display(path: AnyPath) -> str:
    """A path as the user would write it: relative to the working folder if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _error_line(error: Exception) -> int | None:
    """The line (from 1) a parser error names, if any; the end of the text is no useful place."""
    if isinstance(error, tokenize.TokenError) and "EOF" not in str(error.args[0]):
        return error.args[1][0]
    return error.lineno if isinstance(error, SyntaxError) else None


def _error_text(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the value is nested too deeply"
    if isinstance(error, tokenize.TokenError):
        return f"{error.args[0]} (a bracket or a string is not closed)"
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    token = re.search(r"Failed to parse token '(.*)'", text)
    return f"{token.group(1)} is no value (a string needs quotes)" if token else text


class _FileReader:
    """Reads one text into statements; after an error it goes on at the next line that can start one."""

    _STARTS = re.compile(r"[A-Za-z_]")
    _ASSIGNED = re.compile(r"\s*([A-Za-z_][\w./]*)\s*=")
    _BLOCK = re.compile(r"([A-Za-z_][\w./]*)\s*:\s*(#.*)?$")

    def __init__(self, text: str, label: str, parsed: Parsed):
        # Lines as the tokenizer counts them: str.splitlines also breaks at form feeds and the like.
        self._lines = re.findall(r"[^\n]*\n|[^\n]+", text.replace("\r\n", "\n").replace("\r", "\n"))
        self._label = label
        self._parsed = parsed

    def statements(self) -> list[Any]:
        """Bindings, Imports and (file name, Place) of includes, in order."""
        found: list[Any] = []
        offset, problems = 0, 0
        while offset < len(self._lines):
            next_offset, problem = self._read_from(offset, found)
            if problem:
                problems += 1
                self._parsed.problems.append(problem)
            if problems == MAX_SYNTAX_PROBLEMS:
                self._parsed.problems.append(f"{self._label}: more syntax errors follow; fix these first")
                break
            offset = next_offset
        return found

    def _read_from(self, offset: int, found: list[Any]) -> tuple[int, str | None]:
        """Reads until the end or the first error; returns where to go on, and the error."""
        start = self._statement_line(offset)
        try:
            parser = config_parser.ConfigParser("".join(self._lines[offset:]), _Delegate())
            while True:
                start = self._statement_line(offset + parser.current_token.start[0] - 1)
                statement = parser.parse_statement()
                if statement is None:
                    return len(self._lines), None
                self._take(statement, offset, found)
        except Exception as error:  # gin's parser lets whatever tokenize, ast and dict() raise through
            line = _error_line(error)
            line = start + 1 if line is None else min(line + offset, len(self._lines))
            go_on = start + 1
            while go_on < len(self._lines) and not self._STARTS.match(self._lines[go_on]):
                go_on += 1
            self._salvage(start, go_on, found)
            shown = self._lines[line - 1].strip()[:100]
            since = f" (the statement starts at line {start + 1})" if line > start + 1 else ""
            return go_on, f"{self._label}:{line}: syntax error: {_error_text(error)}{since}\n      {shown}"

    def _statement_line(self, index: int) -> int:
        """The first line from `index` that is neither empty nor a comment."""
        while index < len(self._lines) - 1 and re.match(r"\s*(#|$)", self._lines[index]):
            index += 1
        return index

    def _salvage(self, start: int, end: int, found: list[Any]) -> None:
        """Notes what unreadable lines assign and use: those names are not missing, they are misspelt."""
        block = None
        for index in range(start, end):
            line = self._lines[index]
            self._parsed.uses.update(re.findall(r"%([\w./]+)", line))
            header, assigned = self._BLOCK.match(line), self._ASSIGNED.match(line)
            block = header.group(1) if header else block
            if assigned:
                inside = block and line[0] in " \t"
                key = f"{block}.{assigned.group(1)}" if inside else assigned.group(1)
                scope, name, parameter = config_parser.parse_binding_key(key)
                found.append(self._binding(scope, name, parameter, UNKNOWN, index + 1))

    def _binding(self, scope: str, name: str, parameter: str, value: Any, line: int) -> Binding:
        return make_binding(scope, name, parameter, value, Place(self._label, line))

    def _take(self, statement: Any, offset: int, found: list[Any]) -> None:
        line = statement.location.line_num + offset
        place = Place(self._label, line)
        if isinstance(statement, config_parser.BindingStatement):
            value = self._writable(statement.value, place)
            found.append(self._binding(statement.scope, statement.selector, statement.arg_name, value, line))
        elif isinstance(statement, config_parser.IncludeStatement):
            found.append((statement.filename, place))
        elif isinstance(statement, config_parser.ImportStatement):
            self._take_import(statement, place, found)

    def _writable(self, value: Any, place: Place) -> Any:
        """The value, if it can be written into the resolved configuration; else a problem."""
        try:
            format_value(value)
        except (ValueError, RecursionError) as error:
            self._parsed.problems.append(f"{place}: {_error_text(error)}")
            return UNKNOWN
        return value

    def _take_import(self, statement: Any, place: Place, found: list[Any]) -> None:
        if statement.module.startswith("__gin__."):
            self._parsed.problems.append(f"{place}: dynamic registration is not needed here; remove the line")
        elif not statement.is_from:
            self._parsed.problems.append(
                f"{place}: 'import {statement.module}' adds no names; write "
                f"'from {statement.module} import NAME' for each class or function you bind"
            )
        else:
            module, attribute = statement.module.rsplit(".", 1)
            found.append(Import(module, attribute, statement.alias or attribute, place))


def make_binding(scope: str, name: str, parameter: str, value: Any, place: Place, word: str | None = None) -> Binding:
    """A binding in one form: `X = 1`, `s/X = 1` and `X/macro.value = 1` are macros."""
    if name in ("macro", "gin.macro") and parameter == "value" and scope:
        return Binding("", scope, "", value, place, word)
    if not parameter:
        return Binding("", f"{scope}/{name}" if scope else name, "", value, place, word)
    return Binding(scope, name, parameter, value, place, word)


class _Includer:
    """Follows includes; every file is read once, and its statements are put wherever it is included."""

    def __init__(self, parsed: Parsed):
        self._parsed = parsed
        self._read: dict[AnyPath, list[Any]] = {}
        self._placed = 0

    def add(self, name: str, wanted_by: str, stack: tuple[AnyPath, ...] = ()) -> None:
        """Adds a file's statements, and its includes' in their place."""
        path, looked_at = search(name, stack[-1].parent if stack else None)
        if path is None:
            places = ", ".join(_display(p)[:200] for p in looked_at)
            self._problem(f"{wanted_by}: no file {name[:200]!r}; looked for {places}")
            return
        path = path.resolve()
        if path in stack:
            self._problem(f"{wanted_by}: {_display(path)} includes itself")
            return
        self._placed += 1
        if self._placed > MAX_FILES:
            self._problem(f"{wanted_by}: more than {MAX_FILES} files are included")
            return
        if path not in self._read:
            self._read[path] = self._statements(path, wanted_by)
        for statement in self._read[path]:
            if isinstance(statement, Binding):
                self._parsed.bindings.append(statement)
            elif isinstance(statement, Import):
                self._parsed.imports.append(statement)
            else:
                self.add(statement[0], str(statement[1]), (*stack, path))

    def _problem(self, text: str) -> None:
        if text not in self._parsed.problems:
            self._parsed.problems.append(text)

    def _statements(self, path: AnyPath, wanted_by: str) -> list[Any]:
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                self._problem(f"{wanted_by}: {_display(path)} is larger than {MAX_FILE_BYTES} bytes")
                return []
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            self._problem(f"{_display(path)}:{line}: not UTF-8 text")
            return []
        except OSError as error:
            self._problem(f"{wanted_by}: cannot read {_display(path)}: {error.strerror or error}")
            return []
        return _FileReader(text, _display(path), self._parsed).statements()


def _parse_word(word: str) -> Any:
    """A shell word as a gin value, or UNKNOWN if it is none and must be meant as it stands."""
    try:
        parser = config_parser.ConfigParser(word, _Delegate())
        value = parser.parse_value()
        ended = parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER)
        format_value(value)
    except Exception:  # as in _read_from: the parser's errors have no common type
        return UNKNOWN
    return value if ended and "\n" not in word else UNKNOWN


def _add_override(override: str, parsed: Parsed) -> None:
    key, equals, word = override.partition("=")
    place = Place(f"{COMMAND_LINE}: --gin.{override[:200]}", 0)
    if not equals or not re.fullmatch(r"([A-Za-z_]\w*/)*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        parsed.problems.append(f"{place}: write --gin.NAME=VALUE or --gin.CONFIGURABLE.PARAMETER=VALUE")
        return
    scope, name, parameter = config_parser.parse_binding_key(key)
    parsed.bindings.append(make_binding(scope, name, parameter, _parse_word(word), place, word))


def parse(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Parsed:
    """Reads gin files in order, then overrides; never raises for what is written in them.

    Args:
        files: names or paths, see `search`.
        overrides: "NAME=VALUE" words as they follow `--gin.` on the command line.

    Returns:
        Bindings, imports, and all problems of reading.
    """
    parsed = Parsed()
    includer = _Includer(parsed)
    for file in files:
        includer.add(str(file), f"{COMMAND_LINE}: --gin_file={str(file)[:200]}")
    for override in overrides:
        _add_override(override, parsed)
    return parsed


def macro_uses(value: Any) -> list[str]:
    """Names of the macros that a value refers to."""
    return [leaf.name for leaf in leaves(value) if isinstance(leaf, MacroUse)]
