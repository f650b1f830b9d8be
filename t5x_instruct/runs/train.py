"""One training run, from a registered mixture to a report on tasks it has never seen."""

import contextlib
import dataclasses
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from types import FrameType
from typing import Any

import jax

from t5x_instruct.checkpoints.adapters import check_base, save_adapter_identity
from t5x_instruct.checkpoints.lock import lock_model_dir
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import save_run_identity
from t5x_instruct.common import hosts
from t5x_instruct.common.errors import ConfigError, StoppedOnRequest
from t5x_instruct.common.io import read_json, write_bytes, write_json
from t5x_instruct.common.paths import AnyPath, as_path
from t5x_instruct.common.trees import num_parameters
from t5x_instruct.data.prepared import PreparedMixture
from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.sharing import TaskIdentity
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.evaluation.report import REPORT_HTML, write_report
from t5x_instruct.evaluation.results import EvalResult, manner
from t5x_instruct.models.api import split_trained
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.evaluate import score, trained_tasks
from t5x_instruct.runs.opening import (
    OpenedModel,
    check_data,
    check_fits,
    make_loader,
    open_data,
    open_model,
    own_prompt_format,
    validation_tasks,
)
from t5x_instruct.runs.optimizer_state import initial_optimizer_state
from t5x_instruct.runs.training_run import TrainRun, run_parts
from t5x_instruct.training.keep_best import keep_best_by
from t5x_instruct.training.loop import Trainer
from t5x_instruct.training.metrics import MetricsWriter, Progress
from t5x_instruct.training.state import TrainState, place_state

MOST_WARNINGS = 8  # shown at the terminal; the manifest has all


