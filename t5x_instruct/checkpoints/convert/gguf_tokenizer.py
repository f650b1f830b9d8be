"""The tokenizer that a GGUF file carries in its metadata."""

from typing import Any

import numpy as np

from t5x_instruct.checkpoints.convert.gguf_file import GgufFile
from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.data.vocabularies import TokenizerVocabulary

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: How text is cut before merging, by the file's `tokenizer.ggml.pre`. Another rule gives other ids for the same text,
#: so an unknown one is refused.
PRE_TOKENIZERS = ("gpt-2", "llama-bpe", "smollm")


def read_vocabulary(file: GgufFile) -> TokenizerVocabulary:
    """Builds the byte-level BPE vocabulary of a file, with its special tokens and chat template.

    Raises:
        CheckpointError: another kind of tokenizer, an unknown pre-tokenizer, or metadata that contradict themselves.
    """
    kind = file.get(_PREFIX + "model", str)
    if kind != "gpt2":
        raise CheckpointError(f"{file.path}: the tokenizer is of the kind {kind!r}; supported: 'gpt2' (byte-level BPE)")
    tokens = file.get(_PREFIX + "tokens", list)
    special = {
        role: _special_token(file, role, tokens) for role in ("eos", "bos", "padding") if _id_key(role) in file.metadata
    }
    if "eos" not in special:
        raise CheckpointError(f"{file.path}: {_id_key('eos')} is missing; without it no answer would end")
    template = file.get("tokenizer.chat_template", str, "")
    tokenizer = _build_tokenizer(file, tokens)
    try:
        return TokenizerVocabulary(
            tokenizer,
            eos_token=special["eos"],
            bos_token=special.get("bos"),
            pad_token=special.get("padding"),
            chat_template=template or None,
        )
    except Exception as error:  # what a damaged chat template makes of the template compiler is open
        raise CheckpointError(f"{file.path}: the tokenizer's metadata are damaged: {error}") from error


def _id_key(role: str) -> str:
    return f"{_PREFIX}{role}_token_id"


def _special_token(file: GgufFile, role: str, tokens: list[str]) -> str:
    token_id = file.get(_id_key(role), int)
    if not 0 <= token_id < len(tokens):
        raise CheckpointError(f"{file.path}: {_id_key(role)} is {token_id}, there are {len(tokens)} tokens")
    return tokens[token_id]


def _build_tokenizer(file: GgufFile, tokens: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens) or "" in ids:
        raise CheckpointError(f"{file.path}: {len(tokens) - len(ids)} tokens occur twice, or one is empty")
    types = file.get(_PREFIX + "token_type", np.ndarray, np.ones(len(tokens), np.int32))
    if len(types) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(types)} token types for {len(tokens)} tokens")
    pre = file.get(_PREFIX + "pre", str)
    pre_tokenizer = _pre_tokenizer(file, pre)
    merges = _read_merges(file, ids)
    try:
        # Llama 3 takes a piece that is a token as it is, whether or not merges lead to it.
        tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=pre == "llama-bpe"))
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        for i in np.flatnonzero((types == _CONTROL) | (types == _USER_DEFINED)):
            token = AddedToken(tokens[i], special=bool(types[i] == _CONTROL), normalized=False)
            (tokenizer.add_special_tokens if types[i] == _CONTROL else tokenizer.add_tokens)([token])
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{file.path}: the tokenizer's metadata are damaged: {error}") from error
    return tokenizer


def _pre_tokenizer(file: GgufFile, name: str) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if name == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if name == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    if name == "llama-bpe":
        split = Split(Regex(_LLAMA3_PATTERN), behavior="isolated")
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    raise CheckpointError(f"{file.path}: {unknown('pre-tokenizer', name, PRE_TOKENIZERS)}")


def _read_merges(file: GgufFile, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for i, line in enumerate(file.get(_PREFIX + "merges", list)):
        left, _, right = line.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise CheckpointError(f"{file.path}: merge {i}, {line!r}, is not of two tokens that make a third")
        merges.append((left, right))
    return merges
