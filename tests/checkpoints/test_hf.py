"""Hugging Face folders in: numbers, placement, and all that can be wrong with them."""

import json
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from t5x_instruct.checkpoints.convert import safetensors_folder
from t5x_instruct.checkpoints.convert.hf_config import config_from_hf
from t5x_instruct.checkpoints.convert.hf_names import our_params
from t5x_instruct.checkpoints.convert.hf_tables import layout_of
from t5x_instruct.checkpoints.convert.safetensors_folder import SafetensorsFolder
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.common.errors import CheckpointError, InstructError
from t5x_instruct.common.trees import flatten_with_names, unflatten
from t5x_instruct.models.presets import make_model
from tests.parity import test_decoder, test_t5
from tests.parity.goldens import config_of, tensors

from . import tiny_hf as tiny
from .states import bits, mesh_of, sharding


def logits_of(source: Any, golden: dict[str, np.ndarray]) -> np.ndarray:
    model = make_model(source.model_config)
    params = source.params_fn(None)
    batch = (test_t5 if "inputs" in golden else test_decoder).batch_of(golden)
    vocab = golden["logits"].shape[-1]
    return np.asarray(model.logits(params, jax.jit(model.hidden)(params, batch)))[..., :vocab]


@pytest.mark.parametrize("case", [*tiny.LLAMA, *tiny.T5])
def test_a_folder_gives_transformers_logits(tmp_path, case):
    golden = tiny.write_folder(tmp_path, case)
    source = open_source(str(tmp_path))
    expected = config_of(golden)
    assert source.kind == "hf"
    for name in ("tie_embeddings", "activation", "norm_epsilon", "head_dim", "vocab_size"):
        assert getattr(source.model_config, name) == getattr(expected, name)
    np.testing.assert_allclose(logits_of(source, golden), golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_is_read_as_it_is(tmp_path, kind):
    golden = tiny.write_folder(tmp_path, "llama_tied", kind)
    found = flatten_with_names(open_source(f"hf:{tmp_path}").params_fn(None))
    rounded = tensors(golden, "tensor")["model.embed_tokens.weight"].astype(tiny.FLOAT_TYPES[kind]).astype(np.float32)
    assert found["token_embedder/embedding"].dtype == np.float32
    np.testing.assert_array_equal(found["token_embedder/embedding"], rounded)


def split(folder: Path, parts: int = 3) -> dict[str, str]:
    """Turns a folder's file into several with an index; returns the index's map."""
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for part in range(parts):
        name = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        names = sorted(held)[part::parts]
        save_file({n: held[n] for n in names}, folder / name)
        places |= dict.fromkeys(names, name)
    write_index(folder, places)
    return places


def write_index(folder: Path, places: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_several_files_are_one_model(tmp_path):
    tiny.write_folder(tmp_path, "llama_untied")
    whole = bits(open_source(str(tmp_path)).params_fn(None))
    split(tmp_path)
    assert bits(open_source(str(tmp_path)).params_fn(None)) == whole


@pytest.mark.parametrize("case", ["llama_untied", "t5_1_1"])
def test_parameters_are_placed_with_their_shardings(tmp_path, case):
    tiny.write_folder(tmp_path, case)
    source = open_source(str(tmp_path))
    like = flatten_with_names(jax.eval_shape(make_model(source.model_config).init, jax.random.key(0)))
    mesh = mesh_of((2,), ("a",))
    wanted = {
        name: sharding(mesh, *("a" if size % 2 == 0 else None for size in x.shape[:1])) for name, x in like.items()
    }
    placed, plain = source.params_fn(unflatten(wanted)), source.params_fn(None)
    assert bits(placed) == bits(plain)
    assert {name: (x.shape, x.sharding) for name, x in flatten_with_names(placed).items()} == {
        name: (like[name].shape, wanted[name]) for name in like
    }
    whole = {name: tensor.read() for name, tensor in source.tensors.items()}
    assert bits(unflatten(whole)) == jax.tree.map(lambda x: ("ndarray", *x[1:]), bits(plain), is_leaf=_is_bits)


def _is_bits(x: Any) -> bool:
    return isinstance(x, tuple)


@pytest.mark.parametrize("changes", [{"scan_layers": False}, {"vocab_multiple": 32}])
@pytest.mark.parametrize("case", ["llama_tied", "llama_untied", "t5_1_0", "t5_1_1"])
def test_the_tables_know_every_parameter_of_the_models(case, changes):
    config = config_of(tiny.load(case), **changes)
    like = flatten_with_names(jax.eval_shape(make_model(config).init, jax.random.key(0)))
    named = {param.name: param.shape for param in our_params(layout_of(config), config.scan_layers)}
    assert named == {name: x.shape for name, x in like.items()}
    random = np.random.default_rng(0)
    for param in our_params(layout_of(config), config.scan_layers):
        theirs = random.random(param.tensor.shape)
        ours = param.tensor.to_ours(theirs)
        assert ours.shape == param.tensor.our_shape
        np.testing.assert_array_equal(param.tensor.to_theirs(ours), theirs)


@pytest.mark.parametrize(
    ("case", "changes", "messages"),
    [
        ("llama_tied", {"model_type": "lama"}, ["unknown model_type 'lama'; nearest: 'llama'"]),
        ("llama_tied", {"model_type": None}, ["unknown model_type 'None'"]),
        (
            "llama_tied",
            {
                "use_sliding_window": True,
                "sliding_window": 4096,
                "rope_parameters": {"rope_type": "llama3", "factr": 8.0, "rope_theta": 1e4},
                "num_local_experts": 8,
                "hidden_act": "sillu",
                "num_hidden_layers": "2",
                "intermediate_size": "absent",
            },
            [
                "use_sliding_window is True; only False is supported",
                "sliding_window is 4096; only leaving it out is supported",
                "rope_parameters: low_freq_factor is missing",
                "rope_parameters: unknown setting 'factr'; nearest: 'factor'",
                "unknown setting 'num_local_experts'",
                "hidden_act: unknown value 'sillu'; nearest: 'silu'",
                "num_hidden_layers is '2', must be of the type int",
                "intermediate_size is missing",
            ],
        ),
        (
            "llama_tied",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            ["rope_scaling: unknown rope_type 'dynamic'; valid: 'default', 'linear', 'llama3', 'yarn'"],
        ),
        ("llama_tied", {"rope_scaling": {"type": "linear", "factor": 0.0}}, ["factor is 0.0, must be positive"]),
        ("llama_tied", {"num_key_value_heads": 4}, ["num_heads is 6, must be a multiple of num_kv_heads, 4"]),
        ("llama_tied", {"quantization_config": {"bits": 4}}, ["quantization_config is {'bits': 4}"]),
        ("llama_tied", {"num_hidden_layers": 10**9}, ["num_hidden_layers is 1000000000, more than 100,000"]),
        ("t5_1_1", {"num_layers": 10**9}, ["1000000000 layers, but there are"]),
        ("t5_1_1", {"feed_forward_proj": "gatd-gelu"}, ["feed_forward_proj is 'gatd-gelu'"]),
        ("t5_1_1", {"dense_act_fn": "relu"}, ["dense_act_fn is 'relu'; only 'gelu_new'"]),
        ("t5_1_1", {"d_kv": 0}, ["head_dim is 0, must be at least 1"]),
    ],
)
def test_what_the_configuration_asks_for_and_is_not_there_is_said(tmp_path, case, changes, messages):
    tiny.write_folder(tmp_path, case, **changes)
    with pytest.raises(CheckpointError) as error:
        open_source(str(tmp_path))
    for message in [*messages, str(tmp_path)]:
        assert message in str(error.value)


def test_files_as_they_are_published_are_read():
    smollm2 = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        "transformers_version": "4.42.3",
        "use_cache": True,
        "vocab_size": 49152,
    }
    config = config_from_hf(smollm2, own_head=False, where="here")
    assert (config.head_dim, config.rope_theta, config.tie_embeddings) == (64, 100_000.0, True)
    flan_t5 = {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 768,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "n_positions": 512,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "task_specific_params": {"summarization": {"num_beams": 4}},
        "tie_word_embeddings": False,
        "transformers_version": "4.23.1",
        "use_cache": True,
        "vocab_size": 32128,
    }
    config = config_from_hf(flan_t5, own_head=True, where="here")
    assert (config.activation, config.gated_mlp, config.scale_decoder_outputs) == ("gelu_tanh", True, False)
    assert (config.tie_embeddings, config.decoder_start_id, config.dropout_rate) == (False, 0, 0.1)


def test_older_spellings_mean_the_same(tmp_path):
    tiny.write_folder(tmp_path / "new", "llama_untied")
    theta = 50_000.0
    older = {"rope_parameters": "absent", "rope_theta": theta, "rope_scaling": None, "torch_dtype": "float32"}
    tiny.write_folder(tmp_path / "old", "llama_untied", **older, use_cache=True, pretraining_tp=1)
    new, old = (open_source(str(tmp_path / name)).model_config for name in ("new", "old"))
    assert old == new
    assert new.rope_theta == theta


def test_a_tied_t5_is_told_from_its_tensors(tmp_path):
    """Newer versions of transformers say `tie_word_embeddings` of every T5, and keep the scale by itself."""
    newer = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    golden = tiny.write_folder(tmp_path / "own", "t5_1_1", **newer)
    own = open_source(str(tmp_path / "own"))
    assert (own.model_config.tie_embeddings, own.model_config.scale_decoder_outputs) == (False, False)
    golden = tiny.write_folder(tmp_path / "tied", "t5_1_0", tie_word_embeddings="absent")
    held = load_file(tmp_path / "tied" / "model.safetensors")
    for name in ("lm_head.weight", "encoder.embed_tokens.weight"):
        held[name] = held["shared.weight"]
    save_file(held, tmp_path / "tied" / "model.safetensors")
    tied = open_source(str(tmp_path / "tied"))
    assert (tied.model_config.tie_embeddings, tied.model_config.scale_decoder_outputs) == (True, True)
    np.testing.assert_allclose(logits_of(tied, golden), golden["logits"], rtol=0, atol=1e-4)


def test_a_second_head_that_differs_is_refused_where_the_configuration_ties(tmp_path):
    golden = tiny.write_folder(tmp_path, "llama_tied")
    given_tensors = tensors(golden, "tensor")
    given_tensors["lm_head.weight"] = given_tensors["model.embed_tokens.weight"].copy()
    save_file(given_tensors, tmp_path / "model.safetensors")
    open_source(str(tmp_path))
    given_tensors["lm_head.weight"][-1, -1] += 1
    save_file(given_tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tie_word_embeddings in config.json"):
        open_source(str(tmp_path))


def test_tensors_that_do_not_fit_are_all_named_with_shapes(tmp_path):
    golden = tiny.write_folder(tmp_path, "llama_tied")
    held = tensors(golden, "tensor")
    held["model.layers.0.self_attn.q_proj.bias"] = np.zeros(48, np.float32)
    held["model.layers.1.mlp.up.weight"] = held.pop("model.layers.1.mlp.up_proj.weight")
    held["model.norm.weight"] = held["model.norm.weight"][:-1].copy()
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        open_source(str(tmp_path))
    for message in (
        "4 tensors do not fit",
        "'model.layers.1.mlp.up_proj.weight' is missing, shape (28, 24); nearest: 'model.layers.1.mlp.up.weight'",
        "'model.layers.0.self_attn.q_proj.bias', shape (48,), is not part of this model",
        "'model.norm.weight' has shape (23,), the configuration asks for (24,)",
    ):
        assert message in str(error.value)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "model.bin", ".."])
