"""Writing the registration of a task as Python that people read and go on with."""

import ast
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t5x_instruct.common.errors import ConfigError

WIDTH = 120
HEADER = '"""Tasks of our own. Begun by `t5x-instruct tasks add`; go on here as you like."""\n'


@dataclass(frozen=True)
class Name:
    """Something that is imported: `name` from `module`."""

    module: str
    name: str

    def load(self) -> Any:
        """What the name stands for."""
        return getattr(importlib.import_module(self.module), self.name)


@dataclass(frozen=True)
class Call:
    """A call of something imported, as text and as the call itself."""

    function: Name
    arguments: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        """Calls it; the arguments are plain values."""
        return self.function.load()(*self.arguments, **self.options)


def with_call(old: str, call: Call, path: str) -> str:
    """A module's text with a call at its end and the imports it needs.

    Args:
        old: the text of the module; empty for a new one.
        call: what is appended. Texts in it become literals, whatever is in them.
        path: the module, for messages.

    Returns:
        The new text; what was there is unchanged.

    Raises:
        ConfigError: the old text is not Python, or uses one of the names for something else.
    """
    names = sorted({name for name in _names_in(call)}, key=lambda name: (name.module, name.name))
    if not old.strip():
        return f"{HEADER}\n{_imports(names)}\n{_text(call, 0)}\n"
    try:
        tree = ast.parse(old)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is not Python, so nothing can be added to it: {error}") from error
    missing = [name for name in names if not _is_imported(name, tree, path)]
    lines = old.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    places = [(_place_of_import(name, tree), name) for name in missing if not _joined(name, tree, lines)]
    for at in sorted({at for at, _ in places}, reverse=True):
        lines.insert(at, _imports([name for place, name in places if place == at]) + ("" if at else "\n"))
    return f"{''.join(lines).rstrip()}\n\n{_text(call, 0)}\n"


def _joined(name: Name, tree: ast.Module, lines: list[str]) -> bool:
    """Puts a name into a plain one-line import of its module, if there is one in `lines`."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == name.module and node.level == 0:
            at = node.lineno - 1
            plain, _, there = lines[at].rstrip().partition(" import ")
            names = there.split(", ")
            if plain == f"from {name.module}" and all(part.isidentifier() for part in names):
                joined = f"{plain} import {', '.join(sorted({*names, name.name}, key=str.lower))}\n"
                if len(joined) <= WIDTH:
                    lines[at] = joined
                    return True
    return False


def _imports(names: Sequence[Name]) -> str:
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.module, []).append(name.name)
    return "".join(f"from {module} import {', '.join(there)}\n" for module, there in modules.items())


def _place_of_import(name: Name, tree: ast.Module) -> int:
    """The line after which an import is put: where the alphabet has it among those of the same package.

    Without such imports it is after the last import, else after the module's docstring.
    """
    ends = [node.end_lineno or 0 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if not ends and ast.get_docstring(tree) is not None:
        ends = [tree.body[0].end_lineno or 0]
    later = [
        node.lineno - 1
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] == name.module.partition(".")[0]
        and (node.module or "") > name.module
    ]
    return min([*later, max(ends, default=0)])


def _is_imported(name: Name, tree: ast.Module, path: str) -> bool:
    for node in tree.body:
        for bound, origin in _bound_by(node):
            if bound == name.name and origin != f"{name.module}.{name.name}":
                raise ConfigError(
                    f"{path}:{node.lineno}: {bound!r} is not that of {name.module} there; rename it,"
                    " or write the task into another file with --module"
                )
            if bound == name.name:
                return True
    return False


def _bound_by(node: ast.stmt) -> Iterator[tuple[str, str | None]]:
    """The names that a statement of a module gives a meaning, with where they are imported from."""
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], None
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, None
    else:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id, None


def _names_in(value: Any) -> Iterator[Name]:
    if isinstance(value, Name):
        yield value
    elif isinstance(value, Call):
        yield value.function
        yield from _names_in([*value.arguments, *value.options.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _names_in(part)
    elif isinstance(value, Mapping):
        yield from _names_in(list(value.values()))


def _text(value: Any, indent: int, before: int = 0) -> str:
    """A value as Python: in one line where it fits behind `before` other characters, else a line for each part.

    Args:
        value: a `Call`, a `Name`, or a plain value.
        indent: spaces before the line it stands in.
        before: characters of its line that stand before it, the indent included.
    """
    if isinstance(value, Name):
        return value.name
    if isinstance(value, str):
        return _literal(value)
    if isinstance(value, Call):
        parts = [("", part) for part in value.arguments] + [(f"{k}=", part) for k, part in value.options.items()]
        opened, closed = f"{value.function.name}(", ")"
    elif isinstance(value, Mapping):
        parts, opened, closed = [(f"{_literal(k)}: ", part) for k, part in value.items()], "{", "}"
    elif isinstance(value, list | tuple):
        parts, opened, closed = [("", part) for part in value], "[", "]"
    else:
        return repr(value)
    one_line = opened + ", ".join(name + _text(part, 0, -WIDTH * WIDTH) for name, part in parts) + closed
    top = isinstance(value, Call) and indent == before == 0
    if before + len(one_line) < WIDTH and not top:
        return one_line
    inner = indent + 4
    lines = [f"{' ' * inner}{name}{_text(part, inner, inner + len(name))},\n" for name, part in parts]
    return f"{opened}\n{''.join(lines)}{' ' * indent}{closed}"


def _literal(text: str) -> str:
    """A Python literal of a text, in double quotes unless it has some itself."""
    literal = repr(str(text))
    return f'"{literal[1:-1]}"' if literal[0] == "'" and '"' not in literal else literal
