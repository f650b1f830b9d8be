"""Validation figures are exact sums, whatever the batches they are taken in."""

import jax
import numpy as np
import pytest

from t5x_instruct.data.prepared import ensure_prepared
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import make_loader
from t5x_instruct.training import schedules
from t5x_instruct.training.loop import LoopConfig, Trainer
from t5x_instruct.training.metrics import MetricsWriter, named_numbers, read_metrics
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.state import abstract_state, state_shardings
from t5x_instruct.training.step import make_eval_step, supervised_loss
from tests.multidevice.two_hosts import settings

from .tiny import tiny_model, tiny_params

TASKS = ("small_copy", "small_first")
EXAMPLES = 24


@pytest.fixture(scope="module")
def data(prepared_root):
    spec = settings(prepared_root).prepare_spec(ByteVocabulary(), "bytes", "causal", None)
    return ensure_prepared(spec, in_process=True)


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=384)


@pytest.fixture(scope="module")
def record(data, model):
    """What the loop computes on 8 devices from batches of 16 rows, one example a row: the second is half empty."""
    run = settings(data.spec.root)
    run = type(run)(**{**vars(run), "batch_size": 16, "packing": False})

    def loader(validation=True):
        return make_loader(run, data, model, ByteVocabulary(), validation=validation)

    assert (loader().num_rows, loader().num_batches) == (EXAMPLES, 2)
    assert (loader().batch(1)["decoder_segment_ids"] > 0).any(axis=1).sum() == EXAMPLES - 16
    mesh = make_mesh(MeshConfig())
    assert mesh.size == 8
    optimizer = adamw(schedules.constant(0.01))
    shardings = state_shardings(abstract_state(model.init, optimizer), model.param_axes(), optimizer, mesh)
    loss_fn = supervised_loss(model)
    trainer = Trainer(
        model, loss_fn, optimizer, mesh, shardings, LoopConfig(train_steps=1), loader(validation=False), loader
    )
    return trainer.validate(jax.device_put(jax.tree.map(np.asarray, tiny_params(model)), shardings.params))


@pytest.fixture(scope="module")
def expected(data, model):
    """The same from the examples themselves, all in one batch without an empty row, on one device."""
    run = settings(data.spec.root)
    run = type(run)(**{**vars(run), "batch_size": EXAMPLES, "packing": False})
    batch = make_loader(run, data, model, ByteVocabulary(), validation=True).batch(0)
    trained, tasks = batch["decoder_loss_weights"] > 0, batch["decoder_task_ids"]
    params = tiny_params(model)
    logits = np.asarray(jax.jit(lambda p: model.logits(p, model.hidden(p, batch)))(params), np.float64)
    logits -= logits.max(-1, keepdims=True)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(
        logits, batch["decoder_target_tokens"][..., None], -1
    ).squeeze(-1)
    correct = logits.argmax(-1) == batch["decoder_target_tokens"]
    assert trained.any(axis=1).all()
    wanted = {"validation/loss": losses[trained].mean(), "validation/accuracy": correct[trained].mean()}
    for number, task in enumerate(TASKS):
        own = trained & (tasks == number)
        wanted[f"validation/task_loss/{task}"] = losses[own].mean()
        wanted[f"validation/task_accuracy/{task}"] = correct[own].mean()
    return wanted | {"validation/target_tokens": trained.sum()}


def test_a_last_batch_that_is_filled_up_counts_only_its_examples(record, expected):
    numbers = named_numbers("validation", record)
    assert numbers.keys() == expected.keys()
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, rel=1e-5), name


def test_every_figure_is_in_metrics_and_tensorboard(record, tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(3, "validation", record)
    writer.close()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert {key: line[key] for key in record} == record
    (events,) = tmp_path.glob("events.out.tfevents*")
    written = events.read_bytes()
    for name in named_numbers("validation", record):
        assert name.encode() in written


def test_accuracies_of_tasks_sum_over_rows_and_padding_is_of_no_task(model):
    batch = {
        "decoder_input_tokens": np.full((2, 4), 5, np.int32),
        "decoder_target_tokens": np.full((2, 4), 7, np.int32),
        "decoder_loss_weights": np.asarray([[0, 1, 1, 0], [0, 0, 1, 1]], np.float32),
        "decoder_segment_ids": np.asarray([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
        "decoder_positions": np.asarray([[0, 1, 2, 0], [0, 1, 2, 3]], np.int32),
        "decoder_task_ids": np.asarray([[0, 0, 0, -1], [1, 1, 1, 1]], np.int32),
    }
    params = tiny_params(model)
    step = jax.jit(make_eval_step(supervised_loss(model), num_tasks=3))
    logits = np.asarray(model.logits(params, model.hidden(params, batch)))
    batch["decoder_target_tokens"][0, 1] = logits[0, 1].argmax()
    sums = jax.device_get(step(params, batch))
    correct = (logits.argmax(-1) == batch["decoder_target_tokens"]) & (batch["decoder_loss_weights"] > 0)
    np.testing.assert_array_equal(sums["task_correct_sum"], [correct[0].sum(), correct[1].sum(), 0])
    assert sums["task_correct_sum"][0] >= 1
    np.testing.assert_array_equal(sums["task_weight_sum"], [2, 2, 0])
