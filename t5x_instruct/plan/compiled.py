"""The step of a run, compiled for TPU slices that are not there, and what can be read from it."""

import dataclasses
import re
import time
from typing import Any

import jax

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.trees import num_parameters
from t5x_instruct.common.types import DECODER_TARGET_TOKENS
from t5x_instruct.models.api import Model
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.plan.collectives import Collective, collectives_of
from t5x_instruct.plan.flops import count_flops, model_flops
from t5x_instruct.plan.hlo import Program
from t5x_instruct.plan.topologies import Slices, devices_of, hbm_limit
from t5x_instruct.runs.opening import check_fits
from t5x_instruct.runs.training_run import TrainRun, abstract_batch, device_bytes, run_parts
from t5x_instruct.training.loop import configured_step
from t5x_instruct.training.state import TrainState
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


def plan_training(run: TrainRun, model: Model, slices: Slices, num_tasks: int = 64) -> Plan:
    """Compiles the step that `train` would run and reads from it what it needs.

    Args:
        run: the run.
        model: its model.
        slices: where it is to run.
        num_tasks: tasks of the mixture; they decide the size of a few small metrics only.

    Raises:
        ConfigError: the mesh does not divide something, or the compiler is not installed.
    """
    devices = devices_of(slices)
    mesh = make_mesh(MeshConfig(**run.mesh), devices)
    hosts = {(getattr(one, "slice_index", None), one.process_index) for one in devices}
    check_fits(model, run.data, run.loop.micro_batches, mesh, num_hosts=len(hosts))
    parts = run_parts(run, model, mesh)
    step = configured_step(model, parts.loss_fn, parts.optimizer, run.loop, num_tasks=num_tasks)
    batch = abstract_batch(run.data, model, mesh)
    lowered = compile_step(step, parts.shardings, mesh, donate=True).lower(parts.state, batch)
    start = time.monotonic()
    compiled, message = None, ""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message:
            raise ConfigError(f"the TPU compiler refuses this step: {message}") from error
    seconds = time.monotonic() - start
    memory = None if compiled is None else _memory(parts.state, batch, compiled.memory_analysis())
    program = None if compiled is None else Program(compiled.as_text() or "")
    return Plan(
        slices=slices,
        mesh=dict(mesh.shape),
        fits=compiled is not None,
        hbm_limit=hbm_limit(slices.generation),
        memory=memory,
        hbm_needed=memory.total if memory else _needed(message),
        message=message,
        num_parameters=num_parameters(parts.state.params),
        model_flops=model_flops(parts.loss_fn, parts.state.params, batch),
        step_flops=count_flops(step, parts.state, batch),
        hbm_traffic=program.hbm_traffic() if program else 0,
        collectives=tuple(collectives_of(program, list(mesh.devices.flat), slices.chip)) if program else (),
        slots=batch[DECODER_TARGET_TOKENS].size,
        compile_seconds=seconds,
    )


def _memory(state: TrainState, batch: Any, analysis: Any) -> Memory:
    params = device_bytes(state.params)
    return Memory(
        params=params,
        optimizer=device_bytes(state) - params,
        batch=device_bytes(batch),
        temporaries=analysis.temp_size_in_bytes,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _needed(message: str) -> int | None:
    found = _NEEDED.search(message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * _UNITS[unit])
