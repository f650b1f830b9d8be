"""Our steps as the TPU compiler sees them, beside what others have published or compiled for the same slices.

    python benchmarks/plans_beside_others.py t5x        # memory of T5X's own step, compiled for the same slice
    python benchmarks/plans_beside_others.py maxtext    # speed that MaxText has measured on slices
    python benchmarks/plans_beside_others.py slices     # Flan-T5 XL, XXL and an 8B decoder on v5e, v5p and v6e

Prints a Markdown table. A compile takes a core one to five minutes, with up to 8 GB of memory. `--only TEXT` takes the
rows whose model, slice or mesh has it.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

T5X_HEADER = ("model", "slice", "mesh", "batch", "remat", "ours, GiB a device", "T5X's, GiB a device")
MAXTEXT_HEADER = ("model", "slice", "rows a chip", "remat", "GiB a device", "MFU", "its", "tokens/s/chip", "its")
SLICES_HEADER = ("model", "slice", "mesh", "batch", "GiB a device", "step", "MFU", "bound by", "tokens/s/chip")


@dataclasses.dataclass(frozen=True)
class Case:
    """A step on a slice: the model's gin file, and what differs from `runs/train.gin`."""

    model: str
    where: str
    mesh: str
    batch: int
    inputs: int
    targets: int
    remat: str
    theirs: tuple[str, ...] = ()
    optimizer: str = "adamw"

    @property
    def slots(self) -> int:
        """Tokens of a step: both sides of an encoder-decoder, the one row of a decoder."""
        return self.batch * (self.inputs + self.targets)

    def words(self) -> list[str]:
        """Arguments of `t5x-instruct plan`."""
        bindings = {
            "ModelSettings.vocabulary": "bytes",  # is not part of the step
            "MIXTURE_OR_TASK_NAME": "flan2022",
            "MIXTURE_OR_TASK_MODULE": "tasks.flan2022",
            "TASK_FEATURE_LENGTHS": f"{{'inputs': {self.inputs}, 'targets': {self.targets}}}",
            "BATCH_SIZE": self.batch,
            "TRAIN_STEPS": 1000,
            "LEARNING_RATE": 1e-4,
            "DTYPE": "bfloat16",
            "REMAT": self.remat,
            "MESH": self.mesh,
            "TrainRun.optimizer": f"@{self.optimizer}()",
        }
        if self.optimizer == "adafactor":
            bindings |= {"adafactor.learning_rate": "@constant()", "constant.learning_rate": 1e-4}
        files = [f"--gin_file={name}" for name in ("runs/train.gin", f"models/{self.model}.gin")]
        return [f"--topology={self.where}", *files, *(f"--gin.{name}={value}" for name, value in bindings.items())]


def _t5(size: str, where: str, mesh: str, batch: int, lengths: tuple[int, int], theirs: str = "") -> Case:
    return Case(f"t5_1_1_{size}", where, mesh, batch, *lengths, "minimal", (theirs,), "adafactor")


SHORT, LONG = (512, 128), (1024, 256)

# T5X's examples/scalable_t5 (scanned, remat "minimal"), Adafactor, float32 parameters, bfloat16
# activations, no dropout; peak of the compiler's memory analysis. Parameters over both axes: fsdp here.
T5X = (
    _t5("small", "v5e-16", "data=16", 128, SHORT, "0.98"),
    _t5("large", "v5e-16", "data=16", 64, SHORT, "7.53"),
    _t5("xl", "v5e-16", "data=4,model=4", 32, SHORT, "7.75"),
    _t5("xl", "v5e-16", "fsdp=4,model=4", 32, SHORT, "3.70"),
    _t5("xxl", "v5e-16", "fsdp=2,model=8", 16, SHORT, "8.81"),
    _t5("xl", "v5p-128", "fsdp=32,model=2", 512, LONG, "15.51"),
    _t5("xxl", "v5p-128", "fsdp=16,model=4", 256, LONG, "20.76"),
    _t5("xxl", "v4-128", "fsdp=16,model=4", 128, LONG, "11.50"),
)

