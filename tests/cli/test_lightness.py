"""Help is quick because it loads nothing heavy: looked up in a fresh process."""

import json
import subprocess
import sys

import pytest

from t5x_instruct.cli.main import VERBS

HEAVY = ("jax", "jaxlib", "numpy", "tensorflow", "seqio", "grain", "gin", "flax", "orbax")
PROBE = """
import json, sys
sys.argv = ["t5x-instruct", *json.loads(sys.argv[1])]
from t5x_instruct.cli.main import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("\\nPROBE" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(words: list[str]) -> tuple[int, set[str], str]:
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text, _, probe = done.stdout.rpartition("\nPROBE")
    code, modules = json.loads(probe)
    return code, set(modules), text


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)], ids=lambda words: " ".join(words) or "top")
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code, modules, text = run([*words, "--help"])
    assert code == 0
    assert "usage: t5x-instruct" in text
    assert modules.isdisjoint(HEAVY), modules.intersection(HEAVY)


def test_the_probe_sees_heavy_modules() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import numpy;" + PROBE, json.dumps(["--help"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"numpy"' in done.stdout


def test_overview_names_every_verb() -> None:
    text = run(["--help"])[2]
    for verb, summary in VERBS.items():
        assert f"  {verb} " in text
        assert summary in text
