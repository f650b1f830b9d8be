"""Runs the metrics of seqio tasks in a process of its own, so that the process with the model never loads TensorFlow.

``python -m t5x_instruct.evaluation.worker REQUEST ANSWER``

The request (msgpack, since examples may hold bytes): ``modules`` and ``module_options`` (what registers the tasks),
``vocabulary`` (of the model) and ``tasks``: name -> groups of examples that metrics are computed over (all answers, or
those to one template), each example with ``target`` and ``prediction`` (texts), ``prediction_ids``, ``inputs`` and
``targets`` (token ids) and ``meta`` (its untrained fields). The answer (JSON): name -> ``metrics`` (of each group, in
order) and ``problems``.
"""

import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import seqio

from t5x_instruct.common.errors import InstructError, unknown
from t5x_instruct.common.io import write_json
from t5x_instruct.data.binding import bind
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.vocabularies import load_vocabulary
from t5x_instruct.templates.chat import PlainFormat

_SHOWN_CHARACTERS = 80


def run(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Computes the metrics of every task in `request`; see the module's description for both formats."""
    import_task_modules(request["modules"], request["module_options"])
    return {
        name: _TaskMetrics(name, groups, request["vocabulary"]).compute() for name, groups in request["tasks"].items()
    }


class _TaskMetrics:
    """The metrics of one task and what went wrong with them; a fault that several groups have is told once."""

    def __init__(self, name: str, groups: Sequence[Sequence[Mapping[str, Any]]], vocabulary: str):
        self._name = name
        self._groups = groups
        self._vocabulary = vocabulary
        self._problems: dict[str, str] = {}
        # Of the group at hand.
        self._records: Sequence[Mapping[str, Any]] = ()
        self._metrics: dict[str, float] = {}

    def compute(self) -> dict[str, Any]:
        """The metrics of each group in order, each a finite float, and the task's problems."""
        metrics = []
        for records in self._groups:
            self._records, self._metrics = records, {}
            self._compute_group()
            metrics.append(self._metrics)
        return {"metrics": metrics, "problems": list(self._problems.values())}

    def _compute_group(self) -> None:
        if self._name not in seqio.TaskRegistry.names():
            self._problem(unknown("task", self._name, seqio.TaskRegistry.names()))
        elif self._records:
            task = seqio.TaskRegistry.get(self._name)
            try:
                metric_fns, metric_objs = task.metric_fns, task.metric_objs
            except Exception as error:
                self._problem(f"its metrics cannot be used: {_last_line(error)}")
            else:
                if not metric_objs:
                    self._problem("it has no metrics; give it metric_fns to have its answers judged")
                self._functions(task, metric_fns)
                # seqio appends the functions, wrapped, to the objects the task was registered with.
                self._objects(task, metric_objs[: len(metric_objs) - len(metric_fns)])

    def _problem(self, text: str, cause: str | None = None) -> None:
        """Notes a problem; of those with the same cause (by default the text itself) the first."""
        self._problems.setdefault(cause or text, f"task {self._name!r}: {text}")

    def _functions(self, task: seqio.Task, metric_fns: Sequence[Callable[..., Any]]) -> None:
        predict_fns = task.predict_metric_fns
        for function in metric_fns:
            if function not in predict_fns:
                self._problem(
                    f"metric {_name_of(function)!r} judges scores or auxiliary values; only metrics of "
                    "(targets, predictions) are computed here"
                )
        if not predict_fns:
            return
        targets = self._postprocessed(task, "target", is_target=True)
        predictions = self._postprocessed(task, "prediction", is_target=False)
        if targets is None or predictions is None:
            return
        shown = f"given {len(targets)} pairs, the first ({_short(targets[0])}, {_short(predictions[0])})"
        for function in predict_fns:
            self._collect(_name_of(function), partial(function, targets, predictions), shown)

    def _postprocessed(self, task: seqio.Task, key: str, *, is_target: bool) -> list[Any] | None:
        values = []
        for record, example in zip(self._records, self._examples(), strict=True):
            try:
                values.append(task.postprocess_fn(record[key], example=example, is_target=is_target))
            except Exception as error:
                self._problem(f"postprocess_fn of the {key} {_short(record[key])}: {_last_line(error)}", f"post {key}")
                return None
        return values

    def _examples(self) -> Iterator[dict[str, Any]]:
        """The examples as seqio hands them to functions: NumPy values, text as bytes."""
        for record in self._records:
            yield {
                **{name: _as_numpy(value) for name, value in record["meta"].items()},
                "inputs": np.asarray(record["inputs"], np.int32),
                "targets": np.asarray(record["targets"], np.int32),
            }

    def _objects(self, task: seqio.Task, metric_objs: Sequence[Any]) -> None:
        examples = list(self._examples()) if metric_objs else []
        for metric in metric_objs:
            name = _name_of(metric)
            if metric.model_output_type != seqio.metrics.ModelOutputType.PREDICTION:
                self._problem(f"metric {name!r} judges scores or auxiliary values; only predictions are made here")
                continue
            shown = f"given {len(examples)} examples"
            self._collect(name, partial(self._object_value, task, metric, examples), shown)

    def _object_value(self, task: seqio.Task, metric: Any, examples: list[dict[str, Any]]) -> Any:
        vocabulary = load_vocabulary(self._vocabulary)
        features = bind(task, vocabulary, PlainFormat())[0].output_features
        collected = metric.from_model_output(examples, self._prediction_ids(features), features)
        if isinstance(collected, seqio.metrics.CollectingMetric):
            return collected.actual_compute(examples, features)[0]
        return collected.compute()

    def _prediction_ids(self, features: Mapping[str, seqio.Feature]) -> np.ndarray:
        """int32 [examples, longest]: predicted ids, filled with what decodes to nothing: EOS after the first EOS."""
        rows = [record["prediction_ids"] for record in self._records]
        fill = features["targets"].vocabulary.eos_id
        ids = np.full((len(rows), max(1, *(len(row) for row in rows))), fill, np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids

    def _collect(self, name: str, compute: Callable[[], Any], shown: str) -> None:
        """Adds what a metric returns; what it raises or returns that is no finite number becomes a problem."""
        try:
            values = dict(compute())
        except Exception as error:
            self._problem(f"metric {name!r}, {shown}: {_last_line(error)}", f"metric {name}: {type(error)}")
            return
        for key, value in values.items():
            number = _as_number(value)
            if key in self._metrics:
                self._problem(f"metric {name!r} returns {key!r}, which an earlier metric has returned")
            elif number is None:
                text = f"metric {name!r}, {shown}: {key!r} is {_short(value)}, not a finite number"
                self._problem(text, f"metric {name}: {key}")
            else:
                self._metrics[key] = number


def _as_number(value: Any) -> float | None:
    if isinstance(value, seqio.metrics.Scalar):
        value = value.value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _as_numpy(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        items = [_as_numpy(item) for item in value]
        if items and all(isinstance(item, np.generic) for item in items):
            return np.asarray(items)
        array = np.empty(len(items), object)
        array[:] = items
        return array
    return np.asarray(value)[()]


def _name_of(metric: Any) -> str:
    return getattr(metric, "__name__", None) or type(metric).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _last_line(error: Exception) -> str:
    """The traceback's last line and the place it speaks of."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({frame.filename}:{frame.lineno})"


def main(arguments: Sequence[str]) -> None:
    """Answers one request; what the caller is to blame for ends the process with a message and its exit code."""
    request, answer = arguments
    try:
        write_json(Path(answer), run(msgpack.unpackb(Path(request).read_bytes())))
    except InstructError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
