"""Programs that stand for the cloud's: what they are asked is written down, what they answer is scripted."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t5x_instruct.cloud.settings import LaunchSettings

# Answers from a list of (words that must be among the arguments, exit code, output, errors): the first that fits and is
# not used up is taken; the last one that fits is kept. What nobody has scripted succeeds.
GCLOUD = """#!{python} -IS
import json, sys
folder, words = "{folder}", sys.argv[1:]
with open(folder + "/calls.jsonl", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
answers = json.load(open(folder + "/answers.json"))
fitting = [i for i, answer in enumerate(answers) if all(word in words for word in answer[0])]
if not fitting:
    sys.exit(0)
_, code, output, errors = answers[fitting[0]]
if len(fitting) > 1:
    del answers[fitting[0]]
    json.dump(answers, open(folder + "/answers.json", "w"))
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(code)
"""


class FakeCloud:
    """A `gcloud` on the PATH.

    Args:
        folder: where it is and writes what it is asked.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.answers: list[tuple[list[str], int, str, str]] = []
        program = folder / "gcloud"
        program.write_text(GCLOUD.format(python=sys.executable, folder=folder))
        program.chmod(0o755)
        self.script()

    def script(self, *answers: tuple[str, int, str, str]) -> None:
        """Sets the answers; the words of each are given in one text."""
        self.answers += [(words.split(), code, output, errors) for words, code, output, errors in answers]
        (self.folder / "answers.json").write_text(json.dumps(self.answers))

    def calls(self) -> list[list[str]]:
        """All that it was asked."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def asked(self, *words: str) -> list[list[str]]:
        """What it was asked with all of these words."""
        return [call for call in self.calls() if all(word in call for word in words)]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path / "cache"))
    return FakeCloud(folder)


@pytest.fixture
def settings() -> Callable[..., LaunchSettings]:
    def make(**changes: Any) -> LaunchSettings:
        values = {
            "name": "xl",
            "accelerator": "v5e-16",
            "zone": "us-west4-a",
            "bucket": "gs://bucket/runs",
            "poll_seconds": 0,
            "python": "3.12",
        }
        return LaunchSettings(**(values | changes))

    return make
