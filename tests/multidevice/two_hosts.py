"""One of several real processes joined over loopback: loads its share, trains and evaluates, writes what it saw.

python -m tests.multidevice.two_hosts PREPARED_ROOT OUTPUT
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from t5x_instruct.common import hosts
from t5x_instruct.data.prepared import load_prepared
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.evaluation.runner import evaluate
from t5x_instruct.partitioning.arrays import to_global
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import make_loader
from t5x_instruct.runs.settings import DataSettings
from t5x_instruct.training import schedules
from t5x_instruct.training.loop import LoopConfig, Trainer
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.state import abstract_state, place_state, state_shardings
from t5x_instruct.training.step import supervised_loss
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


def lonely_settings(root):
    return dataclasses.replace(
        settings(root),
        mixture_or_task_name="lonely",
        mixture_or_task_module="tests.multidevice.lonely_task",
    )


def spec_of(data):
    return data.prepare_spec(ByteVocabulary(), "bytes", "causal", None)


class Host:
    """The parts of a run on this host."""

    def __init__(self, root):
        self.mesh = make_mesh(MeshConfig(fsdp=2, data=-1))
        self.model = tiny_model(vocab_size=384)
        self.optimizer = adamw(schedules.constant(0.01))
        abstract = abstract_state(self.model.init, self.optimizer)
        self.shardings = state_shardings(abstract, self.model.param_axes(), self.optimizer, self.mesh)
        self.sources = {data.mixture_or_task_name: data for data in (settings(root), lonely_settings(root))}
        self.mixtures = {name: load_prepared(spec_of(data)) for name, data in self.sources.items()}

    def params(self):
        return jax.jit(self.model.init, out_shardings=self.shardings.params)(jax.random.key(0))

    def loader(self, name, validation=False):
        return make_loader(self.sources[name], self.mixtures[name], self.model, ByteVocabulary(), validation=validation)

    def trainer(self, name):
        return Trainer(
            self.model,
            supervised_loss(self.model),
            self.optimizer,
            self.mesh,
            self.shardings,
            LoopConfig(train_steps=STEPS),
            self.loader(name),
            lambda: self.loader(name, validation=True),
        )

    def train(self):
        """Arrays of this host's share of each batch, and the losses of all."""
        state, step = place_state(self.params(), self.optimizer, self.shardings), self.trainer("small").train_step
        arrays, losses = {}, []
        for number, batch in zip(range(STEPS), self.loader("small"), strict=False):
            arrays |= {f"{key}/{number}": value for key, value in batch.items()}
            state, metrics = step(state, to_global(batch, self.mesh))
            losses.append(float(metrics["loss_sum"]))
        return arrays | {"losses": np.array(losses)}

    def figures(self):
        """Validation figures of both mixtures and an evaluation, with fresh parameters; JSON-able."""
        lm = LanguageModel(self.model, self.params(), ByteVocabulary())
        of_all = {"role": None, "num_examples": 3, "max_new_tokens": 3, "batch_size": 4}
        return {
            "rows": {name: self.loader(name, validation=True).num_rows for name in self.mixtures},
            "validation": {name: self.trainer(name).validate(lm.params) for name in self.mixtures},
            "evaluation": evaluate(lm, self.mixtures["lonely"], **of_all).to_json(),
        }


def main(root, output):
    with hosts.joined(hosts.HostSettings()):
        host = Host(root)
        np.savez(output / f"host{hosts.process_index()}.npz", **host.train())
        (output / f"host{hosts.process_index()}.json").write_text(json.dumps(host.figures()))
        hosts.barrier("done")
        answer = hosts.broadcast_from_host0({"from": hosts.process_index(), "text": "ä" * (3 + hosts.process_index())})
        assert answer == {"from": 0, "text": "äää"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
