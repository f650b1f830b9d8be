"""T5X checkpoints in and out, against files written and read byte by byte."""

import dataclasses
import json

import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.checkpoints.convert.t5x_export import export_t5x
from t5x_instruct.checkpoints.convert.t5x_folder import T5xFolder
from t5x_instruct.checkpoints.placement import LazyTensor, place_params
from t5x_instruct.checkpoints.restore import KINDS, find_checkpoint, open_source
from t5x_instruct.cli.main import main
from t5x_instruct.common import buckets
from t5x_instruct.common.errors import BucketRefused, CheckpointError, ConfigError
from t5x_instruct.common.paths import as_path
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import open_model
from t5x_instruct.runs.settings import ModelSettings
from tests import bucket_server
from tests.parity.goldens import config_of, load, tensors

from . import tiny_t5x as tiny
from .states import bits

CASES = ("t5_1_0", "t5_1_1", "t5_umt5")
NAMES = ("activation", "relative_max_distance", "norm_epsilon", "decoder_start_id")  # which no shape tells


def their_params(case):
    return tiny.layer_by_layer(tensors(load(case), "tensor"))


def expected(case):
    golden = load(case)
    return params_from_hf(tensors(golden, "tensor"), config_of(golden))


def numbers(tree):
    """Names and bits of a tree's arrays, wherever these are."""
    return bits({name: np.asarray(array) for name, array in flatten_with_names(tree).items()})


def write(folder, params, **options):
    tiny.write(folder, {f"target/{name}": array for name, array in params.items()}, **options)
    return str(folder)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("t5x") / "checkpoint_1138000", their_params("t5_1_1"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ["layer by layer", "scanned", "inline"])
def test_parameters_are_those_of_the_file(tmp_path, case, layout):
    params, config = their_params(case), config_of(load(case))
    if layout == "scanned":
        params = tiny.scanned(params, config.num_heads)
    folder = write(tmp_path / "c", params, inline=[f"target/{name}" for name in params if layout == "inline"])
    source = open_source(folder)
    assert (source.kind, source.step, source.vocabulary) == ("t5x", 1138000, None)
    told = {name: getattr(source.model_config, name) for name in NAMES}
    assert dataclasses.replace(config, **told) == source.model_config
    assert numbers(source.params_fn(None)) == numbers(expected(case))
    assert bits({name: tensor.read() for name, tensor in source.tensors.items()}) == bits(
        flatten_with_names(expected(case))
    )


def test_what_shapes_do_not_tell_is_what_t5x_has(path):
    config = open_source(path).model_config
    assert [getattr(config, name) for name in NAMES] == ["gelu_tanh", 128, 1e-6, 0]


@pytest.mark.parametrize("scan", [False, True])
def test_devices_get_their_parts_alone(tmp_path, path, scan):
    if scan:
        path = write(tmp_path / "c", tiny.scanned(their_params("t5_1_1"), 3))
    source, wanted = open_source(path), flatten_with_names(expected("t5_1_1"))
    mesh = make_mesh(MeshConfig(model=3), jax.devices()[:3])
    asked = {}

    def noting(name, tensor):
        def part(box):
            asked.setdefault(name, []).append(box)
            return tensor.part(box)

        return LazyTensor(tensor.shape, [], False, part)

    name = "decoder/layers/self_attention/query/kernel"
    sharding = NamedSharding(mesh, PartitionSpec(None, None, "model"))
    placed = place_params({name: noting(name, source.tensors[name])}, {name: sharding})
    assert numbers(placed) == numbers({name: wanted[name]})
    assert [box[2] for box in asked[name]] == [(0, 1), (1, 2), (2, 3)]
    for box in (((1, 2), (3, 11), (1, 3), (2, 4)), ((0, 2), (0, 18), (0, 1), (0, 5))):
        part = source.tensors[name].part(box)
        np.testing.assert_array_equal(part, wanted[name][tuple(slice(*bounds) for bounds in box)])


def test_the_newest_checkpoint_of_a_run_is_found(tmp_path):
    for step in (90, 1000):
        write(tmp_path / "run" / f"checkpoint_{step}", their_params("t5_1_1"), step=step)
    assert find_checkpoint(str(tmp_path / "run")) == ("t5x", tmp_path / "run")
    assert open_source(str(tmp_path / "run")).step == 1000
    assert open_source(f"t5x:{tmp_path / 'run' / 'checkpoint_90' / 'checkpoint'}").step == 90


def test_placeholders_name_folders(tmp_path):
    folder = tmp_path / "c"
    write(folder, their_params("t5_1_1"))
    index = msgpack.unpackb((folder / "checkpoint").read_bytes())["optimizer"]
    index["target"]["encoder"]["encoder_norm"]["scale"] = "PLACEHOLDER://target.encoder.encoder_norm.scale"
    tiny.write_index(folder, index)
    assert numbers(open_source(str(folder)).params_fn(None)) == numbers(expected("t5_1_1"))


