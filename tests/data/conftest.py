"""What the tests of prepared data share: tasks for one test, and a vocabulary in which pad is EOS and id 0 a word."""

import pytest
import seqio
import tensorflow as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from t5x_instruct.data.seqio_vocabulary import model_features
from t5x_instruct.data.vocabularies import TokenizerVocabulary


def add_task_of_texts(name, texts, features=None, steps=(), splits=("train", "validation")):
    """Registers a plain seqio task over (inputs, targets) texts."""

    def rows(split, shuffle_files, seed=None):
        inputs, targets = zip(*texts, strict=True)
        return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})

    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(rows, splits=splits),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, *steps],
        output_features=features or model_features(),
        metric_fns=[],
    )


@pytest.fixture
def register():
    names = []

    def add(name, *args, **kwargs):
        names.append(name)
        return add_task_of_texts(name, *args, **kwargs)

    yield add
    for name in names:
        seqio.TaskRegistry.remove(name)


@pytest.fixture
def word_vocabulary(tmp_path):
    words = ["zero", "<end>", "<turn>", "user", "assistant", "one", "two", "?", "a", "."]
    model = models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>", "<turn>"])
    template = (
        "{% for m in messages %}<turn>{{ m.role }} {{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant {% endif %}"
    )
    vocabulary = TokenizerVocabulary(tokenizer, eos_token="<end>", chat_template=template)
    vocabulary.save(tmp_path / "words")
    return vocabulary
