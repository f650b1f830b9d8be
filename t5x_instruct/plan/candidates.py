"""What a search may choose, and a rough estimate of each choice that costs no compilation."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.models.api import Model
from t5x_instruct.models.layers.remat import REMAT_POLICIES
from t5x_instruct.partitioning.arrays import batch_problems
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.plan.flops import flops_of
from t5x_instruct.plan.roofline import ACHIEVED
from t5x_instruct.plan.topologies import Slices, devices_of
from t5x_instruct.runs.opening import planned_model
from t5x_instruct.runs.training_run import TrainRun, abstract_batch, device_bytes, run_parts
from t5x_instruct.training.optimizers import Optimizer
from t5x_instruct.training.state import abstract_state, state_shardings

#: Rows may become so many times as long and as many times fewer: packed rows hold as many examples either way.
ROW_FACTORS = (1, 2, 4, 8)
#: Policies whose residuals lie in the host's memory, and what they keep on the device at least.
_OFFLOADED = {"offloaded": "full"}


class Candidate(NamedTuple):
    """One way to run a training run.

    Attributes:
        slices: where.
        mesh: sizes of the axes that are not 1, as pairs.
        remat: the rematerialisation policy's name.
        micro_batches: parts of a batch.
        row_factor: rows are so many times as long, and as many times fewer.
    """

    slices: Slices
    mesh: tuple[tuple[str, int], ...]
    remat: str
    micro_batches: int
    row_factor: int

    @property
    def shape(self) -> str:
        """The mesh, for people."""
        return " x ".join(f"{axis}={size}" for axis, size in self.mesh) or "one device"

    def settings(self, run: TrainRun) -> dict[str, Any]:
        """What makes a run this candidate, by names of its configuration."""
        lengths = {name: self.row_factor * length for name, length in run.data.task_feature_lengths.items()}
        return {
            "MESH": dict(self.mesh),
            "REMAT": self.remat,
            "BATCH_SIZE": run.data.batch_size // self.row_factor,
            "TASK_FEATURE_LENGTHS": lengths,
            "LoopConfig.micro_batches": self.micro_batches,
        }

    def applied(self, run: TrainRun) -> TrainRun:
        """The run as this candidate."""
        settings = self.settings(run)
        return dataclasses.replace(
            run,
            mesh=settings["MESH"],
            model=dataclasses.replace(run.model, remat=self.remat),
            data=dataclasses.replace(
                run.data, batch_size=settings["BATCH_SIZE"], task_feature_lengths=settings["TASK_FEATURE_LENGTHS"]
            ),
            loop=dataclasses.replace(run.loop, micro_batches=self.micro_batches),
        )


class Guess(NamedTuple):
    """A candidate and what it should need.

    Attributes:
        candidate: which.
        hbm_bytes: of a device, at least: state, gradient, and what is kept for the backward pass, spread over all.
        seconds: of a step, roughly.
    """

    candidate: Candidate
    hbm_bytes: int
    seconds: float


class _PerRow(NamedTuple):
    """What one row costs under a policy: operations, and bytes kept for the backward pass."""

    flops: float
    kept: float


class Guesser:
    """Estimates the candidates of a run; what several share is worked out once.

    Args:
        run: the run.
    """

    def __init__(self, run: TrainRun):
        self._run = run
        self._traced = functools.cache(self._trace)
        self._state = functools.cache(self._state_of)
        self._model = functools.cache(self._model_of)

    def guesses(self, slices: Slices) -> list[Guess]:
        """Every candidate that the slices divide, the fastest first."""
        found = [guess for one in self._candidates(slices) if (guess := self._guess(one)) is not None]
        return sorted(found, key=lambda guess: (guess.seconds, guess.hbm_bytes))

    def _candidates(self, slices: Slices) -> Iterator[Candidate]:
        data = self._run.data
        factors = [k for k in ROW_FACTORS if data.batch_size % k == 0] if data.packing else [1]
        for mesh, remat, factor in itertools.product(_meshes(slices, self._run.mesh), REMAT_POLICIES, factors):
            rows = data.batch_size // factor // _ways(mesh)
            for power in range(rows.bit_length()):
                yield Candidate(slices, tuple(mesh.items()), remat, 1 << power, factor)

    def _guess(self, one: Candidate) -> Guess | None:
        state = self._state(one.slices, one.mesh)
        if state is None:
            return None
        rows = self._run.data.batch_size // one.row_factor
        sequence = dict(one.mesh).get("sequence", 1)
        lengths = one.settings(self._run)["TASK_FEATURE_LENGTHS"].values()
        if batch_problems(rows, state.mesh, state.hosts, one.micro_batches) or any(x % sequence for x in lengths):
            return None
        per_row = self._per_row(one.remat, one.row_factor)
        at_once = rows / one.micro_batches
        hbm = state.bytes + state.param_bytes + int(at_once * per_row.kept / one.slices.num_devices)
        return Guess(one, hbm, self._seconds(one, state, rows, per_row))

    def _seconds(self, one: Candidate, state: "_State", rows: int, per_row: _PerRow) -> float:
        """The longest of computing, memory and network, with the traffic that the mesh's axes are known to cause.

        Source: jax-ml.github.io/scaling-book, chapter "Training".
        """
        chip, mesh = one.slices.chip, dict(one.mesh)
        devices, micro = one.slices.num_devices, one.micro_batches
        fsdp, model = mesh.get("fsdp", 1), mesh.get("model", 1)
        copies = mesh.get("data", 1)
        width = jnp.dtype(self._model(one.remat).config.dtype).itemsize
        wire = 2 * chip.ici_bandwidth
        weights = state.num_params * width / model
        # Gathered forwards and backwards, the gradient scattered; between copies it is added up.
        ici = micro * 3 * weights * (fsdp - 1) / fsdp / wire
        ici += micro * 2 * weights / fsdp * (copies - 1) / copies / wire
        # Each layer adds up its result over `model` twice forwards and twice backwards.
        activations = _layer_slots(self._model(one.remat), self._run) * rows * one.row_factor * width
        ici += 2 * 4 * activations / (devices / model) * (model - 1) / model / wire
        replica = mesh.get("replica", 1)
        dcn = micro * 2 * weights / fsdp * (replica - 1) / replica / chip.dcn_bandwidth
        moved = 2 * state.bytes + 2 * micro * state.param_bytes + 6 * micro * weights
        moved += 2 * rows * per_row.kept / devices
        return max(rows * per_row.flops / devices / chip.flops, moved / chip.hbm_bandwidth, ici, dcn) / ACHIEVED

    def _model_of(self, remat: str) -> Model:
        return planned_model(dataclasses.replace(self._run.model, remat=remat))

    def _per_row(self, remat: str, factor: int) -> _PerRow:
        """From rows once and twice as long: what grows with their length, and with its square (attention)."""
        kept = _OFFLOADED.get(remat, remat)

        def grown(values: tuple[float, float]) -> float:
            once, twice = values
            square = max(twice - 2 * once, 0.0) / 2
            return (once - square) * factor + square * factor**2

        flops = [self._traced(remat, length, 1)[0] for length in (1, 2)]
        # What is kept of no row is kept once: the difference of two rows and one.
        anyway = max(2 * self._traced(kept, 1, 1)[1] - self._traced(kept, 1, 2)[1], 0)
        residuals = [self._traced(kept, length, 1)[1] - anyway for length in (1, 2)]
        return _PerRow(grown((flops[0], flops[1])), grown((residuals[0], residuals[1])))

    def _trace(self, remat: str, factor: int, rows: int) -> tuple[int, int]:
        """Operations of a loss and its gradient, and bytes kept between the two."""
        one = Candidate(Slices("v5e", "1x1"), (), remat, 1, factor).applied(self._run)
        one = dataclasses.replace(one, data=dataclasses.replace(one.data, batch_size=rows))
        mesh = make_mesh(MeshConfig(), jax.devices("cpu")[:1])
        model = self._model(remat)
        parts = run_parts(one, model, mesh)

        def both_ways(params: Any, batch: Any) -> tuple[Any, list[Any]]:
            loss, backwards = jax.vjp(lambda own: parts.loss_fn(own, batch, None).loss_sum, params)
            return backwards(jnp.ones_like(loss)), jax.tree.leaves(backwards)

        traced = jax.make_jaxpr(both_ways)(parts.state.params, abstract_batch(one.data, model, mesh))
        kept = traced.out_avals[len(jax.tree.leaves(parts.state.params)) :]
        return flops_of(traced), sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in kept)

    def _state_of(self, slices: Slices, mesh: tuple[tuple[str, int], ...]) -> "_State | None":
        """Sizes of the state on a mesh; None if the mesh does not divide it."""
        devices = devices_of(slices)
        model, optimizer, abstract = self._abstract
        made = make_mesh(MeshConfig(**{"fsdp": 1, **dict(mesh)}), devices)
        try:
            shardings = state_shardings(abstract, model.param_axes(), optimizer, made)
        except ConfigError:
            return None
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings
        )
        hosts = {(getattr(one, "slice_index", None), one.process_index) for one in devices}
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract.params))
        return _State(made, len(hosts), device_bytes(placed), device_bytes(placed.params), count)

    @functools.cached_property
    def _abstract(self) -> tuple[Model, Optimizer, Any]:
        model = planned_model(self._run.model)
        optimizer = self._run.optimizer.for_axes(model.param_axes())
        return model, optimizer, abstract_state(model.init, optimizer)


class _State(NamedTuple):
    """A mesh, its hosts, bytes of state and parameters on a device, and the number of parameters."""

    mesh: Any
    hosts: int
    bytes: int
    param_bytes: int
    num_params: int


def _meshes(slices: Slices, given: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Every mesh of the slices: copies between them, within them all divisions; a sequence axis is kept as given."""
    sequence = given.get("sequence", 1)
    within = slices.num_devices // slices.count
    if within % sequence:
        return
    left = within // sequence
    for model in _divisors(left):
        for fsdp in _divisors(left // model):
            sizes = {"replica": slices.count, "data": left // model // fsdp, "fsdp": fsdp, "sequence": sequence}
            yield {axis: size for axis, size in (sizes | {"model": model}).items() if size > 1 or axis == "fsdp"}


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _ways(mesh: Mapping[str, int]) -> int:
    """Devices that share the rows."""
    return math.prod(mesh.get(axis, 1) for axis in ("replica", "data", "fsdp"))


def _layer_slots(model: Model, run: TrainRun) -> int:
    """Numbers of a row's activations, all layers together."""
    config, lengths = model.config, run.data.task_feature_lengths
    if model.reads_inputs == "encoder":
        # A decoder's layer has a third sum, of the attention to the inputs.
        layers = config.num_encoder_layers * lengths["inputs"] + 1.5 * config.num_decoder_layers * lengths["targets"]
    else:
        layers = config.num_layers * sum(lengths.values())
    return int(layers * config.emb_dim)