# MaxText's docs/reference/models/tiering.md and the settings of its benchmarks/*_model_configs.py: pre-training, rows
# that are full, synthetic data, AdamW.
MAXTEXT = (
    Case("llama3_1_8b", "v6e-256", "fsdp=256", 1024, 4096, 4096, "offloaded", ("45.5 %", "7,207")),
    Case("llama3_1_70b", "v6e-256", "fsdp=256", 1280, 4096, 4096, "offloaded", ("50.3 %", "960")),
    Case("llama2_70b", "v6e-256", "fsdp=256", 1024, 2048, 2048, "full", ("43.8 %", "900")),
    Case("llama2_70b", "v5p-1024", "fsdp=512", 1024, 2048, 2048, "save_dots", ("65.4 %", "692")),
)

SLICES = (
    _t5("xl", "v5e-32", "fsdp=32", 64, LONG),
    _t5("xl", "v5p-32", "fsdp=16", 64, LONG),
    _t5("xl", "v6e-16", "fsdp=16", 64, LONG),
    _t5("xxl", "v5e-64", "fsdp=64", 64, LONG),
    _t5("xxl", "v5p-64", "fsdp=32", 64, LONG),
    _t5("xxl", "v6e-32", "fsdp=32", 64, LONG),
    Case("llama3_1_8b", "v5e-64", "fsdp=64", 128, 3072, 1024, "full"),
    Case("llama3_1_8b", "v5p-32", "fsdp=16", 128, 3072, 1024, "full"),
    Case("llama3_1_8b", "v6e-32", "fsdp=32", 128, 3072, 1024, "full"),
)


def planned(case: Case) -> dict[str, Any]:
    """`t5x-instruct plan --json` of a case."""
    command = [sys.executable, "-m", "t5x_instruct.cli.main", "plan", "--json", *case.words()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"})
    if not done.stdout.strip():
        raise SystemExit(f"{case.model} on {case.where}: {done.stderr[-2000:]}")
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def row(case: Case, table: str) -> list[str]:
    """A plan as a row of one of the tables."""
    plan = planned(case)
    needed = f"{plan['hbm_bytes'] / 2**30:.2f}" if plan["hbm_bytes"] else "more"
    memory = f"{needed} of {plan['hbm_limit_bytes'] / 2**30:.2f}"
    mesh, batch = case.mesh.replace(",", " x "), f"{case.batch} x {case.inputs}/{case.targets}"
    if table == "t5x":
        return [case.model, case.where, mesh, batch, case.remat, needed, *case.theirs]
    chips = plan["devices"]  # one a chip on all of these
    share, speed = "does not fit", ""
    if plan["fits"]:
        share, speed = f"{plan['mfu']:.1%}", f"{case.slots / plan['step_seconds'] / chips:,.0f}"
    if table == "maxtext":
        rows = f"{case.batch // chips} x {case.inputs + case.targets}"
        return [case.model, case.where, rows, case.remat, memory, share, case.theirs[0], speed, case.theirs[1]]
    seconds = f"{1e3 * plan['step_seconds']:,.0f} ms" if plan["fits"] else ""
    return [case.model, case.where, mesh, batch, memory, seconds, share, plan["bound_by"] or "", speed]


def main() -> None:
    tables = {"t5x": (T5X_HEADER, T5X), "maxtext": (MAXTEXT_HEADER, MAXTEXT), "slices": (SLICES_HEADER, SLICES)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tables)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose model, slice or mesh has this")
    args = parser.parse_args()
    header, cases = tables[args.table]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for case in cases:
        if args.only in f"{case.model} {case.where} {case.mesh}":
            print(f"| {' | '.join(row(case, args.table))} |", flush=True)


if __name__ == "__main__":
    main()
