"""Plans of small runs: the very step that `train` runs, compiled for slices that are not there."""

import json

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.plan.report import as_json, as_text
from t5x_instruct.plan.roofline import estimate, mfu, step_seconds
from tests.plan.small_runs import mesh_plan, small_plan

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

SHARDED = "MESH={'fsdp': 8}"
KEYS = {"attention", "attention_reason", "fits", "hbm_bytes", "hbm_limit_bytes", "step_seconds", "mfu", "collectives"}


@pytest.fixture(scope="module")
def small():
    return mesh_plan("decoder", {"fsdp": 8})


def test_a_plan_that_fits(small):
    assert small.fits
    assert small.message == ""
    assert small.mesh == {"replica": 1, "data": 1, "fsdp": 8, "sequence": 1, "model": 1}
    # Float32 parameters and AdamW's two moments, in eight parts; norms are whole on every device.
    part = small.num_parameters * 4 / 8
    assert part <= small.memory.params < 1.02 * part
    assert 2 * part <= small.memory.optimizer < 2.04 * part
    assert small.memory.batch == 16 // 8 * 6 * 64 * 4
    assert small.memory.total == small.hbm_needed < small.hbm_limit
    kinds = {one.kind for one in small.work.collectives}
    assert "all-gather" in kinds
    assert "reduce-scatter" in kinds
    # Parameters are gathered at least once forwards and once backwards, in bfloat16 or wider.
    gathered = sum(one.total_bytes for one in small.work.collectives if one.kind == "all-gather")
    assert gathered > small.num_parameters * 2


def test_the_estimate_is_no_faster_than_any_of_its_bounds(small):
    times = estimate(small.work, small.slices)
    chip = small.slices.chip
    assert times.compute == pytest.approx(small.work.flops / 8 / chip.flops)
    assert step_seconds(small) == times.step_seconds > max(times) == times.least_seconds == getattr(times, times.bound)
    assert times.dcn == 0 < times.ici
    achieved = small.work.model_flops / 8 / chip.flops
    assert mfu(small, times.step_seconds) * times.step_seconds == pytest.approx(achieved)
    assert 0 < mfu(small, times.step_seconds) < 1


def test_what_is_recomputed_is_no_work_of_the_model(small):
    again = small_plan("decoder", SHARDED, "REMAT='full'")
    assert again.work.model_flops == small.work.model_flops
    assert again.work.flops > small.work.flops


def test_what_is_offloaded_lies_with_the_host(small):
    offloaded = small_plan("decoder", SHARDED, "REMAT='offloaded'")
    assert small.host_bytes == 0 < offloaded.host_bytes
    assert f"memory of its host: {offloaded.host_bytes / 2**30:.3f} GiB" in as_text(offloaded)
    assert "memory of its host" not in as_text(small)


def test_scanned_and_unrolled_layers_send_the_same(small):
    unrolled = small_plan("decoder", SHARDED, "DecoderConfig.scan_layers=False")
    assert unrolled.work.model_flops == small.work.model_flops
    assert unrolled.work.flops == small.work.flops

    def gathered(one):
        return sum(c.total_bytes for c in one.work.collectives if c.kind == "all-gather")

    assert gathered(unrolled) == pytest.approx(gathered(small), rel=0.25)


def test_a_run_that_does_not_fit_says_by_how_much():
    large = small_plan("decoder", "DecoderConfig.mlp_dim=8388608", topology="v5e-1")
    assert not large.fits
    assert large.memory is None
    assert large.hbm_needed > large.hbm_limit
    assert "exceeds available HBM" in large.message
    text, values = as_text(large), as_json(large)
    assert "does not fit: " in text
    assert large.message in text
    assert values["message"] == large.message
    assert values["step_seconds"] is values["mfu"] is values["collectives"] is None
    assert values.keys() >= KEYS


def test_text_and_json_say_the_same(small):
    text, values = as_text(small), as_json(small)
    assert json.loads(json.dumps(values)) == values
    assert values.keys() >= KEYS
    assert values["fits"] is True
    assert values["hbm_bytes"] == sum(values["memory"].values())
    assert values["collectives"]["all-gather"]["count"] == sum(
        one.times for one in small.work.collectives if one.kind == "all-gather"
    )
    assert f"MFU {values['mfu']:.1%}" in text
    assert f"(bound by {values['bound_by']})" in text
    assert "leaves out" in text
    assert values["attention"] == "plain"
    assert values["attention_reason"] == "64 slots a row are no multiple of 128"
    assert "\nplain attention: 64 slots a row are no multiple of 128\n" in text


def test_several_slices():
    values = as_json(small_plan("decoder", "MESH={'replica': 2}", topology="v5e-4", slices=2))
    assert values["devices"] == 8
    assert values["mesh"]["replica"] == 2
    # The gradient of every parameter crosses the data-centre network once.
    assert values["bounds_seconds"]["dcn"] >= values["parameters"] / 4 * 2 / 3.125e9


def test_a_mesh_that_does_not_divide():
    with pytest.raises(ConfigError, match="BATCH_SIZE 16 is not divisible by 64"):
        small_plan("decoder", topology="v5e-64")


def test_the_step_is_that_of_training(small):
    """The plan changes with what only the loop's configuration says."""
    parts = small_plan("decoder", SHARDED, "LoopConfig.micro_batches=2")
    assert parts.work.model_flops == small.work.model_flops
    gathers = [sum(c.times for c in one.work.collectives if c.kind == "all-gather") for one in (small, parts)]
    assert gathers[1] > 1.5 * gathers[0]


def test_the_command(capsys):
    words = ["plan", "--topology=v5e-1", "--gin_file=recipes/tiny.gin", "--step=validate", "--json"]
    words += ["--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}", "--gin.DTYPE=bfloat16"]
    assert main(words) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["step"], values["devices"]) == ("validation step", 1)
    # The optimizer's state stays where it is while the loss is measured: AdamW's two moments.
    assert values["memory"]["optimizer"] == pytest.approx(2 * values["memory"]["params"], rel=0.01)
    assert values["step_flops"] == values["model_flops"]
