"""Examples of a task as the model would be given them, rendered for people without writing anything."""

import itertools
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.data.binding import BoundTask, bind_mixture
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.preprocessors import RenderContext
from t5x_instruct.data.records import Example
from t5x_instruct.data.render_splits import rows_of, to_example
from t5x_instruct.data.vocabularies import load_vocabulary, token_strings


class Preview(NamedTuple):
    """A rendered example for people.

    Attributes:
        inputs_text: the exact text the model is given.
        targets_text: the text of the targets.
        example: ids, mask and other fields.
        inputs_tokens: each token of the inputs, for display.
        targets_tokens: each token of the targets.
        fault: why `prepare` refuses the example, if it does.
    """

    inputs_text: str
    targets_text: str
    example: Example
    inputs_tokens: list[str]
    targets_tokens: list[str]
    fault: str | None


def preview(spec: PrepareSpec, task: str, split: str = "train", n: int = 3) -> list[Preview]:
    """Renders the first examples of a task without writing anything.

    Args:
        spec: vocabulary, prompt format, modules, seed; its mixture must have the task.
        task: the task's name.
        split: the split.
        n: how many examples.

    Raises:
        ConfigError, DataError: as `prepare`.
    """
    vocabulary = load_vocabulary(spec.vocabulary)
    bound = {b.task.name: b for b in bind_mixture(spec, vocabulary)[0]}
    if task not in bound:
        raise ConfigError(unknown(f"task of {spec.mixture!r}", task, bound))
    if split not in bound[task].task.splits:
        raise ConfigError(f"{unknown('split', split, bound[task].task.splits)} of task {task!r}")
    previews = []
    rows = rows_of(bound[task], split, [RenderContext(spec.seed)])
    for row in itertools.islice((variants[0] for variants in rows), n):
        example, fault = to_example(row, bound[task], vocabulary)
        previews.append(
            Preview(
                inputs_text=_verbatim("inputs", example, bound[task]),
                targets_text=_verbatim("targets", example, bound[task]),
                example=example,
                inputs_tokens=token_strings(vocabulary, example.inputs.tolist()),
                targets_tokens=token_strings(vocabulary, example.targets.tolist()),
                fault=fault,
            )
        )
    return previews


def _verbatim(name: str, example: Example, bound: BoundTask) -> str:
    text = str(example.meta[f"{name}_pretokenized"])
    feature = bound.task.output_features.get(name)
    prompt_format = getattr(getattr(feature, "vocabulary", None), "prompt_format", None)
    return prompt_format.prompt(text) if prompt_format is not None and text else text
