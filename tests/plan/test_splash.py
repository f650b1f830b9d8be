"""The Splash kernel within a whole train step, compiled for a TPU slice that is not there.

pytest -m slow tests/plan/test_splash.py
"""

import pytest

from t5x_instruct.config.validate import resolve
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.plan.compiled import plan_training
from t5x_instruct.plan.topologies import devices_of, parse_slices
from t5x_instruct.runs.opening import planned_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")]

SIZES = {"emb_dim": 256, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "mlp_dim": 512}


def test_the_step_compiles_with_the_kernel_sharded_over_rows_and_heads():
    config = [f"DecoderConfig.{name}={value}" for name, value in SIZES.items()]
    lengths = "TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 256}"
    settings = ["MODEL_DIR=unused", "DTYPE='bfloat16'", "REMAT='minimal'", "BATCH_SIZE=8", lengths]
    words = [*settings, "MESH={'fsdp': 2, 'model': 2}", *config]
    run = resolve(["recipes/tiny.gin"], words, verb="train").instantiate("TrainRun")
    model, slices = planned_model(run.model), parse_slices("v5e-4")
    mesh = make_mesh(MeshConfig(**run.mesh), devices_of(slices))
    assert str(model.attention_choice(512, mesh)) == "splash attention: the shape allows it"
    plan = plan_training(run, model, slices)
    assert plan.fits
    assert plan.attention == (True, "the shape allows it")
