"""The step of a run, compiled for TPU slices that are not there, and what can be read from it."""

import dataclasses
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.trees import num_parameters
from t5x_instruct.common.types import DECODER_TARGET_TOKENS
from t5x_instruct.models.api import Model
from t5x_instruct.models.layers.splash import Choice
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.plan.collectives import Collective, collectives_of
from t5x_instruct.plan.flops import flops_of, model_flops
from t5x_instruct.plan.hlo import Program
from t5x_instruct.plan.topologies import Slices, devices_of, hbm_limit
from t5x_instruct.runs.opening import check_fits
from t5x_instruct.runs.training_run import TrainRun, abstract_batch, device_bytes, run_parts
from t5x_instruct.training.loop import configured_step
from t5x_instruct.training.step import compile_step, make_eval_step

_NEEDED = re.compile(r"\(([0-9.]+)([KMGT])\) exceeds available|Used ([0-9.]+)([KMGT]) of")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a device's memory holds during a step [bytes].

    Attributes:
        params: parameters, frozen ones too.
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
class Work:
    """What has to be done in a step, or in a part of one.

    Attributes:
        model_flops: over all devices, without what is recomputed.
        flops: over all devices, as it is written.
        hbm_traffic: bytes that a device moves to and from its memory; 0 if the step does not fit.
        collectives: what is sent, the longest first; empty if the step does not fit.
        slots: slots of the decoder's rows, over all devices.
    """

    model_flops: int
    flops: int
    hbm_traffic: int
    collectives: tuple[Collective, ...]
    slots: int