def test_arrays_in_chunks_and_slots_are_listed(tmp_path):
    folder, params = tmp_path / "c", their_params("t5_1_1")
    table = params.pop("token_embedder/embedding")
    slots = {"state/param_states/token_embedder/embedding/v_row": np.ones(18, np.float32)}
    tiny.write(folder, {f"target/{name}": array for name, array in params.items()} | slots)
    index = msgpack.unpackb((folder / "checkpoint").read_bytes())["optimizer"]
    flat = [tiny._packed(part) for part in np.array_split(table.ravel(), 3)]
    index["target"]["token_embedder"] = {
        "embedding": {
            "__msgpack_chunked_array__": True,
            "shape": {str(i): size for i, size in enumerate(table.shape)},
            "chunks": {str(i): part for i, part in enumerate(flat)},
        }
    }
    tiny.write_index(folder, index)
    assert numbers(open_source(str(folder)).params_fn(None)) == numbers(expected("t5_1_1"))
    stored = KINDS["t5x"].stored(folder)
    assert stored["target/token_embedder/embedding"] == (table.shape, "float32", table.nbytes, None)
    assert stored["state/param_states/token_embedder/embedding/v_row"] == ((18,), "float32", 72, None)


def test_in_a_bucket(bucket, tmp_path, monkeypatch):
    params = their_params("t5_1_1")
    inline = [f"target/{name}" for name in params if "query" not in name]  # each chunk of the others is an object
    here, run = tmp_path / "checkpoint_1138000", as_path("gs://test/t5x")
    write(here, params, inline=inline)
    for file in (path for path in here.rglob("*") if path.is_file()):
        (run / str(file.relative_to(tmp_path))).write_bytes(file.read_bytes())
    (run / "checkpoint_90" / "checkpoint").write_bytes(b"older, and not looked at")
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path / "cache"))
    assert find_checkpoint(str(run)) == ("t5x", run)
    assert open_source(str(run)).step == 1138000
    folder = run / here.name
    with monkeypatch.context() as patch:
        patch.setattr(bucket_server, "PUBLIC", {"test"})
        buckets._store.cache_clear()
        source = open_source(f"t5x:{folder}")
        assert numbers(source.params_fn(None)) == numbers(expected("t5_1_1"))
        assert KINDS["t5x"].stored(folder) == KINDS["t5x"].stored(here)
        with pytest.raises(BucketRefused, match="no permission"):
            open_source(f"t5x:{run}")
    assert not (tmp_path / "cache").exists(), "nothing is copied to the disk"
    (folder / "target.encoder.layers_0.attention.query.kernel" / ".zarray").unlink()
    with pytest.raises(CheckpointError, match=r"query.kernel/.zarray cannot be read: there is no such object"):
        open_source(f"t5x:{folder}")
    with pytest.raises(CheckpointError, match="gs://test/none is no T5X checkpoint"):
        open_source("t5x:gs://test/none")


def test_bfloat16(tmp_path):
    params = {name: array.astype(ml_dtypes.bfloat16) for name, array in their_params("t5_1_1").items()}
    source = open_source(write(tmp_path / "c", params))
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), expected("t5_1_1"))
    assert numbers(source.params_fn(None)) == numbers(rounded)


def test_tensors_that_do_not_fit_are_all_named_and_none_is_read(tmp_path, monkeypatch):
    params = their_params("t5_1_1")
    params["encoder/layers_1/mlp/wj_0/kernel"] = params.pop("encoder/layers_1/mlp/wi_0/kernel")
    del params["decoder/decoder_norm/scale"]
    params["decoder/layers_0/self_attention/key/kernel"] = np.zeros((18, 16), np.float32)
    params["decoder/layers_1/mlp/wo/kernel"] = np.zeros((26, 18), np.int32)
    folder = write(tmp_path / "c", params)
    monkeypatch.setattr(T5xFolder, "read", lambda *_: pytest.fail("an array is read"))
    with pytest.raises(CheckpointError) as error:
        open_source(folder)
    for part in (
        "5 tensors",
        "encoder/layers_1/mlp/wi_0/kernel float32[18, 26] is not in the checkpoint",
        "encoder/layers_1/mlp/wj_0/kernel float32[18, 26] is in the checkpoint but not wanted",
        "decoder/decoder_norm/scale float32[18] is not in the checkpoint",
        "self_attention/key/kernel is float32[18, 16] in the checkpoint, float32[18, 15] is wanted",
        "wo/kernel is int32[26, 18]; types that are read",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, f: i["target"].pop("encoder"), "only encoder-decoders"),
        (lambda i, f: (f / "target.encoder.encoder_norm.scale" / ".zarray").unlink(), "cannot be read: No such file"),
        (lambda i, f: (f / "target.encoder.encoder_norm.scale" / ".zarray").write_text("{"), "is damaged"),
        (lambda i, f: scale(i)["metadata"].update(shape=[17]), r"by the index its shape is \(17,\)"),
        (lambda i, f: scale(i).update(driver="n5"), "only 'zarr'"),
        (lambda i, f: scale(i)["kvstore"].update(path="../other/"), "no folder beside the index"),
        (lambda i, f: scale(i)["kvstore"].update(path="/etc"), "no folder beside the index"),
        (lambda i, f: i["target"]["encoder"].update(relpos_bias={}), "sizes cannot be told"),
        (lambda i, f: i["target"].update(token_embedder={"embedding": "text"}), "holds no numbers"),
    ],
)
def test_damaged_checkpoints_are_errors(tmp_path, change, message):
    folder = tmp_path / "c"
    write(folder, their_params("t5_1_1"))
    index = msgpack.unpackb((folder / "checkpoint").read_bytes())["optimizer"]
    if "relpos" in message or "sizes" in message:
        index["target"]["decoder"].pop("relpos_bias")
    change(index, folder)
    tiny.write_index(folder, index)
    with pytest.raises(CheckpointError, match=message):
        open_source(f"t5x:{folder}")


