"""Compares what a configuration says with what the schema allows: every problem at once, with its place."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, nearest, unknown
from t5x_instruct.config.gin_files import Binding, Import, Parsed, Place, macro_uses, parse
from t5x_instruct.config.resolved import (
    Names,
    ResolvedConfig,
    annotation_of,
    bound_parameters,
    how_to_set,
    missing_parameters,
    missing_text,
    push,
)
from t5x_instruct.config.schema import CONFIGURABLES, MACROS, REQUIRED, Configurable, Required
from t5x_instruct.config.value_types import (
    UNKNOWN,
    MacroUse,
    Reference,
    Unknown,
    as_words,
    describe,
    fits,
    format_value,
    leaves,
    map_leaves,
    normalise,
    read_word,
)

GIN_REQUIRED = "gin.REQUIRED"
MAX_VALUE_LEAVES = 100_000
HEADER = "# Resolved configuration: files, command line and defaults in one."


class _Walk:
    """One validation: collects the problems of a parsed configuration."""

    def __init__(self, parsed: Parsed, verb: str | None):
        self.verb = verb
        self.problems = list(parsed.problems)
        self.imports = parsed.imports
        self.names = Names(parsed.imports)
        self._failed: set[str] = set()
        self._check_imports()
        self.all_bindings = self._read_words(parsed.bindings)
        self.final = {b.key: b for b in self.all_bindings}
        self._uses = parsed.uses | {m for b in self.all_bindings for m in macro_uses(b.value)}
        self.defaults = self._defaults()
        self._sizes: dict[str, int] = {}
        self._values: dict[str, Any] = {}

    def _defaults(self) -> dict[str, Any]:
        """Defaults of the verb's macros; and of other verbs' that a file made for both refers to."""
        defaults = {}
        for name, macro in MACROS.items():
            if self.verb is None or name in self.final:
                continue
            if self.verb in macro.defaults:
                defaults[name] = macro.defaults[self.verb]
            elif name in self._uses and any(v is not REQUIRED for v in macro.defaults.values()):
                defaults[name] = next(v for v in macro.defaults.values() if v is not REQUIRED)
        return defaults

    def report(self, place: Place, text: str) -> None:
        """Adds a problem, once."""
        problem = f"{place}: {text}"
        if problem not in self.problems:
            self.problems.append(problem)

    def configurable(self, name: str, place: Place) -> Configurable | None:
        """Loads a configurable; a name that cannot be used is reported where it first occurs."""
        if name in self._failed:
            return None
        try:
            if name in self.names:
                return self.names[name]
            self.report(place, unknown("configurable", name, self.names))
        except Exception as error:  # importing runs foreign code, which may raise anything
            if name in CONFIGURABLES:
                raise  # a fault of this package, which needs its traceback
            cause = f"{type(error).__name__}: {error}"
            self.report(place, f"cannot load {name!r} from {self.names.paths[name]}: {cause}")
        self._failed.add(name)
        return None

    def annotation(self, binding: Binding) -> Any:
        """What a binding's value has to be; Any where that is unknown."""
        if binding.is_macro:
            return MACROS[binding.name].type if binding.name in MACROS else Any
        configurable = self.configurable(binding.name, binding.place)
        return annotation_of(configurable, binding.parameter) if configurable else Any

    def _check_imports(self) -> None:
        first: dict[str, Import] = {}
        for line in self.imports:
            known = first.setdefault(line.name, line)
            if line.name in CONFIGURABLES:
                self.report(line.place, f"{line.name!r} is already a configurable of this package")
            elif known[:3] != line[:3]:
                self.report(line.place, f"{line.name!r} is already imported at {known.place}")
            self.configurable(line.name, line.place)

    def _read_words(self, bindings: Sequence[Binding]) -> list[Binding]:
        """Gives the command line's bare words and the files' values the types they are meant to have."""
        repeated: dict[str, tuple[Any, ...]] = {}
        read = []
        for binding in bindings:
            annotation, value = self.annotation(binding), binding.value
            repeatable = binding.is_macro and binding.name in MACROS and MACROS[binding.name].repeatable
            if binding.word is not None and not (repeatable and value is None):
                value = read_word(binding.word, value, annotation)
            if repeatable:
                value = as_words(value)
                if binding.word is not None and isinstance(value, tuple):
                    value = repeated[binding.name] = repeated.get(binding.name, ()) + value
            fitting = normalise(value, annotation) if fits(value, annotation) else value
            read.append(dataclasses.replace(binding, value=fitting))
        return read

    # Values.

    def macro_value(self, name: str, stack: tuple[str, ...] = ()) -> Any:
        """A macro's value with all macros in it replaced; UNKNOWN where a problem prevents that."""
        if name in self._values:
            return self._values[name]
        binding = self.final.get(name)
        place = binding.place if binding else Place("defaults", 0)
        if name in stack:
            self.report(place, f"macro %{name} is part of its own value: {' -> '.join([*stack, name])}")
            return UNKNOWN
        value = binding.value if binding else self.defaults.get(name, UNKNOWN)
        value = UNKNOWN if isinstance(value, Required) else value
        self._values[name] = self.value(value, place, (*stack, name))
        return self._values[name]

    def value(self, value: Any, place: Place, stack: tuple[str, ...] = ()) -> Any:
        """A value with all macros in it replaced by theirs."""
        inner = {name: self.macro_value(name, stack) for name in macro_uses(value)}
        sizes = [self._sizes.get(name, 1) for name in macro_uses(value)]
        size = len(leaves(value)) + sum(sizes)
        if size > MAX_VALUE_LEAVES:
            self.report(place, f"the value has more than {MAX_VALUE_LEAVES} parts")
            return UNKNOWN
        if stack:
            self._sizes[stack[-1]] = size
        try:
            return map_leaves(value, lambda x: inner[x.name] if isinstance(x, MacroUse) else x)
        except TypeError:
            self.report(place, f"{value!r} needs plain values as keys")
            return UNKNOWN

    # Checks, in the order they are reported.

    def check(self) -> None:
        """Runs every check."""
        self._check_duplicates()
        for binding in self.all_bindings:
            self._check_binding(binding)
        self._check_unused()
        self._check_required()
        self._check_calls()

    def _check_duplicates(self) -> None:
        first: dict[tuple[str, str], Place] = {}
        for binding in self.all_bindings:
            known = first.setdefault((binding.place.file, binding.key), binding.place)
            if known != binding.place:
                self.report(binding.place, f"{binding.key} is bound a second time (first at {known}); keep one")

    def _check_binding(self, binding: Binding) -> None:
        if not binding.is_macro:
            self._check_parameter(binding)
        for leaf in leaves(binding.value):
            if isinstance(leaf, MacroUse):
                self._check_use(leaf.name, binding.place)
            elif isinstance(leaf, Reference):
                self.configurable(leaf.name, binding.place)
        self._check_type(binding)

    def _check_parameter(self, binding: Binding) -> None:
        configurable = self.configurable(binding.name, binding.place)
        if configurable is None or configurable.takes_any:
            return
        if binding.parameter not in configurable.parameters:
            kind = f"parameter of {binding.name}"
            self.report(binding.place, unknown(kind, binding.parameter, configurable.parameters))

    def _check_use(self, name: str, place: Place) -> None:
        if name in self.final or name in self.defaults or name == GIN_REQUIRED:
            return
        if self.verb is not None and name in MACROS:
            return  # another verb's, which this one does without
        defined = [b.name for b in self.final.values() if b.is_macro]
        close = nearest(name, [*defined, *MACROS, GIN_REQUIRED])
        hint = f"; nearest: {', '.join(map(repr, close))}" if close else ""
        self.report(place, f"macro %{name} is used but never defined{hint}")

    def _check_type(self, binding: Binding) -> None:
        if macro_uses(binding.value) == [GIN_REQUIRED]:
            return
        annotation, value = self.annotation(binding), self.value(binding.value, binding.place)
        through = "".join(
            f" (%{m} is defined at {self.final[m].place})" for m in macro_uses(binding.value) if m in self.final
        )
        shown = binding.word if isinstance(value, Unknown) and binding.word is not None else value
        if not fits(shown, annotation):
            text = repr(shown)[:200]
            self.report(binding.place, f"{binding.key} = {text}{through}: expected {describe(annotation)}")
        elif isinstance(value, Reference) and value.evaluate:
            self._check_reference_class(binding, value, annotation)
        elif binding.is_macro and binding.name in MACROS:
            self._check_minimum(binding, value)

    def _check_reference_class(self, binding: Binding, value: Reference, annotation: Any) -> None:
        configurable = self.configurable(value.name, binding.place)
        if configurable is None or not inspect.isclass(configurable.target):
            return
        plain = (str, int, float, bool, bytes, tuple, list, dict)
        if annotation in plain and not issubclass(configurable.target, annotation):
            self.report(binding.place, f"{binding.key} = {value!r}: expected {describe(annotation)}")

    def _check_minimum(self, binding: Binding, value: Any) -> None:
        minimum = MACROS[binding.name].minimum
        numbers = value.values() if isinstance(value, dict) else [value]
        for number in numbers:
            if minimum is not None and isinstance(number, int | float) and not number >= minimum:
                self.report(binding.place, f"{binding.key} = {value!r}: expected at least {minimum:g}")

    def _check_unused(self) -> None:
        for binding in self.final.values():
            if binding.is_macro and binding.name not in MACROS and binding.name not in self._uses:
                close = nearest(binding.name, {*MACROS, *self._uses} - {GIN_REQUIRED})
                hint = f"; nearest: {', '.join(map(repr, close))}" if close else ""
                self.report(binding.place, f"unknown macro {binding.name!r}: defined but nothing uses it{hint}")

    def _check_required(self) -> None:
        for binding in self.final.values():
            needed = not binding.is_macro or binding.name not in MACROS or self._reads(binding.name)
            if needed and GIN_REQUIRED in macro_uses(binding.value):
                self.report(binding.place, f"{binding.key} is REQUIRED and has no value{how_to_set(binding.key)}")
        for name, default in self.defaults.items():
            if isinstance(default, Required):
                self.problems.append(f"{self.verb}: {name} is REQUIRED and has no value{how_to_set(name)}")

    def _reads(self, name: str) -> bool:
        return self.verb is None or self.verb in MACROS[name].defaults

    def _check_calls(self) -> None:
        """Follows every reference from every binding: cycles, and calls without a needed argument."""
        for binding in self.final.values():
            for leaf in leaves(self.value(binding.value, binding.place)):
                if isinstance(leaf, Reference):
                    inside = binding.scope if binding.parameter else ""
                    self._check_call(leaf, inside, (), binding.place, set())

    def _check_call(
        self, reference: Reference, scope: str, stack: tuple[str, ...], place: Place, seen: set[str]
    ) -> None:
        scope = reference.scope or scope
        configurable = self.configurable(reference.name, place)
        node = f"{scope}/{reference!r}"
        if configurable is None:
            return
        try:
            stack = push(stack, scope, reference.name)
        except ConfigError as error:
            self.report(place, error.problems[0])
            return
        if node in seen:
            return
        bound = bound_parameters(self.final, scope, reference.name)
        missing = missing_parameters(configurable, set(bound)) if reference.evaluate else []
        if missing:
            self.report(place, missing_text(reference, missing))
        for binding in bound.values():
            for leaf in leaves(self.value(binding.value, binding.place)):
                if isinstance(leaf, Reference):
                    self._check_call(leaf, scope, stack, binding.place, seen)
        seen.add(node)  # after its inside, so that a cycle through it is found first

    # The result.

    def result(self) -> ResolvedConfig:
        """The configuration, once there are no problems."""
        kept = {k: b for k, b in self.final.items() if GIN_REQUIRED not in macro_uses(b.value)}
        defined = [b.name for b in kept.values() if b.is_macro]
        macros = {}
        for name in sorted({*defined, *self.defaults}):
            value = self.macro_value(name)
            macros[name] = normalise(value, MACROS[name].type) if name in MACROS else value
        written = {name: kept[name].value if name in kept else self.defaults[name] for name in macros}
        return ResolvedConfig(self.verb, macros, self._text(written, kept), kept, self.names)

    def _text(self, macros: Mapping[str, Any], bindings: Mapping[str, Binding]) -> str:
        lines = [HEADER, ""]
        for line in sorted({i[:3] for i in self.imports}):
            alias = "" if line[1] == line[2] else f" as {line[2]}"
            lines.append(f"from {line[0]} import {line[1]}{alias}")
        lines += [f"{name} = {format_value(value)}" for name, value in macros.items()]
        for key, binding in sorted(bindings.items()):
            if not binding.is_macro:
                lines.append(f"{key} = {format_value(binding.value)}")
        return "\n".join(lines) + "\n"


def resolve(files: Sequence[str | Path], overrides: Sequence[str] = (), *, verb: str | None = None) -> ResolvedConfig:
    """Reads a configuration and checks all of it.

    Args:
        files: gin files; searched in the working folder, then in `gin_configs/`; later ones win.
        overrides: "NAME=VALUE" words, as they follow `--gin.` on the command line; they win over files.
        verb: whose macros must have values and get defaults ('train', 'eval', ...); None for no verb:
            nothing is required and nothing is filled in.

    Returns:
        The configuration.

    Raises:
        ConfigError: everything that is wrong with it, each problem with file and line.
    """
    parsed = parse(files, overrides)
    try:
        walk = _Walk(parsed, verb)
        walk.check()
        if walk.problems:
            raise ConfigError(walk.problems)
        return walk.result()
    except RecursionError:
        nested = "macros or references are nested too deeply"
        raise ConfigError([*parsed.problems, nested]) from None


__all__ = ["ResolvedConfig", "resolve"]
