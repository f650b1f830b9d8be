"""A run's report: `report.json` for programs, `report.html` for people, from what the run's folder holds."""

import dataclasses
import math
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5x_instruct.common.io import read_json, write_bytes, write_json
from t5x_instruct.common.paths import AnyPath, as_path
from t5x_instruct.evaluation.report_page import render_page
from t5x_instruct.evaluation.results import EvalResult, TaskResult, by_cluster, manner, means
from t5x_instruct.training.metrics import METRICS_FILE, read_metrics

if TYPE_CHECKING:  # it loads JAX, which reports do without
    from t5x_instruct.checkpoints.manager import BestStep

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
_FIGURES = ("score", "exact_match", "rank_accuracy", "rank_accuracy_normalized", "rank_chance", "best", "best_rank")
_SEED = re.compile(r"^\s*([\w./]*seed\w*)\s*=\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


def write_report(
    model_dir: "str | os.PathLike[str]",
    *,
    before: EvalResult | None = None,
    after: EvalResult | None = None,
    best: "BestStep | None" = None,
) -> AnyPath:
    """Writes `report.json` and `report.html` into a run's folder.

    Curves, facts and configuration come from the folder's `metrics.jsonl`, `manifest.json` and `config.gin`, as far
    as they are there. The page needs no network and no script.

    Args:
        model_dir: the run's folder.
        before: the held-out tasks before training, if they were evaluated.
        after: the same after training.
        best: the checkpoint that is kept as the best one, if one is.

    Returns:
        The path of `report.html`.

    Raises:
        DataError: `manifest.json` is not valid JSON.
        OSError: the folder cannot be written.
    """
    folder = as_path(model_dir)
    records = read_metrics(folder / METRICS_FILE)
    report = build_report(folder, before, after, records, best)
    write_json(folder / REPORT_JSON, report)
    write_bytes(folder / REPORT_HTML, render_page(report, records).encode())
    return folder / REPORT_HTML


def build_report(
    folder: AnyPath,
    before: EvalResult | None,
    after: EvalResult | None,
    records: Sequence[Mapping[str, Any]],
    best: "BestStep | None",
) -> dict[str, Any]:
    """The content of `report.json`; see `write_report`.

    Args:
        folder: the run's folder.
        before: figures before training.
        after: figures after training.
        records: of `metrics.jsonl`.
        best: the best checkpoint.

    Returns:
        ``held_out`` (``before`` and ``after``: means over tasks, in 0-100; ``clusters``: the same and the tasks of
        each; ``shots`` and ``templates``: how they were asked), ``examples``, ``train``, ``best_checkpoint`` (step,
        metric and value), ``run`` (the manifest), ``config`` (text), ``seeds`` and ``problems``.
    """
    config_file, manifest_file = folder / "config.gin", folder / "manifest.json"
    config = config_file.read_text(encoding="utf-8", errors="replace") if config_file.exists() else ""
    return {
        "name": folder.resolve().name,
        "held_out": {
            "before": None if before is None else before.overall._asdict(),
            "after": None if after is None else after.overall._asdict(),
            "clusters": _clusters(before, after),
            **_asked(after or before),
        },
        "examples": _examples(before, after),
        "train": train_summary(records),
        "best_checkpoint": None if best is None else best._asdict(),
        "run": read_json(manifest_file) if manifest_file.exists() else {},
        "config": config,
        "seeds": dict(_SEED.findall(config)),
        "problems": _problems(before, after),
    }


def _asked(result: EvalResult | None) -> dict[str, Any]:
    return {"shots": result.shots if result else 0, "templates": result.templates if result else "drawn"}


def _problems(before: EvalResult | None, after: EvalResult | None) -> list[str]:
    found = dict.fromkeys(problem for result in (before, after) if result for problem in result.problems)
    if before and after and _asked(before) != _asked(after):
        ways = [manner(result.shots, result.templates) for result in (before, after)]
        found[f"the tasks were asked {ways[0]} before training and {ways[1]} after: the figures do not compare"] = None
    return list(found)


def train_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `metrics.jsonl` says of the training, each number finite or None.

    Args:
        records: of `metrics.jsonl`.

    Returns:
        ``steps``, ``target_tokens`` (trained on, all steps), ``seconds`` (in steps), ``target_tokens_per_second``
        (median), first and last training and validation losses and validation accuracies (0-100), the same of each
        trained task (``validation_tasks``), and where the curves come from.
    """
    train = [record for record in records if record.get("kind") == "train"]
    validation = [record for record in records if record.get("kind") == "validation"]
    rates = [r for record in train if (r := _finite(record.get("target_tokens_per_second"))) is not None]

    def end(found: Sequence[Mapping[str, Any]], index: int, name: str = "loss") -> float | None:
        return _finite(found[index].get(name)) if found else None

    return {
        "steps": train[-1]["step"] if train else 0,
        "target_tokens": int(sum(_finite(record.get("target_tokens")) or 0 for record in train)),
        "seconds": sum(_finite(record.get("seconds")) or 0.0 for record in train),
        "target_tokens_per_second": statistics.median(rates) if rates else None,
        "first_loss": end(train, 0),
        "last_loss": end(train, -1),
        "first_validation_loss": end(validation, 0),
        "last_validation_loss": end(validation, -1),
        "first_validation_accuracy": _percent(end(validation, 0, "accuracy")),
        "last_validation_accuracy": _percent(end(validation, -1, "accuracy")),
        "validation_tasks": _validation_tasks(validation),
        "curves": METRICS_FILE,
    }


def _validation_tasks(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """First and last loss and accuracy (0-100) of each task in the validation records."""
    if not records:
        return {}
    first, last = records[0], records[-1]

    def figure(record: Mapping[str, Any], name: str, task: str) -> float | None:
        return _finite(record.get(name, {}).get(task))

    return {
        task: {
            "first_loss": figure(first, "task_loss", task),
            "last_loss": figure(last, "task_loss", task),
            "first_accuracy": _percent(figure(first, "task_accuracy", task)),
            "last_accuracy": _percent(figure(last, "task_accuracy", task)),
        }
        for task in last.get("task_loss", {})
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def summary_text(report_json: "str | os.PathLike[str]") -> str:
    """A report in a few lines for the terminal.

    Args:
        report_json: path of a `report.json`; the page lies beside it.

    Raises:
        DataError: it is missing or not JSON.
    """
    path = as_path(report_json)
    report = read_json(path)
    held_out, train = report["held_out"], report["train"]
    lines = [f"{train['steps']:,} steps, {train['target_tokens']:,} target tokens"]
    if train["last_loss"] is not None:
        lines[0] += f", training loss {train['first_loss'] or math.nan:.3f} -> {train['last_loss']:.3f}"
    rows = [("all held-out tasks", held_out)] + [(c["cluster"], c) for c in held_out["clusters"]]
    width = max(len(name) for name, _ in rows)
    for name, figures in rows if held_out["clusters"] else []:
        changes = [
            f"{label} {_shown(figures['before'], key)} -> {_shown(figures['after'], key)}"
            for key, label in (("score", "score"), ("best", "best template"), ("rank_accuracy", "rank"))
            if _figure(figures["before"], key) is not None or _figure(figures["after"], key) is not None
        ]
        lines.append(f"{name:<{width}}  {'   '.join(changes) or 'no figures'}")
    for example in _spread(report["examples"], 5):
        lines += ["", f"[{example['cluster']}, {example['task']}] {_one_line(example['prompt'])}"]
        lines += [f"  {name:<8}{_one_line(example[name] or '')}" for name in ("target", "before", "after")]
    lines += [""] if report["examples"] else []
    lines += [f"note: {problem}" for problem in report["problems"]]
    if best := report["best_checkpoint"]:
        named = path.parent / "checkpoints" / "best"
        lines.append(f"best checkpoint: step {best['step']} ({best['metric']} {best['value']:.4g}), named {named}")
    return "\n".join([*lines, f"report: {path.with_name(REPORT_HTML)}"])


def _spread(examples: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """A few examples, in turn from every cluster and in each from every task."""
    clusters: dict[str, dict[str, int]] = {}
    order = []
    for position, example in enumerate(examples):
        tasks = clusters.setdefault(example["cluster"], {})
        place = tasks[example["task"]] = tasks.get(example["task"], -1) + 1
        order.append((place, list(tasks).index(example["task"]), position))
    return [examples[position] for *_, position in sorted(order)[:count]]


def _one_line(text: str, width: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _shown(figures: Mapping[str, Any] | None, key: str) -> str:
    value = _figure(figures, key)
    return f"{'-':>5}" if value is None else f"{value:5.1f}"


def _figure(figures: Mapping[str, Any] | None, key: str) -> float | None:
    return None if figures is None else figures[key]


def _clusters(before: EvalResult | None, after: EvalResult | None) -> list[dict[str, Any]]:
    groups = {
        moment: by_cluster(result.tasks) if result else {} for moment, result in (("before", before), ("after", after))
    }
    clusters = []
    for name in dict.fromkeys([*groups["after"], *groups["before"]]):
        tasks = {moment: {t.task: t for t in groups[moment].get(name, ())} for moment in groups}
        clusters.append(
            {
                "cluster": name,
                **{m: means(list(found.values()))._asdict() if found else None for m, found in tasks.items()},
                "tasks": [
                    _task(tasks["before"].get(task), tasks["after"].get(task))
                    for task in dict.fromkeys([*tasks["after"], *tasks["before"]])
                ],
            }
        )
    return clusters


def _task(before: TaskResult | None, after: TaskResult | None) -> dict[str, Any]:
    known = after or before
    assert known is not None
    return {
        "task": known.task,
        "metric": known.primary,
        "num_examples": known.num_examples,
        "seen": list(known.seen),
        "before": _task_figures(before),
        "after": _task_figures(after),
    }


def _task_figures(task: TaskResult | None) -> dict[str, Any] | None:
    if task is None:
        return None
    mean = means([task])._asdict()
    return {name: mean[name] for name in _FIGURES} | {
        "metrics": dict(task.metrics),
        "num_ranked": task.num_ranked,
        "shots": task.shots,
        "exemplars_dropped": task.exemplars_dropped,
        "templates": [dataclasses.asdict(figures) for figures in task.templates],
        "best_template": None if task.best is None else dataclasses.asdict(task.best),
        "best_rank_template": None if task.best_rank is None else dataclasses.asdict(task.best_rank),
    }


def _examples(before: EvalResult | None, after: EvalResult | None) -> list[dict[str, Any]]:
    """The kept examples of all tasks, with the answers of both evaluations."""
    merged: dict[tuple[str, int, int | None], dict[str, Any]] = {}
    for moment, result in (("before", before), ("after", after)):
        for task in result.tasks if result else ():
            for example in task.examples:
                entry = merged.setdefault(
                    (task.task, example.index, example.template),
                    {
                        "task": task.task,
                        "cluster": task.cluster,
                        "index": example.index,
                        "template": example.template,
                        "exemplars": example.exemplars,
                        "prompt": example.prompt,
                        "target": example.target,
                        "before": None,
                        "after": None,
                    },
                )
                entry[moment] = example.prediction
    return list(merged.values())


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
