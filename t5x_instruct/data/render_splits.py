"""The rows of a split, rendered into examples."""

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.binding import BoundTask
from t5x_instruct.data.prepare_spec import EXEMPLARS, PrepareSpec
from t5x_instruct.data.preprocessors import RenderContext, rendering
from t5x_instruct.data.prompt_formats import with_eos
from t5x_instruct.data.records import Example
from t5x_instruct.data.straight import straight_rows, straight_steps
from t5x_instruct.data.vocabularies import Vocabulary


def renderings_of(bound: BoundTask, split: str, spec: PrepareSpec) -> list[RenderContext]:
    """How often a split is rendered, and with what: one context for each variant of its records."""
    if bound.templates:
        return [RenderContext(spec.seed, template=template) for template in range(bound.templates)]
    variants = range(spec.variants if split == "train" else 1)
    return [RenderContext(spec.seed, variant, num_templates=bound.num_templates) for variant in variants]


class RowCount:
    """Counts the rows that a pipeline takes from its source: a row may give several examples, or none.

    It is a preprocessor, the first one. A pipeline reads a little ahead of the examples that it gives.
    """

    def __init__(self) -> None:
        self._rows = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Passes the rows on."""

        @tf.autograph.experimental.do_not_convert
        def count(*row: Any) -> Any:
            self._rows.assign_add(1)
            return row if len(row) > 1 else row[0]

        return dataset.map(count)

    def __int__(self) -> int:
        return int(self._rows.numpy())


def rows_of(
    bound: BoundTask,
    split: str,
    renderings: Sequence[RenderContext],
    start: int = 0,
    count: RowCount | None = None,
) -> Iterator[tuple[Mapping[str, Any], ...]]:
    """Each example of a split as its renderings; `EXEMPLARS` are the examples of 'train'.

    Args:
        bound: the task.
        split: the split.
        renderings: what each variant is rendered with.
        start: the first row; 0 unless the task `has_ranges`.
        count: counts the rows of the source, where the task has no ranges: with ranges each row is an example.
    """
    split = "train" if split == EXEMPLARS else split
    steps = straight_steps(bound.task)
    if steps is not None:
        yield from straight_rows(bound, split, renderings, steps, start)
        return
    missing = object()
    counted = bound.task if count is None else bound.task.replace(preprocessors=[count, *bound.task.preprocessors])
    tasks = [counted, *itertools.repeat(bound.task, len(renderings) - 1)]  # every variant reads all rows
    datasets = [_dataset(task, split, context) for task, context in zip(tasks, renderings, strict=True)]
    iterators = [dataset.as_numpy_iterator() for dataset in datasets]
    for rows in itertools.zip_longest(*iterators, fillvalue=missing):
        if any(row is missing for row in rows):
            raise DataError("its variants have different numbers of examples; filter before templates are drawn")
        yield rows


def has_ranges(bound: BoundTask) -> bool:
    """Whether any range of a split's rows can be rendered by itself.

    Steps that are only known as transformations of a whole dataset may look at any number of rows, and seqio gives
    their random draws seeds by their place in the stream; such a split is rendered whole.
    """
    return straight_steps(bound.task) is not None


def _dataset(task: seqio.Task, split: str, context: RenderContext) -> tf.data.Dataset:
    key = hashlib.blake2b(f"{context.seed}/{task.name}/{context.variant}".encode(), digest_size=4)
    variant_seed = int.from_bytes(key.digest(), "little") >> 1
    tf.random.set_seed(variant_seed)  # for preprocessors that draw without seqio's seeds
    with rendering(context):
        return task.get_dataset(
            sequence_length=None,
            split=split,
            use_cached=False,
            shuffle=False,
            seed=variant_seed,
            trim_output_features=False,
            try_in_mem_cache=False,
        )


def to_example(row: Mapping[str, Any], bound: BoundTask, vocabulary: Vocabulary) -> tuple[Example, str | None]:
    """An example and, if it must be refused, why.

    Args:
        row: what the task gives. An `inputs` that is not among its output features is a field like others.
        bound: the task.
        vocabulary: the run's vocabulary.

    Raises:
        DataError: the ids are not ids of the vocabulary.
    """
    features = bound.task.output_features
    row = {(k if k in features or k != "inputs" else "inputs_field"): v for k, v in row.items()}
    inputs, targets = (_ids(row, name, vocabulary) for name in ("inputs", "targets"))
    mask = np.asarray(row.get("targets_mask", np.ones(len(targets), bool))).astype(bool).reshape(-1)
    # In one order, whichever way the row was rendered.
    meta = {k: _plain(v) for k, v in sorted(row.items()) if k not in ("inputs", "targets", "targets_mask")}
    for name, ids in (("inputs", inputs), ("targets", targets)):
        if f"{name}_pretokenized" not in meta:
            meta[f"{name}_pretokenized"] = vocabulary.decode(ids.tolist())
    if bound.inputs_eos:
        inputs = np.asarray(with_eos(inputs.tolist(), vocabulary.eos_id), np.int32)
    fault = None
    if not len(targets):
        fault = "it has no target token"
    elif len(mask) != len(targets):
        fault = f"its targets_mask has {len(mask)} entries for {len(targets)} targets"
    elif not mask.any():
        fault = "its targets_mask trains no token"
    return Example(inputs, targets, mask, meta), fault


def _ids(row: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> np.ndarray:
    ids = np.asarray(row.get(name, np.zeros(0, np.int32)))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{name} are {ids.dtype} of rank {ids.ndim}, not a list of token ids")
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocabulary.vocab_size):
        wrong = ids[(ids < 0) | (ids >= vocabulary.vocab_size)][0]
        raise DataError(f"{name} have the id {wrong}, outside the vocabulary's 0 to {vocabulary.vocab_size - 1}")
    return ids.astype(np.int32)


def _plain(value: Any) -> Any:
    """Texts, numbers and lists of them, as records keep them."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if hasattr(value, "to_list"):
        return _plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return value


def count_rows(task: seqio.Task, split: str) -> int | None:
    """The number of rows of a split before rendering, where the source can tell."""
    split = "train" if split == EXEMPLARS else split
    try:
        count = task.num_input_examples(split)
    except Exception:  # a source that cannot count may say so in any way; only the ETA is lost
        return None
    return int(count) if count else None
