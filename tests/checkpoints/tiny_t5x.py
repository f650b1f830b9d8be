"""T5X checkpoints written and read byte by byte: msgpack, and zarr folders of gzip chunks, without TensorStore.

Names, axes and types are those of T5X's own models: `layer_by_layer` of its minimal T5, `scanned` of its scalable one.
"""

import gzip
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

Tree = dict[str, np.ndarray]
_SUBLAYERS = {
    "encoder": ("attention", "mlp"),
    "decoder": ("self_attention", "encoder_decoder_attention", "mlp"),
}
_THEIRS = {
    "attention": ("SelfAttention", "pre_attention_layer_norm"),
    "self_attention": ("SelfAttention", "pre_self_attention_layer_norm"),
    "encoder_decoder_attention": ("EncDecAttention", "pre_cross_attention_layer_norm"),
    "mlp": ("DenseReluDense", "pre_mlp_layer_norm"),
}
BIAS = "relative_attention_bias.weight"


def layer_by_layer(hf: Mapping[str, np.ndarray]) -> Tree:
    """T5X's parameters by name, heads joined, from the tensors of transformers' T5."""
    tree = {"token_embedder/embedding": hf["shared.weight"]}
    if "lm_head.weight" in hf:
        tree["decoder/logits_dense/kernel"] = hf["lm_head.weight"].T
    for side, sublayers in _SUBLAYERS.items():
        tree[f"{side}/{side}_norm/scale"] = hf[f"{side}.final_layer_norm.weight"]
        layers = {int(name.split(".")[2]) for name in hf if name.startswith(f"{side}.block.")}
        per_layer = f"{side}.block.1.layer.0.SelfAttention.{BIAS}" in hf
        for i in sorted(layers):
            if i == 0 or per_layer:
                at = f"{side}/layers_{i}" if per_layer else side
                tree[f"{at}/relpos_bias/rel_embedding"] = hf[f"{side}.block.{i}.layer.0.SelfAttention.{BIAS}"].T
            for j, ours in enumerate(sublayers):
                theirs, norm = _THEIRS[ours]
                tree[f"{side}/layers_{i}/{norm}/scale"] = hf[f"{side}.block.{i}.layer.{j}.layer_norm.weight"]
                names = {"q": "query", "k": "key", "v": "value", "o": "out", "wi": "wi", "wi_0": "wi_0", "wi_1": "wi_1"}
                for short, long in (names | {"wo": "wo"}).items():
                    name = f"{side}.block.{i}.layer.{j}.{theirs}.{short}.weight"
                    if name in hf:
                        tree[f"{side}/layers_{i}/{ours}/{long}/kernel"] = hf[name].T
    return tree


def scanned(tree: Tree, num_heads: int) -> Tree:
    """The same with layers along the second axis, and heads apart."""
    out = {name: array for name, array in tree.items() if "/layers_" not in name}
    for side in _SUBLAYERS:
        inner = sorted({name.split("/", 2)[2] for name in tree if name.startswith(f"{side}/layers_")})
        for name in inner:
            layers = [tree[key] for key in _in_order(tree, side, name)]
            kind = name.split("/")[-2]
            if kind in ("query", "key", "value"):
                layers = [layer.reshape(len(layer), num_heads, -1) for layer in layers]
            elif kind == "out":
                layers = [layer.reshape(num_heads, -1, layer.shape[-1]) for layer in layers]
            out[f"{side}/{side}/{name}"] = np.stack(layers, 1)
    return out


def _in_order(tree: Tree, side: str, inner: str) -> list[str]:
    names = [name for name in tree if name.startswith(f"{side}/layers_") and name.split("/", 2)[2] == inner]
    return sorted(names, key=lambda name: int(name.split("/")[1].removeprefix("layers_")))


def write(folder: Path, arrays: Mapping[str, np.ndarray], inline: Any = (), step: int | None = 1138000) -> None:
    """Writes a checkpoint: arrays named like ``target/encoder/encoder_norm/scale``, those of `inline` in the index."""
    folder.mkdir(parents=True)
    leaves: dict[str, Any] = {"state/step": _packed(np.asarray(step, np.int32))} if step is not None else {}
    for name, array in arrays.items():
        dotted = name.replace("/", ".")
        leaves[name] = _packed(array) if name in inline else write_zarr(folder / dotted, array)
    write_index(folder, leaves)


def write_index(folder: Path, leaves: Mapping[str, Any]) -> None:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    (folder / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": tree}))


def write_zarr(folder: Path, array: np.ndarray) -> dict[str, Any]:
    """Chunks of at most 7 along each axis; those at the end are filled up, as the format asks."""
    folder.mkdir()
    chunks = [min(size, 7) for size in array.shape]
    gzipped = {"id": "gzip", "level": 1}
    kind = array.dtype.name if array.dtype.name == "bfloat16" else array.dtype.str
    metadata = {"zarr_format": 2, "shape": array.shape, "chunks": chunks, "dtype": kind, "compressor": gzipped}
    (folder / ".zarray").write_text(json.dumps(metadata | {"fill_value": None, "filters": None, "order": "C"}))
    for at in itertools.product(*(range(-(-size // chunk)) for size, chunk in zip(array.shape, chunks, strict=True))):
        part = array[tuple(slice(i * chunk, (i + 1) * chunk) for i, chunk in zip(at, chunks, strict=True))]
        full = np.zeros(chunks, array.dtype)
        full[tuple(slice(0, size) for size in part.shape)] = part
        (folder / (".".join(map(str, at)) or "0")).write_bytes(gzip.compress(full.tobytes()))
    return {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "gfile", "path": f"{folder.name}/"},
        "metadata": {"chunks": chunks, "compressor": gzipped, "shape": list(array.shape)},
    }


def _packed(array: np.ndarray) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def read(folder: Path) -> tuple[Tree, dict[str, Any]]:
    """All arrays by name, read byte by byte, and the index."""
    index = msgpack.unpackb((folder / "checkpoint").read_bytes(), ext_hook=_unpacked)
    found: Tree = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, dict) and "driver" in node:
            found[name] = _read_zarr(folder / node["kvstore"]["path"].rstrip("/"))
            assert (list(found[name].shape), found[name].dtype.name) == (node["metadata"]["shape"], node["dtype"])
        elif isinstance(node, dict):
            for key, value in node.items():
                visit(f"{name}/{key}" if name else key, value)
        else:
            found[name] = node

    visit("", index["optimizer"])
    return found, index


def _unpacked(code: int, data: bytes) -> np.ndarray:
    shape, name, numbers = msgpack.unpackb(data)
    return np.frombuffer(numbers, name).reshape(shape)


def _read_zarr(folder: Path) -> np.ndarray:
    import ml_dtypes

    metadata = json.loads((folder / ".zarray").read_text())
    dtype = np.dtype(ml_dtypes.bfloat16 if metadata["dtype"] == "bfloat16" else metadata["dtype"])
    array, chunks = np.zeros(metadata["shape"], dtype), metadata["chunks"]
    for path in folder.iterdir():
        if path.name != ".zarray":
            part = np.frombuffer(gzip.decompress(path.read_bytes()), dtype).reshape(chunks)
            starts = [int(i) * chunk for i, chunk in zip(path.name.split("."), chunks, strict=True)]
            place = tuple(slice(start, start + chunk) for start, chunk in zip(starts, chunks, strict=True))
            array[place] = part[tuple(slice(0, size) for size in array[place].shape)]
    return array
