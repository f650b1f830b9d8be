"""What a compiled step sends between devices: how often, how much, over which wires, for how long at least."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from t5x_instruct.plan.hlo import Groups, Instruction, Program, replica_groups
from t5x_instruct.plan.topologies import Chip

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SOURCE = re.compile(r'op_name="([^"]*)"')


class Collective(NamedTuple):
    """One collective of the program, all its repetitions together.

    Attributes:
        kind: one of `KINDS`.
        times: how often a step runs it.
        size: the whole array's bytes that one group of devices exchanges, once: what an all-gather gives, what a
            reduce-scatter takes, what an all-reduce adds up, all devices' parts of an all-to-all, a permute's message.
        ways: devices of a group.
        network: "ici" within a slice, "dcn" between slices.
        seconds: the least time of all repetitions at the wires' full speed.
        source: where in the model it comes from, for people.
        upward: of a permute, whether most messages go to a device with a higher number; what goes the other way has
            wires of its own.
    """

    kind: str
    times: int
    size: int
    ways: int
    network: str
    seconds: float
    source: str
    upward: bool | None = None

    @property
    def total_bytes(self) -> int:
        """`size` of all repetitions."""
        return self.times * self.size


def collectives_of(
    program: Program, devices: Sequence[Any], chip: Chip, *, open_loop: bool | None = None
) -> list[Collective]:
    """All collectives of a program, the longest first.

    An asynchronous collective that is fused into several instructions counts once, wherever they stand.

    Args:
        program: the optimised program.
        devices: its devices in their order, with `coords` and, of several slices, `slice_index`.
        chip: their figures.
        open_loop: see `Program.frames`.
    """
    # Its parts may stand in a loop's body and around that loop, which hides it: it runs as often as the outermost.
    outermost: dict[Any, tuple[int, str, Instruction, Instruction]] = {}
    for frame in program.frames(open_loop=open_loop):
        for scheduled in frame.computation.instructions.values():
            for one in program.inside(scheduled):
                kind = _kind(program, one, fused=one is not scheduled)
                if kind not in KINDS:
                    continue
                channel = _CHANNEL.search(one.text)
                key = (kind, channel[1] if channel else one.name)
                if key not in outermost or frame.times < outermost[key][0]:
                    outermost[key] = (frame.times, kind, one, scheduled)
    found = [
        measured
        for times, kind, one, scheduled in outermost.values()
        if (measured := _measure(kind, one, _source(one, scheduled), times, devices, chip))
    ]
    return sorted(found, key=lambda one: -one.seconds)


def _kind(program: Program, one: Instruction, *, fused: bool) -> str:
    """The kind of a collective; between slices it is a message to a runtime of its own, which says what it is.

    The TPU compiler writes a reduce-scatter as a fusion of an all-reduce of which every device keeps a slice.
    """
    if one.opcode == "send" and (found := _BETWEEN.search(one.text)):
        return found[1].lower().replace("_", "-")
    kind = one.opcode.removesuffix("-start")
    if fused and kind == "all-reduce":
        users = program.users(one)
        if users and all(user.opcode == "dynamic-slice" for user in users):
            return "reduce-scatter"
    return kind


def _source(one: Instruction, scheduled: Instruction) -> str:
    """Where in the model a collective comes from; what it is fused into knows it where it does not itself."""
    found = _SOURCE.search(one.text) or _SOURCE.search(scheduled.text)
    return found[1] if found else one.name


def _measure(
    kind: str, one: Instruction, where: str, times: int, devices: Sequence[Any], chip: Chip
) -> Collective | None:
    if one.opcode == "send":
        ways = len({_slice(device) for device in devices})
        size = one.buffers[0].size
        seconds = times * _seconds(kind, size, ways, chip.dcn_bandwidth)
        return Collective(kind, times, size, ways, "dcn", seconds, where)
    groups = replica_groups(one.text)
    ways = max((len(group) for group in groups), default=1)
    if ways < 2:
        return None
    sizes = [buffer.size for buffer in one.buffers]
    # The asynchronous form gives (operand, result, flags).
    given = max(sizes) if one.opcode.endswith("-start") else sum(sizes)
    size = given * ways if one.opcode in ("reduce-scatter", "all-to-all") else given
    if kind == "collective-permute":
        upward = 2 * sum(group[0] < group[1] for group in groups) > len(groups)
        return Collective(kind, times, size, ways, "ici", times * size / chip.ici_bandwidth, where, upward)
    seconds = times * _seconds(kind, size, ways, _bandwidth(groups, devices, chip))
    return Collective(kind, times, size, ways, "ici", seconds, where)


def seconds_together(collectives: Iterable[Collective]) -> float:
    """The least time [s] of collectives that use the same wires one after another, opposite permutes side by side."""
    waits: dict[bool | None, float] = {None: 0.0, True: 0.0, False: 0.0}
    for one in collectives:
        waits[one.upward] += one.seconds
    return waits[None] + max(waits[True], waits[False])


def _seconds(kind: str, size: int, ways: int, bandwidth: float) -> float:
    """The least time on a ring [s].

    Source: jax-ml.github.io/scaling-book, chapter "Sharded matrices": an all-gather or reduce-scatter sends all but a
    device's own part through every wire, an all-reduce is both, an all-to-all sends a quarter.
    """
    share = size * (ways - 1) / ways / bandwidth
    return {"all-reduce": 2 * share, "all-to-all": share / 4}.get(kind, share)


def _bandwidth(groups: Groups, devices: Sequence[Any], chip: Chip) -> float:
    """Bytes a second that a device can take part with, both directions of each torus axis that the group lies on."""
    group = max(groups, key=len)
    slice_devices = [one for one in devices if _slice(one) == _slice(devices[group[0]])]
    links = 0
    for axis in range(len(devices[0].coords)):
        if len({devices[i].coords[axis] for i in group}) > 1:
            length = 1 + max(one.coords[axis] for one in slice_devices)
            links += 2 if _closed(length, chip) else 1
    return max(links, 1) * chip.ici_bandwidth


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", None) or 0


def _closed(length: int, chip: Chip) -> bool:
    """Whether a torus axis of so many chips has its wrap-around links (of v5e and v6e only the whole pod's)."""
    return length % 4 == 0 if chip.torus_axes == 3 else length == 16