def say(text: str) -> None:
    """Tells a person at the terminal, on host 0."""
    if hosts.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def train(run: TrainRun, config_text: str = "") -> AnyPath:
    """Trains to the end of the run, from its newest checkpoint if it has one, and reports.

    Args:
        run: what to do.
        config_text: the resolved configuration, kept beside the results.

    Returns:
        The run's report, `report.html`.

    Raises:
        StoppedOnRequest: SIGTERM or SIGINT came; the same call goes on from what is saved.
        InstructError: anything that a person can mend; nothing that was saved is lost.
    """
    folder = as_path(run.model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        _stopping(),
        lock_model_dir(folder) as check_lock,
        contextlib.closing(_Stages(run, folder, check_lock)) as stages,
    ):
        if hosts.process_index() == 0:
            write_bytes(folder / "config.gin", config_text.encode())
        return stages.run()


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Outside the loop, which saves first, SIGTERM ends the run at once: what is done is on disk already."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedOnRequest(f"stopped by {signal.Signals(number).name}; the same command goes on from here")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Stages:
    """The stages of a run, each on the parts that the ones before have made."""

    def __init__(self, settings: TrainRun, folder: AnyPath, check_lock: Callable[[], None]):
        self.folder, self.check_lock = folder, check_lock
        self.data = settings.data
        self.loop = settings.loop
        self.evaluation = settings.evaluation
        self.initial = settings.model.initial_checkpoint_path
        self.lora = settings.model.lora
        if self.lora is not None and self.initial is None:
            raise ConfigError("adapters need a model to belong to: with LORA_RANK set INITIAL_CHECKPOINT_PATH too")
        self.mesh = make_mesh(MeshConfig(**settings.mesh))
        self.opened: OpenedModel = open_model(settings.model, seed=settings.data.seed)
        self.model = self.opened.model
        check_fits(self.model, self.data, self.loop.micro_batches, self.mesh)
        self.parts = run_parts(settings, self.model, self.mesh)
        self.put_optimizer_state = initial_optimizer_state(settings, self.opened, self.parts)
        self.mixture: PreparedMixture = open_data(
            self.data,
            self.model,
            self.opened.vocabulary,
            own_prompt_format(folder, self.opened),
            self.evaluation,
        )
        if not self.mixture.train_tasks:
            raise ConfigError(f"nothing is left to train on: HOLD_OUT {self.data.hold_out} holds out every task")
        self.checked = check_data(self.data, self.mixture, self.opened.vocabulary, settings.audit)
        self.validation_tasks = validation_tasks(self.mixture)
        keep_best = keep_best_by(self.loop.keep_best, self.validation_tasks)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep_last=settings.keep_last, keep_best=keep_best)

    def run(self) -> AnyPath:
        loader = make_loader(self.data, self.mixture, self.model, self.opened.vocabulary)
        resume = self.checkpoints.latest()
        for warning in self.checked.warnings[:MOST_WARNINGS]:
            say(f"warning: {warning}")
        say(str(self.model.attention_choice(self.data.longest_row(self.model.reads_inputs), self.mesh)))
        if resume is None:
            self._write_manifest(loader, resume)
            prompt_format = self.mixture.spec.prompt_format
            save_run_identity(self.folder, self.model.config, self.opened.vocabulary, prompt_format)
            if self.lora is not None and self.opened.source is not None:
                save_adapter_identity(self.folder, self.lora, self.opened.source.as_base())
            params = self.opened.params_fn(self.parts.shardings.model_params)
            say(f"{self.opened.description}: {self._sizes()}")
            before = self._evaluate("before", params)
            state = place_state(params, self.parts.optimizer, self.parts.shardings)
            if self.put_optimizer_state is not None:
                state = self.put_optimizer_state(state)
        else:
            say(f"going on from the checkpoint of step {resume}")
            state, data_state = self._restored(resume)
            loader.restore(data_state)
            self._write_manifest(loader, resume)
            before = self._stored("before")
        state = self._train(state, loader, resume or 0)
        after = self._evaluate("after", state.averaged_params)
        best = self.checkpoints.best()
        if hosts.process_index() == 0:
            write_report(self.folder, before=before, after=after, best=best)
        return self.folder / REPORT_HTML

    def _restored(self, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state of a checkpoint; what is frozen is read from where it came from."""
        base = None if self.lora is None or self.opened.source is None else self.opened.source.as_base()
        check_base(self.folder, self.lora, base)
        saved, data_state = self.checkpoints.restore(step, self.parts.state.saved)
        if self.lora is None:
            return saved, data_state
        _, frozen = split_trained(self.opened.params_fn(self.parts.shardings.model_params))
        return dataclasses.replace(saved, frozen=frozen), data_state

    def _sizes(self) -> str:
        trained = num_parameters(self.parts.state.params)
        if self.lora is None:
            return f"{trained:,} parameters"
        return f"{num_parameters(self.parts.state.model_params):,} parameters, {trained:,} of them trained"

    def close(self) -> None:
        """Waits for what is being saved, also after a fault."""
        self.checkpoints.close()

    def _train(self, state: TrainState, loader: Any, resume: int) -> TrainState:
        def validation() -> Any:
            return make_loader(self.data, self.mixture, self.model, self.opened.vocabulary, validation=True)

        trainer = Trainer(
            self.model,
            self.parts.loss_fn,
            self.parts.optimizer,
            self.mesh,
            self.parts.shardings,
            self.loop,
            loader,
            validation if self.validation_tasks else None,
        )
        writer = MetricsWriter(self.folder, resume)
        checkpoints = _Saving(self.checkpoints, lambda: self._before_save(writer), lambda: self._write_consumed(loader))
        try:
            progress = Progress(self.loop.train_steps) if hosts.process_index() == 0 else None
            return trainer.run(state, writer, checkpoints, progress)
        finally:
            writer.close()

    def _evaluate(self, name: str, params: Any) -> EvalResult | None:
        """Scores the held-out tasks once; a run that is started again reads what it scored before."""
        stored = self._stored(name)
        if stored is not None or not self.mixture.held_out_tasks:
            return stored
        how = manner(self.evaluation.shots, self.evaluation.templates)
        say(f"scoring the held-out tasks {name} training, {how} ...")
        prompt_format = make_prompt_format(self.mixture.spec.prompt_format, self.opened.vocabulary)
        lm = LanguageModel(self.model, params, self.opened.vocabulary, prompt_format)
        result = score(lm, self.mixture, self.data, self.evaluation, self.mixture.train_tasks)
        if hosts.process_index() == 0:
            path = self._evaluation_path(name)
            path.parent.mkdir(exist_ok=True)
            write_json(path, result.to_json())
        return result

    def _stored(self, name: str) -> EvalResult | None:
        """What host 0 finds, which wrote it: the others may not see its file yet."""
        path, stored = self._evaluation_path(name), None
        if hosts.process_index() == 0 and path.exists():
            stored = read_json(path)
        stored = hosts.broadcast_from_host0(stored)
        return None if stored is None else EvalResult.from_json(stored)

    def _evaluation_path(self, name: str) -> AnyPath:
        return self.folder / "samples" / f"held_out_{name}.json"

    def _write_manifest(self, loader: Any, resume: int | None) -> None:
        if hosts.process_index() != 0:
            return
        path = self.folder / "manifest.json"
        environment = describe_environment(self.mesh)
        if resume is not None and path.exists():
            changed = {
                key: (old, environment.get(key))
                for key, old in read_json(path)["environment"].items()
                if old != environment.get(key)
            }
            if changed:
                shown = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
                say(f"warning: resumed elsewhere, so the result need not be bit-identical: {shown}")
        write_json(
            path,
            {
                "mixture": self.mixture.name,
                "trained_on": self._trained_on(),
                "fingerprint": loader.state()["fingerprint"],
                "realised": loader.realised_mixture(),
                "consumed": loader.consumed_mixture(),
                "held_out": [task.name for task in self.mixture.held_out_tasks],
                "left_out": dict(self.mixture.left_out),
                "model": self.opened.description,
                "imported_step": self.opened.imported_step,
                "parameters": num_parameters(self.parts.state.model_params),
                "trained_parameters": num_parameters(self.parts.state.params),
                "warnings": self.checked.warnings,
                "environment": environment,
            },
        )

    def _trained_on(self) -> list[dict[str, Any]]:
        """The tasks of this run and of the run it starts from, so that an evaluation knows what the model has seen."""
        before = trained_tasks(self.initial)
        own = [TaskIdentity(task.name, task.base, task.dataset) for task in self.mixture.train_tasks]
        return [task._asdict() for task in dict.fromkeys([*own, *before])]

    def _before_save(self, writer: MetricsWriter) -> None:
        self.check_lock()
        writer.sync()  # a step that counts has its records

    def _write_consumed(self, loader: Any) -> None:
        path = self.folder / "manifest.json"
        write_json(path, read_json(path) | {"consumed": loader.consumed_mixture()})


class _Saving:
    """Checkpoints, with something done on host 0 before each, and after each is given away to be written."""

    def __init__(self, checkpoints: Checkpoints, before: Callable[[], None], after: Callable[[], None]):
        self._checkpoints, self._before, self._after = checkpoints, before, after

    def save(
        self, step: int, state: Any, data_state: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        if hosts.process_index() == 0:
            self._before()
        self._checkpoints.save(step, state, data_state, metrics)
        if hosts.process_index() == 0:
            self._after()

    def wait(self) -> None:
        self._checkpoints.wait()


def describe_environment(mesh: Any) -> dict[str, Any]:
    """What bit-identical results depend on: versions, devices, cores."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "t5x_instruct")
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "hosts": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "mesh": dict(mesh.shape),
    }
