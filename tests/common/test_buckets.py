"""Paths in a bucket, copies of what lies in one, and files that are kept in one."""

import os
import shutil
from pathlib import Path

import google_crc32c
import pytest

from t5x_instruct.common import buckets
from t5x_instruct.common.buckets import BucketPath
from t5x_instruct.common.errors import BucketError, BucketRefused, DataError
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.common.paths import as_path, is_bucket, staged_place
from t5x_instruct.common.staging import Wanted, fetch, stage
from t5x_instruct.common.upload import Upload


@pytest.fixture
def folder(bucket, request):
    return as_path(f"gs://test/{request.node.name}")


def test_a_name_is_a_path():
    path = as_path("gs://b/run/a ü?#%.txt")
    assert isinstance(path, BucketPath)
    assert (path.bucket, path.key, path.name, path.suffix) == ("b", "run/a ü?#%.txt", "a ü?#%.txt", ".txt")
    assert str(path) == os.fspath(path) == path.as_posix() == "gs://b/run/a ü?#%.txt"
    assert path.parent / "x" == as_path("gs://b/run/x")
    assert str(path.with_name("y.json")) == "gs://b/run/y.json"
    assert str(path.relative_to("gs://b/run")) == "a ü?#%.txt"
    assert is_bucket(path)
    assert isinstance(as_path("runs/x"), Path)
    assert as_path("gs://b").key == ""


def test_objects_are_written_read_listed_and_removed(folder):
    assert not folder.exists()
    for name in ("a/1.txt", "a/2.txt", "a/b/3.txt", "a0", "ab", "empty", "z"):  # more than a page of the listing
        (folder / name).write_text(name if name != "empty" else "")
    assert [path.name for path in folder.iterdir()] == ["a", "a0", "ab", "empty", "z"]
    assert [str(path.relative_to(folder)) for path in (folder / "a").objects()] == ["a/1.txt", "a/2.txt", "a/b/3.txt"]
    assert [path.name for path in folder.glob("a/*.txt")] == ["1.txt", "2.txt"]
    assert (folder / "a").is_dir()
    assert not (folder / "a").is_file()
    assert (folder / "empty").read_bytes() == b""
    assert list((folder / "empty").blocks()) == []
    assert [names for _, *names in folder.walk()] == [
        [["a"], ["a0", "ab", "empty", "z"]],
        [["b"], ["1.txt", "2.txt"]],
        [[], ["3.txt"]],
    ]
    (folder / "a").rmtree()
    assert [path.name for path in folder.iterdir()] == ["a0", "ab", "empty", "z"]
    (folder / "z").rename(folder / "moved" / "z")
    assert (folder / "moved" / "z").read_text() == "z"
    (folder / "a0").unlink()
    with pytest.raises(FileNotFoundError, match="a0"):
        (folder / "a0").read_bytes()
    write_json(folder / "x.json", {"ü": 1})
    assert read_json(folder / "x.json") == {"ü": 1}
    with pytest.raises(FileExistsError):
        folder.mkdir()


def test_a_large_object_is_read_in_blocks(folder, monkeypatch):
    monkeypatch.setattr(buckets, "BLOCK_BYTES", 10)
    for size in (0, 1, 9, 10, 11, 20, 25):
        data = os.urandom(size)
        (folder / "data").write_bytes(data)
        found = list((folder / "data").blocks())
        assert b"".join(found) == data
        assert all(len(block) <= 10 for block in found)
        assert b"".join((folder / "data").blocks(size)) == data
        with (folder / "data").open("rb") as file:
            assert file.read(3) + file.read() == data
    with (folder / "lines").open("w") as file:
        file.write("ä\nb\n")
    with (folder / "lines").open() as file:
        assert list(file) == ["ä\n", "b\n"]
    with pytest.raises(KeyError), (folder / "lines").open("w") as file:
        raise KeyError
    assert (folder / "lines").read_text() == "ä\nb\n", "what failed while it was written is not written"


def test_writing_can_depend_on_what_is_there(folder):
    path = folder / "x"
    first = path.write_if(b"1")
    assert first == path.generation()
    assert path.write_if(b"2") is None
    second = path.write_if(b"3", first)
    assert path.write_if(b"4", first) is None
    assert path.read_generation() == (b"3", second)
    assert path.write_if(None, first) is None
    assert path.write_if(None, second) is not None
    assert path.generation() is None


def test_an_absent_bucket_is_named_with_the_fix(bucket):
    absent = as_path("gs://absent/x")
    assert not absent.exists()
    with pytest.raises(BucketRefused, match="no bucket gs://absent; .*gcloud storage buckets create gs://absent") as e:
        absent.write_bytes(b"x")
    assert e.value.exit_code == 2


def test_refusal_is_not_taken_for_an_empty_folder(folder, monkeypatch):
    from tests import bucket_server

    (folder / "x").write_bytes(b"x")
    monkeypatch.setattr(bucket_server._Handler, "do_GET", lambda handler: handler._fails(403))
    for ask in (folder.exists, folder.is_dir, lambda: list(folder.iterdir()), (folder / "x").read_bytes):
        with pytest.raises(BucketRefused, match="no permission .*gcloud auth application-default login"):
            ask()


def test_no_network_is_an_error_soon(monkeypatch):
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(buckets, "FIRST_RETRIES", {"max_retries": 1, "initial_delay": "1ms", "max_delay": "1ms"})
    with pytest.raises(BucketError, match="cannot reach gs://unreached.*check the network"):
        as_path("gs://unreached/x").exists()


def test_staging_copies_what_changed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path))
    for name in ("a", "b/c"):
        (folder / name).write_text(name)
    lines = []
    place = stage(folder, lines.append)
    assert place == staged_place(folder)
    assert (place / "b" / "c").read_text() == "b/c"
    assert len(lines) == 1
    assert stage(folder, lines.append) == place
    assert len(lines) == 1, "nothing changed, nothing is read"
    (folder / "a").write_text("new")
    (folder / "b" / "c").unlink()
    stage(folder, lines.append)
    assert (place / "a").read_text() == "new"
    assert not (place / "b" / "c").exists()
    assert stage(folder / "a", lines.append).read_text() == "new", "an object alone"
    with pytest.raises(FileNotFoundError):
        stage(folder / "none", lines.append)


def test_a_copy_is_compared_with_its_checksum_and_room_is_checked_first(folder, tmp_path, monkeypatch):
    data = b"0123456789"
    (folder / "x").write_bytes(data)
    right = Wanted(folder / "x", tmp_path / "x", len(data), google_crc32c.value(data))
    fetch([right], lambda line: None)
    assert (tmp_path / "x").read_bytes() == data
    with pytest.raises(DataError, match="x is damaged"):
        fetch([right._replace(target=tmp_path / "y", crc32c=1)], lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9))
    with pytest.raises(DataError, match="no room .*T5X_INSTRUCT_CACHE.*gcsfuse"):
        fetch([right._replace(target=tmp_path / "z")], lambda line: None)


def test_files_that_grow_are_uploaded(folder):
    upload = Upload(folder)
    (upload.folder / "log").write_text("1")
    upload.now()
    assert (folder / "log").read_text() == "1"
    first = (folder / "log").generation()
    upload.now()
    assert (folder / "log").generation() == first, "what did not grow is not uploaded"
    (upload.folder / "log").write_text("12")
    upload.close()
    assert (folder / "log").read_text() == "12"
    assert not upload.folder.exists()
