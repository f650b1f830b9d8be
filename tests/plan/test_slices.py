"""A run on several slices: what crosses the network between them."""

import pytest

from t5x_instruct.config.validate import resolve
from t5x_instruct.plan.compiled import plan_training
from t5x_instruct.plan.roofline import estimate
from t5x_instruct.plan.topologies import parse_slices
from t5x_instruct.runs.opening import planned_model

pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")


def test_only_gradients_and_figures_cross_between_slices():
    # Widths of which a device's part fills the TPU's tiles, so that sizes are those of the numbers in them.
    sizes = ["T5Config.emb_dim=512", "T5Config.head_dim=32", "T5Config.mlp_dim=256"]
    words = ["MODEL_DIR=unused", "MESH={'replica': 2}", *sizes]
    run = resolve(["recipes/tiny_t5.gin"], words, verb="train").instantiate("TrainRun")
    two = plan_training(run, planned_model(run.model), parse_slices("v5e-4", 2))
    assert two.slices.num_devices == 8
    assert two.mesh["replica"] == 2
    between = [one for one in two.work.collectives if one.network == "dcn"]
    assert {one.kind for one in between} == {"all-reduce"}
    assert {one.ways for one in between} == {2}
    # Each device sends its quarter of the gradient in float32 once (the head's too, though its loss is in pieces);
    # beside it whole scales, and the step's figures.
    sent = sum(one.total_bytes for one in between)
    assert two.num_parameters <= sent < 1.02 * two.num_parameters
    assert estimate(two.work, two.slices).dcn >= two.num_parameters / 3.125e9
    # Parameters are gathered within a slice.
    assert "all-gather" in {one.kind for one in two.work.collectives if one.network == "ici"}