def scale(index):
    return index["target"]["encoder"]["encoder_norm"]["scale"]


def test_damaged_chunks_and_indices_are_errors(tmp_path, path):
    folder = tmp_path / "c"
    write(folder, their_params("t5_1_1"))
    (folder / "target.encoder.encoder_norm.scale" / "0").write_bytes(b"no gzip")
    with pytest.raises(CheckpointError, match=r"cannot read .*encoder_norm\.scale"):
        open_source(str(folder)).params_fn(None)
    data = (folder / "checkpoint").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << random.integers(8)
        (folder / "checkpoint").write_bytes(bytes(damaged[: random.integers(40, len(data) + 1)]))
        try:
            T5xFolder(folder)
        except CheckpointError:
            continue
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000"\n')
    with pytest.raises(CheckpointError, match="Mesh TensorFlow"):
        open_source(f"t5x:{folder}")


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_is_written_as_t5x_does(tmp_path, case):
    params = their_params(case)
    source = open_source(write(tmp_path / "in", params))
    export_t5x(source.tensors, source.model_config, tmp_path / "out" / "checkpoint_7", step=7)
    written, index = tiny.read(tmp_path / "out" / "checkpoint_7")
    assert int(written.pop("state/step")) == 7
    assert bits(written) == bits({f"target/{name}": np.ascontiguousarray(array) for name, array in params.items()})
    assert index["version"] == 3
    leaf = index["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"]
    assert leaf["kvstore"] == {"driver": "file", "path": "target.encoder.encoder_norm.scale"}
    assert leaf["metadata"]["compressor"] == {"id": "gzip", "level": 1}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["checkpoint_7"]


def test_runs_with_unrolled_layers_and_other_types_are_written(tmp_path):
    golden = load("t5_1_1")
    config = config_of(golden, scan_layers=False, vocab_multiple=32)
    params = params_from_hf(tensors(golden, "tensor"), config)
    held = {n: LazyTensor(a.shape, [lambda a=a: a], stacked=False) for n, a in flatten_with_names(params).items()}
    export_t5x(held, config, tmp_path / "out", dtype="bfloat16")
    written, _ = tiny.read(tmp_path / "out")
    expected = their_params("t5_1_1")
    for name, array in expected.items():
        got = written[f"target/{name}"]
        rows = tuple(slice(0, size) for size in array.shape)  # the vocabulary is padded to 64 rows
        assert bits(got[rows]) == bits(np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)))
    assert written["target/token_embedder/embedding"].shape == (64, 18)


def test_the_command_line_and_runs(tmp_path, path, capsys):
    assert main(["inspect", path, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "t5x"
    row = next(row for row in shown["rows"] if row["name"] == "target/encoder/layers_0/attention/query/kernel")
    assert (row["shape"], row["type"]) == ([18, 15], "float32")
    assert main(["convert", "--from", path, "--to", f"t5x:{tmp_path / 'out'}"]) == 0
    assert numbers(open_source(str(tmp_path / "out")).params_fn(None)) == numbers(expected("t5_1_1"))
    assert main(["convert", "--from", path, "--to", str(tmp_path / "hf")]) == 2
    assert "--vocabulary" in capsys.readouterr().err
    assert main(["convert", "--from", path, "--to", str(tmp_path / "hf"), "--vocabulary", "bytes+9"]) == 2
    with pytest.raises(ConfigError, match="has no vocabulary of its own; name it in ModelSettings.vocabulary"):
        open_model(ModelSettings(initial_checkpoint_path=path))
    with pytest.raises(CheckpointError, match="exists already"):
        export_t5x({}, config_of(load("t5_1_1")), tmp_path / "out")
    with pytest.raises(CheckpointError, match="encoder-decoders of the T5 kind, not of 'decoder'"):
        export_t5x({}, config_of(load("llama_tied")), tmp_path / "none")
