"""A configuration without problems: its values, and the objects that are built from it.

It is a value: nothing is kept in gin's global registry, so two configurations in one process cannot
mix, and a function that a configuration refers to (`@name` without parentheses) keeps its bindings
after the object that has it is built.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.config.gin_files import Binding, Import
from t5x_instruct.config.schema import CONFIGURABLES, MACROS, Configurable, load_configurable
from t5x_instruct.config.value_types import MacroUse, Reference, describe, map_leaves, normalise


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration without problems.

    Args:
        verb: the verb it was resolved for, or None.
        macros: the value of every macro: those the verb reads (defaults filled in) and those defined.
            References are kept as such; `instantiate` builds them.
        text: all of it as gin text, which resolves to the same configuration.
        bindings: the winning binding of each parameter and macro, by key ('scope/Name.parameter').
        configurables: what its names stand for.
    """

    verb: str | None
    macros: Mapping[str, Any]
    text: str
    bindings: Mapping[str, Binding]
    configurables: "Names" = field(repr=False, compare=False)

    def instantiate(self, name: str, **arguments: Any) -> Any:
        """Builds what a name stands for.

        Args:
            name: a configurable ('DecoderConfig', 'scope/DecoderConfig'), which is called, or a macro,
                whose value is returned with every reference inside it built.
            **arguments: given to the configurable; they win over the configuration's.

        Returns:
            The object, or the macro's value.

        Raises:
            ConfigError: no such name, a parameter without value, or values the component refuses.
        """
        if name in self.macros and not arguments:
            return self._build(self.macros[name], "", ())
        scope, _, bare = name.rpartition("/")
        if bare not in self.configurables:
            raise ConfigError(unknown("configurable", bare, [*self.configurables, *self.macros]))
        return self._call(Reference(scope, bare, True), "", (), arguments)

    def _build(self, value: Any, scope: str, stack: tuple[str, ...]) -> Any:
        def build_leaf(leaf: Any) -> Any:
            if isinstance(leaf, MacroUse) and leaf.name not in self.macros:
                raise ConfigError(f"%{leaf.name} has no value{how_to_set(leaf.name)}")
            if isinstance(leaf, MacroUse):
                return self._build(self.macros[leaf.name], scope, stack)
            return self._call(leaf, scope, stack, {}) if isinstance(leaf, Reference) else leaf

        return map_leaves(value, build_leaf)

    def _call(self, reference: Reference, scope: str, stack: tuple[str, ...], given: Mapping[str, Any]) -> Any:
        scope, configurable = reference.scope or scope, self.configurables[reference.name]
        bound = bound_parameters(self.bindings, scope, reference.name)
        stack = push(stack, scope, reference.name)
        missing = missing_parameters(configurable, {*bound, *given}) if reference.evaluate else []
        if missing:
            raise ConfigError(missing_text(reference, missing))
        arguments = dict(given)
        for name, binding in bound.items():
            if name not in given:
                annotation = annotation_of(configurable, name)
                arguments[name] = normalise(self._build(binding.value, scope, stack), annotation)
        if not reference.evaluate:
            return functools.partial(configurable.target, **arguments)
        places = ", ".join(str(b.place) for b in bound.values()) or "defaults only"
        try:
            return configurable.target(**arguments)
        except ConfigError as error:
            raise ConfigError([f"{reference!r} ({places}): {p}" for p in error.problems]) from error
        except Exception as error:
            error.add_note(f"while building {reference!r} of the configuration ({places})")
            raise


class Names(Mapping[str, Configurable]):
    """The configurables of one configuration: the table and its imports, loaded when looked up.

    Args:
        imports: names added by the configuration's `from ... import ...` lines.
    """

    def __init__(self, imports: Sequence[Import]):
        self.paths = CONFIGURABLES | {i.name: f"{i.module}:{i.attribute}" for i in imports}
        self._loaded: dict[str, Configurable] = {}

    def __getitem__(self, name: str) -> Configurable:
        if name not in self._loaded:
            self._loaded[name] = load_configurable(name, self.paths[name])
        return self._loaded[name]

    def __iter__(self) -> Any:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, name: object) -> bool:
        return name in self.paths


def bound_parameters(bindings: Mapping[str, Binding], scope: str, name: str) -> dict[str, Binding]:
    """The parameters a configurable gets in a scope: the innermost scope's binding of each wins.

    Args:
        bindings: winning bindings by key.
        scope: 'a/b' also takes the bindings of 'a' and of no scope.
        name: configurable.
    """
    parts = scope.split("/") if scope else []
    rank = {"/".join(parts[:n]): n for n in range(len(parts) + 1)}
    matching = [b for b in bindings.values() if b.name == name and b.parameter and b.scope in rank]
    return {b.parameter: b for b in sorted(matching, key=lambda b: rank[b.scope])}


def push(stack: tuple[str, ...], scope: str, name: str) -> tuple[str, ...]:
    """The configurables that are being built, with one more; ConfigError if it is among them already."""
    node = f"{scope}/{name}" if scope else name
    if node in stack:
        raise ConfigError(f"{node} is part of its own value: {' -> '.join([*stack, node])}")
    return (*stack, node)


def missing_parameters(configurable: Configurable, given: set[str]) -> list[str]:
    """Parameters that must have a value and are not among `given`."""
    return [n for n, p in configurable.parameters.items() if p.required and n not in given]


def missing_text(reference: Reference, missing: Sequence[str]) -> str:
    """The message for a call that lacks parameters."""
    scope = f"{reference.scope}/" if reference.scope else ""
    names = ", ".join(f"{scope}{reference.name}.{n}" for n in missing)
    return f"{reference!r} is called without a value for {names}: bind it"


def annotation_of(configurable: Configurable, parameter: str) -> Any:
    """What a parameter takes; Any if the configurable does not say."""
    known = configurable.parameters.get(parameter)
    return known.annotation if known else Any


def how_to_set(name: str) -> str:
    """The end of a message about a missing value: what it means and where to write it."""
    macro = MACROS.get(name)
    meaning = f" ({describe(macro.type)}: {macro.meaning})" if macro else ""
    return f"{meaning}; set it in a gin file or with --gin.{name}=VALUE"
