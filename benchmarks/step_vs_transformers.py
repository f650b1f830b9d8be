"""One train step of SmolLM2-135M, ours and transformers + torch, in turn on the same machine.

    python benchmarks/step_vs_transformers.py --peer_python PATH    # an interpreter with the extra `parity`

Both: 134.5M parameters, float32, AdamW with gradient clipping at 1.0, every row one sequence without padding, the loss
on its last quarter. The weights are random, which time does not depend on. Each side lives in a process of its own and
computes only when it is told to; the first rounds are dropped. Quote the ratio, not the seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"vocab_size": 49152, "emb": 576, "layers": 30, "heads": 9, "kv_heads": 3, "mlp": 1536}


def our_step(batch: int, length: int, remat: str) -> Callable[[], None]:
    import jax
    import numpy as np

    from t5x_instruct.models.decoder import DecoderConfig
    from t5x_instruct.models.presets import make_model
    from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
    from t5x_instruct.training import schedules
    from t5x_instruct.training.optimizers import adamw
    from t5x_instruct.training.state import abstract_state, place_state, state_shardings
    from t5x_instruct.training.step import compile_step, make_train_step, supervised_loss

    config = DecoderConfig(
        vocab_size=SIZES["vocab_size"],
        emb_dim=SIZES["emb"],
        num_layers=SIZES["layers"],
        num_heads=SIZES["heads"],
        num_kv_heads=SIZES["kv_heads"],
        head_dim=SIZES["emb"] // SIZES["heads"],
        mlp_dim=SIZES["mlp"],
        activation="silu",
        rope_theta=1e5,
        norm_epsilon=1e-5,
        tie_embeddings=True,
        remat=remat,
    )
    model, optimizer, mesh = make_model(config), adamw(schedules.constant(1e-4)), make_mesh(MeshConfig())
    shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)
    params = jax.jit(model.init, out_shardings=shardings.params)(jax.random.key(0))
    state = place_state(params, optimizer, shardings)
    step = make_train_step(supervised_loss(model), optimizer, num_tasks=1)
    compiled = compile_step(step, shardings, mesh, donate=True)
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (batch, length + 1)).astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (batch, length))
    arrays = {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": (positions >= length * 3 // 4).astype(np.float32),
        "decoder_segment_ids": np.ones_like(positions),
        "decoder_positions": positions,
        "decoder_task_ids": np.zeros_like(positions),
    }

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, arrays)
        jax.block_until_ready((state, metrics))

    return run


def peer_step(batch: int, length: int, _: str) -> Callable[[], None]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SIZES["vocab_size"],
            hidden_size=SIZES["emb"],
            num_hidden_layers=SIZES["layers"],
            num_attention_heads=SIZES["heads"],
            num_key_value_heads=SIZES["kv_heads"],
            intermediate_size=SIZES["mlp"],
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    tokens = torch.randint(0, SIZES["vocab_size"], (batch, length))
    labels = tokens.clone()
    labels[:, : length * 3 // 4] = -100

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=tokens, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def work(side: str, batch: int, length: int, remat: str) -> None:
    """A worker: a step for each line it reads, its seconds for an answer; last its peak memory."""
    import resource

    step = {"ours": our_step, "peer": peer_step}[side](batch, length, remat)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": time.perf_counter() - began, "peak_gib": peak}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer_python", help="an interpreter that has torch and transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dropped", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.batch, args.length, args.remat)
        return
    if not args.peer_python:
        parser.error("--peer_python is needed: an interpreter that has torch and transformers")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_WAIT_POLICY": "PASSIVE"}
    sizes = [f"--batch={args.batch}", f"--length={args.length}", f"--remat={args.remat}"]
    workers = {
        side: subprocess.Popen(
            [python, __file__, f"--worker={side}", *sizes],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side, python in (("ours", sys.executable), ("peer", args.peer_python))
    }
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    peaks: dict[str, float] = {}
    for _ in range(args.rounds + args.dropped):
        for side, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            answer = json.loads(worker.stdout.readline())
            seconds[side].append(answer["seconds"])
            peaks[side] = answer["peak_gib"]
    for side, worker in workers.items():
        worker.communicate()
        kept = seconds[side][args.dropped :]
        targets = args.batch * (args.length - args.length * 3 // 4) / statistics.median(kept)
        print(
            f"{side}: median {statistics.median(kept):.2f} s ({min(kept):.2f}-{max(kept):.2f}), "
            f"{targets:.1f} target tokens/s, peak {peaks[side]:.2f} GiB"
        )
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["peer"], strict=True)][args.dropped :]
    print(f"ours / peer: median {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
