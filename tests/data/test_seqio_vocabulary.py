import pytest
import seqio
import tensorflow as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.seqio_vocabulary import ModelVocabulary, SeqioVocabulary
from t5x_instruct.data.vocabularies import TokenizerVocabulary

WORDS = ["zero", "<end>", "x", "y", "z", "one", "two", "?"]
CHAT = "{% for m in messages %}<{{ m.content }}>{% endfor %}"


@pytest.fixture
def word_vocabulary():
    model = models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TokenizerVocabulary(tokenizer, eos_token="<end>", chat_template=CHAT)


def test_seqio_adapter_agrees_with_the_vocabulary(word_vocabulary):
    adapter = SeqioVocabulary(word_vocabulary)
    assert list(adapter.encode("one zero")) == [5, 0]
    assert adapter.encode_tf(tf.constant("one zero")).numpy().tolist() == [5, 0]
    assert adapter.encode_tf(tf.constant(["one", "", "two two"])).to_list() == [[5], [], [6, 6]]
    assert adapter.decode([5, 6, 1, 5]) == word_vocabulary.decode([5, 6])
    assert adapter.decode_tf(tf.constant([5, 6, 1, 5])).numpy().decode() == adapter.decode([5, 6])
    assert adapter == SeqioVocabulary(word_vocabulary)
    assert adapter != SeqioVocabulary(word_vocabulary, make_prompt_format("chat", word_vocabulary))
    assert adapter != ModelVocabulary()
    assert ModelVocabulary() == ModelVocabulary()
    assert ModelVocabulary() != seqio.ByteVocabulary()
