"""Any mesh trains as one device does, a checkpoint of one goes on on another; what a device holds.

One file, so that the tests share the compiled steps of the tiny models.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.exactness import (
    INPUTS_LENGTH,
    OPTIMIZERS,
    PEAK_RATES,
    ROWS,
    STEPS,
    TARGETS_LENGTH,
    TOLERANCE,
    WARMUP_STEPS,
    Case,
    all_meshes,
    compile_training,
    largest_difference,
    loss_curve,
    mesh_cases,
    mesh_of,
    packed_batch,
    shown,
    tiny_model,
)
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.partitioning.mesh import MeshConfig
from t5x_instruct.training.state import place_state

REPLICA_DATA = Case("decoder", MeshConfig(replica=2, data=4, fsdp=1), micro_batches=3)
FSDP = Case("t5", MeshConfig(fsdp=8))
FSDP_MODEL = Case("decoder", MeshConfig(fsdp=4, model=2))
DATA_FSDP_MODEL = Case("t5", MeshConfig(data=2, fsdp=2, model=2))
DEFAULT = (REPLICA_DATA, FSDP_MODEL, FSDP, DATA_FSDP_MODEL)


@functools.cache
def trained(case):
    return compile_training(case)


@functools.cache
def curve_alone(case):
    """The losses on one device; `case` is `Case.alone()` of another."""
    return loss_curve(trained(case))


def name_of(case):
    return f"{case.kind} {case.optimizer or OPTIMIZERS[case.kind]} {shown(case)}"


def check_curve(curve, alone):
    assert len(curve) == STEPS
    assert largest_difference(curve, alone) < TOLERANCE
    # A curve that stands still would be the same anywhere.
    assert alone[-5:].mean() < 0.8 * alone[:5].mean()


@pytest.mark.parametrize("case", DEFAULT, ids=name_of)
def test_a_mesh_gives_one_device_s_loss_at_every_step(case):
    check_curve(loss_curve(trained(case)), curve_alone(case.alone()))


SLOW = [
    case
    for kind, optimizer in (("decoder", "adamw"), ("t5", "adafactor"), ("decoder", "lion"), ("t5", "adamw"))
    for case in mesh_cases(kind, optimizer)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=name_of)
def test_every_mesh_gives_one_device_s_loss_at_every_step(case):
    curve = loss_curve(compile_training(case))
    assert largest_difference(curve, curve_alone(case.alone())) < TOLERANCE


def test_every_product_of_the_four_axes_is_among_the_meshes():
    meshes = list(all_meshes())
    assert len({mesh for mesh in meshes if mesh.sequence == 1}) == 20
    for mesh in meshes:
        assert np.prod(mesh.sizes(8)) == 8


@pytest.mark.parametrize(
    ("first", "second"),
    [(FSDP_MODEL, REPLICA_DATA), (FSDP, DATA_FSDP_MODEL)],
    ids=["decoder with AdamW and an average", "t5 with Adafactor and momentum"],
)
def test_a_checkpoint_goes_on_on_another_mesh(tmp_path, first, second):
    here, there = trained(first), trained(second)
    state, before = here.steps(here.start(), 0, 20)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(20, state, {})
        restored, _ = checkpoints.restore(20, there.abstract)
        params, _ = checkpoints.restore(20, there.abstract.params, subtree="params")
    for old, new, wanted in zip(*map(jax.tree.leaves, (state, restored, there.abstract)), strict=True):
        np.testing.assert_array_equal(old, new)
        assert new.sharding.is_equivalent_to(wanted.sharding, new.ndim)
    _, after = there.steps(restored, 20, 40)
    assert largest_difference(np.concatenate([before, after]), curve_alone(first.alone())[:40]) < TOLERANCE

    # Another run that starts from these parameters counts its warm-up from its own first step.
    new_run = place_state(params, there.optimizer, there.shardings)
    assert int(new_run.step) == 0
    _, metrics = there.step(new_run, to_global(packed_batch(tiny_model(first.kind), 0), there.mesh))
    peak = PEAK_RATES[OPTIMIZERS[first.kind]]
    assert float(metrics["learning_rate"]) == pytest.approx(peak / WARMUP_STEPS)


SIDES = (INPUTS_LENGTH, TARGETS_LENGTH, INPUTS_LENGTH + TARGETS_LENGTH)
# Sizes of a dimension that holds the rows of the whole batch, alone or merged with the length.
WHOLE_BATCH = {ROWS} | {ROWS * length for length in SIDES}
AVERAGES = {
    "decoder": ("opt_state/mu/", "opt_state/nu/", "ema/"),
    "t5": ("opt_state/ema/", "opt_state/statistics/"),
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|ragged-all-to-all)(?:-start)?\("
)


def shapes_in(text):
    """The dimensions of every array a compiled program names; of a sharded program, each device's part."""
    found = re.findall(r"\b(?:pred|[a-z]+\d+)\[([\d,]*)\]", text)
    return {tuple(int(size) for size in dims.split(",") if size) for dims in found}


def collectives(text):
    """Kind of each collective -> the sizes of the arrays it gives."""
    found = {}
    for line in text.splitlines():
        if match := COLLECTIVE.search(line):
            found.setdefault(match[2], set()).update(map(math.prod, shapes_in(match[1])))
    return found


def rows_of(case):
    """Rows of a batch on one device."""
    return ROWS // math.prod(mesh_of(case.mesh).shape[axis] for axis in ("replica", "data", "fsdp"))


def parts_of(name, mesh):
    """Into how many parts an array of the state has to be cut: from its name, not from the table of rules."""
    fsdp, model = mesh.shape["fsdp"], mesh.shape["model"]
    last = name.split("/")[-1]
    by_name = {"scale": 1, "rel_embedding": model, "row": fsdp, "column": model}
    return by_name.get(last, fsdp * model)


@pytest.mark.parametrize("case", DEFAULT, ids=name_of)
def test_parameters_moments_and_averages_are_cut_as_the_axes_say(case):
    training = trained(case)
    (state_in, batch_in), _ = training.step.input_shardings
    state_out, _ = training.step.output_shardings
    leaves = jax.tree_util.tree_leaves_with_path(training.abstract)
    held = set()
    for (path, leaf), before, after in zip(leaves, jax.tree.leaves(state_in), jax.tree.leaves(state_out), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for sharding in (before, after):
            cut = leaf.size // math.prod(sharding.shard_shape(leaf.shape))
            assert cut == (parts_of(name, training.mesh) if leaf.ndim else 1), name
        held.add("/".join(part for part in name.split("/") if not part.isdigit()).partition("token_embedder")[0])
    assert held >= {"params/", *AVERAGES[case.kind]}
    assert {sharding.shard_shape((ROWS, 1))[0] for sharding in jax.tree.leaves(batch_in)} == {rows_of(case)}


def test_an_activation_that_is_replicated_would_be_seen():
    mesh = mesh_of(FSDP.mesh)

    def product(x):
        return jax.lax.with_sharding_constraint(jnp.sin(x), NamedSharding(mesh, PartitionSpec())) + 1

    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    compiled = jax.jit(product, in_shardings=rows, out_shardings=rows).lower(jnp.zeros((ROWS, 5))).compile()
    assert WHOLE_BATCH & {size for shape in shapes_in(compiled.as_text()) for size in shape}
    assert collectives(compiled.as_text())["all-gather"] == {ROWS * 5}
