"""A folder that is there whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.common.io import sync_folder


def refuse_used(folder: Path) -> None:
    """Refuses to write where something lies, before anything is read.

    Raises:
        CheckpointError: the folder holds something, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already; name a new folder, or remove it first")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write into, beside the one it becomes when all is written.

    Args:
        folder: must not exist, or be empty (see `refuse_used`).

    Raises:
        CheckpointError: it cannot be written; says how much room there is.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            yield new
            if folder.exists():
                folder.rmdir()
            new.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        free = f"{shutil.disk_usage(folder.parent).free / 1e9:.1f} GB free" if folder.parent.exists() else "no folder"
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error} ({free})") from error
