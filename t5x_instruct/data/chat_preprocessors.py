"""The seqio preprocessor that turns conversations into tokens."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import seqio
import tensorflow as tf

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.chat_examples import ConversationExample, examples_of, shown
from t5x_instruct.data.row_maps import CHUNK, without_ragged
from t5x_instruct.data.seqio_vocabulary import SeqioVocabulary
from t5x_instruct.data.vocabularies import ByteVocabulary, Vocabulary
from t5x_instruct.templates.chat import PlainFormat, PromptFormat

Replies = Literal["together", "each"]


def render_conversations(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    *,
    task: str,
    replies: Replies = "together",
) -> tf.data.Dataset:
    """Renders and tokenizes conversations; one may become several examples, see `data.chat_examples`.

    Adds `inputs`, `targets`, `targets_mask`, their texts `inputs_pretokenized` and `targets_pretokenized`,
    `accepted_targets` (the first reply) and the counts `count_replies` and `count_split_conversations`.

    Args:
        dataset: rows with the texts `messages` (a JSON list) and `tools` (a JSON list, or empty); their other fields
            stay in each example.
        output_features: the task's, which name the vocabulary and the prompt format once they are bound.
        task: the task's name, for messages.
        replies: 'together': as many replies of a conversation in one example as can be; 'each': one.

    Returns:
        The dataset of examples, in the order of the conversations and their replies.

    Raises:
        DataError: when it is read, with the conversation that cannot be trained on.
    """
    vocabulary, prompt_format = _bound(output_features["inputs"].vocabulary)

    def render_chunk(indices: np.ndarray, messages: np.ndarray, tools: np.ndarray) -> list[np.ndarray]:
        rendered: list[tuple[int, ConversationExample, int]] = []
        for place, (index, talk, available) in enumerate(zip(indices, messages, tools, strict=True)):
            where = f"task {task!r}, conversation {index}"
            try:
                parsed = parse_messages(talk), _parse_tools(available)
                examples = examples_of(*parsed, vocabulary, prompt_format, each=replies == "each")
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            rendered += [(place, one, int(len(examples) > 1 and i == 0)) for i, one in enumerate(examples)]
        return _columns(rendered)

    @tf.autograph.experimental.do_not_convert
    def render_rows(indices: tf.Tensor, rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        kinds = [tf.int64, tf.int32, tf.int64, tf.int32, tf.bool, tf.int64, *[tf.string] * 3, tf.int64, tf.int64]
        columns = [indices, rows["messages"], rows["tools"]]
        parts = tf.numpy_function(render_chunk, columns, kinds, stateful=False)
        for part in parts:
            part.set_shape([None])
        places, inputs, input_lengths, targets, mask, target_lengths, *texts, count, split = parts
        return {
            **{name: tf.gather(column, places) for name, column in rows.items()},
            "inputs": _ragged(inputs, input_lengths),
            "targets": _ragged(targets, target_lengths),
            "targets_mask": _ragged(mask, target_lengths),
            "inputs_pretokenized": texts[0],
            "targets_pretokenized": texts[1],
            "accepted_targets": tf.expand_dims(texts[2], 1),
            "count_replies": count,
            "count_split_conversations": split,
        }

    chunks = dataset.enumerate().ragged_batch(CHUNK)
    return without_ragged(chunks.map(render_rows, num_parallel_calls=1).unbatch())


def parse_messages(text: bytes | str) -> list[dict[str, Any]]:
    """The messages of a row.

    Raises:
        DataError: it is not a JSON list of objects.
    """
    return _objects(text, "messages", "[{'role': 'user', 'content': '...'}, ...]")


def _parse_tools(text: bytes | str) -> list[dict[str, Any]]:
    return _objects(text, "tools", "[{'type': 'function', 'function': {'name': ...}}, ...]") if text else []


def _objects(text: bytes | str, field: str, form: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"the field {field!r} is not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise DataError(f"the field {field!r} has to be a list such as {form}, got {shown([value])}")
    return value


def _bound(vocabulary: seqio.Vocabulary) -> tuple[Vocabulary, PromptFormat]:
    if isinstance(vocabulary, SeqioVocabulary):
        return vocabulary.vocabulary, vocabulary.conversations or PlainFormat()
    return ByteVocabulary(), PlainFormat()


def _columns(rendered: Sequence[tuple[int, ConversationExample, int]]) -> list[np.ndarray]:
    """The parts of `render_rows` from (place of the row, example, whether its conversation was split here)."""
    examples = [one for _, one, _ in rendered]
    return [
        np.array([place for place, _, _ in rendered], np.int64),
        _flat([one.inputs for one in examples], np.int32),
        np.array([len(one.inputs) for one in examples], np.int64),
        _flat([one.targets for one in examples], np.int32),
        _flat([one.mask for one in examples], np.bool_),
        np.array([len(one.targets) for one in examples], np.int64),
        *(
            np.array([getattr(one, name).encode(errors="replace") for one in examples], object)
            for name in ("inputs_text", "targets_text", "answer")
        ),
        np.array([len(one.messages) for one in examples], np.int64),
        np.array([split for _, _, split in rendered], np.int64),
    ]


def _flat(lists: Sequence[Sequence[Any]], dtype: Any) -> np.ndarray:
    return np.array([value for values in lists for value in values], dtype)


def _ragged(values: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)
