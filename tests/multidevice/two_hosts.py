"""One of several real processes joined over loopback: loads its share, trains, writes what it saw.

python -m tests.multidevice.two_hosts PREPARED_ROOT OUTPUT
"""

import sys
from pathlib import Path

import jax
import numpy as np

from t5x_instruct.common import hosts
from t5x_instruct.data.prepared import load_prepared
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import make_loader
from t5x_instruct.runs.settings import DataSettings
from t5x_instruct.training import schedules
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.state import abstract_state, place_state, state_shardings
from t5x_instruct.training.step import compile_step, make_train_step, supervised_loss
from tests.training.tiny import tiny_model

STEPS = 4


def settings(root):
    return DataSettings(
        mixture_or_task_name="small",
        mixture_or_task_module="tests.small_tasks",
        task_feature_lengths={"inputs": 40, "targets": 8},
        batch_size=8,
        hold_out=("small_ends",),
        prepared_dir=root,
    )


def main(root, output):
    hosts.initialize()
    data = settings(root)
    mixture = load_prepared(data.prepare_spec(ByteVocabulary(), "bytes"))
    loader = make_loader(data, mixture, ByteVocabulary())
    mesh = make_mesh(MeshConfig(fsdp=2, data=-1))
    model, optimizer = tiny_model(vocab_size=384), adamw(schedules.constant(0.01))
    shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)
    params = jax.jit(model.init, out_shardings=shardings.params)(jax.random.key(0))
    state = place_state(params, optimizer, shardings)
    step = make_train_step(supervised_loss(model), optimizer, num_tasks=len(loader.tasks))
    step = compile_step(step, shardings, mesh, donate=True)
    losses, shares = [], []
    for _, batch in zip(range(STEPS), loader, strict=False):
        shares.append(batch)
        state, metrics = step(state, to_global(batch, mesh))
        losses.append(float(metrics["loss_sum"]))
    hosts.barrier("done")
    answer = hosts.broadcast_from_host0({"from": hosts.process_index(), "text": "ä" * (3 + hosts.process_index())})
    assert answer == {"from": 0, "text": "äää"}
    arrays = {f"{key}/{i}": value for i, share in enumerate(shares) for key, value in share.items()}
    np.savez(Path(output) / f"host{hosts.process_index()}.npz", losses=np.array(losses), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
