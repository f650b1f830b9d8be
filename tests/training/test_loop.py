import json
import math
import os
import signal

import jax
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError, NonFiniteLossError, StoppedOnRequest
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.training import schedules
from t5x_instruct.training.loop import LoopConfig, Trainer
from t5x_instruct.training.metrics import MetricsWriter, Progress, read_metrics
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.state import abstract_state, place_state, state_shardings
from t5x_instruct.training.step import supervised_loss

from .tiny import ragged_batch, tiny_model, tiny_params


class Batches:
    """Batch k is a function of k: what the loop needs of a loader."""

    batch_size = 8
    tasks = ("a", "b", "c")

    def __init__(self, num=None, on_batch=None):
        self.consumed = 0
        self._num = num
        self._on_batch = on_batch

    def __iter__(self):
        while self._num is None or self.consumed < self._num:
            batch = ragged_batch(self.consumed)
            self.consumed += 1
            if self._on_batch:
                batch = self._on_batch(self.consumed, batch)
            yield batch

    def state(self):
        return {"consumed": self.consumed}


class Saved:
    """Keeps what is saved in memory."""

    def __init__(self):
        self.steps = {}
        self.metrics = {}
        self.waited_after = None

    def save(self, step, state, data_state, metrics=None):
        self.steps[step] = (jax.tree.map(np.asarray, state), data_state)
        self.metrics[step] = metrics

    def wait(self):
        self.waited_after = max(self.steps, default=None)


@pytest.fixture(scope="module")
def parts():
    model, optimizer = tiny_model(), adamw(schedules.constant(0.01))
    mesh = make_mesh(MeshConfig())
    shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)

    def fresh():
        params = jax.device_put(jax.tree.map(np.asarray, tiny_params(model)), shardings.params)
        return place_state(params, optimizer, shardings)

    def trainer(config, loader, validation=None):
        return Trainer(model, supervised_loss(model), optimizer, mesh, shardings, config, loader, validation)

    return trainer, fresh


