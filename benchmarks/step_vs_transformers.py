"""One train step, ours and transformers + torch, in turn on the same machine.

    python benchmarks/step_vs_transformers.py --peer_python PATH    # an interpreter with the extra `parity`
    python benchmarks/step_vs_transformers.py --peer_python PATH --model t5

Both sides: float32, the same sizes, gradient clipping at 1.0, every row one sequence without padding, random weights
(time does not depend on them).

- `smollm2`: SmolLM2-135M, AdamW, 4 rows of 256 tokens, the loss on the last quarter of a row.
- `t5`: T5 1.1 small (77.0M), Adafactor, 8 rows of 512 input and 128 target tokens.

Each side lives in a process of its own and computes only when it is told to; the first rounds are dropped. Quote the
ratio, not the seconds.
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
from typing import Any, NamedTuple

Step = Callable[[], None]


class Work(NamedTuple):
    """What one step is given: rows, input tokens a row (0 for a decoder), decoder tokens a row, trained tokens."""

    rows: int
    inputs: int
    length: int
    targets: int


WORK = {"smollm2": Work(4, 0, 256, 4 * 64), "t5": Work(8, 512, 128, 8 * 128)}
SMOLLM2 = {"vocab_size": 49152, "emb": 576, "layers": 30, "heads": 9, "kv_heads": 3, "mlp": 1536}
T5 = {"vocab_size": 32128, "emb": 512, "layers": 8, "heads": 6, "head_dim": 64, "mlp": 1024, "buckets": 32}


def our_step(name: str, remat: str) -> Step:
    import jax
    import numpy as np

    from t5x_instruct.models.presets import make_model
    from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
    from t5x_instruct.training import schedules
    from t5x_instruct.training.adafactor import adafactor
    from t5x_instruct.training.optimizers import adamw
    from t5x_instruct.training.state import abstract_state, place_state, state_shardings
    from t5x_instruct.training.step import compile_step, make_train_step, supervised_loss

    model, mesh = make_model(our_config(name, remat)), make_mesh(MeshConfig())
    rate = schedules.constant(1e-4)
    optimizer = (adamw if name == "smollm2" else adafactor)(rate).for_axes(model.param_axes())
    shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)
    params = jax.jit(model.init, out_shardings=shardings.params)(jax.random.key(0))
    state = place_state(params, optimizer, shardings)
    step = make_train_step(supervised_loss(model), optimizer, num_tasks=1)
    compiled = compile_step(step, shardings, mesh, donate=True)
    arrays = our_batch(name, np.random.default_rng(0))

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, arrays)
        jax.block_until_ready((state, metrics))

    return run


def our_config(name: str, remat: str) -> Any:
    from t5x_instruct.models.decoder import DecoderConfig
    from t5x_instruct.models.t5 import T5Config

    if name == "t5":
        return T5Config(
            vocab_size=T5["vocab_size"],
            emb_dim=T5["emb"],
            num_encoder_layers=T5["layers"],
            num_decoder_layers=T5["layers"],
            num_heads=T5["heads"],
            head_dim=T5["head_dim"],
            mlp_dim=T5["mlp"],
            activation="gelu_tanh",
            gated_mlp=True,
            relative_buckets=T5["buckets"],
            relative_max_distance=128,
            norm_epsilon=1e-6,
            tie_embeddings=False,
            scale_decoder_outputs=False,
            remat=remat,
        )
    return DecoderConfig(
        vocab_size=SMOLLM2["vocab_size"],
        emb_dim=SMOLLM2["emb"],
        num_layers=SMOLLM2["layers"],
        num_heads=SMOLLM2["heads"],
        num_kv_heads=SMOLLM2["kv_heads"],
        head_dim=SMOLLM2["emb"] // SMOLLM2["heads"],
        mlp_dim=SMOLLM2["mlp"],
        activation="silu",
        rope_theta=1e5,
        norm_epsilon=1e-5,
        tie_embeddings=True,
        remat=remat,
    )


def our_batch(name: str, rng: Any) -> dict[str, Any]:
    import numpy as np

    work = WORK[name]

    def side(prefix: str, length: int) -> dict[str, Any]:
        positions = np.ascontiguousarray(np.broadcast_to(np.arange(length, dtype=np.int32), (work.rows, length)))
        return {
            f"{prefix}_input_tokens": rng.integers(0, 32000, (work.rows, length)).astype(np.int32),
            f"{prefix}_segment_ids": np.ones_like(positions),
            f"{prefix}_positions": positions,
        }

    batch = side("decoder", work.length)
    tokens, positions = batch["decoder_input_tokens"], batch["decoder_positions"]
    untrained = work.length - work.targets // work.rows
    batch |= {
        "decoder_target_tokens": np.roll(tokens, -1, axis=1),
        "decoder_loss_weights": (positions >= untrained).astype(np.float32),
        "decoder_task_ids": np.zeros_like(positions),
    }
    return batch | (side("encoder", work.inputs) if work.inputs else {})


def peer_step(name: str, _: str) -> Step:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model, inputs = peer_model_and_inputs(name)
    if name == "t5":
        from transformers.optimization import Adafactor

        optimizer: Any = Adafactor(model.parameters(), lr=1e-4, scale_parameter=False, relative_step=False)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def peer_model_and_inputs(name: str) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    work = WORK[name]
    tokens = torch.randint(0, 32000, (work.rows, work.length))
    labels = tokens.clone()
    labels[:, : work.length - work.targets // work.rows] = -100
    if name == "smollm2":
        config = LlamaConfig(
            vocab_size=SMOLLM2["vocab_size"],
            hidden_size=SMOLLM2["emb"],
            num_hidden_layers=SMOLLM2["layers"],
            num_attention_heads=SMOLLM2["heads"],
            num_key_value_heads=SMOLLM2["kv_heads"],
            intermediate_size=SMOLLM2["mlp"],
            tie_word_embeddings=True,
            use_cache=False,
        )
        return LlamaForCausalLM(config).train(), {"input_ids": tokens, "labels": labels}
    t5 = T5Config(
        vocab_size=T5["vocab_size"],
        d_model=T5["emb"],
        d_kv=T5["head_dim"],
        d_ff=T5["mlp"],
        num_layers=T5["layers"],
        num_heads=T5["heads"],
        relative_attention_num_buckets=T5["buckets"],
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        use_cache=False,
    )
    model = T5ForConditionalGeneration(t5).train()
    # transformers 5 ties the head whatever the configuration says; T5 1.1 has one of its own.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model, {"input_ids": torch.randint(0, 32000, (work.rows, work.inputs)), "labels": labels}


def work(side: str, name: str, remat: str) -> None:
    """A worker: a step for each line it reads, its seconds for an answer; last its peak memory."""
    import resource

    step = {"ours": our_step, "peer": peer_step}[side](name, remat)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": time.perf_counter() - began, "peak_gib": peak}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer_python", help="an interpreter that has torch and transformers")
    parser.add_argument("--model", choices=WORK, default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dropped", type=int, default=1)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.model, args.remat)
        return
    if not args.peer_python:
        parser.error("--peer_python is needed: an interpreter that has torch and transformers")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_WAIT_POLICY": "PASSIVE"}
    workers = {
        side: subprocess.Popen(
            [python, __file__, f"--worker={side}", f"--model={args.model}", f"--remat={args.remat}"],
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
        print(
            f"{side}: median {statistics.median(kept):.2f} s ({min(kept):.2f}-{max(kept):.2f}), "
            f"{WORK[args.model].targets / statistics.median(kept):.1f} target tokens/s, peak {peaks[side]:.2f} GiB"
        )
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["peer"], strict=True)][args.dropped :]
    print(f"ours / peer: median {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
