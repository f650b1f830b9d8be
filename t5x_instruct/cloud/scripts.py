"""The scripts that the hosts run: fixed text with the launch's values in front, so that no value becomes code."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from t5x_instruct.cloud.archive import RUN_FILE
from t5x_instruct.cloud.settings import LaunchSettings

_FOLDER = Path(__file__).parent
PROGRAM = "t5x-instruct"


def header(settings: LaunchSettings, archive_sha256: str, delete: Sequence[str], seconds: int) -> str:
    """The assignments in front of `startup.sh`, every value quoted for the shell.

    Args:
        settings: the launch.
        archive_sha256: digest of the code's archive.
        delete: the command by which a host gives the slice back.
        seconds: how long the hosts may live.
    """
    environment = [f"{name}={value}" for name, value in sorted(settings.env.items())]
    values: dict[str, str | int | Sequence[str]] = {
        "ROOT": settings.root,
        "ARCHIVE": archive_url(settings, archive_sha256),
        "ARCHIVE_SHA256": archive_sha256,
        "HOSTS_OF_SLICE": settings.hosts,
        "SLICES": settings.slices,
        "PYTHON": settings.python_version,
        "EXTRAS": f"[{','.join(settings.extras)}]" if settings.extras else "",
        "PROGRAM": [PROGRAM, settings.verb, f"--gin_file={RUN_FILE}"],
        "ENVIRONMENT": environment,
        "LIBTPU_FLAGS": settings.libtpu_flags,
        "MAX_SECONDS": seconds,
        "MAX_FAILURES": settings.max_failures,
        "BACKOFF_SECONDS": round(settings.backoff_seconds),
        "HEALTHY_SECONDS": round(settings.healthy_seconds),
        "DELETE": delete,
        "DELETE_ON_SUCCESS": int(settings.delete_on_success),
    }
    return "".join(f"{name}={_word(value)}\n" for name, value in values.items())


def startup_script(settings: LaunchSettings, archive_sha256: str, delete: Sequence[str], seconds: int) -> str:
    """What each host runs at each boot (see `header` for the arguments)."""
    first, _, rest = (_FOLDER / "startup.sh").read_text(encoding="utf-8").partition("\n")
    return f"{first}\n{header(settings, archive_sha256, delete, seconds)}{rest}"


def shutdown_script() -> str:
    """What each host runs when it is about to go away."""
    return (_FOLDER / "shutdown.sh").read_text(encoding="utf-8")


def archive_url(settings: LaunchSettings, archive_sha256: str) -> str:
    """Where the code is in the bucket."""
    return f"{settings.root}/code/{archive_sha256}.tar.gz"


def _word(value: str | int | Sequence[str]) -> str:
    if isinstance(value, str | int):
        return shlex.quote(str(value))
    return f"({' '.join(map(shlex.quote, value))})"
