"""One archive of code, configuration and lock file, the same bytes for the same content."""

import gzip
import hashlib
import importlib.metadata
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from t5x_instruct.common.errors import ConfigError

CHECKOUT = Path(__file__).parents[2]
CODE = ("setup.py", "pyproject.toml", "README.md", "t5x_instruct", "tasks", "gin_configs", "launch")
LOCK_FILE = "constraints.txt"
RUN_FILE = "run.gin"
_IGNORED = {"__pycache__", ".ipynb_checkpoints", "t5x_instruct.egg-info"}
_MAX_BYTES = 200 * 2**20
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]*")


@dataclass(frozen=True)
class Archive:
    """A gzipped tar file.

    Args:
        data: its bytes.
        names: what is in it.
    """

    data: bytes
    names: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of its bytes, which is also its name in the bucket."""
        return hashlib.sha256(self.data).hexdigest()


def make_archive(run_gin: str, files: Sequence[str], *, lock: str, checkout: Path = CHECKOUT) -> Archive:
    """Packs what the hosts need.

    Args:
        run_gin: the run's whole configuration.
        files: further files or folders, relative to the working folder.
        lock: the lock file's text.
        checkout: the package's sources.

    Returns:
        The archive: the sources and the files side by side, `run.gin` and `constraints.txt`.

    Raises:
        ConfigError: this is no checkout; a file is missing, is outside of the working folder, or would replace one of
            the package; or all of it is too large to be code.
    """
    if not (checkout / "setup.py").is_file():
        raise ConfigError(
            f"launch sends the package's sources to the hosts, and {checkout} has no setup.py: use a checkout"
        )
    content = {path.relative_to(checkout).as_posix(): path for path in _walk(checkout / name for name in CODE)}
    problems = []
    for name in files:
        path = Path(name)
        if path.is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append(f"{name}: name files relative to the working folder and below it, the hosts have no other")
        elif not path.exists():
            problems.append(f"{name}: there is no such file in {Path.cwd()}")
        for found in _walk([path]):
            known = content.setdefault(found.as_posix(), found)
            if known.resolve() != found.resolve():
                problems.append(f"{found}: the package has a file of this name; call it otherwise")
    if problems:
        raise ConfigError(problems)
    data = {name: path.read_bytes() for name, path in content.items()}
    data |= {RUN_FILE: run_gin.encode(), LOCK_FILE: lock.encode()}
    size = sum(map(len, data.values()))
    if size > _MAX_BYTES:
        largest = max(data, key=lambda name: len(data[name]))
        raise ConfigError(
            f"{size / 2**20:,.0f} MB to send, the limit is {_MAX_BYTES / 2**20:,.0f}; the largest file is {largest}: "
            "put data into the bucket"
        )
    executable = {name for name, path in content.items() if path.stat().st_mode & 0o100}
    return Archive(_pack(data, executable), tuple(sorted(data)))


def _walk(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from _walk(child for child in sorted(path.iterdir()) if child.name not in _IGNORED)
        elif path.is_file() and path.suffix != ".pyc":
            yield path


def _pack(data: Mapping[str, bytes], executable: set[str]) -> bytes:
    """Without times and owners, so that the same content has the same digest."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(data):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data[name]), 0o755 if name in executable else 0o644
            tar.addfile(entry, io.BytesIO(data[name]))
    return buffer.getvalue()


def lock_file(checkout: Path = CHECKOUT) -> str:
    """The versions installed here of all that the package needs, directly or not, as pip's constraints.

    Args:
        checkout: the package's sources, whose `setup.py` says what it needs.

    Returns:
        Lines `name==version`, sorted.
    """
    text = (checkout / "setup.py").read_text(encoding="utf-8")
    waiting = [name.lower() for name in re.findall(r'^\s+"([A-Za-z][-A-Za-z0-9_.]*)(?:\[.*?\])?>=', text, re.MULTILINE)]
    versions: dict[str, str] = {}
    while waiting:
        name = _normal(waiting.pop())
        if name in versions:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of an extra that is not installed, or of another system
            continue
        versions[name] = found.version.partition("+")[0]
        for requirement in found.requires or ():
            match = _DISTRIBUTION.match(requirement)
            if match and not re.search(r"extra\s*==", requirement):
                waiting.append(match.group())
    return "".join(sorted(f"{name}=={version}\n" for name, version in versions.items()))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
