"""A plan for people and for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from t5x_instruct.plan.collectives import KINDS, Collective
from t5x_instruct.plan.compiled import Plan, Work
from t5x_instruct.plan.roofline import ACHIEVED, estimate, mfu, step_seconds
from t5x_instruct.plan.search import Found, Trial
from t5x_instruct.runs.training_run import TrainRun

_GIB = 1 << 30

LEFT_OUT = (
    f"The estimate takes {ACHIEVED:.0%} of the published peaks and full overlap of computing, memory and network. It "
    "leaves out: input from the hosts, checkpoints and evaluation, waiting between kernels, and rows that are not "
    "full. Where the step chooses between branches while it runs, it counts the one that moves the most."
)

SEARCHED = (
    "What is compiled is chosen by a rough guess; a candidate that was not compiled may be faster. Prices are the "
    "file's, for the steps alone: no start, no evaluation, no preemption."
)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values: sizes in bytes, times in seconds, totals of a step.

    Keys are always the same; what is not known of a step that does not fit is None.
    """
    fits = plan.memory is not None
    seconds = step_seconds(plan) if fits else None
    found: dict[str, Any] = {
        "step": plan.step,
        "attention": plan.attention.name,
        "attention_reason": plan.attention.why,
        "topology": plan.slices.name,
        "devices": plan.slices.num_devices,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "hbm_limit_bytes": plan.hbm_limit,
        "hbm_bytes": plan.hbm_needed,
        "message": plan.message,
        "parameters": plan.num_parameters,
        "model_flops": plan.work.model_flops,
        "step_flops": plan.work.flops,
        "compile_seconds": round(plan.compile_seconds, 1),
        "memory": dataclasses.asdict(plan.memory) if plan.memory else None,
        "cache_bytes": plan.cache_bytes,
        "host_bytes": plan.host_bytes,
        "hbm_traffic_bytes": plan.work.hbm_traffic if fits else None,
        "collectives": _by_kind(plan.work) if fits else None,
        "step_seconds": seconds,
        "mfu": mfu(plan, seconds) if seconds else None,
        "decoder_slots_per_second_per_chip": plan.work.slots / seconds / plan.slices.num_chips if seconds else None,
    }
    found |= _times(plan.work, plan) if fits else dict.fromkeys(("bounds_seconds", "bound_by"))
    phases = plan.phases if fits else {}
    found["phases"] = {
        name: {
            "times": one.times,
            "seconds": estimate(one.work, plan.slices).step_seconds,
            **_times(one.work, plan),
            "collectives": _by_kind(one.work),
        }
        for name, one in phases.items()
    }
    return found


def _times(work: Work, plan: Plan) -> dict[str, Any]:
    times = estimate(work, plan.slices)
    return {"bounds_seconds": times._asdict(), "bound_by": times.bound}


def _by_kind(work: Work) -> dict[str, Any]:
    return {kind: _sums([one for one in work.collectives if one.kind == kind]) for kind in KINDS}


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
        plan.step,
        str(plan.attention),
        "",
        _verdict(plan),
    ]
    if plan.memory is None:
        return "\n".join([*lines, "", "the compiler says:", plan.message])
    lines += [f"  {name:<12} {size / _GIB:9.3f} GiB" for name, size in vars(plan.memory).items()]
    if plan.cache_bytes is not None:
        lines.append(f"  (the cache, in temporaries: {plan.cache_bytes / _GIB:.3f} GiB over all devices)")
    if plan.host_bytes:
        lines.append(f"  (and in the memory of its host: {plan.host_bytes / _GIB:.3f} GiB)")
    lines.append("")
    for name, phase in plan.phases.items():
        lines += [*_time_lines(f"{name}, {phase.times} times", phase.work, plan), ""]
    if plan.phases:
        token = estimate(plan.phases["token"].work, plan.slices).step_seconds
        rate = plan.phases["token"].work.slots / token
        lines += [f"all: about {_seconds(step_seconds(plan))}; {rate:,.0f} new tokens/s while decoding", "", LEFT_OUT]
        return "\n".join(lines)
    seconds = step_seconds(plan)
    lines += [
        *_time_lines("step", plan.work, plan),
        f"  {plan.work.model_flops:.3e} model FLOPs, {plan.work.flops:.3e} with what is recomputed; MFU "
        f"{mfu(plan, seconds):.1%}, {plan.work.slots / seconds / plan.slices.num_chips:,.0f} decoder slots/s/chip",
        "",
        LEFT_OUT,
    ]
    return "\n".join(lines)


def _time_lines(name: str, work: Work, plan: Plan) -> list[str]:
    times = estimate(work, plan.slices)
    return [
        f"{name}: about {_seconds(times.step_seconds)} (bound by {times.bound})",
        *(f"  {part:<8} at least {_seconds(value)}" for part, value in times._asdict().items()),
        "  what is sent:",
        *_collective_lines(work.collectives),
    ]


def _verdict(plan: Plan) -> str:
    limit = plan.hbm_limit / _GIB
    if plan.memory is not None:
        return f"{'fits' if plan.fits else plan.message}: {plan.memory.total / _GIB:.2f} of {limit:.2f} GiB a device"
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


def found_as_json(found: Found, run: TrainRun) -> dict[str, Any]:
    """A search's result as JSON values."""
    return {
        "best": _trial_as_json(found.best, run) if found.best else None,
        "trials": [_trial_as_json(one, run) for one in found.trials],
        "candidates": found.guessed,
        "too_large": found.too_large,
    }


def _trial_as_json(trial: Trial, run: TrainRun) -> dict[str, Any]:
    priced = {"price_of_step": trial.price, "price_of_run": trial.price and trial.price * run.loop.train_steps}
    return {"settings": trial.candidate.settings(run), **priced, **as_json(trial.plan)}


def trial_line(trial: Trial) -> str:
    """A compiled candidate in one line."""
    one, plan = trial.candidate, trial.plan
    rows = f", rows x{one.row_factor}" if one.row_factor > 1 else ""
    text = f"{one.slices.name}  {one.shape}, remat {one.remat}, {one.micro_batches} micro-batches{rows}, "
    text += f"{plan.attention.name} attention: "
    if trial.seconds is None:
        return text + _verdict(plan)
    price = "" if trial.price is None else f", {trial.price:.3g} a step"
    return text + f"{_seconds(trial.seconds)}, MFU {mfu(plan, trial.seconds):.1%}{price}, {_verdict(plan)}"


def found_as_text(found: Found, run: TrainRun) -> str:
    """A search's result in lines."""
    lines = [
        f"{found.guessed:,} candidates; {found.too_large:,} of them cannot fit; {len(found.trials)} compiled, the best "
        "first:",
        *(f"  {trial_line(one)}" for one in found.trials),
        "",
    ]
    if found.best is None:
        return "\n".join([*lines, "none of them fits; take a larger slice"])
    settings = found.best.candidate.settings(run)
    lines += [
        f"best: on {found.best.candidate.slices.name}",
        *(f"  {key} = {value!r}" for key, value in settings.items()),
    ]
    if found.best.price is not None:
        lines.append(f"  {run.loop.train_steps:,} steps cost about {found.best.price * run.loop.train_steps:,.2f}")
    return "\n".join([*lines, "", LEFT_OUT, SEARCHED])
