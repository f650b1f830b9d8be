"""Llama-architecture GGUF files: configuration and parameters in this project's names and layouts."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from t5x_instruct.checkpoints.convert.gguf_file import GgufFile
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.errors import CheckpointError, ConfigError, unknown
from t5x_instruct.models.decoder import DecoderConfig

ARCHITECTURE = "llama"
# Settings that are read, and settings that change nothing at one value and are not supported at any other.
_READ = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.freq_base", "rope.dimension_count",
)  # fmt: skip
_NEUTRAL = {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.scale_linear": 1.0, "expert_count": 0}

Convert = Callable[[np.ndarray], np.ndarray]


def read_config(file: GgufFile) -> DecoderConfig:
    """The model's configuration.

    Raises:
        CheckpointError: another architecture, settings that this model does not have, or missing ones.
    """
    architecture = file.get("general.architecture", str)
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"{file.path} has the architecture {architecture!r}; supported: {ARCHITECTURE!r}")
    _check_settings(file)

    def setting(name: str, default: int | None = None) -> int:
        return file.get(f"{ARCHITECTURE}.{name}", int, default)

    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(f"{file.path} has no tensor 'token_embd.weight'")
    num_heads, emb_dim = setting("attention.head_count"), setting("embedding_length")
    head_dim = setting("attention.key_length", emb_dim // max(num_heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if setting(name, head_dim) != head_dim:
            raise CheckpointError(
                f"{file.path}: {ARCHITECTURE}.{name} is {setting(name)}; only the width of a head, {head_dim}, "
                "is supported"
            )
    try:
        return DecoderConfig(
            vocab_size=file.tensors["token_embd.weight"].shape[0],
            emb_dim=emb_dim,
            num_layers=setting("block_count"),
            num_heads=num_heads,
            num_kv_heads=setting("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            mlp_dim=setting("feed_forward_length"),
            activation="silu",
            rope_theta=_as_written(file.get(f"{ARCHITECTURE}.rope.freq_base", float, 10000.0)),
            norm_epsilon=_as_written(file.get(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon", float)),
            tie_embeddings="output.weight" not in file.tensors,
        )
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def lazy_params(file: GgufFile, config: DecoderConfig) -> dict[str, LazyTensor]:
    """The parameters by this project's names; nothing is read yet.

    Args:
        file: the file.
        config: from `read_config` of the same file.

    Raises:
        CheckpointError: tensors are missing, have another shape, or are left over (a model with biases or experts,
            for example); all of them are listed.
    """
    c = config
    if c.num_layers > len(file.tensors):
        raise CheckpointError(f"{file.path}: {c.num_layers} layers, but only {len(file.tensors)} tensors")
    problems: list[str] = []
    used: set[str] = set()

    def tensor(source: str, shape: tuple[int, ...], convert: Convert) -> Callable[[], np.ndarray]:
        used.add(source)
        if source not in file.tensors:
            problems.append(unknown("tensor", source, _similar(file, source)))
        elif file.tensors[source].shape != shape:
            problems.append(f"tensor {source!r} has the shape {file.tensors[source].shape}, expected {shape}")
        return lambda: convert(file.read(source))

    params: dict[str, LazyTensor] = {}
    for name, source, shape, convert in _global_tensors(c):
        piece = tensor(source, shape, convert)
        params[name] = LazyTensor(_shape_after(convert, shape), [piece], stacked=False)
    for name, source, shape, convert in _layer_tensors(c):
        pieces = [tensor(f"blk.{i}.{source}", shape, convert) for i in range(c.num_layers)]
        stacked_shape = (c.num_layers, *_shape_after(convert, shape))
        params[f"decoder/layers/{name}"] = LazyTensor(stacked_shape, pieces, stacked=True)
    problems += [f"tensor {name!r} is not part of the supported model" for name in file.tensors if name not in used]
    if problems:
        shown = problems[:40] + ([f"and {len(problems) - 40} more"] if len(problems) > 40 else [])
        raise CheckpointError(f"{file.path} does not hold the tensors of its configuration:\n  " + "\n  ".join(shown))
    return params


def _global_tensors(c: DecoderConfig) -> Iterator[tuple[str, str, tuple[int, ...], Convert]]:
    yield "token_embedder/embedding", "token_embd.weight", (c.vocab_size, c.emb_dim), _same
    yield "decoder/decoder_norm/scale", "output_norm.weight", (c.emb_dim,), _same
    if not c.tie_embeddings:
        yield "decoder/logits_dense/kernel", "output.weight", (c.vocab_size, c.emb_dim), np.transpose


def _layer_tensors(c: DecoderConfig) -> Iterator[tuple[str, str, tuple[int, ...], Convert]]:
    D, N, K, H, F = c.emb_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
    yield "pre_self_attention_layer_norm/scale", "attn_norm.weight", (D,), _same
    yield "self_attention/query/kernel", "attn_q.weight", (N * H, D), partial(_rotary_heads, num_heads=N)
    yield "self_attention/key/kernel", "attn_k.weight", (K * H, D), partial(_rotary_heads, num_heads=K)
    yield "self_attention/value/kernel", "attn_v.weight", (K * H, D), partial(_heads, num_heads=K)
    yield "self_attention/out/kernel", "attn_output.weight", (D, N * H), partial(_out_heads, num_heads=N)
    yield "pre_mlp_layer_norm/scale", "ffn_norm.weight", (D,), _same
    yield "mlp/wi_0/kernel", "ffn_gate.weight", (F, D), np.transpose
    yield "mlp/wi_1/kernel", "ffn_up.weight", (F, D), np.transpose
    yield "mlp/wo/kernel", "ffn_down.weight", (D, F), np.transpose


def _same(weight: np.ndarray) -> np.ndarray:
    return weight


def _heads(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """[heads * head_dim, embed] → [embed, heads, head_dim]."""
    return weight.reshape(num_heads, -1, weight.shape[-1]).transpose(2, 0, 1)


def _out_heads(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """[embed, heads * head_dim] → [heads, head_dim, embed]."""
    return weight.reshape(weight.shape[0], num_heads, -1).transpose(1, 2, 0)


def _rotary_heads(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """`_heads` for queries and keys: a head's rows 2 i and 2 i + 1, one pair in GGUF, become i and i + H / 2."""
    pairs = weight.reshape(num_heads, -1, 2, weight.shape[-1])
    return _heads(pairs.swapaxes(1, 2).reshape(weight.shape), num_heads)


def _shape_after(convert: Convert, shape: tuple[int, ...]) -> tuple[int, ...]:
    # A broadcast array has a shape and no memory.
    return convert(np.broadcast_to(np.float32(0), shape)).shape


def _similar(file: GgufFile, source: str) -> list[str]:
    prefix = source.rpartition(".")[0].rpartition(".")[0]
    return [name for name in file.tensors if name.startswith(prefix)]


def _as_written(value: float) -> float:
    """The shortest decimal of a float32: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _check_settings(file: GgufFile) -> None:
    problems = []
    for key, value in file.metadata.items():
        prefix, _, name = key.partition(".")
        if prefix != ARCHITECTURE or name in _READ:
            continue
        if name not in _NEUTRAL:
            problems.append(f"{key} = {str(value)[:60]} is a setting that is not supported")
        elif value != _NEUTRAL[name]:
            problems.append(f"{key} is {repr(value)[:60]}; only {_NEUTRAL[name]!r} is supported")
    if problems:
        raise CheckpointError(f"{file.path}:\n  " + "\n  ".join(problems))
