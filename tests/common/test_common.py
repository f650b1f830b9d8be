import errno
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_instruct.common import io, trees
from t5x_instruct.common.errors import ConfigError, DataError, nearest, unknown


def test_unknown_shows_the_nearest_names_and_else_all():
    assert unknown("task", "capitol", ["capital", "symbol"]) == "unknown task 'capitol'; nearest: 'capital'"
    assert unknown("task", "zzz", ["capital", "symbol"]) == "unknown task 'zzz'; valid: 'capital', 'symbol'"
    assert "none is known" in unknown("task", "zzz", [])
    assert nearest("train_steps", ["TRAIN_STEPS", "MODEL_DIR"]) == ["TRAIN_STEPS"]


def test_config_error_holds_every_problem():
    error = ConfigError(["first", "second"])
    assert error.problems == ["first", "second"]
    assert str(error) == "2 problems:\n  - first\n  - second"
    assert error.exit_code == 2


def test_write_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "value.json"
    io.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        io.write_json(path, {"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(path, {"a": float("nan")})
    assert io.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_disk_without_room_leaves_the_old_file(tmp_path):
    path = tmp_path / "value"
    io.write_bytes(path, b"old")
    program = (
        "import resource, signal, sys, pathlib\n"
        "from t5x_instruct.common.io import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(pathlib.Path(sys.argv[1]), b'x' * 5000)\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", program, str(path)], env={**os.environ}, timeout=60)
    assert done.returncode == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["value"]


def test_json_errors_name_the_file(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "absent.json"):
        with pytest.raises(DataError, match=name):
            io.read_json(tmp_path / name)


def test_hashes_agree_with_known_values(tmp_path):
    path = tmp_path / "digits"
    path.write_bytes(b"123456789")
    assert io.crc32c_of_file(path) == 0xE3069283  # the check value of CRC-32C (RFC 3720, B.4)
    assert io.sha256_of_file(path) == io.sha256_of_bytes(b"123456789")
    assert io.sha256_of_json({"b": 1, "a": 2}) == io.sha256_of_json(json.loads('{"a": 2, "b": 1}'))


names = st.text("abc", min_size=1, max_size=3)


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=8))
def test_trees_flatten_and_come_back(tree):
    flat = trees.flatten_with_names(tree)
    if isinstance(tree, dict):
        assert trees.unflatten(flat) == tree
    else:
        assert flat == {"": tree}


def test_tree_sizes():
    tree = {"a": np.zeros((2, 3), np.float32), "b": {"c": np.zeros((), np.int8)}}
    assert trees.num_parameters(tree) == 7
    assert trees.tree_bytes(tree) == 25
