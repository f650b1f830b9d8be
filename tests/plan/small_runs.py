"""Runs small enough to compile in seconds for a slice that is not there, and their plans, each made once."""

import functools
import json
from importlib.metadata import version
from pathlib import Path

from t5x_instruct.config.validate import resolve
from t5x_instruct.plan.compiled import Plan, plan_training
from t5x_instruct.plan.report import as_json
from t5x_instruct.plan.topologies import parse_slices
from t5x_instruct.runs.opening import planned_model
from t5x_instruct.runs.training_run import TrainRun

BOUNDS = Path(__file__).parent / "collective_bounds.json"
SLICE = "v5e-8"
MESHES = ({"fsdp": 8}, {"model": 8}, {"fsdp": 4, "model": 2})

# Eight heads, and widths of which an eighth still fills a tile of the TPU's memory.
_SIZES = {"emb_dim": 128, "num_heads": 8, "head_dim": 16, "mlp_dim": 256, "attention_chunk": 128}
_CONFIGS = {
    "t5": ("recipes/tiny_t5.gin", "T5Config", _SIZES | {"relative_buckets": 8}),
    "decoder": ("recipes/tiny.gin", "DecoderConfig", _SIZES | {"num_kv_heads": 8}),
}


def small_run(kind: str, *overrides: str) -> TrainRun:
    """A run of two layers a stack, rows of 32 + 32 slots, in bfloat16."""
    recipe, config, sizes = _CONFIGS[kind]
    words = [f"{config}.{name}={value}" for name, value in sizes.items()]
    words += ["TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}", "DTYPE=bfloat16", "MODEL_DIR=unused"]
    return resolve([recipe], [*words, *overrides], verb="train").instantiate("TrainRun")


@functools.cache
def small_plan(kind: str, *overrides: str, topology: str = SLICE, slices: int = 1) -> Plan:
    """The plan of a small run; the same one for every test of a process that asks for it."""
    run = small_run(kind, *overrides)
    return plan_training(run, planned_model(run.model), parse_slices(topology, slices), num_tasks=4)


def mesh_plan(kind: str, mesh: dict[str, int]) -> Plan:
    """The plan of a small run on a mesh."""
    return small_plan(kind, f"MESH={mesh}")


def mesh_name(mesh: dict[str, int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in mesh.items())


def versions() -> str:
    """What decides which collectives a program has, besides the program."""
    return f"jax {version('jax')}, libtpu {version('libtpu')}"


def counted(plan: Plan) -> dict[str, dict[str, int]]:
    """Count and bytes of each kind that occurs."""
    kinds = as_json(plan)["collectives"]
    return {kind: {name: sums[name] for name in ("count", "bytes")} for kind, sums in kinds.items() if sums["count"]}


def write_bounds() -> None:
    """Measures all presets with what is installed and stores them beside those of other versions."""
    stored = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    stored[versions()] = {
        f"{kind} {mesh_name(mesh)}": counted(mesh_plan(kind, mesh)) for kind in _CONFIGS for mesh in MESHES
    }
    BOUNDS.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"{BOUNDS}: {versions()}")


if __name__ == "__main__":
    write_bounds()
