"""The vocabulary of a Hugging Face folder, and what transformers wants beside ours to read one."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5x_instruct.checkpoints.convert.safetensors_folder import read_bounded_json
from t5x_instruct.common.errors import CheckpointError, InstructError
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.data.vocabularies import (
    SENTENCEPIECE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerVocabulary,
    Vocabulary,
)

GENERATION_FILE = "generation_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
T5_SENTINELS = 100

log = logging.getLogger(__name__)


def read_hf_vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a folder: T5's SentencePiece model where there is one, ByT5's bytes, else `tokenizer.json`.

    Args:
        folder: of Hugging Face's layout.
        config: content of its `config.json`; names the end token where the tokenizer's files do not.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    beside = _read_optional(folder / TOKENIZER_CONFIG_FILE)
    try:
        if "ByT5" in str(beside.get("tokenizer_class")):
            return ByteVocabulary(_num_sentinels(folder, beside, 125))
        if (folder / SENTENCEPIECE_FILE).is_file():
            return _with_added(folder, beside, _num_sentinels(folder, beside, T5_SENTINELS))
        if (folder / TOKENIZER_FILE).is_file():
            return TokenizerVocabulary.load(folder, _end_ids(folder, config))
    except InstructError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # what a damaged chat template makes of the template compiler is open
        raise CheckpointError(f"{folder}: the tokenizer's files are damaged: {error}") from error
    raise CheckpointError(
        f"{folder} has neither {TOKENIZER_FILE} nor {SENTENCEPIECE_FILE}; copy the one of the model there "
        f"(transformers writes {TOKENIZER_FILE}: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER))"
    )


def write_hf_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Writes a vocabulary so that both `read_hf_vocabulary` and transformers' AutoTokenizer find what they need.

    transformers reads a SentencePiece model as T5's: where it cuts texts otherwise, a warning says so.

    Raises:
        CheckpointError: a vocabulary of a kind that transformers does not have.
    """
    vocabulary.save(folder)
    if isinstance(vocabulary, TokenizerVocabulary):
        return  # is kept in their layout
    names = {SentencePieceVocabulary: "T5Tokenizer", ByteVocabulary: "ByT5Tokenizer"}
    if type(vocabulary) not in names:
        raise CheckpointError(f"a {type(vocabulary).__name__} has no counterpart in transformers")
    assert isinstance(vocabulary, SentencePieceVocabulary | ByteVocabulary)
    if isinstance(vocabulary, SentencePieceVocabulary) and not _cuts_as_t5(vocabulary.model_file):
        log.warning(
            "%s cuts texts otherwise than T5's SentencePiece model, as which transformers will read it: spaces, new "
            "lines and rare characters may get other ids there. This package and sentencepiece read the exported %s "
            "as it is",
            vocabulary.model_file,
            SENTENCEPIECE_FILE,
        )
    new_tokens = vocabulary.new_tokens if isinstance(vocabulary, SentencePieceVocabulary) else ()
    first = vocabulary.vocab_size - len(new_tokens)
    tokens = {role: vocabulary.token_string(getattr(vocabulary, f"{role}_id")) for role in ("eos", "pad")}
    content = {
        "tokenizer_class": names[type(vocabulary)],
        "extra_ids": vocabulary.extra_ids,
        "additional_special_tokens": [*(f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)), *new_tokens],
        "clean_up_tokenization_spaces": False,
        "unk_token": "<unk>",
    }
    if new_tokens:
        content["added_tokens_decoder"] = {str(first + i): _added(token) for i, token in enumerate(new_tokens)}
    write_json(folder / TOKENIZER_CONFIG_FILE, content | {f"{role}_token": token for role, token in tokens.items()})


def special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """The ids that `config.json` and `generation_config.json` name."""
    ids = {"eos_token_id": vocabulary.eos_id, "pad_token_id": vocabulary.pad_id}
    bos_id = getattr(vocabulary, "bos_id", None)
    return ids if bos_id is None else ids | {"bos_token_id": bos_id}


def _cuts_as_t5(path: Path) -> bool:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    rules, training = model.normalizer_spec, model.trainer_spec
    own_pieces = any(piece.type == piece.USER_DEFINED for piece in model.pieces)
    as_t5 = rules.name == "nmt_nfkc" and rules.remove_extra_whitespaces and rules.add_dummy_prefix
    return bool(as_t5 and training.model_type == training.UNIGRAM and not training.byte_fallback and not own_pieces)


def _read_optional(path: Path) -> dict[str, Any]:
    return read_bounded_json(path) if path.is_file() else {}


def _num_sentinels(folder: Path, config: Mapping[str, Any], default: int) -> int:
    """`extra_ids`, else as many as are listed as special tokens, else what transformers takes."""
    stated = config.get("extra_ids")
    if isinstance(stated, int) and not isinstance(stated, bool) and 0 <= stated <= 100_000:
        return stated
    if stated is not None:
        raise CheckpointError(f"{folder / TOKENIZER_CONFIG_FILE}: extra_ids is {str(stated)[:60]}, no sensible number")
    for content in (config, _read_optional(folder / SPECIAL_TOKENS_FILE)):
        listed = content.get("additional_special_tokens", content.get("extra_special_tokens"))
        if isinstance(listed, list) and listed:
            return json.dumps(listed).count("<extra_id_")
    return default


def _with_added(folder: Path, config: Mapping[str, Any], extra_ids: int) -> SentencePieceVocabulary:
    """A SentencePiece model with the special tokens that `added_tokens_decoder` has right behind its sentinels."""
    path = folder / SENTENCEPIECE_FILE
    vocabulary = SentencePieceVocabulary(path, extra_ids)
    added = config.get("added_tokens_decoder")
    tokens: list[str] = []
    while isinstance(added, dict) and (text := _special_text(added.get(str(vocabulary.vocab_size + len(tokens))))):
        tokens.append(text)
    return SentencePieceVocabulary(path, extra_ids, tokens) if tokens else vocabulary


def _special_text(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) and entry.get("special") is True else None
    return text if isinstance(text, str) else None


def _added(token: str) -> dict[str, Any]:
    """A token as transformers lists those that a tokenizer was given beside its model."""
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": token, **flags, "special": True}


def _end_ids(folder: Path, config: Mapping[str, Any]) -> int | None:
    """The id that ends an answer by the model's own files; of several the first."""
    path = folder / GENERATION_FILE
    for content in (read_json(path) if path.is_file() else {}, config):
        ids = content.get("eos_token_id") if isinstance(content, dict) else None
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and not isinstance(first, bool):
            return first
    return None
