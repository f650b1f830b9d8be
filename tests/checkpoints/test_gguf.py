import random
import struct
import tracemalloc

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.gguf_file import SUPPORTED_TYPES, GgufFile
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.common.errors import CheckpointError, InstructError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.models.layers.rope import Rope, rotate, rotation
from t5x_instruct.models.presets import config_from_dict, make_model

from . import tiny_gguf as tiny
from .states import mesh_of, sharding

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny.write(path, tiny.weights())
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_read_as_the_gguf_package_reads_them(tmp_path, kind):
    held = tiny.write(tmp_path / "a.gguf", tiny.weights(), kind)
    file = GgufFile(tmp_path / "a.gguf")
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert file.tensors.keys() == reader.keys() == held.keys()
    for name, expected in held.items():
        value = file.read(name)
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(value, gguf.quants.dequantize(reader[name].data, reader[name].tensor_type))


def test_long_tensors_are_read_in_parts(path, monkeypatch):
    from t5x_instruct.checkpoints.convert import gguf_file

    whole = GgufFile(path).read("token_embd.weight")
    monkeypatch.setattr(gguf_file, "_CHUNK_BYTES", 3 * whole[0].nbytes + 1)
    np.testing.assert_array_equal(GgufFile(path).read("token_embd.weight"), whole)


def test_every_supported_type_can_be_dequantized():
    for name in SUPPORTED_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        plain = {"F32": np.float32, "F16": np.float16}.get(name)
        data = np.zeros((1, block_size), plain) if plain else np.zeros((1, block_bytes), np.uint8)
        assert gguf.quants.dequantize(data, kind).shape == (1, block_size)


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_computes_what_the_file_says(tmp_path, tied):
    held = tiny.write(tmp_path / "a.gguf", tiny.weights(1, tied), "Q8_0")
    source = open_source(str(tmp_path / "a.gguf"))
    model, params = make_model(source.model_config), source.params_fn(None)
    like = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    tokens = [1, 260, 40, 7, 7, 99, 2]
    logits = model.logits(params, model.hidden(params, {"decoder_input_tokens": jnp.asarray([tokens])}))
    np.testing.assert_allclose(logits[0], tiny.forward(held, tokens), rtol=1e-4, atol=1e-4)


def test_queries_and_keys_turn_as_in_the_file(path):
    """Dot products of rotated queries and keys are the same in both orders of channels."""
    held, params = tiny.weights(), open_source(str(path)).params_fn(None)
    attention = params["decoder"]["layers"]["self_attention"]
    x_TD = np.random.default_rng(2).standard_normal((5, tiny.EMB)).astype(np.float32)
    turn = rotation(jnp.arange(5)[None], tiny.HEAD_DIM, Rope(tiny.THETA))
    for layer in range(tiny.LAYERS):
        theirs, ours = [], []
        for name, kernel, heads in (("q", "query", tiny.HEADS), ("k", "key", tiny.KV_HEADS)):
            weight = held[f"blk.{layer}.attn_{name}.weight"]
            theirs.append(tiny.interleaved_rope((x_TD @ weight.T).reshape(5, heads, tiny.HEAD_DIM)))
            ours.append(rotate(jnp.einsum("td,dnh->tnh", x_TD, attention[kernel]["kernel"][layer])[None], turn)[0])
        q, k = theirs
        expected = np.einsum("tnh,snh->nts", q, np.repeat(k, 2, axis=1))
        found = np.einsum("tnh,snh->nts", ours[0], np.repeat(ours[1], 2, axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_configuration_is_the_files(path):
    config = open_source(str(path)).model_config
    expected = {
        "family": "decoder",
        "vocab_size": len(tiny.TOKENS),
        "emb_dim": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "mlp_dim": 64,
        "activation": "silu",
        "rope_theta": 1000.0,
        "norm_epsilon": 1e-5,  # not the 9.999999747378752e-06 of its float32
        "tie_embeddings": True,
    }
    assert config == config_from_dict(expected)


def test_parameters_are_placed_with_their_shardings(path):
    source = open_source(str(path))
    mesh = mesh_of((2, 4), ("a", "b"))
    specs = {
        "token_embedder/embedding": (None, "b"),
        "decoder/layers/mlp/wi_0/kernel": ("a", None, "b"),
        "decoder/layers/mlp/wo/kernel": (None, "b", "a"),
        "decoder/layers/self_attention/query/kernel": (None, "a", "b", None),
    }
    plain = flatten_with_names(source.params_fn(None))
    shardings = {name: sharding(mesh, *specs.get(name, ())) for name in plain}
    from t5x_instruct.common.trees import unflatten

    placed = flatten_with_names(source.params_fn(unflatten(shardings)))
    for name, value in placed.items():
        assert value.sharding == shardings[name]
        np.testing.assert_array_equal(np.asarray(value), np.asarray(plain[name]))
    shards = placed["decoder/layers/mlp/wi_0/kernel"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(1, 32, 16)}


def test_shardings_of_another_model_are_refused(path):
    shardings = {"token_embedder": {"embeding": sharding(mesh_of((1,), ("a",)))}}
    with pytest.raises(CheckpointError) as error:
        open_source(str(path)).params_fn(shardings)
    assert "the checkpoint lacks: token_embedder/embeding (nearest: token_embedder/embedding)" in str(error.value)
    assert "the model lacks: decoder/decoder_norm/scale" in str(error.value)


def test_the_tokenizer_is_the_files(path):
    vocabulary = open_source(str(path)).vocabulary

    def tokens(text: str) -> list[str]:
        return [vocabulary.token_string(i) for i in vocabulary.encode(text)]

    assert (vocabulary.start_id, vocabulary.eos_id, vocabulary.pad_id) == (1, 2, 0)
    assert vocabulary.vocab_size == len(tiny.TOKENS)
    assert tokens("hello") == ["hello"]
    assert tokens("hello world") == ["hello", "Ġw", "o", "r", "l", "d"]
    assert tokens("12") == ["1", "2"]  # digits are split before merging, although '12' is a token
    assert tokens("a<|im_end|>\n<user>") == ["a", "<|im_end|>", "Ċ", "<user>"]
    text = "ünï 12\n\t<user> hello"
    assert vocabulary.decode(vocabulary.encode("<|im_start|>" + text)) == text
    message = {"role": "user", "content": "hi"}
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert vocabulary.chat_template.render([message], add_generation_prompt=True) == expected


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "1212 12", ["12", "12", "Ġ", "12"]),
        ("llama-bpe", "1212", ["12", "1", "2"]),
        ("llama-bpe", "12", ["12"]),
    ],
)
def test_other_pre_tokenizers(tmp_path, pre, text, expected):
    tiny.write(tmp_path / "a.gguf", tiny.weights(), pre=pre)
    vocabulary = open_source(str(tmp_path / "a.gguf")).vocabulary
    assert [vocabulary.token_string(i) for i in vocabulary.encode(text)] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "gemma2"}, "architecture 'gemma2'; supported: 'llama'"),
        ({"tokenizer": "llama"}, "kind 'llama'; supported: 'gpt2'"),
        ({"pre": "smolm"}, "unknown pre-tokenizer 'smolm'; nearest: 'smollm'"),
        ({"rope__scaling__type": "yarn"}, "llama.rope.scaling.type is 'yarn'; only 'none' is supported"),
        ({"expert_count": 8}, "llama.expert_count is 8; only 0 is supported"),
        ({"attention__sliding_window": 4096}, "llama.attention.sliding_window = 4096 is a setting that is not"),
        ({"rope__dimension_count": 4}, "llama.rope.dimension_count is 4; only the width of a head, 8"),
        ({"attention__layer_norm_rms_epsilon": None}, "unknown key 'llama.attention.layer_norm_rms_epsilon'"),
        ({"block_count": 3}, "unknown tensor 'blk.2.attn_norm.weight'"),
        ({"block_count": 1}, "tensor 'blk.1.attn_q.weight' is not part of the supported model"),
        ({"block_count": 2**31}, "2147483648 layers, but only"),
        ({"block_count": 1.0}, "llama.block_count is '1.0', a float; it has to be a int"),
        ({"feed_forward_length": 32}, r"'blk.0.ffn_gate.weight' has the shape \(64, 32\), expected \(32, 32\)"),
        ({"attention__head_count_kv": 3}, "num_heads is 4, must be a multiple of num_kv_heads, 3"),
        ({"kind": "TQ1_0"}, "has the type TQ1_0; supported: F32"),
    ],
)
def test_what_is_not_supported_is_said(tmp_path, settings, message):
    tensors = tiny.weights()
    if settings.get("kind") == "TQ1_0":
        tensors = {"token_embd.weight": np.zeros((2, 256), np.float32)}
    tiny.write(tmp_path / "a.gguf", tensors, **settings)
    with pytest.raises(CheckpointError, match=message) as error:
        open_source(str(tmp_path / "a.gguf"))
    assert str(tmp_path / "a.gguf") in str(error.value)


