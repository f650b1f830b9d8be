"""Host memory of reading and writing a large Hugging Face folder.

    python benchmarks/checkpoint_memory.py --folder /tmp/large --gigabytes 2

Writes a random model there (bfloat16 tensors, about as many bytes as asked for), then opens it in a process of its own
and puts its float32 parameters on the devices, and exports it again in another. Prints for each the peak of the
process's memory, what the parameters take on the devices (which on a CPU are that same memory), and the largest tensor.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.convert.hf_names import our_params
from t5x_instruct.checkpoints.convert.hf_tables import layout_of
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.checkpoints.restore import open_source
from t5x_instruct.common.trees import num_parameters
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.models.decoder import DecoderConfig

WIDTH, VOCABULARY = 2048, 49_152


def write_random(folder: Path, num_bytes: float) -> None:
    """A Llama of about `num_bytes` in bfloat16, with layers as SmolLM2-1.7B has them."""
    layer = (4 * WIDTH + 3 * 4 * WIDTH) * WIDTH
    config = DecoderConfig(
        vocab_size=VOCABULARY,
        emb_dim=WIDTH,
        num_layers=max(1, round((num_bytes / 2 - VOCABULARY * WIDTH) / layer)),
        num_heads=32,
        num_kv_heads=32,
        head_dim=64,
        mlp_dim=4 * WIDTH,
        activation="silu",
        rope_theta=1e4,
        norm_epsilon=1e-5,
        tie_embeddings=True,
    )
    random = np.random.default_rng(0)
    tensors = {}
    for param in our_params(layout_of(config), scan_layers=True):
        shape = param.tensor.our_shape
        pieces = [lambda shape=shape: random.random(shape, np.float32)] * len(param.theirs)
        tensors[param.name] = LazyTensor(param.shape, pieces, param.stacked)
    export_hf(tensors, config, ByteVocabulary(), folder, dtype="bfloat16")


def measure(folder: Path, out: Path | None) -> None:
    """Opens a folder and places its parameters, or exports them to `out`; prints one line."""
    start, before = time.perf_counter(), _peak()
    source = open_source(str(folder))
    largest = max(np.prod(t.shape[1 if t.stacked else 0 :]) * 4 for t in source.tensors.values())
    if out is None:
        on_devices = 4 * num_parameters(source.params_fn(None))
        what = "read"
    else:
        export_hf(source.tensors, source.model_config, source.vocabulary, out, dtype="bfloat16")
        on_devices, what = 0, "exported"
    grown, seconds = _peak() - before, time.perf_counter() - start
    print(
        f"{what}: peak {_mb(grown)} above the start ({_mb(before)}); on devices {_mb(on_devices)}; "
        f"largest tensor, float32, {_mb(float(largest))}; {seconds:.1f} s"
    )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def main() -> None:
    """Runs the parts, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--part", choices=("write", "read", "export"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    model, out = args.folder / "model", args.folder / "exported"
    if args.part == "write":
        write_random(model, args.gigabytes * 1e9)
    elif args.part:
        measure(model, out if args.part == "export" else None)
    else:
        for part in ("write", "read", "export"):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], check=True)


if __name__ == "__main__":
    main()
