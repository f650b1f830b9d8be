"""Prepared data in a bucket: fetched before it is read, published after it is written.

`array_record` opens files of a disk only, so a run reads a copy. In the bucket as on the disk a split's `info.json` and
a mixture's manifest are written last: what they name is there.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from t5x_instruct.common.buckets import BucketPath
from t5x_instruct.common.errors import DataError
from t5x_instruct.common.io import write_bytes
from t5x_instruct.common.staging import Wanted, fetch
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import lengths_path, split_folder

INFO = "info.json"
_READERS, _WRITERS = 16, 4


class _Split(NamedTuple):
    source: BucketPath
    target: Path
    info: bytes  # content of info.json
    wanted: list[Wanted]


def fetch_prepared(spec: PrepareSpec, manifest: Path) -> bool:
    """Copies what a mixture needs to the disk; what is there already is not copied again.

    Args:
        spec: with a bucket.
        manifest: the mixture's manifest on the disk.

    Returns:
        Whether the bucket has the mixture.

    Raises:
        DataError: there is no room, or what is in the bucket is damaged.
        BucketError: the bucket cannot be read.
    """
    root = BucketPath(str(spec.bucket))
    try:
        content = (root / str(manifest.relative_to(spec.root))).read_bytes()
    except FileNotFoundError:
        return False
    with ThreadPoolExecutor(_READERS) as pool:
        places = _split_places(content, spec, root)
        splits = [split for split in pool.map(lambda place: _missing(*place), places) if split is not None]
    fetch([one for split in splits for one in split.wanted])
    for split in splits:
        write_bytes(split.target / INFO, split.info, durable=False)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    if not manifest.is_file() or manifest.read_bytes() != content:
        write_bytes(manifest, content, durable=False)
    return True


def _split_places(content: bytes, spec: PrepareSpec, root: BucketPath) -> list[tuple[BucketPath, Path]]:
    """Each split's folder in the bucket and on the disk."""
    places = []
    try:
        for task in json.loads(content)["tasks"]:
            for split in task["splits"]:
                if not str(task["fingerprint"]).isalnum():
                    raise ValueError(f"fingerprint {task['fingerprint']!r}")
                folder = split_folder(spec.root, str(task["name"]), str(task["fingerprint"]), str(split))
                places.append((root / folder.relative_to(spec.root).as_posix(), folder))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the manifest of {spec.mixture!r} in {root} is damaged ({error!r}); prepare it again"
        ) from error
    return places


def _missing(source: BucketPath, target: Path) -> _Split | None:
    """What has to be copied of a split; None if it is all there."""
    try:
        info = (target / INFO).read_bytes()
        if all(_is_there(one) for one in _files(info, source, target)):
            return None
    except (FileNotFoundError, DataError):
        pass
    try:
        info = (source / INFO).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{source} has no {INFO}, though the mixture needs it; prepare it again") from error
    return _Split(source, target, info, [one for one in _files(info, source, target) if not _is_there(one)])


def _files(info: bytes, source: BucketPath, target: Path) -> Iterator[Wanted]:
    try:
        for entry in json.loads(info)["shards"]:
            yield from _files_of_shard(entry, source, target)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source / INFO} is damaged ({error!r}); prepare it again") from error


def _files_of_shard(entry: Mapping[str, Any], source: BucketPath, target: Path) -> Iterator[Wanted]:
    name = str(entry["file"])
    if Path(name).name != name:
        raise ValueError(f"the file {name!r}")
    index = lengths_path(Path(name)).name
    yield Wanted(source / name, target / name, int(entry["bytes"]), int(entry["crc32c"]))
    yield Wanted(source / index, target / index, int(entry["lengths_bytes"]), int(entry["lengths_crc32c"]))


def _is_there(one: Wanted) -> bool:
    return one.target.is_file() and one.target.stat().st_size == one.num_bytes


def publish_prepared(spec: PrepareSpec, manifest: Path, folders: Sequence[Path], say: Callable[[str], None]) -> None:
    """Writes a prepared mixture into its bucket; splits that are there already are left alone.

    Args:
        spec: with a bucket.
        manifest: the mixture's manifest on the disk.
        folders: of its splits.
        say: takes lines on how far it is.

    Raises:
        BucketError: the bucket cannot be written.
    """
    root = BucketPath(str(spec.bucket))
    with ThreadPoolExecutor(_READERS) as pool:
        same = list(pool.map(lambda folder: _same(folder / INFO, root / _below(folder, spec)), folders))
    left = [folder for folder, there in zip(folders, same, strict=True) if not there]
    with ThreadPoolExecutor(_WRITERS) as pool:
        for number, folder in enumerate(left, 1):
            files = [path for path in folder.iterdir() if path.name != INFO]
            list(pool.map(lambda path: (root / _below(path, spec)).write_bytes(path.read_bytes()), files))
            (root / _below(folder, spec) / INFO).write_bytes((folder / INFO).read_bytes())
            say(f"{root}: {number} of {len(left)} splits written")
    (root / _below(manifest, spec)).write_bytes(manifest.read_bytes())


def _below(path: Path, spec: PrepareSpec) -> str:
    return path.relative_to(spec.root).as_posix()


def _same(info: Path, folder: BucketPath) -> bool:
    try:
        return (folder / INFO).read_bytes() == info.read_bytes()
    except FileNotFoundError:
        return False