def test_biases_are_refused(tmp_path):
    tiny.write(tmp_path / "a.gguf", tiny.weights() | {"blk.0.attn_q.bias": np.zeros(32, np.float32)})
    with pytest.raises(CheckpointError, match="'blk.0.attn_q.bias' is not part of the supported model"):
        open_source(str(tmp_path / "a.gguf"))


def test_truncated_files_are_errors(path, tmp_path):
    data = path.read_bytes()
    header = GgufFile(path).tensors["token_embd.weight"].offset
    chance = random.Random(0)
    lengths = {0, 3, 4, 23, 24, header - 1, header, len(data) - 64} | {chance.randrange(header) for _ in range(150)}
    for length in sorted(lengths):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="cut.gguf"):
            open_source(f"gguf:{tmp_path / 'cut.gguf'}")


def test_flipped_header_bytes_never_crash_nor_fill_the_memory(path, tmp_path):
    data = path.read_bytes()
    header = GgufFile(path).tensors["token_embd.weight"].offset
    chance = random.Random(1)
    errors = []
    tracemalloc.start()
    try:
        for _ in range(250):
            damaged = bytearray(data)
            for _ in range(chance.choice((1, 1, 3))):
                damaged[chance.randrange(header)] ^= 1 << chance.randrange(8)
            (tmp_path / "a.gguf").write_bytes(damaged)
            try:
                open_source(f"gguf:{tmp_path / 'a.gguf'}").params_fn(None)
            except InstructError as error:
                errors.append(error)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(errors) > 100
    assert all(isinstance(error, CheckpointError) and "a.gguf" in str(error) for error in errors)


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**40, 2**31])
def test_counts_beyond_the_file_are_refused_at_once(path, tmp_path, value):
    data = path.read_bytes()
    tokens_at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    types_at = data.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    for position in (8, 16, 24, tokens_at, types_at):  # tensors, keys, length of the first key, two arrays
        damaged = bytearray(data)
        damaged[position : position + 8] = struct.pack("<Q", value)
        (tmp_path / "a.gguf").write_bytes(damaged)
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError, match="a.gguf"):
                GgufFile(tmp_path / "a.gguf")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(path, tmp_path):
    copy = tmp_path / "a.gguf"
    copy.write_bytes(path.read_bytes())
    source = open_source(str(copy))
    with open(copy, "r+b") as file:
        file.truncate(copy.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="ends early"):
        source.params_fn(None)