class Phase(NamedTuple):
    """A part of a step that runs so many times; `work` is that of one."""

    times: int
    work: Work


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run's step on slices.

    Attributes:
        step: which step, in words.
        attention: what reads its rows, and why.
        slices: the slices.
        mesh: sizes of the mesh's axes.
        fits: whether the compiler found room.
        hbm_limit: what a program may use of a device [bytes], by the compiler's own word.
        memory: what fills a device; None if it does not fit.
        hbm_needed: what is needed of a device [bytes]; None if the compiler does not say.
        message: the compiler's own words if it does not fit.
        num_parameters: of the model.
        work: of the whole step.
        phases: its parts, one after the other, where it has any: of decoding "prompts" (reading all of them) and
            "token" (one more for each row).
        cache_bytes: the decoder's cache, over all devices; it lies in the temporaries. None where there is none.
        host_bytes: what a device keeps in the memory of its host (`REMAT` "offloaded"); None if it does not fit.
        compile_seconds: how long the compiler took here.
    """

    step: str
    attention: Choice
    slices: Slices
    mesh: dict[str, int]
    fits: bool
    hbm_limit: int
    memory: Memory | None
    hbm_needed: int | None
    message: str
    num_parameters: int
    work: Work
    phases: Mapping[str, Phase]
    cache_bytes: int | None
    host_bytes: int | None
    compile_seconds: float


class Compiled(NamedTuple):
    """What the compiler makes of a program.

    Attributes:
        executable: None if it does not fit.
        text: the optimised program; empty if it does not fit.
        message: the compiler's own words if it does not fit.
        seconds: how long it took.
    """

    executable: jax.stages.Compiled | None
    text: str
    message: str
    seconds: float

    def program(self, open_trips: int | None = None) -> Program | None:
        """The program; see `Program` for its argument."""
        return None if self.executable is None else Program(self.text, open_trips)


def compile_traced(traced: jax.stages.Traced) -> Compiled:
    """Compiles a function that was traced with arguments on the devices of a slice.

    Raises:
        ConfigError: the compiler refuses it for another reason than its size.
    """
    lowered = traced.lower()
    start = time.monotonic()
    executable, text, message = None, "", ""
    with tempfile.TemporaryDirectory(prefix="t5x_instruct_plan_") as folder:
        try:
            executable = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        except jax.errors.JaxRuntimeError as error:
            message = str(error)
            if "RESOURCE_EXHAUSTED" not in message:
                raise ConfigError(f"the TPU compiler refuses this step: {message}") from error
        else:
            # As libtpu writes it: jaxlib's own reading of it (`as_text`) fails where libtpu is newer and a program has
            # what jaxlib does not know, such as asynchronous operations of several operands on v5p.
            text = next(Path(folder).glob("*.after_codegen.txt")).read_text()
    return Compiled(executable, text, message, time.monotonic() - start)


def make_plan(
    step: str,
    attention: Choice,
    slices: Slices,
    mesh: Mesh,
    compiled: Compiled,
    work: Work,
    *,
    params: Any,
    batch: Any,
    resident: int = 0,
    phases: Mapping[str, Phase] | None = None,
    cache_bytes: int | None = None,
) -> Plan:
    """Puts together what is known of a compiled step.

    Args:
        step: which step, in words.
        attention: what reads its rows, and why.
        slices: where it is to run.
        mesh: of their devices.
        compiled: the step.
        work: what it does.
        params: shapes and shardings of the parameters.
        batch: of what it reads besides.
        resident: bytes of a device that are taken besides: the optimizer's state.
        phases: see `Plan`.
        cache_bytes: see `Plan`.
    """
    memory = host_bytes = None
    limit = hbm_limit(slices.generation)
    if compiled.executable is not None:
        analysis: Any = compiled.executable.memory_analysis()
        memory = Memory(
            params=device_bytes(params),
            optimizer=resident,
            batch=device_bytes(batch),
            temporaries=analysis.temp_size_in_bytes,
            results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
            code=analysis.generated_code_size_in_bytes,
        )
        host_bytes = analysis.host_temp_size_in_bytes
    message = compiled.message
    if memory is not None and memory.total > limit:
        message = "the step itself fits, but not beside the optimizer's state"
    return Plan(
        step=step,
        attention=attention,
        slices=slices,
        mesh=dict(mesh.shape),
        fits=memory is not None and memory.total <= limit,
        hbm_limit=limit,
        memory=memory,
        hbm_needed=memory.total if memory else _needed(compiled.message),
        message=message,
        num_parameters=num_parameters(params),
        work=work,
        phases=phases or {},
        cache_bytes=cache_bytes,
        host_bytes=host_bytes,
        compile_seconds=compiled.seconds,
    )


def sent_and_moved(
    program: Program | None, mesh: Mesh, slices: Slices, *, open_loop: bool | None = None
) -> tuple[tuple[Collective, ...], int]:
    """Collectives and HBM traffic of a program or of a part of it; nothing if there is no program.

    Args:
        program: see `Compiled.program`.
        mesh: its devices.
        slices: their figures.
        open_loop: see `Program.frames`.
    """
    if program is None:
        return (), 0
    found = collectives_of(program, list(mesh.devices.flat), slices.chip, open_loop=open_loop)
    return tuple(found), program.hbm_traffic(open_loop=open_loop)


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
    mesh = training_mesh(run, model, slices)
    parts = run_parts(run, model, mesh)
    step = configured_step(model, parts.loss_fn, parts.optimizer, run.loop, num_tasks=num_tasks)
    batch = abstract_batch(run.data, model, mesh)
    traced = compile_step(step, parts.shardings, mesh, donate=True).trace(parts.state, batch)
    compiled = compile_traced(traced)
    collectives, traffic = sent_and_moved(compiled.program(), mesh, slices)
    work = Work(
        model_flops=model_flops(parts.loss_fn, parts.state.model_params, batch, frozen=parts.state.frozen is not None),
        flops=flops_of(traced.jaxpr),
        hbm_traffic=traffic,
        collectives=collectives,
        slots=batch[DECODER_TARGET_TOKENS].size,
    )
    params = parts.state.model_params
    rest = device_bytes(parts.state) - device_bytes(params)
    attention = model.attention_choice(run.data.longest_row(model.reads_inputs), mesh)
    return make_plan(
        "training step", attention, slices, mesh, compiled, work, params=params, batch=batch, resident=rest
    )


def plan_validation(run: TrainRun, model: Model, slices: Slices, num_tasks: int = 64) -> Plan:
    """Compiles the step by which `train` measures the validation loss, beside the state it trains.

    Args:
        run: see `plan_training`, as for all.
        model: its model.
        slices: where it is to run.
        num_tasks: trained tasks that have validation examples.

    Raises:
        ConfigError: see `plan_training`.
    """
    mesh = training_mesh(run, model, slices)
    parts = run_parts(run, model, mesh)
    batch = abstract_batch(run.data, model, mesh)
    step = make_eval_step(parts.loss_fn, num_tasks=num_tasks)
    params = parts.state.model_params
    traced = compile_step(step, parts.shardings.model_params, mesh, donate=False).trace(params, batch)
    compiled = compile_traced(traced)
    collectives, traffic = sent_and_moved(compiled.program(), mesh, slices)
    flops = flops_of(traced.jaxpr)
    work = Work(flops, flops, traffic, collectives, batch[DECODER_TARGET_TOKENS].size)
    rest = device_bytes(parts.state) - device_bytes(params)
    attention = model.attention_choice(run.data.longest_row(model.reads_inputs), mesh)
    return make_plan(
        "validation step", attention, slices, mesh, compiled, work, params=params, batch=batch, resident=rest
    )


def training_mesh(run: TrainRun, model: Model, slices: Slices) -> Mesh:
    """The mesh of a run on slices.

    Raises:
        ConfigError: it does not divide something.
    """
    devices = devices_of(slices)
    mesh = make_mesh(MeshConfig(**run.mesh), devices)
    hosts = {(getattr(one, "slice_index", None), one.process_index) for one in devices}
    check_fits(model, run.data, run.loop.micro_batches, mesh, num_hosts=len(hosts))
    return mesh


def _needed(message: str) -> int | None:
    found = _NEEDED.search(message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * _UNITS[unit])
