"""Any mesh trains as one device does, and a checkpoint of one mesh goes on on another."""

import jax
import numpy as np
import pytest

from benchmarks.exactness import (
    OPTIMIZERS,
    PEAK_RATES,
    STEPS,
    TOLERANCE,
    WARMUP_STEPS,
    all_meshes,
    compile_training,
    largest_difference,
    loss_curve,
    mesh_cases,
    packed_batch,
    shown,
    tiny_model,
)
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.training.state import place_state

from .compiled import (
    DATA_FSDP_MODEL,
    DEFAULT,
    FSDP,
    FSDP_MODEL,
    QUICK,
    REPLICA_DATA,
    curve_alone,
    trained,
)


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
    curve = loss_curve(compile_training(case, QUICK))
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
