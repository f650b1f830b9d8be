"""A Llama of a few kilobytes in a GGUF file, and its forward pass written a second time, in GGUF's own layout."""

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from tokenizers.pre_tokenizers import ByteLevel

EMB, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS = 32, 4, 2, 8, 64, 2
THETA, EPSILON = 1000.0, 1e-5
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "1 2")
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES), "<user>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def weights(seed: int = 0, tied: bool = True) -> dict[str, np.ndarray]:
    """Tensors by GGUF's names, float32, [out, in]."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    tensors = {"token_embd.weight": draw(len(TOKENS), EMB), "output_norm.weight": 1 + draw(EMB)}
    if not tied:
        tensors["output.weight"] = draw(len(TOKENS), EMB)
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.attn_norm.weight": 1 + draw(EMB),
            f"blk.{i}.attn_q.weight": draw(HEADS * HEAD_DIM, EMB),
            f"blk.{i}.attn_k.weight": draw(KV_HEADS * HEAD_DIM, EMB),
            f"blk.{i}.attn_v.weight": draw(KV_HEADS * HEAD_DIM, EMB),
            f"blk.{i}.attn_output.weight": draw(EMB, HEADS * HEAD_DIM),
            f"blk.{i}.ffn_norm.weight": 1 + draw(EMB),
            f"blk.{i}.ffn_gate.weight": draw(MLP, EMB),
            f"blk.{i}.ffn_up.weight": draw(MLP, EMB),
            f"blk.{i}.ffn_down.weight": draw(EMB, MLP),
        }
    return tensors


def write(
    path: Path,
    tensors: dict[str, np.ndarray],
    kind: str = "F32",
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    tokenizer: str = "gpt2",
    **settings: object,
) -> dict[str, np.ndarray]:
    """Writes the file; matrices are quantized as `kind`. Returns the tensors as the file holds them.

    `settings` replace or add `llama.*` keys, with `__` for `.`; None leaves one out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, object] = {
        "block_count": LAYERS,
        "embedding_length": EMB,
        "feed_forward_length": MLP,
        "attention__head_count": HEADS,
        "attention__head_count_kv": KV_HEADS,
        "attention__layer_norm_rms_epsilon": EPSILON,
        "rope__freq_base": THETA,
        "rope__dimension_count": HEAD_DIM,
    }
    for name, value in (values | settings).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}.get(type(value))
        if add is not None:
            add(f"llama.{name.replace('__', '.')}", value)
    _write_tokenizer(writer, tokenizer, pre)
    quantization = gguf.GGMLQuantizationType[kind]
    held = {}
    for name, value in tensors.items():
        if value.ndim == 1:
            writer.add_tensor(name, value)
            held[name] = value
        else:
            stored = quantize(value, quantization)
            writer.add_tensor(name, stored, raw_dtype=quantization)
            held[name] = dequantize(stored, quantization).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: str, pre: str) -> None:
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    types = [gguf.TokenType.NORMAL] * len(TOKENS)
    types[: len(SPECIAL)] = [gguf.TokenType.CONTROL] * len(SPECIAL)
    types[-1] = gguf.TokenType.USER_DEFINED
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)


def interleaved_rope(x_TNH: np.ndarray) -> np.ndarray:
    """Turns channels 2 i and 2 i + 1 together, as llama.cpp does for this architecture."""
    angle_Th = np.arange(len(x_TNH))[:, None] * THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    turned = (x_TNH[..., 0::2] + 1j * x_TNH[..., 1::2]) * np.exp(1j * angle_Th)[:, None, :]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x_TNH.shape)


def forward(tensors: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits [T, V] in float64."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    T = len(tokens)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * w[name]

    x = w["token_embd.weight"][tokens]
    for i in range(LAYERS):
        h = norm(x, f"blk.{i}.attn_norm.weight")
        q = interleaved_rope((h @ w[f"blk.{i}.attn_q.weight"].T).reshape(T, HEADS, HEAD_DIM))
        k = interleaved_rope((h @ w[f"blk.{i}.attn_k.weight"].T).reshape(T, KV_HEADS, HEAD_DIM))
        v = (h @ w[f"blk.{i}.attn_v.weight"].T).reshape(T, KV_HEADS, HEAD_DIM)
        k, v = (np.repeat(a, HEADS // KV_HEADS, axis=1) for a in (k, v))
        scores = np.einsum("tnh,snh->nts", q, k) / np.sqrt(HEAD_DIM)
        scores = np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)
        probabilities = np.exp(scores - scores.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        attended = np.einsum("nts,snh->tnh", probabilities, v).reshape(T, -1)
        x = x + attended @ w[f"blk.{i}.attn_output.weight"].T
        h = norm(x, f"blk.{i}.ffn_norm.weight")
        gate = h @ w[f"blk.{i}.ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"blk.{i}.ffn_up.weight"].T)) @ w[f"blk.{i}.ffn_down.weight"].T
    return norm(x, "output_norm.weight") @ w.get("output.weight", w["token_embd.weight"]).T
