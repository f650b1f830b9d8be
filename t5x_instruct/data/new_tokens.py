"""A checkpoint's vocabulary with what a run adds to it: special tokens, another end token, a chat template."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.vocabularies import SentencePieceVocabulary, TokenizerVocabulary, Vocabulary


def with_new_tokens(vocabulary: Vocabulary, tokens: Sequence[str]) -> Vocabulary:
    """A vocabulary with special tokens at its end, in their order.

    Each is one id wherever its text occurs, as the vocabulary's own special tokens are, and is skipped in decoding. Of
    a SentencePiece model they follow the sentinels, as in transformers.

    Args:
      vocabulary: the checkpoint's; not changed.
      tokens: their texts.

    Raises:
      ConfigError: a token is empty, begins or ends with white space, is given twice or in the vocabulary already; or
        the vocabulary takes none. All problems.
    """
    if problems := [f"NEW_TOKENS: {problem}" for problem in _problems(vocabulary, tokens)]:
        raise ConfigError(problems)
    grown: Vocabulary
    if isinstance(vocabulary, SentencePieceVocabulary):
        known = (*vocabulary.new_tokens, *tokens)
        grown = SentencePieceVocabulary(vocabulary.model_file, vocabulary.extra_ids, known)
    elif isinstance(vocabulary, TokenizerVocabulary):
        from tokenizers import AddedToken

        tokenizer = vocabulary.tokenizer
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
        grown = _like(vocabulary, tokenizer)
    else:
        raise ConfigError(
            f"NEW_TOKENS: a {type(vocabulary).__name__} has an id for each byte and no others; write sentinels in the "
            "place of new tokens (ModelSettings.vocabulary = 'bytes+125' has <extra_id_0> to <extra_id_124>), or take "
            "a model with a tokenizer"
        )
    ids = [grown.encode(token) for token in tokens]
    if ids != [[vocabulary.vocab_size + i] for i in range(len(tokens))]:
        raise ConfigError(
            f"NEW_TOKENS: the tokenizer gives {list(tokens)} the ids {ids}, not one each from {vocabulary.vocab_size} "
            "on: its own ids have gaps; fill them with tokens in its file first"
        )
    return grown


def with_conversation(vocabulary: Vocabulary, eos_token: str | None, chat_template: str | None) -> Vocabulary:
    """A vocabulary with another end token or chat template.

    Args:
      vocabulary: the checkpoint's; not changed.
      eos_token: text of the token that ends a target; None: its own.
      chat_template: file with the Jinja source of a chat template; None: its own, if it has one.

    Raises:
      ConfigError: the vocabulary is of a kind that keeps neither, the file cannot be read, or it is no template.
      DataError: the end token is not a token.
    """
    if not isinstance(vocabulary, TokenizerVocabulary):
        raise ConfigError(
            "ModelSettings.eos_token and ModelSettings.chat_template are for vocabularies in a tokenizer.json; this "
            f"one is a {type(vocabulary).__name__}"
        )
    source = None
    if chat_template is not None:
        try:
            source = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"ModelSettings.chat_template: cannot read {chat_template}: {error}") from error
    return _like(vocabulary, vocabulary.tokenizer, eos_token, source)


def _like(
    vocabulary: TokenizerVocabulary, tokenizer: Any, eos_token: str | None = None, template: str | None = None
) -> TokenizerVocabulary:
    own_template = None if vocabulary.chat_template is None else vocabulary.chat_template.source
    return TokenizerVocabulary(
        tokenizer,
        eos_token=eos_token or vocabulary.eos_token,
        bos_token=vocabulary.bos_token,
        pad_token=vocabulary.pad_token,
        chat_template=template or own_template,
    )


def _problems(vocabulary: Vocabulary, tokens: Sequence[str]) -> Iterator[str]:
    strip = "\u2581" if isinstance(vocabulary, SentencePieceVocabulary) else ""  # sentinels have the space before them
    known = {vocabulary.token_string(i).removeprefix(strip): i for i in range(vocabulary.vocab_size)}
    for token, count in Counter(tokens).items():
        if not token.strip():
            yield f"{token!r} has no text"
        elif token != token.strip():
            yield f"{token!r} begins or ends with white space, which tokenizers strip; leave it out"
        elif token in known:
            yield f"{token!r} is in the vocabulary already, id {known[token]}; leave it out"
        elif count > 1:
            yield f"{token!r} is given {count} times"
