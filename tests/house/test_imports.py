"""The house's floors, read from the imports: a room imports only from lower floors."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "t5x_instruct"
FLOORS = {
    "common": 0,
    "partitioning": 1,
    "templates": 1,
    "data": 2,
    "models": 2,
    "losses": 2,
    "decoding": 3,
    "checkpoints": 3,
    "training": 3,
    "evaluation": 4,
    "runs": 5,
    "posttrain": 5,
    "plan": 6,
    "cloud": 6,
    "config": 7,
    "cli": 8,
}
FACE = ("__init__", "loading")  # the package's own modules: the floor of the command line
TF = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "clu")
TF_SIDE = {
    f"{PACKAGE}.data.{name}"
    for name in (
        "seqio_vocabulary",
        "tasks",
        "preprocessors",
        "lines",
        "sources",
        "file_sources",
        "hub_sources",
        "chat_preprocessors",
        "chat_tasks",
        "tfds_source",
        "source_states",
        "prepare",
        "render_splits",
        "row_maps",
        "rates",
        "preview",
        "prepare_beam",
        "prepare_workers",
        "preparation",
        "units",
        "row_steps",
        "straight",
        "binding",
        "few_shot",
    )
}
# The metrics of tasks, in a process of their own; the verbs that read what seqio has registered.
TF_USERS = {
    f"{PACKAGE}.evaluation.worker",
    *(f"{PACKAGE}.cli.tasks.{action}" for action in ("list", "doctor", "add")),
}
NO_JAX = ("common.errors", "common.io", "templates", "config", "cli")
FORBIDDEN = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "flax.nnx")
VAGUE = {"utils", "util", "helpers", "helper", "misc"}


class Import(NamedTuple):
    """One imported name: 'a.b' for `import a.b`, 'a.b.c' for `from a.b import c`."""

    name: str
    line: int
    late: bool  # inside a function: only when it is called


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """All imports of a module, relative ones resolved, those for the type checker only left out."""
    package = module if is_package else module.rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.extend(Import(f"{base}.{alias.name}", node.lineno, late) for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(ast.parse(source), False)
    return found


def room_of(name: str) -> str | None:
    """The room of a dotted name in the package; None outside of it."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    return "face" if len(parts) == 1 or parts[1] not in FLOORS else parts[1]


def floor_of(room: str) -> int:
    return FLOORS["cli"] if room == "face" else FLOORS[room]


def within(name: str, modules: tuple[str, ...] | set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module imports and should not."""
    found, room = [], room_of(module)
    for name, line, late in imports_of(source, module, is_package):
        place = f"{module}:{line}: imports {name}"
        if within(name, FORBIDDEN):
            found.append(f"{place}, which is not used in this project")
        if room is None:
            continue
        other = room_of(name)
        if other is not None and other != room and floor_of(other) >= floor_of(room):
            found.append(f"{place}: floor {floor_of(room)} ({room}) from floor {floor_of(other)} ({other})")
        if other is None and name.split(".")[0] == "tasks":
            found.append(f"{place}: the package does not depend on registrations")
        tf_side = within(module, TF_SIDE | TF_USERS)
        if within(name, TF) and not tf_side:
            found.append(f"{place} outside of the TensorFlow side")
        if within(name, TF_SIDE) and not tf_side and not late:
            found.append(f"{place}, which imports TensorFlow; import it where it is called")
        if within(module, tuple(f"{PACKAGE}.{part}" for part in NO_JAX)) and within(name, ("jax", "flax")):
            found.append(f"{place}, but starts without JAX")
    return found


def modules_in(folder: str) -> Iterator[tuple[str, bool, Path]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), is_package, path


def test_every_module_imports_only_what_it_may() -> None:
    found = []
    for folder in (PACKAGE, "tasks", "benchmarks"):
        for module, is_package, path in modules_in(folder):
            found += faults(path.read_text(encoding="utf-8"), module, is_package)
    assert not found, "\n".join(found)


def test_every_module_is_in_a_room() -> None:
    for module, is_package, path in modules_in(PACKAGE):
        parts = module.split(".")
        own = FACE[0] if is_package and len(parts) == 1 else parts[1]
        assert own in FLOORS or (len(parts) <= 2 and own in FACE), f"{path}: no room of the house"


def test_no_module_has_a_name_that_says_nothing() -> None:
    for folder in (PACKAGE, "tasks", "tests", "benchmarks"):
        for module, _, path in modules_in(folder):
            assert VAGUE.isdisjoint(module.split(".")), path


WRONG = [
    ("common.io", "import t5x_instruct.data.loader", "floor 0"),
    ("data.loader", "from t5x_instruct.models import t5", "floor 2 (data) from floor 2 (models)"),
    ("data.loader", "def f():\n    from ..training import loop", "floor 2 (data) from floor 3 (training)"),
    ("data.loader", "from t5x_instruct import load", "floor 2 (data) from floor 8 (face)"),
    ("config.schema", "import t5x_instruct.cli.main", "floor 7"),
    ("data.loader", "import seqio", "outside of the TensorFlow side"),
    ("data.loader", "def f():\n    import tensorflow as tf", "outside of the TensorFlow side"),
    ("data.loader", "from t5x_instruct.data.tasks import add_task", "import it where it is called"),
    ("data.loader", "import tasks.starter", "registrations"),
    ("training.step", "from flax import nnx", "not used"),
    ("training.step", "import flax.nnx.module", "not used"),
    ("common.io", "if True:\n    import pickle", "not used"),
    ("templates.chat", "import jax.numpy as jnp", "without JAX"),
]


@pytest.mark.parametrize(("module", "source", "message"), WRONG, ids=[source for _, source, _ in WRONG])
def test_a_wrong_import_is_found(module: str, source: str, message: str) -> None:
    found = faults(source, f"{PACKAGE}.{module}")
    assert len(found) == 1
    assert message in found[0]


RIGHT = [
    ("data.loader", "from . import packing\nfrom ..common import io"),
    ("data.loader", "def f():\n    from t5x_instruct.data.prepare import prepare"),
    ("data.tasks", "import seqio\nfrom t5x_instruct.data import sources"),
    ("cli.train", "from t5x_instruct.cli.main import main\nfrom t5x_instruct.config.validate import resolve"),
    ("evaluation.runner", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import seqio"),
]


@pytest.mark.parametrize(("module", "source"), RIGHT, ids=[source for _, source in RIGHT])
def test_a_right_import_is_not(module: str, source: str) -> None:
    assert faults(source, f"{PACKAGE}.{module}") == []
