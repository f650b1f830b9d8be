"""Instruction templates: plain text with named fields, and the hash that chooses among them."""

import hashlib
import json
import operator
import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from t5x_instruct.common.errors import ConfigError, unknown

_DRAW_BYTES = 8  # 64 bits: the bias of the modulo stays below n / 2**64


def draw(n: int, *key: str | int) -> int:
    """Draws a number that depends on nothing but its key.

    Args:
        n: how many values there are to choose from, at least 1.
        *key: what the draw belongs to, such as (seed, task, example, variant). Parts are kept
            apart by type and by place, so ('a', 'b') and ('ab',) and (1,) and ('1',) all differ.

    Returns:
        An integer in [0, n), uniform over keys; equal on every machine and in every version of Python.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"draw() needs at least one value to choose from, got n={n}")
    parts = [part if isinstance(part, str) else operator.index(part) for part in key]
    text = json.dumps(parts).encode()
    digest = hashlib.blake2b(text, digest_size=_DRAW_BYTES).digest()
    return int.from_bytes(digest, "little") % n


@dataclass(frozen=True)
class Template:
    """A pair of texts with '{field}' placeholders; '{{' and '}}' stand for literal braces.

    A field's value is put in as it is: braces inside a value are never read again as placeholders.

    Args:
        inputs: the instruction, which the model is given.
        targets: the answer, which the model learns to write.

    Raises:
        ConfigError: unbalanced braces, or a placeholder that is not a plain name.
    """

    inputs: str
    targets: str = "{answer}"
    _inputs: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)
    _targets: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inputs", _parse(self.inputs))
        object.__setattr__(self, "_targets", _parse(self.targets))

    @property
    def input_fields(self) -> frozenset[str]:
        """Names of the fields that the instruction uses."""
        return frozenset(name for _, name in self._inputs if name is not None)

    @property
    def target_fields(self) -> frozenset[str]:
        """Names of the fields that the answer uses."""
        return frozenset(name for _, name in self._targets if name is not None)

    @property
    def fields(self) -> frozenset[str]:
        """Names of all fields that the template uses."""
        return self.input_fields | self.target_fields

    @property
    def is_inverted(self) -> bool:
        """Whether it asks for something else than the answer, such as the question to an answer."""
        return "answer" not in self.target_fields

    def render(self, fields: Mapping[str, str]) -> tuple[str, str]:
        """Fills the template.

        Args:
            fields: a text for every name in `self.fields`; further names are ignored.

        Returns:
            The texts (inputs, targets).

        Raises:
            ConfigError: a field of the template is missing from `fields`.
        """
        return self.render_inputs(fields), self.render_targets(fields)

    def render_inputs(self, fields: Mapping[str, str]) -> str:
        """Fills the instruction alone; arguments and errors as in `render`."""
        return self._fill(self._inputs, fields)

    def render_targets(self, fields: Mapping[str, str]) -> str:
        """Fills the answer alone; arguments and errors as in `render`."""
        return self._fill(self._targets, fields)

    def _fill(self, pieces: tuple[tuple[str, str | None], ...], fields: Mapping[str, str]) -> str:
        try:
            return "".join(literal if name is None else literal + fields[name] for literal, name in pieces)
        except KeyError as error:
            problem = unknown("field", str(error.args[0]), fields)
            raise ConfigError(f"{problem}, used by the template {self.inputs!r}") from None


def _parse(text: str) -> tuple[tuple[str, str | None], ...]:
    """Splits a template's text into (literal, name of the field after it or None)."""
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        hint = "write '{{' and '}}' for literal braces"
        raise ConfigError(f"template {text!r}: {error}; {hint}") from None
    pieces = []
    for literal, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise ConfigError(
                f"template {text!r}: the placeholder {{{name}}} is not a plain field name;"
                " write '{name}', and '{{' and '}}' for literal braces"
            )
        pieces.append((literal, name))
    return tuple(pieces)