def test_an_index_stays_in_its_folder(tmp_path, name):
    folder = tmp_path / "model"
    tiny.write_folder(folder, "llama_tied")
    places = split(folder)
    (tmp_path / "secret.safetensors").write_bytes((folder / next(iter(places.values()))).read_bytes())
    write_index(folder, places | {"model.norm.weight": name})
    with pytest.raises(CheckpointError, match="is not that of a .safetensors file in this folder"):
        open_source(str(folder))


def test_an_index_that_is_wrong_is_said(tmp_path):
    tiny.write_folder(tmp_path, "llama_tied")
    places = split(tmp_path)
    other = next(file for file in places.values() if file != places["model.norm.weight"])
    for wrong, message in (
        (places | {"model.norm.weight": "gone.safetensors"}, "'gone.safetensors' is missing"),
        (places | {"model.norm.weight": other}, f"'model.norm.weight' should be in {other} and is in"),
        (places | {"more": other}, f"tensor 'more' should be in {other} and is not"),
        ([], "'weight_map' has to say"),
        ({"model.norm.weight": 3}, "'weight_map' has to say"),
    ):
        write_index(tmp_path, wrong)
        with pytest.raises(CheckpointError, match=message):
            open_source(str(tmp_path))


def test_pickled_weights_are_refused_with_the_way_out(tmp_path):
    tiny.write_folder(tmp_path, "llama_tied")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin: pickled weights can run any code.*save_pretrained"):
        open_source(str(tmp_path))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="other safetensors files in it: adapter_model.safetensors"):
        open_source(str(tmp_path))


