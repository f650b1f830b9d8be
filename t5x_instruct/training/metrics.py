"""What is written about a run: `metrics.jsonl`, TensorBoard events and a progress line."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from t5x_instruct.common import hosts
from t5x_instruct.common.io import write_bytes
from t5x_instruct.common.paths import AnyPath

if TYPE_CHECKING:
    from t5x_instruct.common.upload import Upload

METRICS_FILE = "metrics.jsonl"


def training_record(sums: Mapping[str, Any], task_names: Sequence[str], seconds: float) -> dict[str, Any]:
    """One step's sums as the figures people read.

    Args:
        sums: `training.step.batch_metrics` plus gradient norm and learning rate, on the host.
        task_names: of the mixture, in order of their ids.
        seconds: wall time of the step.

    Returns:
        ``loss`` (over the loss weights: the mean over trained tokens, or with the loss normalizing factor
        "per_example" the mean over examples of their means), ``accuracy`` (of trained tokens), ``target_tokens`` and
        ``target_tokens_per_second`` (padding and instruction tokens never counted), ``packing_fill``,
        ``gradient_norm``, ``learning_rate``, ``seconds``.
    """
    target_tokens = float(sums["target_tokens"])
    record = loss_record(sums, task_names)
    del record["task_loss"], record["task_accuracy"]
    return record | {
        "target_tokens_per_second": target_tokens / max(seconds, 1e-9),
        "tokens_per_second": float(sums["nonpadding_tokens"]) / max(seconds, 1e-9),
        "packing_fill": float(sums["nonpadding_tokens"]) / max(float(sums["slots"]), 1.0),
        "gradient_norm": float(sums["gradient_norm"]),
        "learning_rate": float(sums["learning_rate"]),
        "seconds": seconds,
    }


def loss_record(sums: Mapping[str, Any], task_names: Sequence[str]) -> dict[str, Any]:
    """Loss and accuracy, of all and of each task, from the sums of one or many batches.

    Args:
        sums: added up from `training.step.batch_metrics`.
        task_names: in order of their ids.

    Returns:
        ``loss`` (over the loss weights) and ``accuracy`` (share of trained tokens that are the model's likeliest),
        nan where nothing is trained; ``target_tokens``; ``task_loss`` and ``task_accuracy``, both means over trained
        tokens, only of the tasks that occurred.
    """
    weight = float(sums["weight_sum"])
    tokens = float(sums["target_tokens"])
    task_weights = np.asarray(sums["task_weight_sum"], np.float64)

    def by_task(name: str) -> dict[str, float]:
        totals = np.asarray(sums[name], np.float64)
        return {
            task: float(total / count)
            for task, total, count in zip(task_names, totals, task_weights, strict=True)
            if count
        }

    return {
        "loss": float(sums["loss_sum"]) / weight if weight else math.nan,
        "accuracy": float(sums["correct_sum"]) / tokens if tokens else math.nan,
        "target_tokens": int(tokens),
        "task_loss": by_task("task_loss_sum"),
        "task_accuracy": by_task("task_correct_sum"),
    }


def named_numbers(kind: str, record: Mapping[str, Any]) -> dict[str, float]:
    """A record's numbers under the names they have in TensorBoard and in KEEP_BEST.

    Args:
        kind: "train" or "validation".
        record: numbers, and mappings of numbers.

    Returns:
        E.g. ``{"validation/loss": 2.0, "validation/task_loss/capital": 1.5}``.
    """
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= {f"{kind}/{name}/{part}": number for part, number in value.items()}
        else:
            numbers[f"{kind}/{name}"] = value
    return numbers


class MetricsWriter:
    """Appends records to `metrics.jsonl` and TensorBoard events in a run's folder; host 0 writes for all.

    An object in a bucket cannot be appended to: there the files grow on this machine's disk, and `sync` and a thread
    upload them anew.

    Args:
        model_dir: the run's folder.
        resume_step: steps after this one were written by a process that is gone, and are dropped.
    """

    _upload: "Upload | None" = None

    def __init__(self, model_dir: AnyPath, resume_step: int = 0):
        self._writes = hosts.process_index() == 0
        if not self._writes:
            return
        from tensorboardX import SummaryWriter

        folder = model_dir
        if not isinstance(folder, Path):
            from t5x_instruct.common.upload import Upload

            self._upload = Upload(folder)
            folder = self._upload.folder
        path = folder / METRICS_FILE
        records = [record for record in read_metrics(model_dir / METRICS_FILE) if record["step"] <= resume_step]
        write_bytes(path, "".join(json.dumps(r, allow_nan=True) + "\n" for r in records).encode())
        self._file = open(path, "a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, kind: str, record: Mapping[str, Any]) -> None:
        """Appends one record.

        Args:
            step: steps done.
            kind: "train" or "validation"; the prefix of the TensorBoard tags.
            record: numbers, and mappings of numbers.
        """
        if not self._writes:
            return
        line = {"step": step, "kind": kind, **record}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for tag, number in named_numbers(kind, record).items():
            self._board.add_scalar(tag, number, step)

    def sync(self) -> None:
        """Returns when all that was written is where it lasts.

        Raises:
            BucketError: it cannot be uploaded.
        """
        if self._upload is not None:
            self._board.flush()
            self._upload.now()

    def close(self) -> None:
        """Flushes and closes both files."""
        if not self._writes:
            return
        self._file.close()
        self._board.close()
        if self._upload is not None:
            self._upload.close()


def read_metrics(path: AnyPath) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class Progress:
    """A line on the terminal that says where a run is; on a file, a line every few seconds.

    Args:
        total_steps: length of the run.
        stream: where to.
        seconds_between: least time between two lines.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None, seconds_between: float = 5.0):
        self._total = total_steps
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._between = 0.2 if self._live else seconds_between
        self._last = -math.inf
        self._started: tuple[float, int] | None = None

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        """Shows `step` of the total with the loss, the rate and the time that is left."""
        now = time.monotonic()
        if self._started is None:
            self._started = (now, step)
        if now - self._last < self._between and step != self._total:
            return
        self._last = now
        began, first = self._started
        left = "-:--"
        if step > first:
            remaining = int((now - began) / (step - first) * (self._total - step))
            left = f"{remaining // 60}:{remaining % 60:02d}"
        text = (
            f"step {step}/{self._total}  loss {record['loss']:.4f}  "
            f"target tokens/s {record['target_tokens_per_second']:.0f}  fill {record['packing_fill']:.2f}  "
            f"lr {record['learning_rate']:.2e}  left {left}"
        )
        self._stream.write(f"\r\x1b[2K{text}" if self._live else f"{text}\n")
        if self._live and step == self._total:
            self._stream.write("\n")
        self._stream.flush()
