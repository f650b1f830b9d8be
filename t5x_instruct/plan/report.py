"""A plan for people and for programs."""

from collections.abc import Sequence
from typing import Any

from t5x_instruct.plan.collectives import KINDS, Collective
from t5x_instruct.plan.compiled import Plan
from t5x_instruct.plan.roofline import ACHIEVED, estimate, mfu

_GIB = 1 << 30

LEFT_OUT = (
    f"The estimate takes {ACHIEVED:.0%} of the published peaks and full overlap of computing, memory and network. It "
    "leaves out: input from the hosts, checkpoints and evaluation, waiting between kernels, and rows that are not full."
)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values: sizes in bytes, times in seconds, totals of a step."""
    found: dict[str, Any] = {
        "topology": plan.slices.name,
        "devices": plan.slices.num_devices,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "hbm_limit_bytes": plan.hbm_limit,
        "hbm_bytes": plan.hbm_needed,
        "parameters": plan.num_parameters,
        "model_flops": plan.model_flops,
        "step_flops": plan.step_flops,
        "compile_seconds": round(plan.compile_seconds, 1),
    }
    if plan.memory is None:
        return found | {"message": plan.message}
    times = estimate(plan)
    return found | {
        "memory": {name: getattr(plan.memory, name) for name in plan.memory.__dataclass_fields__},
        "hbm_traffic_bytes": plan.hbm_traffic,
        "collectives": {kind: _sums([one for one in plan.collectives if one.kind == kind]) for kind in KINDS},
        "bounds_seconds": times._asdict(),
        "bound_by": times.bound,
        "step_seconds": times.step_seconds,
        "mfu": mfu(plan, times.step_seconds),
        "decoder_slots_per_second_per_chip": plan.slots / times.step_seconds / plan.slices.num_chips,
    }


def _sums(collectives: Sequence[Collective]) -> dict[str, Any]:
    return {
        "count": sum(one.times for one in collectives),
        "bytes": sum(one.total_bytes for one in collectives),
        "seconds": sum(one.seconds for one in collectives),
    }


def as_text(plan: Plan) -> str:
    """The plan in lines."""
    shape = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    lines = [
        f"{plan.slices.name}: {plan.slices.num_chips} chips; mesh {shape}; {plan.num_parameters:,} parameters; "
        f"compiled in {plan.compile_seconds:.0f} s",
        "",
        _verdict(plan),
    ]
    if plan.memory is None:
        return "\n".join([*lines, "", "the compiler says:", plan.message])
    lines += [f"  {name:<12} {size / _GIB:9.3f} GiB" for name, size in vars(plan.memory).items()]
    times = estimate(plan)
    lines += [
        "",
        f"step: about {_seconds(times.step_seconds)} (bound by {times.bound}), MFU {mfu(plan, times.step_seconds):.1%}"
        f", {plan.slots / times.step_seconds / plan.slices.num_chips:,.0f} decoder slots/s/chip",
        *(f"  {name:<8} at least {_seconds(value)}" for name, value in times._asdict().items()),
        f"  {plan.model_flops:.3e} model FLOPs, {plan.step_flops:.3e} with what is recomputed",
        "",
        "what is sent in a step:",
        *_collective_lines(plan.collectives),
        "",
        LEFT_OUT,
    ]
    return "\n".join(lines)


def _verdict(plan: Plan) -> str:
    limit = plan.hbm_limit / _GIB
    if plan.memory is not None:
        return f"fits: {plan.memory.total / _GIB:.2f} of {limit:.2f} GiB a device"
    if plan.hbm_needed is None:
        return f"does not fit into {limit:.2f} GiB a device"
    needed = plan.hbm_needed / _GIB
    return f"does not fit: {needed:.2f} GiB are needed of {limit:.2f} GiB a device, {needed - limit:.2f} too many"


def _collective_lines(collectives: Sequence[Collective]) -> list[str]:
    if not collectives:
        return ["  nothing"]
    lines = []
    for kind in KINDS:
        for network in ("ici", "dcn"):
            some = [one for one in collectives if (one.kind, one.network) == (kind, network)]
            if some:
                sums = _sums(some)
                lines.append(
                    f"  {kind:<19} {network}  {sums['count']:>6} times  {sums['bytes'] / _GIB:10.3f} GiB  "
                    f"at least {_seconds(sums['seconds'])}"
                )
    lines.append("  the longest:")
    lines += [f"    {one.kind} x {one.times} over {one.ways}: {one.source}" for one in collectives[:3]]
    return lines


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
