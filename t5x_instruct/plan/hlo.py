"""A reader of the compiler's optimised program: computations, instructions, and how often each runs."""

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from t5x_instruct.common.errors import DataError

_BYTES = {"pred": 1, "token": 0, "opaque": 0}  # others say their width in their name
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_WIDTH = re.compile(r"[a-z]+(\d+)")
_HEADER = re.compile(r"(ENTRY )?%(\S+) \(.*\) -> .* \{$")
_END = re.compile(r"\}(, execution_thread=.*)?$")
_CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%([^,\s}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OPERAND = re.compile(r"%([^\s,()]+)")
_ON_CHIP = re.compile(r"S\([1-4]\)")  # vector and scalar memory and flags; 5 is the host's memory
_INTEGER = re.compile(r"constant\((-?\d+)\)")
_INDEX = re.compile(r"get-tuple-element\(.*index=(\d+)")


class Buffer(NamedTuple):
    """An array of the program.

    Attributes:
        elements: how many numbers.
        width: bytes of one of them.
        on_chip: whether it lies in the core's own memories rather than in HBM.
    """

    elements: int
    width: float
    on_chip: bool

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return math.ceil(self.elements * self.width)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: unique in the program.
        opcode: such as 'fusion'.
        buffers: what it gives, a tuple's parts one by one.
        operands: names of instructions.
        text: the whole line.
    """

    name: str
    opcode: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    text: str

    @property
    def called(self) -> dict[str, list[str]]:
        """Computations it calls, by their part in it."""
        found: dict[str, list[str]] = {}
        for part, name in _CALLED.findall(self.text):
            found.setdefault(part, []).append(name)
        for names in _BRANCHES.findall(self.text):
            found.setdefault("branches", []).extend(_OPERAND.findall(names))
        return found


class Computation(NamedTuple):
    """A function of the program; the last instruction is not always the root."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def source(self, name: str) -> Instruction:
        """What an instruction's value is a copy of; itself if it is none."""
        one = self.instructions[name]
        return self.source(one.operands[0]) if one.opcode in ("copy", "bitcast") else one


class Frame(NamedTuple):
    """A computation whose instructions are scheduled: the entry, the body of a loop, or a branch.

    Attributes:
        computation: the computation.
        times: how often it runs in one run of the program.
        in_open_loop: whether it is, or lies within, the body of a loop that ends when it likes.
    """

    computation: Computation
    times: int
    in_open_loop: bool = False


class Program:
    """An optimised program.

    Args:
        text: of the program, as `jax.stages.Compiled.as_text` gives it too.
        open_trips: how often a loop is taken to run whose condition does not say it; None: there is no such loop.

    Raises:
        DataError: it has no entry, so it is no program.
    """

    def __init__(self, text: str, open_trips: int | None = None):
        self._open_trips = open_trips
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        name, instructions, root = "", dict[str, Instruction](), ""
        for line in _whole_lines(text):
            if header := _HEADER.match(line):
                name, instructions, root = header[2], {}, ""
                self.entry = name if header[1] else self.entry
            elif _END.match(line) and name:
                self.computations[name] = Computation(name, instructions, root)
                name = ""
            elif name and " = " in line:
                instruction = _parse(line)
                instructions[instruction.name] = instruction
                root = instruction.name if line.lstrip().startswith("ROOT ") else root
        if self.entry not in self.computations:
            raise DataError("the compiler's program has no entry computation; its text has changed its form")

    def frames(self, *, open_loop: bool | None = None) -> list[Frame]:
        """The entry, every loop's body and of every conditional one branch, with the number of times each runs.

        Which branch a conditional takes is not known before it runs: it is taken to be the one that moves the most.

        Args:
            open_loop: True: only what runs within loops that end when they like; False: only the rest; None: all.

        Raises:
            DataError: how often a loop runs cannot be read, and `open_trips` is not given.
        """
        frames = self._frames_from(Frame(self.computations[self.entry], 1))
        return [frame for frame in frames if open_loop is None or frame.in_open_loop == open_loop]

    def _frames_from(self, frame: Frame) -> list[Frame]:
        """A frame and those that it runs."""
        found = [frame]
        for instruction in frame.computation.instructions.values():
            if instruction.opcode not in ("while", "call", "conditional"):
                continue
            called = instruction.called
            if instruction.opcode == "while":
                trips = self.trip_count(instruction)
                inside = frame.in_open_loop or trips is None
                times = frame.times * (self._trips_of_open(instruction) if trips is None else trips)
                inner = [Frame(self.computations[body], times, inside) for body in called["body"]]
            else:
                names = itertools.chain(*called.values())
                inner = [frame._replace(computation=self.computations[name]) for name in names]
            below = [self._frames_from(one) for one in inner]
            if instruction.opcode == "conditional":
                below = [max(below, key=self._moved)]
            found += itertools.chain(*below)
        return found

    def _moved(self, frames: Sequence[Frame]) -> tuple[int, int]:
        """Bytes to and from HBM, and bytes of all results wherever they lie."""
        results = sum(
            frame.times * buffer.size
            for frame in frames
            for one in frame.computation.instructions.values()
            for buffer in one.buffers
        )
        return self._traffic(frames), results

    def _trips_of_open(self, loop: Instruction) -> int:
        if self._open_trips is None:
            condition = self.computations[loop.called["condition"][0]]
            text = condition.instructions[condition.root].text
            raise DataError(f"how often the loop {loop.name} runs cannot be read from its condition: {text}")
        return self._open_trips

    def trip_count(self, loop: Instruction) -> int | None:
        """How often a loop runs, from the constants that its counter, which starts at 0, grows by and is compared with.

        Returns:
            None if its condition or its body has another form.
        """
        condition, body = (self.computations[loop.called[part][0]] for part in ("condition", "body"))
        compare, result = condition.instructions[condition.root], body.instructions[body.root]
        if compare.opcode != "compare" or "direction=LT" not in compare.text or result.opcode != "tuple":
            return None
        compared = [condition.instructions[name] for name in compare.operands]
        limits = [int(found[1]) for one in compared if (found := _INTEGER.search(one.text))]
        counters = [int(found[1]) for one in compared if (found := _INDEX.search(one.text))]
        if len(limits) != 1 or len(counters) != 1:
            return None
        # Unrolled by the compiler, a loop's counter grows by more than 1.
        grown = body.source(result.operands[counters[0]])
        steps = [int(found[1]) for name in grown.operands if (found := _INTEGER.search(body.source(name).text))]
        if grown.opcode != "add" or len(steps) != 1:
            return None
        return -(-limits[0] // steps[0])

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """An instruction and all that is fused into it."""
        yield instruction
        if instruction.opcode in ("while", "call", "conditional"):
            return
        for names in instruction.called.values():
            for name in names:
                for inner in self.computations[name].instructions.values():
                    yield from self.inside(inner)

    def users(self, one: Instruction) -> list[Instruction]:
        """What takes an instruction's result within its computation; parts of a tuple are followed."""
        found = []
        for other in self._homes[one.name].instructions.values():
            if one.name in other.operands:
                found += self.users(other) if other.opcode in ("get-tuple-element", "bitcast") else [other]
        return found

    @functools.cached_property
    def _homes(self) -> dict[str, Computation]:
        """The computation of each instruction."""
        return {name: one for one in self.computations.values() for name in one.instructions}

    def hbm_traffic(self, *, open_loop: bool | None = None) -> int:
        """Bytes that a device moves to and from HBM in one run of the program; see `frames` for its argument."""
        return self._traffic(self.frames(open_loop=open_loop))

    def _traffic(self, frames: Sequence[Frame]) -> int:
        return sum(
            frame.times * self.hbm_bytes(frame, one)
            for frame in frames
            for one in frame.computation.instructions.values()
        )

    def hbm_bytes(self, frame: Frame, instruction: Instruction) -> int:
        """Bytes that an instruction moves to and from HBM, run once.

        A fused slice of an operand counts as the slice, an update in place as the update.
        """
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            return 0
        by_name = frame.computation.instructions
        reads = [by_name[name].buffers for name in instruction.operands if name in by_name]
        if instruction.opcode == "fusion":
            fused = self.computations[instruction.called["calls"][0]]
            return sum(self._fused_bytes(fused, reads, instruction.buffers))
        if instruction.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(reads[1])
        if instruction.opcode in _SLICES:
            read = 0 if reads[0][0].on_chip else sum(buffer.size for buffer in instruction.buffers)
            return read + _in_hbm(instruction.buffers)
        if instruction.opcode == "slice-start":  # gives (source, slice, flag)
            part = instruction.buffers[1]
            return part.size * (int(not reads[0][0].on_chip) + int(not part.on_chip))
        if instruction.opcode == "copy-start":  # gives (destination, source, flag)
            return _in_hbm(reads[0]) + _in_hbm(instruction.buffers[:1])
        return sum(map(_in_hbm, reads)) + _in_hbm(instruction.buffers)

    def _fused_bytes(
        self, fused: Computation, reads: Sequence[tuple[Buffer, ...]], results: tuple[Buffer, ...]
    ) -> Iterator[int]:
        for i, buffers in enumerate(reads):
            if size := _in_hbm(buffers):
                yield min(size, self._read_of(fused, _parameter(fused, i)))
        updates = {
            one.name: sum(part.size for part in fused.instructions[one.operands[1]].buffers)
            for one in fused.instructions.values()
            if one.opcode == "dynamic-update-slice"
        }
        for name, buffer in zip(self._results(fused), results, strict=False):
            yield 0 if buffer.on_chip else updates.get(name, buffer.size)

    def _read_of(self, fused: Computation, name: str) -> int:
        """Bytes of a value that the fused instructions after it read."""
        total = 0
        for one in fused.instructions.values():
            for place, operand in enumerate(one.operands):
                if operand != name:
                    continue
                source = fused.instructions[name].buffers
                if one.opcode in _SLICES and place == 0:
                    # As wide as what is read: the result may be converted on the way.
                    total += sum(math.ceil(part.elements * source[0].width) for part in one.buffers)
                elif one.opcode == "bitcast":
                    total += self._read_of(fused, one.name)
                elif one.opcode == "fusion":
                    inner = self.computations[one.called["calls"][0]]
                    total += self._read_of(inner, _parameter(inner, place))
                elif not (one.opcode == "dynamic-update-slice" and place == 0):
                    total += sum(part.size for part in source)
        return total

    def _results(self, fused: Computation) -> list[str]:
        root = fused.instructions[fused.root]
        return list(root.operands) if root.opcode == "tuple" else [root.name]


# What moves nothing itself.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "partition-id", "replica-id"),
        *("while", "conditional", "call", "after-all", "opt-barrier"),
    )
)