def test_integers_and_eight_bits_are_refused(tmp_path):
    golden = tiny.write_folder(tmp_path, "llama_tied")
    held = tensors(golden, "tensor")
    held["model.norm.weight"] = held["model.norm.weight"].astype(np.int8)
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not read: 'model.norm.weight' is I8; supported: F64, F32"):
        open_source(str(tmp_path))


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path):
    tiny.write_folder(tmp_path, "llama_tied")
    source = open_source(str(tmp_path))
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(CheckpointError, match="no intact safetensors file"):
        source.params_fn(None)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    tiny.write_folder(folder, "llama_tied")
    return folder


@settings(max_examples=60)
@given(st.data())
def test_damaged_headers_are_errors_and_nothing_else(intact, data):
    content = bytearray((intact / "model.safetensors").read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([len(content), len(content) - 1, header, header // 2, 4, 0]))
    path = intact / "damaged" / "model.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content[:length])
    (path.parent / "config.json").write_bytes((intact / "config.json").read_bytes())
    tiny.write_tokenizer(path.parent)
    error = error_of(path.parent, read=True)
    if error is None:
        assert length == len(content)
    else:
        assert isinstance(error, CheckpointError)
        assert str(path.parent) in str(error)


def error_of(folder: Path, read: bool = False) -> InstructError | None:
    """What opening a folder raises, if it does."""
    try:
        source = open_source(str(folder))
        if read:
            source.params_fn(None)
    except InstructError as error:
        return error
    return None


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from([*tiny.settings_of("llama_tied"), "rope_scaling", "rope_theta", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
            max_leaves=3,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_configuration_is_read_or_refused(intact, changes):
    folder = intact / "config"
    tiny.write_folder(folder, "llama_tied", **changes)
    assert isinstance(error_of(folder), CheckpointError | None)


def test_json_files_are_bounded(tmp_path, monkeypatch):
    tiny.write_folder(tmp_path, "llama_tied")
    monkeypatch.setattr(safetensors_folder, "MAX_JSON_BYTES", 100)
    with pytest.raises(CheckpointError, match="config.json has .* bytes; such a file has at most 100"):
        open_source(str(tmp_path))
    monkeypatch.undo()
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="config.json"):
        open_source(str(tmp_path))


def test_metadata_say_what_is_stored(tmp_path):
    tiny.write_folder(tmp_path, "llama_tied", "BF16")
    stored = SafetensorsFolder(tmp_path).tensors
    held = load_file(tmp_path / "model.safetensors")
    assert {name: (t.shape, t.dtype, t.num_bytes) for name, t in stored.items()} == {
        name: (array.shape, "BF16", array.nbytes) for name, array in held.items()
    }
