"""A SentencePiece vocabulary of one's own, from the texts that a mixture trains on.

The texts are read from prepared data (rendered for bytes, which any text fits), so that they are those of
the training split of the tasks that are trained, with the templates that training draws; this module needs
no TensorFlow.
"""

import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.common.io import write_bytes
from t5x_instruct.data.mixtures import Order
from t5x_instruct.data.prepared import PreparedMixture
from t5x_instruct.data.vocabularies import SENTENCEPIECE_FILE, TOKENIZER_FILE, SentencePieceVocabulary

MODEL_TYPES = ("unigram", "bpe")
_THREADS = 4  # fixed: with another number the trainer adds in another order


def texts_of(mixture: PreparedMixture, num_examples: int, seed: int = 0) -> list[str]:
    """Inputs and targets of a mixture's training examples.

    Args:
        mixture: prepared with the split 'train'.
        num_examples: the first so many of the mixed stream, at most one epoch of it: tasks with a higher
            rate give more.
        seed: of the stream's order.

    Returns:
        The texts that are not empty, in the stream's order.

    Raises:
        DataError: nothing is trained on.
    """
    tasks = mixture.train_tasks
    if not tasks:
        raise DataError(f"mixture {mixture.name!r} has no task that is trained on")
    splits = [task.splits["train"] for task in tasks]
    order = Order([s.num_examples for s in splits], [t.rate for t in tasks], seed, names=[t.name for t in tasks])
    chosen = order.order(np.arange(min(num_examples, order.epoch_size)))
    texts = []
    for task, number in zip(chosen.task.tolist(), chosen.example.tolist(), strict=True):
        meta = splits[task].read(number).meta
        texts += [str(meta["inputs_pretokenized"]), str(meta["targets_pretokenized"])]
    return [text for text in texts if text]


def train_vocabulary(
    texts: Sequence[str],
    folder: Path,
    *,
    vocab_size: int,
    extra_ids: int = 0,
    model_type: str = "unigram",
    byte_fallback: bool = True,
) -> SentencePieceVocabulary:
    """Trains a SentencePiece model; the same texts and arguments give the same bytes.

    Ids are T5's: 0 padding, 1 EOS, 2 unknown. Text is taken as it is (no normalisation, no white space lost)
    and a line break is a piece of its own, so that with `byte_fallback` every text comes back from its ids
    (but U+2581, which stands for a space inside of SentencePiece).

    Args:
        texts: what to train on.
        folder: where it goes, for `load_vocabulary`.
        vocab_size: ids of the model, without `extra_ids`.
        extra_ids: sentinels to add (see `SentencePieceVocabulary`).
        model_type: 'unigram' or 'bpe'.
        byte_fallback: whether what is not in the vocabulary becomes bytes (256 of the ids) or unknown.

    Returns:
        The vocabulary, from `folder`.

    Raises:
        ConfigError: `vocab_size` is out of the range that the texts allow (says the range's end), or
            `folder` holds a vocabulary already.
    """
    import sentencepiece

    refuse_existing(folder)
    if not texts:
        raise ConfigError("there is no text to train a vocabulary on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            byte_fallback=byte_fallback,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=max(len(text.encode()) for text in texts) + 1,  # longer texts would be left out
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise _trainer_error(str(error), vocab_size, len(texts)) from error
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / SENTENCEPIECE_FILE
        write_bytes(file, model.getvalue())
        SentencePieceVocabulary(file, extra_ids).save(folder)
    return SentencePieceVocabulary(folder / SENTENCEPIECE_FILE, extra_ids)


def refuse_existing(folder: Path) -> None:
    """Raises ConfigError if `folder` holds a vocabulary."""
    for name in (SENTENCEPIECE_FILE, TOKENIZER_FILE):
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists; models may depend on it: give another folder, or remove it")


def _trainer_error(message: str, vocab_size: int, num_texts: int) -> ConfigError:
    if high := re.search(r"value <= (\d+)", message):
        return ConfigError(
            f"vocab_size {vocab_size} is too large for these {num_texts} texts; the largest possible is {high[1]}: "
            "lower it, or take more examples"
        )
    if low := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return ConfigError(
            f"vocab_size {vocab_size} is too small for the characters of these {num_texts} texts; the smallest "
            f"possible is {low[1]}"
        )
    return ConfigError(f"SentencePiece cannot train on these {num_texts} texts: {message}")
