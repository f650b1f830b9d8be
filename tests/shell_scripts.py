"""Shell scripts are held against shellcheck, which the test extra brings."""

import subprocess
import sysconfig
from pathlib import Path


def check(*scripts: Path) -> None:
    """Fails where shellcheck finds anything in the scripts, or in what they source from the folder above."""
    program = Path(sysconfig.get_path("scripts")) / "shellcheck"
    words = [program, "--external-sources", "--source-path=SCRIPTDIR/..", *scripts]
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
