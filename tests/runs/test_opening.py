"""A model of any size opens on any number of devices."""

import dataclasses

import jax
import pytest

from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import Source, open_source, save_run_identity
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.models.decoder import DecoderConfig, DecoderModel
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import tree_shardings
from t5x_instruct.runs.opening import inference_mesh, open_language_model, open_model, own_prompt_format
from t5x_instruct.runs.settings import ModelSettings
from tests.checkpoints import tiny_hf
from tests.data.chat_vocabularies import chatty

T5_CONFIG = T5Config(
    vocab_size=259,
    emb_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    activation="relu",
    gated_mlp=False,
    relative_buckets=8,
    relative_max_distance=16,
    norm_epsilon=1e-6,
    tie_embeddings=True,
    scale_decoder_outputs=True,
)


def config(emb_dim: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=259,
        emb_dim=emb_dim,
        num_layers=1,
        num_heads=3,
        num_kv_heads=1,
        head_dim=2,
        mlp_dim=7,
        activation="silu",
        rope_theta=1e4,
        norm_epsilon=1e-5,
        tie_embeddings=False,
    )


@pytest.mark.parametrize(("emb_dim", "data", "fsdp"), [(24, 1, 8), (12, 2, 4), (15, 8, 1)])
def test_parameters_are_sharded_over_the_devices_that_divide_them(emb_dim: int, data: int, fsdp: int) -> None:
    assert jax.device_count() == 8
    model = DecoderModel(config(emb_dim))
    abstract, axes = jax.eval_shape(model.init, jax.random.key(0)), model.param_axes()
    mesh = inference_mesh(abstract, axes)
    assert dict(mesh.shape) == {"replica": 1, "data": data, "fsdp": fsdp, "sequence": 1, "model": 1}
    embedding = tree_shardings(abstract, axes, mesh)["token_embedder"]["embedding"]
    assert embedding.shard_shape((259, emb_dim)) == (259, emb_dim // fsdp)


def test_an_odd_model_answers_as_on_one_device() -> None:
    lm = open_language_model(ModelSettings(config=config(15), vocabulary="bytes"))
    prompts = ["one", "two and", "three", "f", "5", "six", "seven", "8"]
    spread = lm.generate(prompts, max_new_tokens=4)
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    lm.params = jax.device_put(lm.params, tree_shardings(lm.params, lm.model.param_axes(), one))
    assert lm.generate(prompts, max_new_tokens=4) == spread


def test_a_run_is_asked_in_the_format_that_it_was_trained_with(tmp_path) -> None:
    vocabulary, sizes = chatty("smollm2"), dataclasses.replace(config(8), vocab_size=384)
    params = jax.jit(DecoderModel(sizes).init)(jax.random.key(0))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": params}, {})
    settings = ModelSettings(str(tmp_path))
    turn = vocabulary.chat_template.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    asked = {"plain": vocabulary.encode("Hi"), "line": vocabulary.encode("Hi\n"), "chat_each": vocabulary.encode(turn)}
    for name, ids in asked.items():
        save_run_identity(tmp_path, sizes, vocabulary, name)
        lm = open_language_model(settings)
        assert lm.prompt_format.name == name
        assert lm.prompt_ids("Hi").tolist() == ids
    with pytest.raises(ConfigError, match="'chat_each', but the vocabulary has no chat template"):
        open_language_model(dataclasses.replace(settings, vocabulary="bytes"))
    (tmp_path / "prompt_format.json").unlink()
    assert open_language_model(settings).prompt_format.name == "chat"


def test_auto_is_the_format_that_a_run_has_begun_with(tmp_path) -> None:
    opened = open_model(ModelSettings(config=config(8), vocabulary="bytes"))
    source = Source("hf", opened.model.config, opened.vocabulary, {}, opened.params_fn, "", prompt_format="eos")
    assert own_prompt_format(tmp_path / "new", opened) is None
    assert own_prompt_format(tmp_path, opened._replace(source=source)) == "eos"
    save_run_identity(tmp_path, opened.model.config, opened.vocabulary, "plain")
    assert own_prompt_format(tmp_path, opened) is None  # nothing depends on it yet
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert own_prompt_format(tmp_path, opened) == "plain"


def test_a_configuration_that_is_not_the_checkpoint_s_is_refused(tmp_path) -> None:
    tiny_hf.write_folder(tmp_path, "llama_untied")
    own = open_source(str(tmp_path)).model_config
    same = dataclasses.replace(own, dtype="bfloat16", remat="full", dropout_rate=0.1)
    assert open_model(ModelSettings(str(tmp_path), config=same)).model.config == same
    other = dataclasses.replace(own, rope_theta=own.rope_theta * 2, num_layers=own.num_layers + 1, dtype="bfloat16")
    with pytest.raises(ConfigError) as caught:
        open_model(ModelSettings(str(tmp_path), config=other))
    assert [line.split(" is ")[0] for line in caught.value.problems[:-1]] == ["num_layers", "rope_theta"]
    assert repr(own.rope_theta) in str(caught.value)
    with pytest.raises(ConfigError, match="a T5Config, the checkpoint is a DecoderConfig"):
        open_model(ModelSettings(str(tmp_path), config=T5_CONFIG))
