"""The launch scripts, with an installed environment in which the programs only tell how they were called."""

import os
import subprocess
from pathlib import Path

from tests import shell_scripts

REPOSITORY = Path(__file__).parents[2]


def test_quickstart_hands_its_arguments_to_train(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
    for name in ("python", "t5x-instruct"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n')
        (programs / name).chmod(0o755)
    given = ["--gin.SEED=1", "--gin.MODEL_DIR=runs/seed 1"]
    script = REPOSITORY / "launch" / "quickstart.sh"
    subprocess.run(["bash", script, *given], env=os.environ | {"VENV": str(tmp_path)}, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "python -m pip install --quiet --disable-pip-version-check -e ." in calls
    assert calls[-1] == (
        "t5x-instruct train --gin_file=recipes/quickstart.gin --gin.MODEL_DIR=runs/quickstart " + " ".join(given)
    )


def test_pod_hands_its_arguments_to_launch(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
    for name in ("python", "t5x-instruct"):
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@" >{tmp_path}/last\n')
        (programs / name).chmod(0o755)
    given = ["run", "--gin.LaunchSettings.name=x y", "--dry_run"]
    script = REPOSITORY / "launch" / "pod.sh"
    subprocess.run(["bash", script, *given], env=os.environ | {"VENV": str(tmp_path)}, check=True, capture_output=True)
    assert (tmp_path / "last").read_text() == "|".join(["t5x-instruct", "launch", *given, ""])


def test_the_scripts_are_clean() -> None:
    scripts = [REPOSITORY / ".ci" / "run", *sorted((REPOSITORY / "launch").glob("*.sh"))]
    assert len(scripts) > 4
    shell_scripts.check(*scripts)
