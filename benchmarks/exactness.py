"""Whether training is the same on any mesh and for any number of micro-batches: two Markdown tables, on CPU.

    python benchmarks/exactness.py                      # both tables: about 25 minutes on two cores
    python benchmarks/exactness.py --only accumulation  # or meshes

Tiny models in float32, packed rows whose numbers of trained tokens differ tenfold, a new batch every step, eight CPU
devices. The mesh table has, for every way to lay eight devices out over the axes, the largest relative difference of
a step's loss from that of one device. The accumulation table has, for every loss and normalizing factor, the largest
relative difference (norm of the difference over the norm) of a parameter's gradient from that of the whole batch.
The command fails if a difference exceeds 1e-5. The tests take a part of both tables from the functions of this file.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_instruct.data.converters import RowItem, make_converter
from t5x_instruct.data.records import Example
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.partitioning.mesh import MESH_AXES, MeshConfig, make_mesh
from t5x_instruct.training import schedules
from t5x_instruct.training.adafactor import adafactor
from t5x_instruct.training.optimizers import Optimizer, adamw, lion, sgd, with_ema
from t5x_instruct.training.state import TrainState, abstract_state, create_state, place_state, state_shardings
from t5x_instruct.training.step import LossNormalizer, compile_step, make_train_step, supervised_loss

TOLERANCE = 1e-5
STEPS, WARMUP_STEPS = 50, 10
# No other axis of any array has this size, so that a batch that is not sharded can be told by it.
ROWS = 24
INPUTS_LENGTH, TARGETS_LENGTH = 22, 14
NUM_TASKS = 3
VOCAB = 120

# 16 query heads on 8 key heads: a model axis of 8 divides both. The vocabulary has 8 rows of padding.
_SIZES = {
    "vocab_size": VOCAB,
    "vocab_multiple": 64,
    "emb_dim": 32,
    "num_heads": 16,
    "head_dim": 4,
    "mlp_dim": 64,
    "attention_chunk": 16,
}
CONFIGS: dict[str, Any] = {
    "decoder": DecoderConfig(
        **_SIZES,
        num_layers=2,
        num_kv_heads=8,
        activation="silu",
        rope_theta=1e3,
        norm_epsilon=1e-5,
        tie_embeddings=True,
    ),
    "t5": T5Config(
        **_SIZES,
        num_encoder_layers=2,
        num_decoder_layers=2,
        activation="gelu_tanh",
        gated_mlp=True,
        relative_buckets=8,
        relative_max_distance=16,
        norm_epsilon=1e-6,
        tie_embeddings=False,
        scale_decoder_outputs=False,
    ),
}
#: What each model is trained with, unless said otherwise.
OPTIMIZERS = {"decoder": "adamw", "t5": "adafactor"}
PEAK_RATES = {"adamw": 3e-3, "adafactor": 0.03, "lion": 3e-4, "sgd": 0.1}


def make_optimizer(name: str, model: Any) -> Optimizer:
    """An optimizer by name, with all that it can carry: decay, momentum, averages."""
    rate = schedules.linear(PEAK_RATES[name], total_steps=STEPS, warmup_steps=WARMUP_STEPS, end_factor=0.1)
    optimizers = {
        "adamw": lambda: with_ema(adamw(rate, weight_decay=0.1), 0.9),
        "adafactor": lambda: adafactor(rate, min_dim_size_to_factor=8, b1=0.9, weight_decay=0.1),
        "lion": lambda: lion(rate, weight_decay=0.1),
        "sgd": lambda: sgd(rate, weight_decay=0.01),
    }
    return optimizers[name]().for_axes(model.param_axes())


def packed_batch(model: Any, step: int) -> dict[str, np.ndarray]:
    """A batch as the loader makes it: up to three examples a row, some with few trained tokens, one row of padding.

    Targets continue the inputs by a rule, so that there is something to learn.
    """
    rng = np.random.default_rng([step, 0])
    converter = make_converter(
        model.reads_inputs, inputs_length=INPUTS_LENGTH, targets_length=TARGETS_LENGTH, start_id=0, pad_id=0
    )
    rows = []
    for row in range(ROWS):
        items: list[RowItem] = []
        inputs_left, targets_left = INPUTS_LENGTH, TARGETS_LENGTH
        for _ in range(0 if row == step % ROWS else rng.integers(1, 4)):
            if targets_left == 0:
                break
            inputs_length, targets_length = int(rng.integers(inputs_left + 1)), int(rng.integers(1, targets_left + 1))
            inputs_left, targets_left = inputs_left - inputs_length, targets_left - targets_length
            counted = rng.integers(VOCAB) + rng.integers(1, 4) * np.arange(inputs_length + targets_length)
            inputs, targets = np.split((counted % VOCAB).astype(np.int32), [inputs_length])
            mask = rng.random(targets_length) < rng.choice([0.2, 1.0])
            items.append(RowItem(int(rng.integers(NUM_TASKS)), Example(inputs, targets, mask, {}), 0))
        rows.append(converter.convert(items))
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


class Case(NamedTuple):
    """What is trained, on what.

    Attributes:
        kind: of the model, a key of `CONFIGS`.
        mesh: sizes of the axes.
        optimizer: a key of `PEAK_RATES`; None: the model's own.
        micro_batches: parts of a batch.
        dropout_rate: of the model.
    """

    kind: str
    mesh: MeshConfig
    optimizer: str | None = None
    micro_batches: int = 1
    dropout_rate: float = 0.0

    def alone(self) -> "Case":
        """The same on one device in whole batches."""
        return self._replace(mesh=MeshConfig(fsdp=1), micro_batches=1)


@functools.cache
def tiny_model(kind: str, dropout_rate: float = 0.0) -> Any:
    return make_model(dataclasses.replace(CONFIGS[kind], dropout_rate=dropout_rate))


@functools.cache
def initial_params(kind: str) -> Any:
    """The same numbers for every mesh, on the host; drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key == "scale":
            return np.ones(leaf.shape, leaf.dtype)
        return (0.15 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(tiny_model(kind).init, jax.random.key(0)))