_SLICES = frozenset(("dynamic-slice", "slice", "gather"))


def _parameter(computation: Computation, number: int) -> str:
    for one in computation.instructions.values():
        if (
            one.opcode == "parameter" and one.text.endswith(f"parameter({number})")
        ) or f"parameter({number})," in one.text:
            return one.name
    raise DataError(f"{computation.name} of the compiler's program has no parameter {number}")


def _in_hbm(buffers: Sequence[Buffer]) -> int:
    return sum(buffer.size for buffer in buffers if not buffer.on_chip)


def _whole_lines(text: str) -> Iterator[str]:
    """The lines of a program; what a kernel's configuration has on lines of its own stands with its instruction."""
    whole = ""
    for line in text.splitlines():
        if line.startswith((" ", "%", "ENTRY ", "HloModule ")) or _END.match(line) or not line:
            yield whole
            whole = line
        else:
            whole += line
    yield whole


def _parse(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    name = left.removeprefix("ROOT ").lstrip("%")
    end = _closing(right, 0) + 1 if right.startswith("(") else _end_of_type(right)
    opcode, _, rest = right[end:].lstrip().partition("(")
    inside = rest[: _closing("(" + rest, 0) - 1]
    return Instruction(name, opcode, tuple(_buffers(right[:end])), tuple(_OPERAND.findall(inside)), right)


def _end_of_type(text: str) -> int:
    """Where 'f32[2,3]{1,0:T(8,128)}' ends."""
    brace = text.find("{")
    space = text.find(" ")
    return text.find("}", brace) + 1 if 0 <= brace < space else space


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise DataError(f"unbalanced brackets in the compiler's program: {text[:200]}")


def _buffers(text: str) -> Iterator[Buffer]:
    for kind, dimensions, layout in _ARRAY.findall(text):
        elements = math.prod(int(one) for one in dimensions.split(",") if one)
        yield Buffer(elements, _width(kind), _ON_CHIP.search(layout) is not None)


@functools.cache
def _width(kind: str) -> float:
    if kind in _BYTES:
        return _BYTES[kind]
    found = _WIDTH.match(kind)
    if found is None:
        raise DataError(f"the compiler's program has an array of the unknown type {kind!r}")
    return int(found[1]) / 8


Groups = list[list[int]]


def replica_groups(text: str) -> Groups:
    """The groups of devices between which a collective runs, as indices of the program's devices.

    Args:
        text: the instruction's line, with the groups in one of the compiler's three forms.

    Raises:
        DataError: none of them.
    """
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return [[int(a), int(b)] for a, b in re.findall(r"(\d+),(\d+)", found[1])]
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:\([^)]*\))? ?\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        return _mesh_groups(sizes, re.findall(r"'([^']+)'", found[2]))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, order = ([int(one) for one in found[i].split(",")] for i in (1, 2))
        axes = [int(one) for one in found[3].split(",")] if found[3] else list(range(len(order)))
        return _iota_groups(shape, order, axes)
    if found := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", text):
        return [[int(one) for one in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
    raise DataError(f"the groups of a collective cannot be read: {text[:300]}")


def _mesh_groups(sizes: Mapping[str, int], within: Sequence[str]) -> Groups:
    groups: dict[tuple[int, ...], list[int]] = {}
    names = list(sizes)
    for device in range(math.prod(sizes.values())):
        left, place = device, {}
        for name in reversed(names):
            left, place[name] = divmod(left, sizes[name])
        groups.setdefault(tuple(place[name] for name in names if name not in within), []).append(device)
    return list(groups.values())


def _iota_groups(shape: Sequence[int], order: Sequence[int], axes: Sequence[int]) -> Groups:
    """Groups of ``iota(order).transpose(axes).reshape(shape)``, a group a row."""
    strides = [math.prod(order[i + 1 :]) for i in range(len(order))]
    sizes, steps = [order[axis] for axis in axes], [strides[axis] for axis in axes]
    flat = []
    for index in range(math.prod(order)):
        left, device = index, 0
        for size, step in zip(reversed(sizes), reversed(steps), strict=True):
            left, place = divmod(left, size)
            device += place * step
        flat.append(device)
    width = shape[-1]
    return [flat[i : i + width] for i in range(0, len(flat), width)]
