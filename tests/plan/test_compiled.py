"""Plans of small runs: the very step that `train` runs, compiled for slices that are not there."""

import dataclasses
import json

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config.validate import resolve
from t5x_instruct.plan.compiled import plan_training
from t5x_instruct.plan.report import as_json, as_text
from t5x_instruct.plan.roofline import estimate, mfu
from t5x_instruct.plan.topologies import parse_slices
from t5x_instruct.runs.opening import planned_model

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

RECIPE = ["--gin_file=recipes/tiny_t5.gin"]


def plan(*overrides, topology="v5e-4"):
    config = resolve(["recipes/tiny_t5.gin"], ["MODEL_DIR=unused", "DTYPE=bfloat16", *overrides], verb="train")
    run = config.instantiate("TrainRun")
    return plan_training(run, planned_model(run.model), parse_slices(topology))


@pytest.fixture(scope="module")
def small():
    return plan()


def test_a_plan_that_fits(small):
    assert small.fits
    assert small.message == ""
    assert small.mesh == {"replica": 1, "data": 1, "fsdp": 4, "sequence": 1, "model": 1}
    # Float32 parameters and AdamW's two moments, in four parts; norms are whole on every device.
    assert small.num_parameters == 517_504
    quarter = small.num_parameters * 4 / 4
    assert quarter <= small.memory.params < 1.02 * quarter
    assert 2 * quarter <= small.memory.optimizer < 2.04 * quarter
    assert small.memory.batch == 16 // 4 * (3 * 256 + 6 * 40) * 4
    assert small.memory.total == small.hbm_needed < small.hbm_limit
    kinds = {one.kind for one in small.collectives}
    assert "all-gather" in kinds
    assert kinds & {"reduce-scatter", "all-reduce"}
    # Parameters are gathered at least once forwards and once backwards, in bfloat16 or wider.
    gathered = sum(one.total_bytes for one in small.collectives if one.kind == "all-gather")
    assert gathered > small.num_parameters * 2


def test_the_estimate_is_no_faster_than_any_of_its_bounds(small):
    times = estimate(small)
    chip = small.slices.chip
    assert times.compute == pytest.approx(small.step_flops / 4 / chip.flops)
    assert times.step_seconds > max(times) == times.least_seconds == getattr(times, times.bound)
    assert times.dcn == 0 < times.ici
    assert mfu(small, times.step_seconds) * times.step_seconds == pytest.approx(small.model_flops / 4 / chip.flops)
    assert 0 < mfu(small, times.step_seconds) < 1


def test_what_is_recomputed_is_no_work_of_the_model(small):
    again = plan("REMAT='full'")
    assert again.model_flops == small.model_flops
    assert again.step_flops > small.step_flops


def test_scanned_and_unrolled_layers_send_the_same(small):
    unrolled = plan("T5Config.scan_layers=False")
    assert unrolled.model_flops == small.model_flops
    assert unrolled.step_flops == small.step_flops

    def gathered(one):
        return sum(c.total_bytes for c in one.collectives if c.kind == "all-gather")

    assert gathered(unrolled) == pytest.approx(gathered(small), rel=0.25)


def test_a_run_that_does_not_fit_says_by_how_much():
    large = plan("BATCH_SIZE=65536", "T5Config.attention_chunk=256", topology="v5e-1")
    assert not large.fits
    assert large.memory is None
    assert large.hbm_needed > large.hbm_limit
    assert "exceeds available HBM" in large.message
    text = as_text(large)
    assert "does not fit: " in text
    assert large.message in text
    assert as_json(large)["message"] == large.message


def test_text_and_json_say_the_same(small):
    text, values = as_text(small), as_json(small)
    assert json.loads(json.dumps(values)) == values
    assert values["fits"] is True
    assert values["hbm_bytes"] == sum(values["memory"].values())
    assert values["collectives"]["all-gather"]["count"] == sum(
        one.times for one in small.collectives if one.kind == "all-gather"
    )
    assert f"MFU {values['mfu']:.1%}" in text
    assert f"(bound by {values['bound_by']})" in text


def test_several_slices(capsys):
    words = ["plan", "--topology", "v5e-4", "--slices", "2", *RECIPE, "--gin.MESH=replica=2", "--json"]
    assert main(words) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["devices"] == 8
    assert values["mesh"]["replica"] == 2
    # The gradient of every parameter crosses the data-centre network once.
    assert values["bounds_seconds"]["dcn"] >= values["parameters"] / 4 * 2 / 3.125e9


def test_a_mesh_that_does_not_divide():
    with pytest.raises(ConfigError, match="BATCH_SIZE 16 is not divisible by 64"):
        plan(topology="v5e-64")


def test_the_step_is_that_of_training(small):
    """The plan changes with what only the loop's configuration says."""
    parts = plan("LoopConfig.micro_batches=2")
    assert parts.model_flops == small.model_flops
    assert parts.memory.temporaries != small.memory.temporaries
    assert dataclasses.replace(parts, compile_seconds=0.0) != dataclasses.replace(small, compile_seconds=0.0)