@functools.cache
def mesh_of(config: MeshConfig) -> Mesh:
    """The mesh over as many of the devices as its sizes ask for."""
    return make_mesh(config, jax.devices()[: math.prod(getattr(config, axis) for axis in MESH_AXES)])


class Training(NamedTuple):
    """The compiled train step of a tiny model on a mesh.

    Attributes:
        kind: of the model.
        optimizer: its optimizer.
        mesh: the mesh.
        abstract: the state's shapes, with their shardings.
        step: the compiled step.
    """

    kind: str
    optimizer: Optimizer
    mesh: Mesh
    abstract: TrainState
    step: Any

    @property
    def shardings(self) -> TrainState:
        """Of the state."""
        shardings: TrainState = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        return shardings

    def start(self) -> TrainState:
        """The state before the first step."""
        params = jax.device_put(initial_params(self.kind), self.shardings.params)
        return place_state(params, self.optimizer, self.shardings)

    def steps(self, state: TrainState, first: int, last: int) -> tuple[TrainState, np.ndarray]:
        """Takes the steps from `first` up to `last`; gives the state after them and the loss of each."""
        losses = []
        for step in range(first, last):
            state, metrics = self.step(state, to_global(packed_batch(tiny_model(self.kind), step), self.mesh))
            losses.append(metrics["loss_sum"] / metrics["weight_sum"])
        return state, np.asarray(jax.device_get(losses), np.float64)


def compile_training(case: Case) -> Training:
    """Compiles the step of a model on a mesh, as a run does."""
    model, mesh = tiny_model(case.kind, case.dropout_rate), mesh_of(case.mesh)
    optimizer = make_optimizer(case.optimizer or OPTIMIZERS[case.kind], model)
    abstract = abstract_state(model.init, optimizer)
    shardings = state_shardings(abstract, model.param_axes(), optimizer, mesh)
    step = make_train_step(
        supervised_loss(model, z_loss=1e-3),
        optimizer,
        num_tasks=NUM_TASKS,
        micro_batches=case.micro_batches,
        dropout=case.dropout_rate > 0,
    )
    jitted: Any = compile_step(step, shardings, mesh, donate=True)
    compiled = jitted.lower(abstract, packed_batch(model, 0)).compile()
    placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
    return Training(case.kind, optimizer, mesh, placed, compiled)


