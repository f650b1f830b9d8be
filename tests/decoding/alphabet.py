"""A model over bytes that goes on with the alphabet up to z and then ends."""

import string
from typing import Any

import jax.numpy as jnp
import numpy as np

from t5x_instruct.data.vocabularies import ByteVocabulary
from tests.decoding.tiny_models import Counter

UNLIKELY = 30.0


def alphabet_model() -> tuple[Counter, dict[str, Any]]:
    """After a letter comes the next, after z and after all that is no letter the end; other logits are 30 lower."""
    vocabulary = ByteVocabulary()
    model = Counter(vocabulary.vocab_size, vocabulary.vocab_size)
    table = np.zeros((model.rows, model.rows), np.float32)
    for token in range(model.rows):
        text = vocabulary.decode([token])
        goes_on = len(text) == 1 and text in string.ascii_lowercase[:-1]
        table[token, token + 1 if goes_on else vocabulary.eos_id] = UNLIKELY
    return model, {"next": jnp.asarray(table)}