def test_a_run_writes_what_happened(parts, tmp_path):
    trainer, fresh = parts
    saved, loader = Saved(), Batches()
    writer = MetricsWriter(tmp_path)
    config = LoopConfig(train_steps=5, checkpoint_period=2, eval_period=4, keep_best="validation/task_loss/d")
    state = trainer(config, loader, lambda: Batches(num=2)).run(fresh(), writer, saved, Progress(5))
    writer.close()
    assert int(state.step) == 5
    assert {step: data["consumed"] for step, (_, data) in saved.steps.items()} == {2: 2, 4: 4, 5: 5}
    assert saved.waited_after == 5
    assert all(int(kept.step) == step for step, (kept, _) in saved.steps.items())
    records = read_metrics(tmp_path / "metrics.jsonl")
    train = [r for r in records if r["kind"] == "train"]
    assert [r["step"] for r in train] == [1, 2, 3, 4, 5]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [0, 4, 5]
    for record, seed in zip(train, range(5), strict=True):
        batch = ragged_batch(seed)
        assert record["target_tokens"] == (batch["decoder_loss_weights"] > 0).sum()
        assert record["packing_fill"] == pytest.approx((batch["decoder_segment_ids"] > 0).mean())
        assert record["learning_rate"] == pytest.approx(0.01)
        rate = record["target_tokens"] / record["seconds"]
        assert record["target_tokens_per_second"] == pytest.approx(rate)
    validation = [r for r in records if r["kind"] == "validation"]
    assert set(validation[0]["task_loss"]) == set(validation[0]["task_accuracy"]) <= {"a", "b", "c"}
    assert not any("task_accuracy" in record for record in train)
    # A checkpoint has the figures of its own step or none, and of a task without any example one that is no number.
    assert saved.metrics[2] == {}
    for step, figures in ((4, validation[1]), (5, validation[2])):
        assert saved.metrics[step]["validation/loss"] == figures["loss"]
        assert saved.metrics[step]["validation/accuracy"] == figures["accuracy"]
        assert math.isnan(saved.metrics[step]["validation/task_loss/d"])
    assert validation[-1]["loss"] < validation[0]["loss"]  # the same few random batches are learned by heart
    assert list(tmp_path.glob("events.out.tfevents*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_asks_to_be_run_again(parts, tmp_path, number):
    trainer, fresh = parts

    def on_batch(index, batch):
        if index == 3:
            os.kill(os.getpid(), number)
        return batch

    before = signal.getsignal(number)
    saved, writer = Saved(), MetricsWriter(tmp_path)
    with pytest.raises(StoppedOnRequest, match=f"{number.name} after step 3 of 9") as stopped:
        trainer(LoopConfig(train_steps=9), Batches(on_batch=on_batch)).run(fresh(), writer, saved)
    assert stopped.value.exit_code == 42
    assert list(saved.steps) == [3]
    assert saved.waited_after == 3
    assert saved.steps[3][1] == {"consumed": 3}
    assert signal.getsignal(number) is before


def test_a_loss_that_is_no_number_stops_the_run_and_saves_nothing_after(parts, tmp_path):
    trainer, fresh = parts

    def on_batch(index, batch):
        if index == 4:
            weights = batch["decoder_loss_weights"].copy()
            weights[(batch["decoder_task_ids"] == 1) & (weights > 0)] = np.inf
            batch = batch | {"decoder_loss_weights": weights}
        return batch

    saved, writer = Saved(), MetricsWriter(tmp_path)
    running = trainer(LoopConfig(train_steps=9, checkpoint_period=1), Batches(on_batch=on_batch))
    with pytest.raises(NonFiniteLossError, match="step 4: loss") as error:
        running.run(fresh(), writer, saved)
    assert error.value.exit_code == 1
    assert sorted(saved.steps) == [1, 2, 3]
    for leaf in jax.tree.leaves(saved.steps[3][0]):
        assert np.isfinite(leaf).all()


def test_a_batch_without_a_trained_token_is_no_fault(parts, tmp_path):
    trainer, fresh = parts

    def on_batch(index, batch):
        return batch | {"decoder_loss_weights": batch["decoder_loss_weights"] * (index != 2)}

    saved, writer = Saved(), MetricsWriter(tmp_path)
    state = trainer(LoopConfig(train_steps=3), Batches(on_batch=on_batch)).run(fresh(), writer, saved)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))
    losses = [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert math.isnan(losses[1])
    assert np.isfinite([losses[0], losses[2]]).all()


def test_a_continued_run_is_the_unbroken_run_to_the_bit(parts, tmp_path):
    trainer, fresh = parts
    whole = Saved()
    trainer(LoopConfig(train_steps=6), Batches()).run(fresh(), MetricsWriter(tmp_path / "."), whole)
    first = Saved()
    trainer(LoopConfig(train_steps=3), Batches()).run(fresh(), MetricsWriter(tmp_path / "."), first)
    state, data_state = first.steps[3]
    rest, loader = Saved(), Batches()
    loader.consumed = data_state["consumed"]
    target = fresh()
    placed = jax.tree.map(lambda value, like: jax.device_put(value, like.sharding), state, target)
    trainer(LoopConfig(train_steps=6), loader).run(placed, MetricsWriter(tmp_path / "."), rest)
    for a, b in zip(jax.tree.leaves(whole.steps[6][0]), jax.tree.leaves(rest.steps[6][0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resuming_drops_later_records_and_a_line_that_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train", "loss": 1.0}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"step": 5, "ki')
    writer = MetricsWriter(tmp_path, resume_step=2)
    writer.write(3, "train", {"loss": 2.0})
    writer.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_validation_loss_may_read_only_the_first_batches(parts):
    trainer, fresh = parts
    params = fresh().params
    two = trainer(LoopConfig(train_steps=1, eval_steps=2), Batches(), lambda: Batches(num=5)).validate(params)
    same = trainer(LoopConfig(train_steps=1), Batches(), lambda: Batches(num=2)).validate(params)
    whole = trainer(LoopConfig(train_steps=1), Batches(), lambda: Batches(num=5)).validate(params)
    assert two == same
    assert two["target_tokens"] < whole["target_tokens"]


def test_progress_says_what_is_left(capsys):
    progress = Progress(4, seconds_between=0)
    record = {"loss": 1.5, "target_tokens_per_second": 10.0, "packing_fill": 0.9, "learning_rate": 1e-3}
    for step in range(1, 5):
        progress.show(step, record)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/4  loss 1.5000  target tokens/s 10  fill 0.90  lr 1.00e-03  left -:--"
    assert lines[-1].endswith("left 0:00")


def test_bad_periods_are_all_reported():
    with pytest.raises(ConfigError) as error:
        LoopConfig(train_steps=-1, checkpoint_period=0, eval_period=0, eval_steps=0, micro_batches=0)
    assert len(error.value.problems) == 5
