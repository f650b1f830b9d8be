import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.training.keep_best import keep_best_by
from t5x_instruct.training.loop import LoopConfig


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("validation/loss", "min"),
        ("validation/accuracy", "max"),
        ("validation/task_loss/capital", "min"),
        ("validation/task_accuracy/capital", "max"),
    ],
)
def test_losses_are_best_when_small_and_accuracies_when_large(name, mode):
    assert keep_best_by(name, ["capital", "river"]) == (name, mode)


def test_no_metric_keeps_no_best_step():
    assert keep_best_by(None, []) is None


@pytest.mark.parametrize(
    ("name", "tasks", "message"),
    [
        ("validation/los", ["capital"], "unknown metric 'validation/los'; nearest: 'validation/loss'"),
        ("validation/task_loss/capitol", ["capital"], "nearest: 'validation/task_loss/capital'"),
        ("train/loss", ["capital"], "KEEP_BEST: unknown metric"),
        ("validation/loss", [], "no trained task has a split 'validation'"),
    ],
)
def test_a_metric_that_no_step_will_have_is_refused(name, tasks, message):
    with pytest.raises(ConfigError, match=message):
        keep_best_by(name, tasks)


@pytest.mark.parametrize(
    ("checkpoints", "evaluations", "right"),
    [
        (2, 2, True),
        (4, 2, True),
        (2, 4, True),  # every second checkpoint is a candidate
        (None, 3, True),  # one checkpoint alone
        (20, 3, True),
        (4, 3, False),  # step 12 would be the first with both
        (2, None, False),
    ],
)
def test_some_checkpoint_before_the_last_must_be_validated(checkpoints, evaluations, right):
    periods = {"train_steps": 10, "checkpoint_period": checkpoints, "eval_period": evaluations}
    LoopConfig(**periods)
    if right:
        LoopConfig(**periods, keep_best="validation/loss")
    else:
        with pytest.raises(ConfigError, match="make CHECKPOINT_PERIOD a multiple of EVAL_PERIOD"):
            LoopConfig(**periods, keep_best="validation/loss")
