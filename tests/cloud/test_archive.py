"""The archive of code, configuration and lock file."""

import importlib.metadata
import io
import tarfile
from pathlib import Path

import pytest

from t5x_instruct.cloud.archive import lock_file as make_lock
from t5x_instruct.cloud.archive import make_archive
from t5x_instruct.common.errors import ConfigError

ROOT = Path(__file__).parents[2]


def content(archive):
    with tarfile.open(fileobj=io.BytesIO(archive.data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkout" / "tasks" / "__pycache__").mkdir(parents=True)
    for name in ("setup.py", "tasks/mine.py", "tasks/__pycache__/mine.pyc", "secret.txt"):
        (tmp_path / "checkout" / name).write_text(name)
    return tmp_path


def test_what_is_in_it(folder):
    (folder / "data").mkdir()
    (folder / "data" / "a $(b) 'c'.jsonl").write_text("{}")
    archive = make_archive("A = 1\n", ["data"], lock="jax==1\n", checkout=folder / "checkout")
    assert content(archive) == {
        "setup.py": b"setup.py",
        "tasks/mine.py": b"tasks/mine.py",
        "data/a $(b) 'c'.jsonl": b"{}",
        "run.gin": b"A = 1\n",
        "constraints.txt": b"jax==1\n",
    }


def test_the_same_content_is_the_same_archive(folder):
    first = make_archive("A = 1\n", [], lock="", checkout=folder / "checkout")
    (folder / "checkout" / "setup.py").touch()
    assert make_archive("A = 1\n", [], lock="", checkout=folder / "checkout").sha256 == first.sha256
    assert make_archive("A = 2\n", [], lock="", checkout=folder / "checkout").sha256 != first.sha256


def test_files_that_the_hosts_could_not_find(folder):
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.py").write_text("another")
    with pytest.raises(ConfigError) as raised:
        make_archive("", ["/etc/passwd", "../x.py", "gone.py", "tasks"], lock="", checkout=folder / "checkout")
    text = str(raised.value)
    assert "/etc/passwd: name files relative" in text
    assert "../x.py: name files relative" in text
    assert "gone.py: there is no such file" in text
    assert "tasks/mine.py: the package has a file of this name" in text


def test_it_needs_a_checkout(folder):
    with pytest.raises(ConfigError, match="has no setup.py: use a checkout"):
        make_archive("", [], lock="", checkout=folder)


def test_the_lock_file_has_what_is_installed_and_needed():
    lines = make_lock(ROOT).splitlines()
    assert lines == sorted(lines)
    versions = dict(line.split("==") for line in lines)
    for name in ("jax", "jaxlib", "seqio", "orbax-checkpoint", "ml-dtypes"):
        assert versions[name] == importlib.metadata.version(name).partition("+")[0]
    assert "t5x-instruct" not in versions
