"""Every block format of GGUF files, unpacked number by number from the format's description, on random blocks."""

import struct
from collections.abc import Callable

import gguf
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.gguf_file import SUPPORTED_TYPES, GgufFile

ROWS, BLOCKS = 3, 2
Block = list[float]


def half(data: bytes, at: int) -> float:
    return float(struct.unpack_from("<e", data, at)[0])


def nibbles(data: bytes) -> list[int]:
    """Low ones first, then high ones."""
    return [byte & 15 for byte in data] + [byte >> 4 for byte in data]


def q8_0(b: bytes) -> Block:
    return [half(b, 0) * q for q in struct.unpack_from("<32b", b, 2)]


def q4_0(b: bytes) -> Block:
    return [half(b, 0) * (q - 8) for q in nibbles(b[2:])]


def q4_1(b: bytes) -> Block:
    return [half(b, 0) * q + half(b, 2) for q in nibbles(b[4:])]


def five_bits(data: bytes) -> list[int]:
    high = int.from_bytes(data[:4], "little")
    return [low | (high >> j & 1) << 4 for j, low in enumerate(nibbles(data[4:]))]


def q5_0(b: bytes) -> Block:
    return [half(b, 0) * (q - 16) for q in five_bits(b[2:])]


def q5_1(b: bytes) -> Block:
    return [half(b, 0) * q + half(b, 2) for q in five_bits(b[4:])]


def q2_k(b: bytes) -> Block:
    scales, quants, d, least = b[:16], b[16:80], half(b, 80), half(b, 82)
    out = []
    for i in range(256):
        quant = quants[i // 128 * 32 + i % 32] >> 2 * (i % 128 // 32) & 3
        scale = scales[i // 16]
        out.append(d * (scale & 15) * quant - least * (scale >> 4))
    return out


def q3_k(b: bytes) -> Block:
    mask, quants, packed, d = b[:32], b[32:96], b[96:108], half(b, 108)
    out = []
    for i in range(256):
        n = i // 16
        low = packed[n] & 15 if n < 8 else packed[n - 8] >> 4
        scale = (low | (packed[8 + n % 4] >> 2 * (n // 4) & 3) << 4) - 32
        quant = quants[i // 128 * 32 + i % 32] >> 2 * (i % 128 // 32) & 3
        out.append(d * scale * (quant - (0 if mask[i % 32] >> i // 32 & 1 else 4)))
    return out


def scale_and_least(packed: bytes, n: int) -> tuple[int, int]:
    if n < 4:
        return packed[n] & 63, packed[n + 4] & 63
    return packed[n + 4] & 15 | packed[n - 4] >> 6 << 4, packed[n + 4] >> 4 | packed[n] >> 6 << 4


def q4_k(b: bytes, high: bytes = bytes(32), quants_at: int = 16) -> Block:
    d, least, packed, quants = half(b, 0), half(b, 2), b[4:16], b[quants_at:]
    out = []
    for i in range(256):
        n = i // 32
        quant = quants[n // 2 * 32 + i % 32] >> 4 * (n % 2) & 15 | (high[i % 32] >> n & 1) << 4
        scale, offset = scale_and_least(packed, n)
        out.append(d * scale * quant - least * offset)
    return out


def q5_k(b: bytes) -> Block:
    return q4_k(b, b[16:48], 48)


def q6_k(b: bytes) -> Block:
    low, high, scales, d = b[:128], b[128:192], struct.unpack_from("<16b", b, 192), half(b, 208)
    out = []
    for i in range(256):
        part, quarter, j = i // 128, i % 128 // 32, i % 32
        four = low[part * 64 + quarter % 2 * 32 + j] >> 4 * (quarter // 2) & 15
        two = high[part * 32 + j] >> 2 * quarter & 3
        out.append(d * scales[i // 16] * ((four | two << 4) - 32))
    return out


# How many bytes a block has, where its half-precision scales are, and how it is unpacked.
FORMATS: dict[str, tuple[int, tuple[int, ...], Callable[[bytes], Block]]] = {
    "F32": (4, (), lambda b: [struct.unpack("<f", b)[0]]),
    "F16": (2, (0,), lambda b: [half(b, 0)]),
    "BF16": (2, (), lambda b: [struct.unpack("<f", b"\0\0" + b)[0]]),
    "Q8_0": (34, (0,), q8_0),
    "Q4_0": (18, (0,), q4_0),
    "Q4_1": (20, (0, 2), q4_1),
    "Q5_0": (22, (0,), q5_0),
    "Q5_1": (24, (0, 2), q5_1),
    "Q2_K": (84, (80, 82), q2_k),
    "Q3_K": (110, (108,), q3_k),
    "Q4_K": (144, (0, 2), q4_k),
    "Q5_K": (176, (0, 2), q5_k),
    "Q6_K": (210, (208,), q6_k),
}


def test_all_formats_that_are_read_are_here() -> None:
    assert set(FORMATS) == set(SUPPORTED_TYPES)


@pytest.mark.parametrize("kind", FORMATS)
def test_random_blocks(tmp_path, kind):
    size, halves, unpack = FORMATS[kind]
    random = np.random.default_rng(list(FORMATS).index(kind))
    blocks = random.integers(0, 256, (ROWS * BLOCKS, size), np.uint8)
    for at in halves:  # random bits are sometimes no number
        blocks[:, at : at + 2] = random.normal(size=(len(blocks), 1)).astype("<f2").view(np.uint8)
    if kind in ("F32", "BF16"):
        values = random.normal(size=(len(blocks), 1)).astype("<f4").view(np.uint8)
        blocks = np.ascontiguousarray(values if kind == "F32" else values[:, 2:])
    stored = blocks.reshape(ROWS, -1)
    stored = stored.view({"F32": "<f4", "F16": "<f2"}.get(kind, np.uint8))
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("w", stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = np.array([unpack(bytes(block)) for block in blocks]).reshape(ROWS, -1)
    assert len(set(expected.ravel().tolist())) >= min(expected.size, 6)
    np.testing.assert_allclose(GgufFile(tmp_path / "x.gguf").read("w"), expected, rtol=1e-6, atol=1e-6)
