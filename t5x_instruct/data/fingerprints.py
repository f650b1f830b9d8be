"""What the records of a task depend on, as one hash.

The rule. A task's fingerprint covers: its name; its source, preprocessors, templates and
postprocessing; its features; the vocabulary, prompt format, seed, number of variants and module
options of the run; `RENDER_VERSION` and the record format. Python objects are followed
through their attributes, arguments and closures. A function of a task's own code counts as the
whole file that defines it, with every file of such code that this file imports. A text or path that
names an existing file counts as the file's content (so a moved file changes nothing), a folder as
the files in it, an object in a bucket as its name and generation. Library code (installed packages)
counts by name only, unless it is the package of a task module.
"""

import dataclasses
import functools
import hashlib
import os
import re
import sys
import sysconfig
import types
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from t5x_instruct.common.errors import BucketError
from t5x_instruct.common.io import sha256_of_bytes, sha256_of_file, sha256_of_json
from t5x_instruct.common.paths import is_bucket

_LIBRARY = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})
_PACKAGE = str(Path(__file__).parent.parent) + os.sep
# Attributes in which sources remember what they have counted or opened, or where it lies: no part of what they are.
_REMEMBERED = frozenset({"_counts", "_num_input_examples", "_stats", "_cache_dir", "_data_dir"})
_OPAQUE = frozenset({"tensorflow", "jax", "jaxlib", "_thread", "threading", "_io"})
_MAX_DEPTH = 24
_LONG = 256


