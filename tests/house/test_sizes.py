"""Files and functions stay small, and what is public says what it does."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
P90_FUNCTION_LINES = 40
Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """All functions and methods, the inner ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    """Lines from `def` (or the first decorator) to the end, without the docstring."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    assert function.end_lineno is not None
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    taken = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - first + 1 - taken


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public classes, functions and methods of public classes without a docstring.

    A method that only fills in what a base class has documented (`@override`, dunder) needs none, nor
    do the pieces of a protocol that are attributes: a property whose body is `...`.
    """
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function) and not inner.name.startswith("_") and not _is_attribute(inner):
                    marks = {ast.unparse(decorator) for decorator in inner.decorator_list}
                    if ast.get_docstring(inner) is None and "override" not in marks:
                        yield f"{node.name}.{inner.name}"


def _is_attribute(function: Function) -> bool:
    return [ast.unparse(d) for d in function.decorator_list] == ["property"] and ast.unparse(function.body) == "..."


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in files("t5x_instruct", "tasks", "tests", "benchmarks")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": lines_of(function)
        for path in files("t5x_instruct", "tasks", "tests", "benchmarks")
        for function in functions_of(parse(path))
        if lines_of(function) > MAX_FUNCTION_LINES
    }
    assert not long


def test_nine_in_ten_functions_are_under_40_lines() -> None:
    lengths = sorted(lines_of(f) for path in files("t5x_instruct", "tasks") for f in functions_of(parse(path)))
    assert lengths
    assert lengths[int(len(lengths) * 0.9)] < P90_FUNCTION_LINES


def test_everything_public_has_a_docstring() -> None:
    bare = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files("t5x_instruct", "tasks")
        for name in undocumented(parse(path))
    ]
    assert not bare, "\n".join(bare)


def test_every_module_of_the_package_says_what_it_is() -> None:
    bare = [str(p) for p in files("t5x_instruct", "tasks") if ast.get_docstring(parse(p)) is None]
    assert not bare


SAMPLE = '''
@decorator
def documented(x):
    """Says
    something."""
    def inner():
        pass
    return x

def bare():
    pass

def _private():
    pass

class Thing:
    """A thing."""
    def method(self):
        pass
    @property
    def attribute(self): ...
    def __len__(self):
        return 0
'''


def test_the_measures_measure() -> None:
    tree = ast.parse(SAMPLE)
    assert list(undocumented(tree)) == ["bare", "Thing.method"]
    lengths = {function.name: lines_of(function) for function in functions_of(tree)}
    assert (lengths["documented"], lengths["inner"], lengths["bare"]) == (5, 2, 2)
