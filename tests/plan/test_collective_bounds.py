"""What a step sends may not grow: count and bytes of each kind of collective against stored bounds.

`collective_bounds.json` holds what was measured, by versions of jax and libtpu. A change that sends more on purpose
measures anew and commits the difference:

    JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=false python -m tests.plan.small_runs
"""

import json
import re
import warnings

import pytest

from tests.plan.small_runs import BOUNDS, MESHES, counted, mesh_name, mesh_plan, versions

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

#: How much more than what was measured passes: with the same versions (a scalar more in the metrics is no fault), and
#: with others, whose compiler may choose differently.
SAME, OTHER = 1.02, 1.5
#: Bytes below which a kind is no matter: a few scalars.
FREE_BYTES = 1024


def bounds():
    return json.loads(BOUNDS.read_text())


def numbers(versions_named):
    return [int(one) for one in re.findall(r"\d+", versions_named)]


def nearest_version(stored, wanted):
    """The stored versions that differ least, in jax first."""

    def distance(name):
        return [abs(one - other) for one, other in zip(numbers(name), numbers(wanted), strict=False)]

    return min(sorted(stored), key=distance)


def problems(bound, measured, margin):
    """What is sent too often or too much, in sentences."""
    found = []
    for kind, sums in measured.items():
        limit = bound.get(kind, {"count": 0, "bytes": 0})
        if sums["bytes"] > FREE_BYTES and sums["bytes"] > margin * limit["bytes"]:
            found.append(f"{kind}: {sums['bytes']:,} bytes, {limit['bytes']:,} are stored")
        if sums["bytes"] > FREE_BYTES and sums["count"] > max(margin * limit["count"], limit["count"] + 1):
            found.append(f"{kind}: {sums['count']} times, {limit['count']} are stored")
    return found


def preset(kind, mesh):
    # Both axes together send all that either does; the encoder-decoder takes three times as long to compile.
    marks = [pytest.mark.slow] if kind == "t5" and len(mesh) == 1 else []
    return pytest.param(kind, mesh, id=f"{kind} {mesh_name(mesh)}", marks=marks)


PRESETS = [preset(kind, mesh) for kind in ("t5", "decoder") for mesh in MESHES]


@pytest.mark.parametrize(("kind", "mesh"), PRESETS)
def test_no_more_is_sent_than_is_stored(kind, mesh):
    stored, here = bounds(), versions()
    name = here if here in stored else nearest_version(stored, here)
    if name != here:
        warnings.warn(
            f"no bounds are stored for {here}: compared with those of {name}, times {OTHER}; "
            "`python -m tests.plan.small_runs` measures them",
            stacklevel=1,
        )
    plan = mesh_plan(kind, mesh)
    found = problems(stored[name][f"{kind} {mesh_name(mesh)}"], counted(plan), SAME if name == here else OTHER)
    longest = "\n".join(
        f"  {one.kind} x {one.times}, {one.size:,} bytes: {one.source}" for one in plan.work.collectives[:12]
    )
    assert not found, f"{found} (bounds of {name})\nthe longest:\n{longest}"


def test_what_would_be_too_much():
    ((_, presets),) = list(bounds().items())[-1:]
    fsdp, model = presets["decoder fsdp=8"], presets["decoder model=8"]
    assert not problems(fsdp, fsdp, SAME)
    # A run whose parameters are gathered sends what one with tensor parallelism must not, and the other way round.
    assert any("all-gather" in one for one in problems(model, fsdp, OTHER))
    assert any("all-reduce" in one for one in problems(fsdp, model, OTHER))
    twice = {kind: {name: 2 * value for name, value in sums.items()} for kind, sums in fsdp.items()}
    assert len(problems(fsdp, twice, OTHER)) >= 2 * (len(fsdp) - 1)


def test_versions_that_are_not_stored_have_a_nearest():
    stored = ["jax 0.10.2, libtpu 0.0.52", "jax 0.12.0, libtpu 0.0.60"]
    assert nearest_version(stored, "jax 0.12.1, libtpu 0.0.52") == stored[1]
    assert nearest_version(stored, "jax 0.11.0, libtpu 0.0.53") == stored[1]
    assert nearest_version(stored, "jax 0.10.2, libtpu 0.0.53") == stored[0]
