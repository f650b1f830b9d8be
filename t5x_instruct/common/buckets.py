"""Objects of Google Cloud Storage as paths, through TensorStore.

The `gs://` paths of etils go through TensorFlow wherever it is installed, which takes seconds to load and hears of no
emulator. TensorStore writes the arrays of checkpoints already, finds the same credentials and honours
`TENSORSTORE_GCS_HTTP_URL`: one library, one set of credentials, no further dependency. Where it finds none it asks as a
stranger, which is enough for a public bucket.

A bucket has no folders: one exists while something lies below its name, and making one does nothing. An object is
written whole or not at all; the writes of others are seen at once (Cloud Storage is strongly consistent).
"""

import fnmatch
import functools
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, Self

import tensorstore
from etils import epath

from t5x_instruct.common.errors import BucketError, BucketRefused
from t5x_instruct.common.paths import GS, as_path

FIRST_ANSWER_SECONDS = 30.0
"""A bucket that has not answered by then cannot be reached."""
FIRST_RETRIES = {"max_retries": 3, "initial_delay": "500ms", "max_delay": "4s"}
"""At the start a person waits; later a run is worth waiting for."""
ANSWER_SECONDS = 1200.0  # TensorStore tries again by itself, up to 32 times, which takes a quarter of an hour
BLOCK_BYTES = 16 << 20
_REFUSALS = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_PROBE = ".t5x_instruct"  # never there for long
_ROOT = "/gs/"  # pathlib would make one slash of two: a bucket's name is kept as a path of this machine


class Generation(NamedTuple):
    """One content of an object; every write makes another one.

    Attributes:
        content: all bytes.
        number: names this content to `BucketPath.write_if`.
    """

    content: bytes
    number: bytes


NEVER_WRITTEN = b"\x02"  # TensorStore's name of an object that is not there


