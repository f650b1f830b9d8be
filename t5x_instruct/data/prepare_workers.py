"""Preparing in several processes: each is told a unit at a time, in JSON lines, and answers when it is done.

They are started anew rather than forked, because a fork of a process that runs TensorFlow may hang.

    python -m t5x_instruct.common.quiet_tensorflow t5x_instruct.data.prepare_workers JOB.json
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from t5x_instruct.common.errors import ConfigError, DataError, InstructError, SourceUnavailable
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.data.preparation import Preparation
from t5x_instruct.data.prepare_spec import Execution, PrepareSpec
from t5x_instruct.data.prepared import child_environment, how_it_ended
from t5x_instruct.data.units import Unit, UnitRenderer, code_of

_COMMAND = (sys.executable, "-m", "t5x_instruct.common.quiet_tensorflow", "t5x_instruct.data.prepare_workers")


def describe_error(error: Exception) -> dict[str, str]:
    """An error of a worker as JSON values; `error_from` makes it one again."""
    if not isinstance(error, InstructError):
        return {"kind": "other", "message": f"{type(error).__name__}: {error}"}
    fix = {"fix": error.fix} if isinstance(error, SourceUnavailable) else {}
    return {"kind": type(error).__name__, "message": str(error), **fix}


def error_from(described: dict[str, str]) -> InstructError:
    """The error that a worker has described."""
    kind, message = described["kind"], described["message"]
    if kind == SourceUnavailable.__name__:
        return SourceUnavailable(message.removesuffix(f"; {described['fix']}"), described["fix"])
    return ConfigError(message) if kind == ConfigError.__name__ else DataError(message)


class _Worker:
    """A process that renders units, one at a time."""

    def __init__(self, job: Path, answers: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]"):
        self.unit: Unit | None = None
        self._process = subprocess.Popen(
            [*_COMMAND, str(job)],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def _listen(self, answers: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]") -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answers.put((self, json.loads(line)))
        answers.put((self, None))

    def start(self, unit: Unit) -> None:
        """Gives it a unit; it must have none."""
        self.unit = unit
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(unit._asdict()) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended; `_listen` says so
            return

    def ended(self) -> str:
        """A sentence on how the process ended; only when it has."""
        return how_it_ended(self._process.wait())

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def render_in_processes(work: Preparation, spec: PrepareSpec, execution: Execution) -> None:
    """Renders all units in processes of their own, `execution.workers` at most.

    Args:
        work: gives the units, and is told what becomes of them.
        spec: what is asked for.
        execution: how many processes, and the rows of a shard.

    Raises:
        ConfigError: the task modules do not register all tasks.
        DataError: a unit cannot be rendered, or a process was killed.
    """
    answers: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
    workers: list[_Worker] = []
    units = work.units()
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        write_json(job, {"spec": spec.to_json(), "code": code_of(spec), "shard_rows": execution.shard_rows})
        idle: list[_Worker] = []
        try:
            for unit in units:
                if not idle and len(workers) == execution.workers:
                    idle.append(_next_idle(work, answers))
                if not idle:
                    workers.append(_Worker(job, answers))
                    idle.append(workers[-1])
                idle.pop().start(unit)
            while any(worker.unit is not None for worker in workers):
                _next_idle(work, answers)
        finally:
            for worker in workers:
                worker.stop()


def _next_idle(work: Preparation, answers: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]") -> _Worker:
    """Waits until a worker is done with its unit."""
    while True:
        worker, answer = answers.get()
        unit = worker.unit
        if answer is None or unit is None:
            raise DataError(f"a worker of {worker.ended()}")
        if "progress" in answer:
            work.say(unit, answer["progress"])
            continue
        worker.unit = None
        if "error" in answer:
            work.failed(unit, error_from(answer["error"]))
        else:
            work.done(unit)
        return worker


def main(arguments: Sequence[str]) -> NoReturn:
    """A worker: reads units from its input, a line each, and ends when the input does.

    Args:
        arguments: the job's JSON file.
    """
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # seqio warns of each uncached task
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a task's code prints must not stand among the answers

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    job = read_json(Path(arguments[0]))
    renderer: UnitRenderer | None = None
    units: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_units, args=(units,), daemon=True).start()
    while True:
        line = units.get()
        try:
            if renderer is None:
                renderer = UnitRenderer(PrepareSpec.from_json(job["spec"]), job["code"], job["shard_rows"])
            renderer.render(Unit(**json.loads(line)), lambda text: answer({"progress": text}))
        except Exception as error:
            if not isinstance(error, InstructError):
                traceback.print_exc()
            answer({"error": describe_error(error)})
        else:
            answer({"done": True})


def _read_units(units: "queue.SimpleQueue[str]") -> None:
    """Passes units on, and ends the process when there is nobody left to give them: the next run will do the rest."""
    for line in sys.stdin:
        units.put(line)
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m t5x_instruct.data.prepare_workers JOB.json")
    main(sys.argv[1:])
