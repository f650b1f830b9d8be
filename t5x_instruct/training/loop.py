"""The training loop: batches in, steps, metrics one step late, validation, checkpoints, a clean stop.

Nothing here waits for the device but the reading of the metrics of the step before.
"""

import dataclasses
import functools
import itertools
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_instruct.common import hosts
from t5x_instruct.common.errors import ConfigError, NonFiniteLossError, StoppedOnRequest
from t5x_instruct.data.loader import Loader
from t5x_instruct.models.api import Model
from t5x_instruct.partitioning.arrays import check_batch_size, to_global
from t5x_instruct.training.keep_best import period_problem
from t5x_instruct.training.metrics import MetricsWriter, Progress, loss_record, named_numbers, training_record
from t5x_instruct.training.optimizers import Optimizer
from t5x_instruct.training.state import TrainState
from t5x_instruct.training.step import (
    LossFn,
    LossNormalizer,
    TrainStep,
    compile_step,
    make_eval_step,
    make_train_step,
)


class CheckpointStore(Protocol):
    """What the loop needs of `checkpoints.manager.Checkpoints`."""

    def save(
        self, step: int, state: Any, data_state: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves a state without waiting for it to be written."""

    def wait(self) -> None:
        """Waits until everything saved is complete on disk."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long and how often; steps count from the start of this run.

    Attributes:
        train_steps: steps of the whole run.
        checkpoint_period: steps between checkpoints; None: only at the end and when asked to stop.
        eval_period: steps between validation losses; None: only before the first and after the last step.
        eval_steps: batches of a validation loss, always the same; None: the whole validation split.
        seed: of dropout.
        micro_batches: parts each batch is cut into.
        loss_normalizing_factor: None for the mean over trained tokens, a number to divide the sum by, or
            "per_example" for the mean over examples of their means. Validation losses are always token means.
        keep_best: name of the validation metric that decides the checkpoint which is kept as the best one (see
            `keep_best.keep_best_by`); a checkpoint has it if it is saved at a step that is validated.
    """

    train_steps: int
    checkpoint_period: int | None = None
    eval_period: int | None = None
    eval_steps: int | None = None
    seed: int = 0
    micro_batches: int = 1
    loss_normalizing_factor: LossNormalizer = None
    keep_best: str | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {value}: must be at least {least}"
            for name, value, least in (
                ("TRAIN_STEPS", self.train_steps, 0),
                ("CHECKPOINT_PERIOD", self.checkpoint_period, 1),
                ("EVAL_PERIOD", self.eval_period, 1),
                ("EVAL_STEPS", self.eval_steps, 1),
                ("MICRO_BATCHES", self.micro_batches, 1),
            )
            if value is not None and value < least
        ]
        factor = self.loss_normalizing_factor
        if factor not in (None, "per_example") and not (isinstance(factor, int | float) and factor > 0):
            problems.append(
                f"LOSS_NORMALIZING_FACTOR = {factor!r}: must be a positive number, 'per_example', or None for the "
                "mean over trained tokens"
            )
        if not problems and self.keep_best is not None:
            problem = period_problem(self.train_steps, self.checkpoint_period, self.eval_period)
            problems += [problem] if problem else []
        if problems:
            raise ConfigError(problems)


def configured_step(
    model: Model, loss_fn: LossFn, optimizer: Optimizer, config: LoopConfig, *, num_tasks: int
) -> TrainStep:
    """The step of a run, as its loop is configured: what `Trainer` runs and planning compiles.

    Args:
        model: decides whether there is dropout.
        loss_fn: the loss.
        optimizer: direction and schedule.
        config: micro-batches, seed, normalizing factor.
        num_tasks: tasks of the mixture.
    """
    return make_train_step(
        loss_fn,
        optimizer,
        num_tasks=num_tasks,
        seed=config.seed,
        dropout=model.has_dropout,
        micro_batches=config.micro_batches,
        loss_normalizing_factor=config.loss_normalizing_factor,
    )


class Trainer:
    """Runs steps on a mesh.

    Args:
        model: the model.
        loss_fn: the loss; see `training.step.supervised_loss`.
        optimizer: direction and schedule.
        mesh: the mesh.
        shardings: of the state, from `training.state.state_shardings`.
        config: lengths and periods.
        loader: training batches; its `tasks` name the mixture's tasks.
        validation: makes a finite pass over the validation split, or None.
    """

    def __init__(
        self,
        model: Model,
        loss_fn: LossFn,
        optimizer: Optimizer,
        mesh: Mesh,
        shardings: TrainState,
        config: LoopConfig,
        loader: Loader,
        validation: Callable[[], Loader] | None = None,
    ):
        check_batch_size(loader.batch_size, mesh, jax.process_count(), config.micro_batches)
        self.config = config
        self.mesh = mesh
        self.loader = loader
        self._validation = validation
        step = configured_step(model, loss_fn, optimizer, config, num_tasks=len(loader.tasks))
        self.train_step = compile_step(step, shardings, mesh, donate=True)
        # By number of tasks, since not every trained task need have validation examples.
        self.eval_step = functools.cache(
            lambda num_tasks: compile_step(
                make_eval_step(loss_fn, num_tasks=num_tasks), shardings.model_params, mesh, donate=False
            )
        )

    def validate(self, params: Any) -> dict[str, Any]:
        """Loss and accuracy, of all and of each task, over the validation split or its first `eval_steps` batches.

        The last batch is filled up with rows of weight 0; sums are added up before anything is divided.

        Raises:
            ConfigError: the trainer was made without validation data.
        """
        if self._validation is None:
            raise ConfigError("there is no validation data")
        loader = self._validation()
        eval_step = self.eval_step(len(loader.tasks))
        totals: dict[str, Any] = {}
        for batch in itertools.islice(loader, self.config.eval_steps):
            sums = jax.device_get(eval_step(params, to_global(batch, self.mesh)))
            totals = {key: totals.get(key, 0.0) + np.asarray(value, np.float64) for key, value in sums.items()}
        if not totals:
            raise ConfigError("the validation split is empty")
        return loss_record(totals, loader.tasks)

    def run(
        self,
        state: TrainState,
        writer: MetricsWriter,
        checkpoints: CheckpointStore,
        progress: Progress | None = None,
    ) -> TrainState:
        """Trains from `state.step` to the end of the run.

        Args:
            state: given up; its memory is reused by every step.
            writer: where the metrics go.
            checkpoints: where states go.
            progress: the terminal's line.

        Returns:
            The state after the last step, saved.

        Raises:
            NonFiniteLossError: a loss or gradient is not finite; nothing is saved from then on.
            StoppedOnRequest: SIGTERM or SIGINT came; the state is saved.
        """
        first = int(state.step)
        if self._validation is not None and first == 0:
            writer.write(0, "validation", self.validate(state.model_params))
        with stop_requests() as stop:
            state = self._steps(state, first, writer, checkpoints, progress, stop)
            checkpoints.wait()
            if stop.why is not None:
                raise StoppedOnRequest(
                    f"stopped by {stop.why} after the last of {self.config.train_steps} steps; the checkpoint is "
                    "saved, the same command goes on from it"
                )
        return state

    def _steps(
        self,
        state: TrainState,
        first: int,
        writer: MetricsWriter,
        checkpoints: CheckpointStore,
        progress: Progress | None,
        stop: "StopRequest",
    ) -> TrainState:
        log = _LateMetrics(writer, self.loader.tasks, progress)
        batches = iter(self.loader)
        total = self.config.train_steps
        for step in range(first + 1, total + 1):
            batch = next(batches)
            data_state, measured = self.loader.state(), {}
            state, metrics = self.train_step(state, to_global(batch, self.mesh))
            log.add(step, metrics)
            if self._due(self.config.eval_period, step):
                log.flush()
                if self._validation is not None:
                    record = self.validate(state.model_params)
                    writer.write(step, "validation", record)
                    measured = self._unless_named() | named_numbers("validation", record)
                    log.restart_clock()
            why_stop = stop.after(step)
            if self._due(self.config.checkpoint_period, step) or why_stop is not None:
                log.flush()
                checkpoints.save(step, state.saved, data_state, measured)
                log.restart_clock()
                if why_stop is not None and step < total:
                    checkpoints.wait()
                    raise StoppedOnRequest(
                        f"stopped by {why_stop} after step {step} of {total}; the checkpoint is saved, "
                        "the same command goes on from it"
                    )
        log.flush()
        return state

    def _unless_named(self) -> dict[str, float]:
        """A task may have no example in the batches that are validated: its figure is then no number, and not best."""
        return {} if self.config.keep_best is None else {self.config.keep_best: math.nan}

    def _due(self, period: int | None, step: int) -> bool:
        return step == self.config.train_steps or (period is not None and step % period == 0)


class _LateMetrics:
    """Reads metrics one step after they were asked for, so that the device never waits for the host."""

    def __init__(self, writer: MetricsWriter, tasks: Any, progress: Progress | None):
        self._writer = writer
        self._tasks = tasks
        self._progress = progress
        self._pending: deque[tuple[int, Any]] = deque()
        self._clock = time.perf_counter()

    def add(self, step: int, metrics: Any) -> None:
        self._pending.append((step, metrics))
        if len(self._pending) > 1:
            self._read_one()

    def flush(self) -> None:
        while self._pending:
            self._read_one()

    def restart_clock(self) -> None:
        self._clock = time.perf_counter()

    def _read_one(self) -> None:
        step, metrics = self._pending.popleft()
        sums = jax.device_get(metrics)
        now = time.perf_counter()
        record = training_record(sums, self._tasks, now - self._clock)
        self._clock = now
        check_finite(step, record, sums, self._tasks)
        self._writer.write(step, "train", record)
        if self._progress is not None:
            self._progress.show(step, record)


def check_finite(step: int, record: Mapping[str, Any], sums: Mapping[str, Any], tasks: Any) -> None:
    """Stops a run whose numbers are no numbers.

    A batch in which nothing is trained has no loss; that is not a fault of the model's and passes.

    Raises:
        NonFiniteLossError: with the step, the values and the tasks whose loss is not finite.
    """
    trained = record["target_tokens"] > 0
    if math.isfinite(record["gradient_norm"]) and (math.isfinite(record["loss"]) or not trained):
        return
    bad = [name for name, loss in zip(tasks, np.asarray(sums["task_loss_sum"]), strict=True) if not np.isfinite(loss)]
    where = f"; tasks with a loss that is not finite: {', '.join(bad)}" if bad else ""
    raise NonFiniteLossError(
        f"step {step}: loss {record['loss']}, gradient norm {record['gradient_norm']}, "
        f"learning rate {record['learning_rate']:.3g}{where}. Nothing was saved after the last checkpoint; lower "
        "LEARNING_RATE, add WARMUP_STEPS, or look at the data of these tasks, and run again"
    )


class StopRequest:
    """Whether a signal has asked the run to save and end; on several hosts a signal to one asks all."""

    def __init__(self) -> None:
        self._signal: str | None = None

    def ask(self, signal_name: str) -> None:
        """Takes note of a signal to this host."""
        self._signal = self._signal or signal_name
        hosts.ask_to_stop(self._signal)

    def after(self, step: int) -> str | None:
        """What asked the run to stop after this step: on all hosts the same, if all ask after each step."""
        return hosts.stop_after(step, self._signal)

    @property
    def why(self) -> str | None:
        """What has asked the run to stop, as far as this host knows."""
        return self._signal or hosts.asked_to_stop()


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT become a request, seen between two steps; a second SIGINT interrupts at once."""
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if request.why is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.ask(signal.Signals(number).name)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, handle)
    except ValueError:
        # Only the main thread may set handlers; elsewhere (a notebook's worker) the run cannot be asked to stop.
        before.clear()
    try:
        yield request
    finally:
        for number, old in before.items():
            signal.signal(number, old)