def loss_curve(training: Training) -> np.ndarray:
    """The loss of every step."""
    return training.steps(training.start(), 0, STEPS)[1]


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Of the entries of `a` from those of `b`, relative."""
    return float(np.abs(a / b - 1.0).max())


LOSSES = {
    "cross-entropy": {},
    "z-loss": {"z_loss": 0.05},
    "label smoothing": {"label_smoothing": 0.1},
    "both": {"z_loss": 0.05, "label_smoothing": 0.1},
}
NORMALIZERS: tuple[LossNormalizer, ...] = (None, "per_example", 100.0)


def step_gradient(kind: str, loss: str, normalizer: LossNormalizer, micro_batches: int) -> Any:
    """The gradient that a step hands to the optimizer: its momentum after the first step."""
    model = tiny_model(kind)
    optimizer = sgd(schedules.constant(0.0), clip_norm=None)
    step = make_train_step(
        supervised_loss(model, **LOSSES[loss]),
        optimizer,
        num_tasks=NUM_TASKS,
        micro_batches=micro_batches,
        loss_normalizing_factor=normalizer,
    )
    state, batch = create_state(initial_params(kind), optimizer), packed_batch(model, 0)
    compiled = jax.jit(step).lower(state, batch).compile()
    return jax.device_get(compiled(state, batch)[0].opt_state.trace)


def gradient_difference(a: Any, b: Any) -> float:
    """The largest of the parameters' norms of the difference, over the norm of the one in `b`."""
    differences = jax.tree.map(lambda x, y: np.linalg.norm(np.float64(x) - y) / np.linalg.norm(np.float64(y)), a, b)
    return float(max(jax.tree.leaves(differences)))


def all_meshes(devices: int = 8) -> Iterator[MeshConfig]:
    """Every way to lay the devices out over replica, data, fsdp and model; then some with a sequence axis."""
    powers = [1 << i for i in range(devices.bit_length())]
    for sizes in itertools.product(powers, repeat=4):
        if math.prod(sizes) == devices:
            replica, data, fsdp, model = sizes
            yield MeshConfig(replica=replica, data=data, fsdp=fsdp, model=model)
    yield MeshConfig(fsdp=2, sequence=4)
    yield MeshConfig(fsdp=2, sequence=2, model=2)


def shown(case: Case) -> str:
    """The case in a few words, without its model."""
    sizes = [f"{axis}={getattr(case.mesh, axis)}" for axis in MESH_AXES if getattr(case.mesh, axis) > 1]
    notes = [f"{case.micro_batches} micro-batches"] * (case.micro_batches > 1)
    notes += [f"dropout {case.dropout_rate}"] * (case.dropout_rate > 0)
    return ", ".join([" x ".join(sizes), *notes])


def mesh_cases(kind: str, optimizer: str) -> list[Case]:
    """All rows of the mesh table for one of its columns."""
    meshes = [Case(kind, mesh, optimizer) for mesh in all_meshes()]
    mixed = Case(kind, MeshConfig(data=2, fsdp=2, model=2), optimizer)
    return [*meshes, mixed._replace(micro_batches=3), mixed._replace(dropout_rate=0.1)]


def mesh_table() -> Iterator[list[str]]:
    """Header and rows."""
    columns = [(kind, OPTIMIZERS[kind]) for kind in CONFIGS] + [("decoder", "lion"), ("t5", "adamw")]
    yield ["mesh", *(f"{kind}, {optimizer}" for kind, optimizer in columns)]
    alone = functools.cache(lambda case: loss_curve(compile_training(case)))
    for cases in zip(*(mesh_cases(*column) for column in columns), strict=True):
        curves = [(loss_curve(compile_training(case)), alone(case.alone())) for case in cases]
        yield [shown(cases[0]), *(f"{largest_difference(many, one):.1e}" for many, one in curves)]


def accumulation_table() -> Iterator[list[str]]:
    """Header and rows."""
    parts = (2, 4)
    yield ["loss", "divided by", *(f"{kind}, {count} micro-batches" for kind in CONFIGS for count in parts)]
    for loss, normalizer in itertools.product(LOSSES, NORMALIZERS):
        row = [loss, "trained tokens" if normalizer is None else str(normalizer)]
        for kind in CONFIGS:
            whole = step_gradient(kind, loss, normalizer, 1)
            for count in parts:
                row.append(f"{gradient_difference(step_gradient(kind, loss, normalizer, count), whole):.1e}")
        yield row


def print_table(rows: Iterable[list[str]]) -> list[str]:
    """Prints rows as they come; gives those that hold a number above the tolerance."""
    faults = []
    for number, row in enumerate(rows):
        print(f"| {' | '.join(row)} |", flush=True)
        if number == 0:
            print(f"|{'---|' * len(row)}", flush=True)
        elif any(float(cell) > TOLERANCE for cell in row if "e-" in cell):
            faults.append(" ".join(row))
    return faults


TABLES = {"meshes": mesh_table, "accumulation": accumulation_table}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(TABLES))
    only = parser.parse_args().only
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    faults = []
    for name in [only] if only else TABLES:
        faults += print_table(TABLES[name]())
        print(flush=True)
    for fault in faults:
        print(f"above {TOLERANCE}: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
