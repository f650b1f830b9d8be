import json
import shutil

import pytest

from t5x_instruct.checkpoints.checksums import CHECKSUMS_NAME, verify
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.common.errors import CheckpointError

from .states import abstract, assert_restores, files_of, state_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(7, state_of(7), {"rows": 7}, {"loss": 1.0})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def error_of_restore(folder):
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(7, abstract(state_of(7)))
    return str(error.value)


def test_an_untouched_copy_restores(folder):
    with Checkpoints(folder) as checkpoints:
        assert_restores(checkpoints, 7)


def test_a_flipped_bit_in_any_file_is_found_and_named(folder):
    files = files_of(folder)
    assert len(files) > 5
    for i, path in enumerate(files):
        intact = path.read_bytes()
        for position in (0, len(intact) // 2, len(intact) - 1):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << (i % 8)
            path.write_bytes(damaged)
            message = error_of_restore(folder)
            assert str(path) in message
            assert "damaged" in message or path.name == CHECKSUMS_NAME
        path.write_bytes(intact)
    with Checkpoints(folder) as checkpoints:
        assert_restores(checkpoints, 7)


def test_every_bit_of_the_list_itself_counts(folder):
    path = folder / "7" / CHECKSUMS_NAME
    intact = path.read_bytes()
    from etils import epath

    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        assert verify(epath.Path(folder / "7")), f"bit {position % 8} of byte {position} has no meaning"


def test_a_truncated_file_is_named_with_both_sizes(folder):
    for path in files_of(folder):
        if path.name == CHECKSUMS_NAME or path.stat().st_size == 0:
            continue
        intact = path.read_bytes()
        path.write_bytes(intact[:-1])
        message = error_of_restore(folder)
        assert f"{path} is damaged: size expected {len(intact)} bytes, found {len(intact) - 1} bytes" in message
        path.write_bytes(intact)


def test_missing_and_additional_files_are_listed_together(folder):
    files = [path for path in files_of(folder) if path.name != CHECKSUMS_NAME]
    files[0].unlink()
    files[1].unlink()
    extra = folder / "7" / "state" / "extra"
    extra.write_bytes(b"")
    message = error_of_restore(folder)
    assert f"{files[0]} is missing" in message
    assert f"{files[1]} is missing" in message
    assert f"{extra} does not belong to the step" in message


def test_a_step_under_another_number_is_refused(folder):
    (folder / "7").rename(folder / "8")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(CheckpointError, match="belongs to step 7"):
            checkpoints.restore(8, abstract(state_of(7)))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b'{"self": 1}', b"\xff", b"9" * 10_000])
def test_a_list_that_is_none_is_an_error(folder, content):
    (folder / "7" / CHECKSUMS_NAME).write_bytes(content)
    assert CHECKSUMS_NAME in error_of_restore(folder)


def test_the_list_has_sizes_and_checksums(folder):
    import google_crc32c

    content = json.loads((folder / "7" / CHECKSUMS_NAME).read_bytes())
    assert content["step"] == "7"
    for name, entry in content["files"].items():
        data = (folder / "7" / name).read_bytes()
        assert entry == {"size": len(data), "crc32c": f"{google_crc32c.value(data):08x}"}
    assert len(content["files"]) == len(files_of(folder)) - 1
