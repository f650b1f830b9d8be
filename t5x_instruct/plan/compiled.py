"""The step of a run, compiled for TPU slices that are not there, and what can be read from it."""

import dataclasses
import re
import time
from typing import Any

import jax

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import DECODER_TARGET_TOKENS
from t5x_instruct.partitioning.fit import check_fit
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.plan.collectives import Collective, collectives_of
from t5x_instruct.plan.flops import count_flops, model_flops
from t5x_instruct.plan.hlo import Program
from t5x_instruct.plan.topologies import Slices, devices_of, hbm_limit
from t5x_instruct.runs.abstract import AbstractRun, abstract_run
from t5x_instruct.runs.opening import OpenedModel
from t5x_instruct.runs.train import TrainRun
from t5x_instruct.training.step import compile_step

_NEEDED = re.compile(r"\(([0-9.]+)([KMGT])\) exceeds available|Used ([0-9.]+)([KMGT]) of")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a device's memory holds during a step [bytes].

    Attributes:
        params: parameters.
        optimizer: moments, averages and counters.
        batch: the device's rows.
        temporaries: what the step needs beside them.
        results: what comes out and is not put where something came in.
        code: the program.
    """

    params: int
    optimizer: int
    batch: int
    temporaries: int
    results: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run's step on slices.

    Attributes:
        slices: the slices.
        mesh: sizes of the mesh's axes.
        fits: whether the compiler found room.
        hbm_limit: what a program may use of a device [bytes], by the compiler's own word.
        memory: what fills a device; None if it does not fit.
        hbm_needed: what is needed of a device [bytes]; None if the compiler does not say.
        message: the compiler's own words if it does not fit.
        num_parameters: of the model.
        model_flops: of a step over all devices, without what is recomputed.
        step_flops: of a step over all devices, as it is written.
        hbm_traffic: bytes that a device moves to and from its memory in a step.
        collectives: what is sent, the longest first.
        slots: slots of the decoder's rows in a batch, over all devices.
        compile_seconds: how long the compiler took here.
    """

    slices: Slices
    mesh: dict[str, int]
    fits: bool
    hbm_limit: int
    memory: Memory | None
    hbm_needed: int | None
    message: str
    num_parameters: int
    model_flops: int
    step_flops: int
    hbm_traffic: int
    collectives: tuple[Collective, ...]
    slots: int
    compile_seconds: float


def plan_training(run: TrainRun, opened: OpenedModel, slices: Slices, num_tasks: int = 64) -> Plan:
    """Compiles the step that `train` would run and reads from it what it needs.

    Args:
        run: the run.
        opened: its model.
        slices: where it is to run.
        num_tasks: tasks of the mixture; they decide the size of a few small metrics only.

    Raises:
        ConfigError: the mesh does not divide something, or the compiler is not installed.
    """
    devices = devices_of(slices)
    mesh = make_mesh(MeshConfig(**run.mesh), devices)
    check_fit(
        jax.eval_shape(opened.model.init, jax.random.key(0)),
        opened.model.param_axes(),
        mesh,
        batch_size=run.data.batch_size,
        row_lengths=run.data.row_lengths(opened.model.reads_inputs),
        num_hosts=len({(getattr(one, "slice_index", None) or 0, one.process_index) for one in devices}),
        micro_batches=run.loop.micro_batches,
    )
    parts = abstract_run(run, opened, mesh, num_tasks)
    lowered = compile_step(parts.step, parts.shardings, mesh, donate=True).lower(parts.state, parts.batch)
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise ConfigError(f"the TPU compiler refuses this step: {error}") from error
        return _plan(run, parts, slices, mesh, time.monotonic() - start, None, str(error))
    return _plan(run, parts, slices, mesh, time.monotonic() - start, compiled, "")


def _plan(
    run: TrainRun, parts: AbstractRun, slices: Slices, mesh: Any, seconds: float, compiled: Any, message: str
) -> Plan:
    memory, traffic, sent = None, 0, list[Collective]()
    if compiled is not None:
        memory = _memory(parts, compiled.memory_analysis())
        program = Program(compiled.as_text())
        frames = program.frames()
        traffic = sum(
            frame.times * program.hbm_bytes(frame, one)
            for frame in frames
            for one in frame.computation.instructions.values()
        )
        sent = collectives_of(program, list(mesh.devices.flat), slices.chip)
    return Plan(
        slices=slices,
        mesh=dict(mesh.shape),
        fits=compiled is not None,
        hbm_limit=hbm_limit(slices.generation),
        memory=memory,
        hbm_needed=memory.total if memory else _needed(message),
        message=message,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(parts.state.params)),
        model_flops=model_flops(parts.loss_fn, parts.state.params, parts.batch),
        step_flops=count_flops(parts.step, parts.state, parts.batch),
        hbm_traffic=traffic,
        collectives=tuple(sent),
        slots=parts.batch[DECODER_TARGET_TOKENS].size,
        compile_seconds=seconds,
    )


def _memory(parts: AbstractRun, analysis: Any) -> Memory:
    params, batch = _device_bytes(parts.state.params), _device_bytes(parts.batch)
    return Memory(
        params=params,
        optimizer=_device_bytes(parts.state) - params,
        batch=batch,
        temporaries=analysis.temp_size_in_bytes,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _device_bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(_size(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size


def _needed(message: str) -> int | None:
    found = _NEEDED.search(message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * _UNITS[unit])
