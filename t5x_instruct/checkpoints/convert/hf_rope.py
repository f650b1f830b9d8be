"""Rotary positions in a `config.json`: versions 4 and 5 of transformers say the same in two ways."""

import math
from typing import Any, NamedTuple

from t5x_instruct.checkpoints.convert.hf_layers import FULL, SLIDING
from t5x_instruct.checkpoints.convert.hf_settings import Settings
from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.layers.rope import ROPE_SCALINGS, RopeScaling
from t5x_instruct.models.t5gemma import GemmaStack

# Their names of a scaling's fields.
_THEIRS = {
    "factor": "factor",
    "original_length": "original_max_position_embeddings",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "truncate": "truncate",
}


class Ropes(NamedTuple):
    """What a file says of positions.

    Attributes:
        theta: base of the wavelengths.
        scaling: for a longer context.
        local_theta: base in layers with a window, where these have their own.
    """

    theta: float
    scaling: RopeScaling | None
    local_theta: float | None


def read_ropes(s: Settings, theta: float | None, local_theta: float | None = None) -> Ropes:
    """Positions from ``rope_theta`` and ``rope_scaling``, or from ``rope_parameters``, which holds both.

    Args:
        s: the file's settings; what is wrong is noted there.
        theta: if the file says nothing; None: it has to.
        local_theta: the same, of layers with a window; None: the family has one rope.
    """
    scaling, parameters = s.take("rope_scaling", dict, {}), s.take("rope_parameters", dict, {})
    outside = s.take("rope_theta", float) if s.has("rope_theta") else theta
    if local_theta is None:
        name = "rope_scaling" if scaling else "rope_parameters"
        return Ropes(*_read_one(s, Settings(scaling or parameters, name), outside), None)
    by_kind = {}
    for kind in (FULL, SLIDING):
        inside = parameters.get(kind)
        if inside is not None and not isinstance(inside, dict):
            s.problem(f"rope_parameters: {kind} is {inside!r}, must be of the type dict")
        by_kind[kind] = inside if isinstance(inside, dict) else {}
    if parameters.keys() - by_kind.keys():
        s.problem(f"rope_parameters has the keys {sorted(parameters)}, must have {FULL!r} and {SLIDING!r}")
    full = Settings(by_kind[FULL] | scaling, f"rope_parameters: {FULL}")
    own = Settings(by_kind[SLIDING], f"rope_parameters: {SLIDING}")
    own.only("rope_type", "default")
    local = own.take("rope_theta", float, local_theta)
    own.check_rest(())
    s.problems += own.problems
    return Ropes(*_read_one(s, full, outside), local)


def _read_one(s: Settings, inside: Settings, theta: float | None) -> tuple[float, RopeScaling | None]:
    kind = inside.take("rope_type", str, inside.take("type", str, "default"))
    base = inside.take("rope_theta", float, theta)
    inside.only("partial_rotary_factor", 1.0)
    scaling = None
    if kind in ROPE_SCALINGS:
        # What the file does not say, transformers takes from the longest text.
        fields = _read_fields(inside, kind, s.take("max_position_embeddings", int, 1))
        try:
            scaling = None if inside.problems else RopeScaling(kind=kind, **fields)
        except ConfigError as error:
            inside.problem(str(error))
    elif kind != "default":
        inside.problem(unknown("rope_type", kind, ("default", *ROPE_SCALINGS)))
    if kind in ("default", *ROPE_SCALINGS):
        inside.check_rest(())
    s.problems += inside.problems
    return base, scaling


def _read_fields(inside: Settings, kind: str, longest: int) -> dict[str, Any]:
    original = "original_max_position_embeddings"
    if kind == "linear":
        return {"factor": inside.take("factor", float)}
    fields: dict[str, Any] = {"original_length": inside.take(original, int, longest)}
    if kind == "llama3":
        names = ("factor", "low_frequency_factor", "high_frequency_factor")
        return fields | {name: inside.take(_THEIRS[name], float) for name in names}
    factor = inside.take("factor", float, longest / max(fields["original_length"], 1))
    return fields | {
        "factor": factor,
        "beta_fast": inside.take("beta_fast", float, 32.0),
        "beta_slow": inside.take("beta_slow", float, 1.0),
        "attention_factor": _attention_factor(inside, factor),
        "truncate": inside.take("truncate", bool, True),
    }


def _attention_factor(inside: Settings, factor: float) -> float:
    """As given, or as the paper has it; DeepSeek's two factors are of one that is not applied to the scores."""

    def grown(by: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * by * math.log(factor) + 1.0

    over, under = inside.optional("mscale", float), inside.optional("mscale_all_dim", float)
    paper = grown(over) / grown(under) if over and under else grown(1.0)
    given: float = inside.take("attention_factor", float, paper)
    return given


def write_ropes(c: DecoderConfig | GemmaStack, *, by_layer: bool = False) -> dict[str, Any]:
    """The inverse of `read_ropes`, in both ways of saying it.

    Args:
        c: the configuration, or one stack's.
        by_layer: whether layers with a window have ropes of their own.
    """
    scaling = {"rope_type": "default"}
    if c.rope_scaling is not None:
        fields = {theirs: getattr(c.rope_scaling, ours) for ours, theirs in _THEIRS.items()}
        scaling = {"rope_type": c.rope_scaling.kind} | {k: v for k, v in fields.items() if v is not None}
    parameters: dict[str, Any] = scaling | {"rope_theta": c.rope_theta}
    if by_layer:
        local = c.rope_theta if c.local_rope_theta is None else c.local_rope_theta
        parameters = {FULL: parameters, SLIDING: {"rope_type": "default", "rope_theta": local}}
    # Version 5 of transformers reads `rope_parameters`, those before the others.
    written = {"rope_theta": c.rope_theta, "rope_parameters": parameters}
    return written | ({} if c.rope_scaling is None else {"rope_scaling": scaling})
