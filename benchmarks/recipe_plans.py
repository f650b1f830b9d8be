"""What the TPU compiler says of the recipes for slices: fits, memory, time.

    python benchmarks/recipe_plans.py                                    # every recipe on the slice that it names
    python benchmarks/recipe_plans.py --write                            # ... and puts the plan at its top
    python benchmarks/recipe_plans.py --recipe flan_t5_xl --on v5e-64:fsdp=64 --on v6e-16:fsdp=16

Prints a Markdown table. A compile takes a core one to five minutes, with up to 8 GB of memory.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent.parent / "gin_configs" / "recipes"
SLICE, PLAN = re.compile(r"^# Slice: +(\S+)$", re.M), re.compile(r"^# Plan: .*\n(?:#  .*\n)*", re.M)
HEADER = ("recipe", "slice", "mesh", "batch", "GiB a device", "step", "MFU", "bound by", "target slots/s/chip")


def planned(recipe: Path, where: str, overrides: Sequence[str]) -> dict[str, Any]:
    """`t5x-instruct plan --json` of a recipe."""
    command = [sys.executable, "-m", "t5x_instruct.cli.main", "plan", "--json", f"--topology={where}"]
    command += [f"--gin_file={recipe}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"})
    if not done.stdout.strip():
        raise SystemExit(f"{recipe.stem} on {where}: {done.stderr[-2000:]}")
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def row(name: str, batch: str, plan: dict[str, Any]) -> list[str]:
    """A plan as a row of the table."""
    needed = plan["hbm_bytes"] / 2**30 if plan["hbm_bytes"] else float("nan")
    memory = f"{needed:.2f} of {plan['hbm_limit_bytes'] / 2**30:.2f}"
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
    if not plan["fits"]:
        return [name, plan["topology"], mesh, batch, f"does not fit: {memory}", "", "", "", ""]
    speed = f"{plan['decoder_slots_per_second_per_chip']:,.0f}"
    seconds = f"{1e3 * plan['step_seconds']:,.0f} ms"
    return [name, plan["topology"], mesh, batch, memory, seconds, f"{plan['mfu']:.1%}", plan["bound_by"], speed]


def write(recipe: Path, cells: Sequence[str]) -> None:
    """Puts a plan at the top of its recipe, in the place of an older one."""
    _, _, _, _, memory, seconds, share, bound, _ = cells
    line = f"# Plan:      {memory} GiB a device"
    if seconds:
        line += f"; a step of about {seconds}, bound by {bound}, MFU {share}"
    text = PLAN.sub("", recipe.read_text())
    recipe.write_text(SLICE.sub(lambda found: f"{found[0]}\n{line}", text, count=1))


def cases(args: argparse.Namespace) -> Iterator[tuple[Path, str, list[str]]]:
    """Recipe, slice and overrides of each plan."""
    for recipe in sorted(RECIPES.glob("*.gin")):
        named = SLICE.search(recipe.read_text())
        if named is None or (args.recipe and recipe.stem not in args.recipe):
            continue
        more = [f"--gin.{one}" for one in args.gin]
        for one in args.on or [named[1]]:
            where, _, mesh = one.partition(":")
            yield recipe, where, [*([f"--gin.MESH={mesh}"] if mesh else []), *more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", help="only this one; may be repeated")
    parser.add_argument("--on", action="append", metavar="SLICE:MESH", help="there instead; may be repeated")
    parser.add_argument("--gin", action="append", default=[], metavar="NAME=VALUE", help="in all of them")
    parser.add_argument("--write", action="store_true", help="put the plans at the top of the recipes")
    args = parser.parse_args()
    if args.write and (args.on or args.gin):
        parser.error("--write is for the recipes as they are")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for recipe, where, overrides in cases(args):
        text = " ".join([recipe.read_text(), *overrides])
        batch = re.findall(r"BATCH_SIZE *= *(\d+)", text)[-1]
        lengths = re.findall(r"'inputs': (\d+), 'targets': (\d+)", recipe.read_text())[-1]
        cells = row(recipe.stem, f"{batch} x {'/'.join(lengths)}", planned(recipe, where, overrides))
        print(f"| {' | '.join(cells)} |", flush=True)
        if args.write:
            write(recipe, cells)


if __name__ == "__main__":
    main()
