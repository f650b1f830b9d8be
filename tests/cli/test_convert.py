"""`convert` and `inspect`, on the command line's inside."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from t5x_instruct.checkpoints.convert import hf_export
from t5x_instruct.cli import convert
from t5x_instruct.cli.main import main
from tests.checkpoints import tiny_gguf, tiny_hf


def test_a_gguf_file_becomes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = tiny_gguf.write(tmp_path / "a.gguf", tiny_gguf.weights())
    out = tmp_path / "out"
    words = ["convert", "--from", str(tmp_path / "a.gguf"), "--to", str(out), "--context_length", "512"]
    assert main(words) == 0
    assert f"is in {out}: float32" in capsys.readouterr().out
    written = load_file(out / "model.safetensors")
    np.testing.assert_array_equal(written["model.embed_tokens.weight"], held["token_embd.weight"])
    np.testing.assert_array_equal(written["model.layers.1.mlp.down_proj.weight"], held["blk.1.ffn_down.weight"])
    config = json.loads((out / "config.json").read_text())
    assert (config["max_position_embeddings"], config["eos_token_id"], config["dtype"]) == (512, 2, "float32")
    assert main(words) == 1
    assert "exists already" in capsys.readouterr().err


def test_help_says_what_export_takes() -> None:
    assert tuple(hf_export.TYPES) == convert.DTYPES
    assert convert.CONTEXT_LENGTH == hf_export.DEFAULT_CONTEXT_LENGTH


def test_wrong_arguments_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "--from", str(tmp_path / "none"), "--to", str(tmp_path / "out")]
    assert main([*words, "--context_length", "0"]) == 2
    assert "--context_length 0: must be at least 1" in capsys.readouterr().err
    assert main(words) == 1
    assert "there is no checkpoint at" in capsys.readouterr().err
    assert main([*words[:-1], "gs://a/b", "--adapters"]) == 2
    assert "adapters are written to a disk" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--dtype", "int8"])


def test_inspect_lists_what_a_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_hf.write_folder(tmp_path, "llama_tied", "BF16", model_type="not_ours")
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    held = load_file(tmp_path / "model.safetensors")
    assert {row["name"]: (tuple(row["shape"]), row["type"], row["bytes"]) for row in found["rows"]} == {
        name: (array.shape, "BF16", array.nbytes) for name, array in held.items()
    }
    assert (found["kind"], found["tensors"]) == ("hf", len(held))
    assert found["bytes"] == 2 * found["elements"] == sum(array.nbytes for array in held.values())
    assert main(["inspect", f"hf:{tmp_path}"]) == 0
    assert "model.embed_tokens.weight" in capsys.readouterr().out


def test_inspect_knows_quantised_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_gguf.write(tmp_path / "a.gguf", tiny_gguf.weights(), "Q8_0")
    assert main(["inspect", str(tmp_path / "a.gguf"), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    gate = rows["blk.0.ffn_gate.weight"]
    assert (gate["shape"], gate["type"], gate["bytes"]) == ([64, 32], "Q8_0", 64 * 34)
