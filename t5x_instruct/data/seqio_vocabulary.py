"""The model's vocabulary as a seqio vocabulary.

A task registered with `model_features()` says "whatever the model uses"; `prepare` rebinds it to
the vocabulary and prompt format of the run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_instruct.data.vocabularies import Vocabulary
from t5x_instruct.templates.chat import PromptFormat


class SeqioVocabulary(seqio.Vocabulary):
    """Gives seqio a `Vocabulary`.

    Args:
      vocabulary: encodes and decodes.
      prompt_format: turns a text into the model's prompt before it is encoded (for the feature
        `inputs`). An empty text stays empty: it has no prompt. EOS is not put here (seqio's
        vocabularies never do).
      conversations: the prompt format that whole conversations were rendered in already, for
        preprocessors that do so; nothing here applies it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompt_format: PromptFormat | None = None,
        *,
        conversations: PromptFormat | None = None,
    ):
        super().__init__(extra_ids=0)
        self.vocabulary = vocabulary
        self.prompt_format = prompt_format
        self.conversations = conversations

    @property
    def bos_id(self) -> int:
        """The id that starts a sequence with empty inputs."""
        return self.vocabulary.start_id

    @property
    def eos_id(self) -> int:
        """The id that ends a target."""
        return self.vocabulary.eos_id

    @property
    def pad_id(self) -> int:
        """The id of unused slots; may equal `eos_id`."""
        return self.vocabulary.pad_id

    @property
    def unk_id(self) -> None:
        """None: the adapted vocabulary knows how it treats unknown text."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.vocab_size

    def _encode(self, s: str | bytes) -> list[int]:
        text = s.decode("utf-8", "replace") if isinstance(s, bytes) else s
        if self.prompt_format is not None and text:
            text = self.prompt_format.prompt(text)
        return self.vocabulary.encode(text)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode([int(i) for i in ids])

    def _encode_scalar(self, text: Any) -> np.ndarray:
        # TensorFlow gives bytes within a graph and an array of rank 0 outside of one.
        return np.asarray(self._encode(np.asarray(text, dtype=object).item()), dtype=np.int32)

    def _encode_array(self, texts: Any) -> tuple[np.ndarray, np.ndarray]:
        encoded = [self._encode(t) for t in texts]
        values = np.asarray([i for ids in encoded for i in ids], dtype=np.int32)
        return values, np.asarray([len(ids) for ids in encoded], dtype=np.int64)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        s = tf.convert_to_tensor(s)
        if s.shape.rank == 0:
            ids = tf.numpy_function(self._encode_scalar, [s], tf.int32, stateful=False)
            ids.set_shape([None])
            return ids
        if s.shape.rank != 1:
            raise ValueError(f"encode_tf takes a text or a list of texts, not rank {s.shape.rank}")
        values, lengths = tf.numpy_function(self._encode_array, [s], [tf.int32, tf.int64], stateful=False)
        values.set_shape([None])
        lengths.set_shape([None])
        return tf.RaggedTensor.from_row_lengths(values, lengths)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(default_value=self.eos_id)
        text = tf.numpy_function(self._decode_array, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def _decode_array(self, ids: np.ndarray) -> Any:
        if ids.ndim == 1:
            return self._decode(ids.tolist()).encode()
        return np.asarray([self._decode_array(row) for row in ids], dtype=object)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqioVocabulary) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str | None, ...]:
        forms = (self.prompt_format, self.conversations)
        return self.vocabulary.fingerprint, *(None if form is None else form.fingerprint for form in forms)

    def __str__(self) -> str:
        kind = type(self.vocabulary).__name__
        return f"SeqioVocabulary({kind}, {self.vocabulary.fingerprint[:12]})"


class ModelVocabulary(seqio.ByteVocabulary):
    """Stands for the vocabulary of the model being trained; bytes until `prepare` binds it."""

    def __init__(self) -> None:
        super().__init__(extra_ids=0)

    def bound(self, vocabulary: Vocabulary, prompt_format: PromptFormat | None) -> SeqioVocabulary:
        """The run's vocabulary in its place, with the run's prompt format in the place of the inputs'."""
        return SeqioVocabulary(vocabulary, prompt_format)

    def __eq__(self, other: object) -> bool:
        # Also for the subclass: seqio mixes only tasks with equal vocabularies.
        return isinstance(other, ModelVocabulary)

    def __hash__(self) -> int:
        return hash(ModelVocabulary)

    def __str__(self) -> str:
        return f"{type(self).__name__}()"


class ConversationVocabulary(ModelVocabulary):
    """The same in a feature whose texts are rendered conversations: the prompt format is in them already."""

    def bound(self, vocabulary: Vocabulary, prompt_format: PromptFormat | None) -> SeqioVocabulary:
        """See `ModelVocabulary.bound`; a preprocessor finds the format in `SeqioVocabulary.conversations`."""
        return SeqioVocabulary(vocabulary, conversations=prompt_format)


def model_features() -> dict[str, seqio.Feature]:
    """Output features of a task that follows the model: `inputs` (optional) and `targets` + EOS.

    `inputs` gets no EOS of its own: what ends a prompt is the prompt format's business.
    """
    return {
        "inputs": seqio.Feature(ModelVocabulary(), add_eos=False, required=False),
        "targets": seqio.Feature(ModelVocabulary(), add_eos=True),
    }


def conversation_features() -> dict[str, seqio.Feature]:
    """Output features of a task of conversations: those of `model_features`, so that seqio mixes it with other tasks.

    Its examples have the field `targets_mask` besides, and targets that end as they should.
    """
    return {
        "inputs": seqio.Feature(ConversationVocabulary(), add_eos=False, required=False),
        "targets": seqio.Feature(ConversationVocabulary(), add_eos=False),
    }
