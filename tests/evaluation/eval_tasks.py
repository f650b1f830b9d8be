"""Tasks for a model that goes on with the alphabet up to z; some are out of order on purpose."""

from typing import Any

import numpy as np
import seqio

from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.tasks import accept_answers, add_task
from t5x_instruct.evaluation.metrics import exact_match

STEPS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]


def broken_metric(targets: Any, predictions: Any) -> dict[str, float]:
    raise ZeroDivisionError(f"no way with {len(targets)}")


def odd_values(targets: Any, predictions: Any) -> dict[str, Any]:
    return {
        "not_a_number": float("nan"),
        "exact_match": 1.0,
        "wrapped": seqio.metrics.Scalar(np.float32(12.5)),
        "text": seqio.metrics.Text("hello"),
    }


def mean_score(targets: Any, scores: Any) -> dict[str, float]:
    return {"mean_score": 0.0}


def calling_convention(output: str, *, example: Any, is_target: bool) -> tuple[Any, ...]:
    kinds = type(example["inputs_pretokenized"]), example["ids"].dtype.kind, example["words"].tolist()
    return output, is_target, *kinds, example["targets"].tolist()


def seen(targets: Any, predictions: Any) -> dict[str, float]:
    """100 where functions get what seqio's own evaluator would give them."""
    right_targets = targets == [("yz", True, bytes, "i", [b"a", b"\xc3\xa9"], [124, 125, 1])]
    right_predictions = predictions == [("y", False, bytes, "i", [b"a", b"\xc3\xa9"], [124, 125, 1])]
    return {"right_targets": 100.0 * right_targets, "right_predictions": 100.0 * right_predictions}


def cannot_read(output: str, *, example: Any, is_target: bool) -> str:
    if not is_target:
        raise ValueError(f"what is {output!r}?")
    return output


def _rows(answers: dict[str, str], **fields: Any) -> list[dict[str, Any]]:
    return [{"start": start, "answer": answer, **fields} for start, answer in answers.items()]


def _plain(name: str, **arguments: Any) -> None:
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(_no_rows, splits=("train",)),
        preprocessors=STEPS,
        output_features=model_features(),
        **arguments,
    )


def _no_rows(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
    raise AssertionError("metrics never read the data")


VALIDATION = {"w": "xyz", "v": "wxyz", "say u": "vwxyz", "t": "wrong"}
CHOICES = ["xyz", "q", "xqx"]

add_task(
    "eval_trained",
    cluster="trained",
    source={"train": _rows(VALIDATION), "validation": _rows({"x": "yz"})},
    templates=["{start}"],
    metrics=[exact_match],
)
add_task(
    "eval_letters",
    cluster="alphabet",
    source={"train": _rows(VALIDATION), "validation": _rows(VALIDATION)},
    templates=["{start}"],
    metrics=[broken_metric, exact_match, odd_values],
)
add_task(
    "eval_choice",
    cluster="alphabet",
    source={
        "validation": [
            {"start": "w", "answer": "xyz", "options": CHOICES},
            # Without "xyz" the sum prefers the short option, the mean the long one.
            {"start": "w", "answer": "q", "options": CHOICES[1:]},
            {"start": "w", "answer": "zq", "options": ["zq", "xyz"]},
            {"start": "w", "answer": "zq", "options": ["zq", "xyz", "xq", "wq"]},
        ]
    },
    templates=["{start}"],
    metrics=[exact_match],
)
add_task(
    "eval_silent",
    cluster="silent",
    source={"validation": _rows({"y": "z", "": "nothing"})},
    templates=["{start}"],
    metrics=[],
)
add_task(
    "eval_only_test",
    cluster="silent",
    source={"train": _rows({"y": "z"}), "test": _rows({"y": "z"})},
    templates=["{start}"],
    metrics=[exact_match],
)
seqio.MixtureRegistry.add(
    "eval_mixture",
    ["eval_trained", "eval_letters", "eval_choice", "eval_silent", "eval_only_test"],
    default_rate=1.0,
)

WRAPPED = seqio.metrics.PassthroughLegacyMetric.from_metric_fn(exact_match, accept_answers)
_plain("eval_convention", postprocess_fn=calling_convention, metric_fns=[seen])
_plain("eval_unreadable", postprocess_fn=cannot_read, metric_fns=[exact_match])
_plain("eval_objects", metric_objs=[WRAPPED.empty()])
_plain("eval_scores", metric_fns=[mean_score])