class BucketPath(epath.Path):
    """`gs://BUCKET/NAME` with the methods of `pathlib.Path` that have a meaning there.

    Raises (all methods that read or write):
        FileNotFoundError: there is no such object.
        BucketRefused: there is no such bucket or no permission; says what to do.
        BucketError: the network or the service failed.
    """

    if sys.version_info < (3, 12):

        def __new__(cls, *parts: epath.PathLike) -> Self:
            """A path of its parts, the first of which may be `gs://...`."""
            return super().__new__(cls, *_as_local(parts))

    else:

        def __init__(self, *parts: epath.PathLike):
            super().__init__(*_as_local(parts))

    def __str__(self) -> str:
        text = super().__str__()
        return GS + text.removeprefix(_ROOT) if text.startswith(_ROOT) else text

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def as_posix(self) -> str:
        """The name, `gs://` included."""
        return str(self)

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.parts[2]

    @property
    def key(self) -> str:
        """Name within the bucket; empty for the bucket itself."""
        return "/".join(self.parts[3:])

    def read_bytes(self) -> bytes:
        """The whole content."""
        return self.read_generation().content

    def read_generation(self) -> Generation:
        """The whole content, and which one it is."""
        found = self._ask(_store(self.bucket).read(self.key))
        if found.state != "value":
            raise FileNotFoundError(2, "there is no such object", str(self))
        return Generation(found.value, found.stamp.generation)

    def generation(self) -> bytes | None:
        """Which content the object has, without reading it; None where there is none."""
        if not self.key:
            return None
        found = self._ask(_store(self.bucket).read(self.key, byte_range=slice(0, 0)))
        return found.stamp.generation if found.state == "value" else None

    def blocks(self, num_bytes: int | None = None) -> Iterator[bytes]:
        """The content in blocks of at most `BLOCK_BYTES`, so that memory does not grow with the object.

        Args:
            num_bytes: the size, where it is known; it saves a request.
        """
        start, store = 0, _store(self.bucket)
        while num_bytes is None or start < num_bytes:
            # Sizes are not told: a range that passes the end is refused, and then asked for without an end.
            end = start + BLOCK_BYTES if num_bytes is None else min(start + BLOCK_BYTES, num_bytes)
            block = self._range(store, slice(start, end))
            if block is None:
                rest = self._range(store, slice(start, None)) if start else self.read_bytes()
                if rest:
                    yield rest
                return
            yield block
            start += BLOCK_BYTES

    def _range(self, store: tensorstore.KvStore, wanted: slice) -> bytes | None:
        """A part of the content; None where it passes the end."""
        future = store.read(self.key, byte_range=wanted)
        try:
            found = future.result(timeout=ANSWER_SECONDS)
        except ValueError as error:
            if str(error).startswith("OUT_OF_RANGE"):
                return None
            raise _explained(error, self) from error
        except Exception as error:
            raise _explained(error, self) from error
        if found.state != "value":
            raise FileNotFoundError(2, "there is no such object", str(self))
        return found.value

    def write_bytes(self, data: bytes) -> int:
        """Writes the whole content; readers see the old one or all of the new one."""
        self._ask(_store(self.bucket).write(self.key, bytes(data)))
        return len(data)

    def write_if(self, data: bytes | None, generation: bytes = NEVER_WRITTEN) -> bytes | None:
        """Writes the content, or with None removes it, if nobody has written meanwhile.

        Args:
            data: the new content.
            generation: the one that has to be there; without it there must be no object.

        Returns:
            The new generation; None if another one was there, and nothing was done.
        """
        stamp = self._ask(_store(self.bucket).write(self.key, data, if_equal=generation))
        return stamp.generation or None  # an empty one says that the condition did not hold

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The whole content as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", encoding: str | None = "utf-8", errors: str | None = None, **_: Any) -> IO[Any]:
        """Opens the object to read it block by block, or to write it whole when the file is closed."""
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w"):
            raise ValueError(f"{self} cannot be opened with mode {mode!r}: an object is read, or written as a whole")
        if kind == "w":
            writer: Any = _Writer() if "b" in mode else _TextWriter(newline="")
            writer.path = self
            return writer
        reader = io.BufferedReader(_Reader(self), 1 << 16)
        return reader if "b" in mode else io.TextIOWrapper(reader, encoding=encoding or "utf-8", errors=errors)

    def exists(self) -> bool:
        """Whether it is an object or something lies below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self.generation() is not None

    def is_dir(self) -> bool:
        """Whether something lies below it."""
        return not self.key or bool(self._below())

    def _below(self) -> list[str]:
        """Names of the objects below it, relative to it."""
        prefix = f"{self.key}/" if self.key else ""
        listed = self._ask(_store(self.bucket).list(_below(prefix)))
        if not listed:
            # TensorStore takes an answer that refuses the listing for an empty one; reading tells them apart.
            (self / _PROBE).generation()
        found = (name.decode() for name in listed)
        return [name.removeprefix(prefix) for name in found if name.startswith(prefix) and name != prefix]

    def iterdir(self) -> Iterator[Self]:
        """What lies directly below it, sorted."""
        names = self._below()
        if not names and self.is_file():
            raise NotADirectoryError(20, "is an object, not a folder", str(self))
        for name in sorted({name.partition("/")[0] for name in names}):
            yield self / name

    def objects(self) -> list[Self]:
        """All objects below it, however deep, sorted."""
        return [self / name for name in sorted(self._below())]

    def glob(self, pattern: str) -> Iterator[Self]:
        """What lies below it and matches; `*` stops at a slash, as in a file system."""
        steps = pattern.split("/")
        found: dict[str, None] = {}
        for name in sorted(self._below()):
            parts = name.split("/")
            if len(parts) >= len(steps) and all(map(fnmatch.fnmatchcase, parts, steps)):
                found["/".join(parts[: len(steps)])] = None
        yield from (self / name for name in found)

    def walk(self, *, top_down: bool = True, on_error: Any = None) -> Iterator[tuple[Self, list[str], list[str]]]:
        """Folders with the names of the folders and objects in them."""
        names = self._below()
        files = sorted(name for name in names if "/" not in name)
        folders = sorted({name.partition("/")[0] for name in names if "/" in name})
        if top_down:
            yield self, folders, files
        for folder in folders:
            yield from (self / folder).walk(top_down=top_down, on_error=on_error)
        if not top_down:
            yield self, folders, files

    def relative_to(self, other: epath.PathLike, *_: Any) -> Self:
        """The rest of the name after that of a folder."""
        return super().relative_to(type(self)(other))

    def resolve(self, strict: bool = False) -> Self:
        """Itself: a name in a bucket is absolute and there are no links."""
        return self

    def absolute(self) -> Self:
        """Itself."""
        return self

    def expanduser(self) -> Self:
        """Itself."""
        return self

    def check_writable(self) -> None:
        """Writes an object below it and removes it: TensorStore tells only of a write that there is no such bucket."""
        probe = self / _PROBE
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing, except that it reaches for the bucket.

        Raises:
            FileExistsError: something is there and `exist_ok` does not allow it.
        """
        if not exist_ok and self.exists():
            raise FileExistsError(17, "is there already", str(self))
        _store(self.bucket)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(2, "there is no such object", str(self))
        self._ask(_store(self.bucket).write(self.key, None))

    def rmdir(self) -> None:
        """Does nothing: a folder without objects does not exist.

        Raises:
            OSError: something lies below it.
        """
        if self.is_dir():
            raise OSError(39, "is not empty", str(self))

    def rmtree(self, missing_ok: bool = False) -> None:
        """Removes everything below it."""
        if not missing_ok and not self.is_dir():
            raise FileNotFoundError(2, "nothing lies there", str(self))
        if not self.key:
            raise ValueError(f"{self}: a whole bucket is not removed")
        self._ask(_store(self.bucket).delete_range(_below(f"{self.key}/")))

    def copy(self, dst: epath.PathLike, overwrite: bool = False) -> Any:
        """Copies the object to another path, in a bucket or not."""
        target = as_path(dst)
        if not overwrite and target.exists():
            raise FileExistsError(17, "is there already", str(target))
        target.write_bytes(self.read_bytes())
        return target

    def replace(self, target: epath.PathLike) -> Any:
        """Moves an object, or everything below a name: copies, then removes."""
        moved = type(self)(target)
        if self.is_file():
            self.copy(moved, overwrite=True)
            self.unlink()
            return moved
        for name in self._below():
            (self / name).copy(moved / name, overwrite=True)
        self.rmtree()
        return moved

    rename = replace

    def _ask(self, future: Any) -> Any:
        try:
            return future.result(timeout=ANSWER_SECONDS)
        except Exception as error:
            raise _explained(error, self) from error


