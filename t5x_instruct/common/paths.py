"""Where a name leads: into a folder of this machine or into a bucket (`gs://BUCKET/...`)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Union
from urllib.parse import quote

if TYPE_CHECKING:  # it loads TensorStore, which names of this machine do without
    from t5x_instruct.common.buckets import BucketPath

GS = "gs://"
AnyPath = Union[Path, "BucketPath"]


def as_path(name: "str | os.PathLike[str]") -> AnyPath:
    """The path that a name means; nothing is read.

    Args:
        name: of this machine, or `gs://BUCKET/...`.
    """
    text = os.fspath(name)
    if not text.startswith(GS):
        return Path(text)
    from t5x_instruct.common.buckets import BucketPath

    return BucketPath(text)


def cache_folder() -> Path:
    """The folder for what can be made again: ``$T5X_INSTRUCT_CACHE`` or ``~/.cache/t5x_instruct``."""
    return Path(os.environ.get("T5X_INSTRUCT_CACHE") or Path.home() / ".cache" / "t5x_instruct")


def staged_place(name: "str | os.PathLike[str]") -> Path:
    """Where the copy of what lies under a name in a bucket goes, for what can read only files."""
    return cache_folder() / "staged" / quote(os.fspath(name).removeprefix(GS).rstrip("/"), safe="")


def kvstore_of(folder: AnyPath) -> dict[str, str]:
    """How TensorStore is told of a folder."""
    if isinstance(folder, Path):
        return {"driver": "file", "path": f"{folder}/"}
    return {"driver": "gcs", "bucket": folder.bucket, "path": f"{folder.key}/"}


def is_bucket(path: "str | os.PathLike[str]") -> bool:
    """Whether a name lies in a bucket."""
    return os.fspath(path).startswith(GS)
