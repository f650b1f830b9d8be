"""The project's errors: each says the value, where it is, the limit, the fix and the nearest valid names."""

import difflib
from collections.abc import Iterable, Sequence

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_RESUME = 42


class InstructError(Exception):
    """Base of every error that is shown to a user as a message, without a traceback."""

    exit_code = EXIT_FAULT


class ConfigError(InstructError):
    """Usage or configuration is wrong; carries every problem that was found, not only the first.

    Args:
        problems: one message, or all of them.
    """

    exit_code = EXIT_USAGE

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            text = self.problems[0]
        else:
            text = "\n".join([f"{len(self.problems)} problems:"] + [f"  - {problem}" for problem in self.problems])
        super().__init__(text)


class DataError(InstructError):
    """Data on disk or from a source is not what it has to be."""


class SourceUnavailable(DataError):
    """The data of a task cannot be had now: it must be fetched by hand, has moved, is gone, or there is no network.

    A mixture goes on without such a task, and says so.

    Args:
        problem: what is missing, with the name of the data set.
        fix: what would help, as an instruction.
    """

    def __init__(self, problem: str, fix: str):
        self.fix = fix
        super().__init__(f"{problem}; {fix}")


class CheckpointError(InstructError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class BucketError(InstructError, OSError):
    """Something in a bucket cannot be read or written: the network or the service failed."""


class BucketRefused(BucketError):
    """There is no such bucket, or it does not let this process in; trying again does not help."""

    exit_code = EXIT_USAGE


class NonFiniteLossError(InstructError):
    """The loss or the gradient is not a finite number; training stopped and saved nothing."""


class StoppedOnRequest(InstructError):
    """A checkpoint is saved and the process was asked to end: run the same command again to go on."""

    exit_code = EXIT_RESUME


class HostEnded(InstructError):
    """Another host of the run is gone, so that this one cannot go on; what is saved is intact.

    Args:
        text: which one, and what is known of its end.
        exit_code: that of the other host, or 1.
    """

    def __init__(self, text: str, exit_code: int):
        self.exit_code = exit_code
        super().__init__(text)


def nearest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names of `valid` that look most like `name`, best first; empty when none is close."""
    valid = sorted(set(valid))
    lower = {v.lower(): v for v in reversed(valid)}
    close = difflib.get_close_matches(name.lower(), lower, n=n, cutoff=0.5)
    return [lower[c] for c in close]


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """A message for a name that does not exist, with the nearest names or, if few, all of them.

    Args:
        kind: what is named, e.g. "task".
        name: the name that was not found.
        valid: every name that would have been.

    Returns:
        E.g. ``unknown task 'capitol'; nearest: 'capital', 'capital_of'``.
    """
    valid = sorted(set(valid))
    close = nearest(name, valid)
    if close:
        return f"unknown {kind} {name!r}; nearest: {', '.join(map(repr, close))}"
    if not valid:
        return f"unknown {kind} {name!r}; none is known"
    shown = ", ".join(map(repr, valid[:12])) + (f" and {len(valid) - 12} more" if len(valid) > 12 else "")
    return f"unknown {kind} {name!r}; valid: {shown}"
