"""Importing the modules that register tasks, with their settings."""

import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from t5x_instruct.common.errors import ConfigError, InstructError, unknown
from t5x_instruct.common.paths import is_bucket

DEFAULT_MODULES = ("tasks.starter", "tasks.flan2021")
"""The package's own collections that need no folder of files; importing them reads no data."""

_OPTIONS: dict[str, str] = {}
_OPTIONS_READ: dict[str, str | None] = {}


def import_task_modules(modules: Sequence[str], options: Mapping[str, str] | None = None) -> list[Path]:
    """Imports modules that register tasks; one that is imported already is not run again.

    Args:
        modules: names of modules, or paths of .py files. A file of a package on the import path is
            imported by its name in it, so that it has one name however it is given.
        options: values for `module_option`, by 'module.NAME'.

    Returns:
        The Python files that define the tasks, sorted: a module's file, all files of a package.

    Raises:
        ConfigError: with every module that cannot be imported and why, and every option that no
            imported module has.
    """
    _set_options(options or {})
    known = set(_OPTIONS_READ)
    files: set[Path] = set()
    problems: list[str] = []
    for name in modules:
        read_before = dict(_OPTIONS_READ)
        try:
            files |= _files_of(_import(name))
        except Exception as error:
            known |= _OPTIONS_READ.keys()
            # A module that failed may be imported again, with another option.
            _OPTIONS_READ.clear()
            _OPTIONS_READ.update(read_before)
            problems.append(f"task module {name!r} cannot be imported: {_cause(error, name)}")
    problems += [
        unknown("module option", o, known | _OPTIONS_READ.keys())
        for o in _OPTIONS.keys() - known - _OPTIONS_READ.keys()
    ]
    if problems:
        raise ConfigError(problems)
    return sorted(files)


def module_option(name: str, default: str | None = None) -> str | None:
    """A setting of a task module, read once while the module is imported.

    Args:
        name: 'module.NAME', such as 'tasks.cot.FOLDER'.
        default: the value where none is given.

    Returns:
        The value given to `import_task_modules`, or the default.
    """
    _OPTIONS_READ[name] = _OPTIONS.get(name, default)
    return _OPTIONS_READ[name]


def given_option(name: str) -> str | None:
    """A setting of another module as it was given, if it was; that module may still be imported with another one.

    Args:
        name: 'module.NAME', as for `module_option`.
    """
    return _OPTIONS.get(name)


def _cause(error: Exception, name: str) -> str:
    """The error's own words; for a fault in a module's code also its kind and place."""
    if isinstance(error, InstructError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
        parent, _, _ = error.name.rpartition(".")
        folders = getattr(sys.modules[parent], "__path__", ()) if parent else None
        prefix = f"{parent}." if parent else ""
        found = [prefix + module.name for module in pkgutil.iter_modules(folders)]
        return unknown("module", error.name, found) + f"; the working folder is {Path.cwd()}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<frozen")]
    place = f" at {ours[-1].filename}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {error}{place}"


def _set_options(given: Mapping[str, str]) -> None:
    options = {name: _on_this_machine(value) for name, value in given.items()}
    late = [
        f"module option {name!r} is {value!r}, but the module was imported with"
        f" {_OPTIONS_READ[name]!r}; give it before the first import"
        for name, value in options.items()
        if name in _OPTIONS_READ and _OPTIONS_READ[name] != value
    ]
    if late:
        raise ConfigError(late)
    _OPTIONS.clear()
    _OPTIONS.update(options)


def _on_this_machine(value: str) -> str:
    """The value of an option; of what lies in a bucket the copy on the disk, since task modules read folders."""
    if not is_bucket(value):
        return value
    from t5x_instruct.common.buckets import BucketPath
    from t5x_instruct.common.staging import stage

    try:
        return str(stage(BucketPath(value)))
    except FileNotFoundError as error:
        raise ConfigError(f"module option {value!r}: {error.strerror}, or there is no such bucket") from error


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    dotted = _name_in_package(path)
    if dotted is not None:
        return importlib.import_module(dotted)
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    return _import_file(path)


def _name_in_package(path: Path) -> str | None:
    """The dotted name under which a file is importable, if it is."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.append(folder.name)
        folder = folder.parent
    dotted = ".".join(reversed(parts))
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError):
        return None
    same = spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path
    return dotted if same else None


def _import_file(path: Path) -> ModuleType:
    # Named by its whole path, so that two files of the same name in two folders both have a place.
    name = f"task_file:{path}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__, module.__loader__ = str(path), loader
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _files_of(module: ModuleType) -> set[Path]:
    if module.__file__ is None:
        raise ConfigError(f"{module.__name__} is a folder without __init__.py and registers nothing")
    path = Path(module.__file__).resolve()
    return set(path.parent.rglob("*.py")) if path.name == "__init__.py" else {path}