class Describer:
    """Turns Python objects into JSON values that are equal when the objects behave alike.

    Attributes:
        code_files: the files of task code that were met.
        data_files: the other files that were met.
        data_objects: the objects in buckets that were met, with their generations.

    Args:
        task_packages: top-level names whose modules are task code wherever they are installed.
    """

    def __init__(self, task_packages: Set[str] = frozenset()):
        self.code_files: set[Path] = set()
        self.data_files: set[Path] = set()
        self.data_objects: dict[str, str] = {}
        self._task_packages = task_packages
        self._above: list[int] = []
        self._code: dict[str | None, Any] = {}

    def describe(self, value: Any) -> Any:
        """A JSON value for `value`."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str | os.PathLike):
            return self._text_or_file(os.fspath(value))
        if isinstance(value, bytes):
            return ["bytes", sha256_of_bytes(value)]
        if id(value) in self._above or len(self._above) > _MAX_DEPTH:
            return ["seen above"]
        self._above.append(id(value))
        try:
            return self._describe_compound(value)
        finally:
            self._above.pop()

    def _describe_compound(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            pairs = [[self.describe(k), self.describe(v)] for k, v in value.items()]
            return ["map", sorted(pairs, key=sha256_of_json)]
        if isinstance(value, list | tuple):
            parts = [self.describe(v) for v in value]
            return ["long list", sha256_of_json(parts)] if len(parts) > _LONG else parts
        if isinstance(value, Set):
            return ["set", sorted((self.describe(v) for v in value), key=sha256_of_json)]
        if isinstance(value, functools.partial):
            return ["partial", *map(self.describe, (value.func, value.args, value.keywords))]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return ["method", self.describe(value.__func__), self.describe(value.__self__)]
        if isinstance(value, type):
            return ["class", value.__qualname__, self._code_of(value.__module__)]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__, self._code_of(value.__name__)]
        if isinstance(value, np.ndarray):
            content = self.describe(value.tolist()) if value.dtype == object else value.tobytes().hex()
            return ["array", str(value.dtype), list(value.shape), sha256_of_json(content)]
        if isinstance(value, np.generic):
            return ["scalar", str(value.dtype), str(value)]
        if isinstance(value, types.BuiltinFunctionType):
            return ["builtin", str(value.__module__), value.__qualname__]
        if isinstance(value, re.Pattern):
            return ["pattern", str(value.pattern), value.flags]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        kind = type(value)
        described: list[Any] = ["object", kind.__qualname__, self._code_of(kind.__module__)]
        if kind.__module__.partition(".")[0] in _OPAQUE:
            return [*described, self.describe(getattr(value, "python_function", None))]
        if not hasattr(value, "__dict__") and not dataclasses.is_dataclass(value):
            return [*described, re.sub(r" at 0x[0-9a-f]+", "", repr(value))]
        if dataclasses.is_dataclass(value):
            names: Sequence[str] = [f.name for f in dataclasses.fields(value)]
        else:
            cached = {n for n, a in vars(kind).items() if isinstance(a, functools.cached_property)}
            names = sorted(set(getattr(value, "__dict__", ())) - cached - _REMEMBERED)
        return [*described, [[n, self.describe(getattr(value, n, None))] for n in names]]

    def _function(self, function: types.FunctionType) -> Any:
        cells = [_cell_content(c) for c in function.__closure__ or ()]
        code = self._code_of(function.__module__)
        if code is None:  # typed into a console, or made by exec: there is no file to hash
            consts = [c for c in function.__code__.co_consts if not isinstance(c, types.CodeType)]
            code = [sha256_of_bytes(function.__code__.co_code), repr(consts)]
        rest = (function.__defaults__, function.__kwdefaults__, cells)
        return ["function", function.__qualname__, code, *map(self.describe, rest)]

    def _code_of(self, module: str | None) -> Any:
        """Hash of the task code behind a module; its name if it is a library; None if unknown."""
        found = sys.modules.get(module or "")
        if module not in self._code:
            files = self._closure(found)
            self.code_files |= files
            known = getattr(found, "__file__", None) or module == "builtins"
            self._code[module] = sorted(map(sha256_of_file, files)) or (module if known else None)
        return self._code[module]

    def _closure(self, module: types.ModuleType | None) -> set[Path]:
        files: set[Path] = set()
        done: set[str] = set()
        todo = [module]
        while todo:
            module = todo.pop()
            if module is None or module.__name__ in done or not self._is_task_code(module):
                continue
            done.add(module.__name__)
            files.add(Path(str(module.__file__)).resolve())
            for value in list(vars(module).values()):
                name = getattr(value, "__module__", None)
                is_module = isinstance(value, types.ModuleType)
                todo.append(value if is_module else sys.modules.get(str(name)))
        return files

    def _is_task_code(self, module: types.ModuleType) -> bool:
        path = getattr(module, "__file__", None)
        if not path or not path.endswith(".py"):
            return False
        if module.__name__.partition(".")[0] in self._task_packages:
            return True
        return not path.startswith((*_LIBRARY, _PACKAGE))

    def _text_or_file(self, text: Any) -> Any:
        if not isinstance(text, str) or len(text) > 4096 or "\0" in text or "\n" in text:
            return text if isinstance(text, str) else ["bytes", text.hex()]
        if is_bucket(text):
            return self._object_in_bucket(text)
        if os.path.isfile(text):
            path = Path(text).resolve()
            self.data_files.add(path)
            return ["file", _sha256_of_unchanged(path, *_state(path))]
        if os.path.isabs(text) and os.path.isdir(text):
            files = sorted(f for f in Path(text).iterdir() if f.is_file())
            self.data_files |= {f.resolve() for f in files}
            return ["folder", [[f.name, _sha256_of_unchanged(f, *_state(f))] for f in files]]
        return text

    def _object_in_bucket(self, name: str) -> Any:
        from t5x_instruct.common.buckets import BucketPath

        try:
            number = BucketPath(name).generation()
        except BucketError:  # library code names buckets that it may never read
            number = None
        if number is None:
            return name
        self.data_objects[name] = number.hex()
        return ["object", name, number.hex()]


def state_of_files(paths: Set[Path], objects: Mapping[str, str]) -> list[dict[str, Any]]:
    """Size and time of change of each data file, generation of each object, as `load_prepared` compares them."""
    states = [(path, *_state(path)) for path in sorted(paths)]
    files: list[dict[str, Any]] = [{"path": str(p), "bytes": size, "mtime_ns": time} for p, size, time in states]
    return files + [{"path": name, "generation": number} for name, number in sorted(objects.items())]


def fingerprint_of(description: Any) -> str:
    """The hash of a description."""
    return hashlib.sha256(sha256_of_json(description).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=100_000)
def _sha256_of_unchanged(path: Path, size: int, mtime_ns: int) -> str:
    # Thousands of tasks may share a folder: a file is read once while its state stays the same.
    del size, mtime_ns
    return sha256_of_file(path)


def _cell_content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that was never set
        return None
