"""Runs `gcloud`: argument lists, never a line for a shell; or only shows what it would run."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from t5x_instruct.common.errors import InstructError

Command = list[str]
PROGRAM = "gcloud"


class CloudError(InstructError):
    """A command of the cloud failed, or the launch cannot go on."""


@dataclass(frozen=True)
class Answer:
    """What a command came to.

    Args:
        code: exit code.
        output: standard output.
        errors: standard error.
    """

    code: int
    output: str = ""
    errors: str = ""

    @property
    def missing(self) -> bool:
        """Whether it failed because what it names is not there."""
        return self.code != 0 and _says(self.errors, ("NOT_FOUND", "was not found", "matched no objects", "404"))

    @property
    def exists(self) -> bool:
        """Whether it failed because what it makes is there already."""
        return self.code != 0 and _says(self.errors, ("ALREADY_EXISTS", "already exists", "409"))


def _says(text: str, phrases: Sequence[str]) -> bool:
    return any(phrase.lower() in text.lower() for phrase in phrases)


def shown(command: Sequence[str]) -> str:
    """A command as one can type it, with a line for each flag."""
    words = [shlex.quote(word) for word in command]
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return " \\\n    ".join([" ".join(words[:first]), *words[first:]])


class Gcloud:
    """The `gcloud` of this machine.

    Args:
        dry_run: show commands on standard output instead of running them; each then answers 0 and nothing.
    """

    def __init__(self, dry_run: bool = False):
        self.dry_run = dry_run
        if not dry_run and shutil.which(PROGRAM) is None:
            raise CloudError(
                f"{PROGRAM} is not on the PATH: install the Google Cloud CLI and log in, or add --dry_run to see the "
                "commands"
            )

    def run(self, command: Sequence[str], *, tolerate: bool = False) -> Answer:
        """Runs a command to its end.

        Args:
            command: the program and its arguments.
            tolerate: a failure is the caller's to judge.

        Raises:
            CloudError: it failed.
        """
        if self.dry_run:
            print(shown(command))
            return Answer(0)
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        answer = Answer(done.returncode, done.stdout, done.stderr)
        if answer.code and not tolerate:
            raise CloudError(f"this failed with exit code {answer.code}:\n{shown(command)}\n{answer.errors.strip()}")
        return answer

    def follow(self, commands: Sequence[Command]) -> "list[subprocess.Popen[bytes]]":
        """Starts commands whose output goes straight to this one's; the caller ends them."""
        if self.dry_run:
            for command in commands:
                print(shown(command))
            return []
        sys.stdout.flush()
        return [subprocess.Popen(command, stdin=subprocess.DEVNULL) for command in commands]


def command(*words: str, **values: str | int | bool | Sequence[str] | None) -> Command:
    """A command of gcloud.

    Args:
        *words: the words after the program's name.
        **values: its flags. `True` is a bare flag; None, False and nothing are left out; lists are joined by commas.
    """
    flags = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False and value != () and value != []:
            flags.append(f"{flag}={value if isinstance(value, str | int) else ','.join(value)}")
    return [PROGRAM, *words, *flags]
