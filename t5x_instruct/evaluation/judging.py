"""The tasks' own metrics, computed by a child process (`worker.py`), since seqio tasks need TensorFlow."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from t5x_instruct.common import hosts
from t5x_instruct.common.errors import ConfigError, InstructError
from t5x_instruct.common.io import read_json

_ERROR_CHARACTERS = 4000


def judge(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The worker's answer, on every host; an error on host 0 is raised on all of them.

    Args:
        request: see `worker`.

    Raises:
        ConfigError: a task module cannot be imported.
        InstructError: the process died; the message has the end of what it said.
    """
    answer: dict[str, Any] = {}
    if hosts.process_index() == 0:
        try:
            answer = {"tasks": _run_worker(request)}
        except InstructError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
    answer = hosts.broadcast_from_host0(answer)
    if "error" in answer:
        kind = ConfigError if answer["exit_code"] == ConfigError.exit_code else InstructError
        raise kind(answer["error"])
    return answer["tasks"]


def _run_worker(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="t5x_instruct_eval_") as folder:
        asked, answered = Path(folder, "request.msgpack"), Path(folder, "answer.json")
        asked.write_bytes(msgpack.packb(request))
        # The child must see the same modules, and must not take the accelerator that this process holds.
        search_path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        done = subprocess.run(
            [sys.executable, "-m", "t5x_instruct.evaluation.worker", str(asked), str(answered)],
            env=os.environ | {"PYTHONPATH": search_path, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            return read_json(answered)
        said = done.stderr.strip()[-_ERROR_CHARACTERS:]
        if done.returncode == ConfigError.exit_code:
            raise ConfigError(said)
        raise InstructError(f"the process that computes metrics ended with code {done.returncode}:\n{said}")
