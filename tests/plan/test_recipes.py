"""Recipes for slices fit, and say at their top what the compiler says.

The small ones by default; all of them: `pytest -m slow tests/plan/test_recipes.py` (about half an hour of a core).
"""

import json
import re

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.config.gin_files import GIN_CONFIGS

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

SLICE = re.compile(r"^# Slice: +(\S+)$", re.M)
PLANNED = re.compile(r"^# Plan: +([\d.]+) of ([\d.]+) GiB a device", re.M)
RECIPES = {
    path.stem: path for path in sorted((GIN_CONFIGS / "recipes").glob("*.gin")) if SLICE.search(path.read_text())
}
SMALL = ("flan_t5_small",)


def _cases() -> list[object]:
    return [pytest.param(name, marks=[] if name in SMALL else pytest.mark.slow) for name in RECIPES]


def test_each_recipe_for_a_slice_has_its_plan() -> None:
    assert set(SMALL) < set(RECIPES)
    assert [name for name, path in RECIPES.items() if not PLANNED.search(path.read_text())] == []


@pytest.mark.parametrize("name", _cases())
def test_it_fits_as_it_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPES[name].read_text()
    assert main(["plan", f"--topology={SLICE.search(text)[1]}", f"--gin_file=recipes/{name}.gin", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    needed, limit = (float(number) * 2**30 for number in PLANNED.search(text).groups())
    assert plan["hbm_limit_bytes"] == pytest.approx(limit, rel=0.001)
    # Other versions of the compiler plan memory a little differently.
    assert plan["hbm_bytes"] == pytest.approx(needed, rel=0.1)