class _Reader(io.RawIOBase):
    """An object as a file, read forward."""

    def __init__(self, path: BucketPath):
        self._blocks = path.blocks()
        self._block = memoryview(next(self._blocks, b""))  # an object that is not there is an error now

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


class _WrittenWhole:
    """What an open object has in common, for bytes and text: it is written when it is closed, unless that failed."""

    path: BucketPath

    def close(self) -> None:
        if not self.closed:  # type: ignore[attr-defined]
            content = self.getvalue()  # type: ignore[attr-defined]
            super().close()  # type: ignore[misc]
            self.path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def __exit__(self, kind: Any, *rest: Any) -> None:
        super().close() if kind else self.close()  # type: ignore[misc]


class _Writer(_WrittenWhole, io.BytesIO):
    """An object that is written with bytes."""


class _TextWriter(_WrittenWhole, io.StringIO):
    """An object that is written with text."""


def _as_local(parts: tuple[epath.PathLike, ...]) -> tuple[epath.PathLike, ...]:
    """Parts as pathlib takes them: `gs://bucket/name` as `/gs/bucket/name`."""
    joined = "/".join(map(os.fspath, parts))
    return (_ROOT + joined.removeprefix(GS),) if joined.startswith(GS) else parts


def _below(prefix: str) -> tensorstore.KvStore.KeyRange:
    end = prefix[:-1] + chr(ord("/") + 1) if prefix else ""
    return tensorstore.KvStore.KeyRange(inclusive_min=prefix, exclusive_max=end)


@functools.lru_cache(maxsize=64)
def _store(bucket: str) -> tensorstore.KvStore:
    """Opens a bucket; the first time a process does, the bucket has to answer soon.

    Raises:
        BucketError: nothing answered, or the name is none of a bucket.
    """
    path = BucketPath(f"{GS}{bucket}")
    spec = {"driver": "gcs", "bucket": bucket}
    try:
        context = {"gcs_request_retries": FIRST_RETRIES}
        probe = tensorstore.KvStore.open(spec | {"context": context}).result(timeout=FIRST_ANSWER_SECONDS)
        try:
            probe.read(_PROBE).result(timeout=FIRST_ANSWER_SECONDS)
        except ValueError as error:
            # Who may read objects and not list them is told of an absent one that it is refused.
            if not str(error).startswith(_REFUSALS):
                raise
        return tensorstore.KvStore.open(spec).result(timeout=FIRST_ANSWER_SECONDS)
    except Exception as error:
        raise _explained(error, path) from error


def _explained(error: Exception, path: BucketPath) -> OSError:
    """The same error with what a person can do about it."""
    said = str(error).partition("\n")[0].partition(" [http")[0][:300] or type(error).__name__
    if said.startswith("NOT_FOUND"):  # what is told of a write
        return BucketRefused(
            f"cannot write {path}: there is no bucket gs://{path.bucket}; check the name, or make it: "
            f"gcloud storage buckets create gs://{path.bucket} --location=REGION"
        )
    if said.startswith(_REFUSALS):
        return BucketRefused(
            f"no permission for {path} ({said}); on your machine: gcloud auth application-default login; on a TPU VM: "
            f"give its service account the role roles/storage.objectAdmin on gs://{path.bucket}"
        )
    if isinstance(error, TimeoutError) or said.startswith(("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")):
        return BucketError(
            f"cannot reach {path} ({said}); check the network and https://status.cloud.google.com, then run the same "
            "command again"
        )
    return BucketError(f"{path}: {said}")


def use_for_epath() -> None:
    """Lets every library that opens paths through etils (Orbax, JAX's compilation cache) use this one for `gs://`."""
    epath.register_path_cls(GS)(BucketPath)
