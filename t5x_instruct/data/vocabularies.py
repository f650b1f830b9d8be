"""Vocabularies: text to token ids and back, without TensorFlow.

Three kinds, one protocol: a Hugging Face `tokenizers` file, ByT5's bytes, a SentencePiece model.
`load_vocabulary` recognises which one a path holds.
"""

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from t5x_instruct.common.errors import DataError, nearest
from t5x_instruct.common.io import read_json, sha256_of_bytes, write_bytes, write_json
from t5x_instruct.common.paths import AnyPath, is_bucket
from t5x_instruct.data.special_tokens import SplitTokens, with_sentinels
from t5x_instruct.templates.chat import ChatTemplate

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
BYTES_FILE = "byte_vocabulary.json"
SENTENCEPIECE_FILE = "spiece.model"
SENTENCEPIECE_CONFIG_FILE = "spiece_config.json"

BYTE_OFFSET = 3  # ByT5: ids 0, 1, 2 are padding, end of sequence and unknown
FIRST_BYTE_SENTINEL = BYTE_OFFSET + 256
MAX_EXTRA_IDS = 999_999
_SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,5})>")


@runtime_checkable
class Vocabulary(Protocol):
    """What the model's ids mean.

    Attributes:
      pad_id: fills unused slots; may equal `eos_id` (masks never look at ids).
      eos_id: ends a target.
      start_id: starts a sequence with empty inputs: BOS where there is one, else EOS.
      vocab_size: number of ids; every id is in [0, vocab_size).
      fingerprint: hex hash of the content, stable over save and load.
      chat_template: the model's chat template, if it has one.
    """

    @property
    def pad_id(self) -> int:
        """See the class."""
        ...

    @property
    def eos_id(self) -> int:
        """See the class."""
        ...

    @property
    def start_id(self) -> int:
        """See the class."""
        ...

    @property
    def vocab_size(self) -> int:
        """See the class."""
        ...

    @property
    def fingerprint(self) -> str:
        """See the class."""
        ...

    @property
    def chat_template(self) -> ChatTemplate | None:
        """See the class."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no specials are added, special-token text in it is recognised."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids up to the first EOS; special tokens are skipped."""
        ...

    def token_string(self, token_id: int) -> str:
        """One token for display; not meant to be joined back to text."""
        ...

    def save(self, folder: AnyPath) -> None:
        """Writes what `load_vocabulary(folder)` needs."""
        ...


class TokenizerVocabulary:
    """A `tokenizers.Tokenizer` with its special tokens, in Hugging Face's layout.

    Args:
      tokenizer: the tokenizer; copied, with its truncation and padding switched off (lengths are
        applied where rows are planned, never while encoding).
      eos_token: text of the token that ends a target.
      bos_token: text of the token that starts a sequence, if the model has one.
      pad_token: text of the padding token; None pads with EOS.
      chat_template: Jinja source of the chat template.

    Raises:
      DataError: one of the tokens is not in the tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        eos_token: str,
        bos_token: str | None = None,
        pad_token: str | None = None,
        chat_template: str | None = None,
    ):
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.eos_token, self.bos_token, self.pad_token = eos_token, bos_token, pad_token
        self.eos_id = self._id_of("eos_token", eos_token)
        self.bos_id = None if bos_token is None else self._id_of("bos_token", bos_token)
        self.pad_id = self.eos_id if pad_token is None else self._id_of("pad_token", pad_token)
        self.start_id = self.eos_id if self.bos_id is None else self.bos_id
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids) + 1  # ids may have gaps, so the count would be too small
        self.chat_template: ChatTemplate | None = None
        self._chat_source = chat_template
        if chat_template is not None:
            self.chat_template = ChatTemplate(chat_template, bos_token=bos_token or "", eos_token=eos_token)

    def _id_of(self, role: str, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            close = nearest(token, self._tokenizer.get_vocab(with_added_tokens=True))
            raise DataError(f"{role} {token!r} is not a token of the tokenizer; nearest: {', '.join(close)}")
        return int(token_id)

    @property
    def tokenizer(self) -> Any:
        """A copy of the tokenizer."""
        return type(self._tokenizer).from_str(self._tokenizer.to_str())

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary.encode`."""
        return self._tokenizer.encode(_without_surrogates(text), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Vocabulary.decode`."""
        kept = _until_eos(ids, self.eos_id, self.vocab_size)
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def token_string(self, token_id: int) -> str:
        """See `Vocabulary.token_string`."""
        token = self._tokenizer.id_to_token(token_id)
        return f"<{token_id}>" if token is None else token

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the tokenizer file, the special tokens and the chat template."""
        return _hash_of(
            kind="tokenizer",
            tokenizer=sha256_of_bytes(self._tokenizer.to_str().encode()),
            tokens=[self.eos_token, self.bos_token, self.pad_token],
            chat_template=self._chat_source,
        )

    def save(self, folder: AnyPath) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.eos_token,
            "bos_token": self.bos_token,
            "pad_token": self.pad_token,
            "clean_up_tokenization_spaces": False,
        }
        named = (self.eos_token, self.bos_token, self.pad_token)
        added = sorted(self._tokenizer.get_added_tokens_decoder().items())
        if others := [token.content for _, token in added if token.special and token.content not in named]:
            config["additional_special_tokens"] = others
        if self._chat_source is not None:
            config["chat_template"] = self._chat_source
        write_bytes(folder / TOKENIZER_FILE, self._tokenizer.to_str(pretty=True).encode())
        write_json(folder / TOKENIZER_CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: Path, eos_id: int | None = None) -> "TokenizerVocabulary":
        """Reads a folder in Hugging Face's layout.

        Args:
          folder: holds `tokenizer.json`, and `tokenizer_config.json` (or the older
            `special_tokens_map.json`) that names the EOS token; a chat template may also lie in
            `chat_template.jinja`.
          eos_id: the EOS token where these files name none.

        Raises:
          DataError: a file is missing or damaged, or no EOS token is named.
        """
        from tokenizers import Tokenizer

        path = folder / TOKENIZER_FILE
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every fault of a file
            raise DataError(f"{path} is not a readable tokenizer file: {error}") from error
        config: dict[str, Any] = {}
        for name in ("special_tokens_map.json", TOKENIZER_CONFIG_FILE):
            if (folder / name).exists():
                content = read_json(folder / name)
                if not isinstance(content, dict):
                    raise DataError(f"{folder / name} does not hold a JSON object")
                config |= {k: v for k, v in content.items() if v is not None}
        eos_token = _token_text(config.get("eos_token"))
        if eos_token is None and eos_id is not None:
            eos_token = tokenizer.id_to_token(eos_id) if 0 <= eos_id < 1 << 31 else None
        if eos_token is None:
            raise DataError(
                f"{folder}: no eos_token in {TOKENIZER_CONFIG_FILE} or special_tokens_map.json; "
                f'add "eos_token": "<the token that ends an answer>" to {TOKENIZER_CONFIG_FILE}'
            )
        return cls(
            tokenizer,
            eos_token=eos_token,
            bos_token=_token_text(config.get("bos_token")),
            pad_token=_token_text(config.get("pad_token")),
            chat_template=_chat_source(folder, config.get("chat_template")),
        )


class ByteVocabulary:
    """UTF-8 bytes as ids, as in ByT5: 0 padding, 1 EOS, 2 unknown, byte b is id b + 3.

    Args:
      extra_ids: number of sentinels `<extra_id_0>`, `<extra_id_1>`, ... from id 259 on, as in transformers
        (125 fill ByT5's 384 rows); they are content, not specials, so `decode` shows them.

    Source: Xue et al., "ByT5: Towards a token-free future", arXiv:2105.13626, section 3.
    """

    pad_id = 0
    eos_id = 1
    unk_id = 2
    start_id = eos_id
    chat_template: ChatTemplate | None = None

    def __init__(self, extra_ids: int = 0):
        self.extra_ids = extra_ids
        self.vocab_size = FIRST_BYTE_SENTINEL + extra_ids

    @property
    def fingerprint(self) -> str:
        """Hash of the number of sentinels."""
        return _hash_of(kind="bytes", extra_ids=self.extra_ids)

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary.encode`."""
        ids: list[int] = []
        for i, part in enumerate(_SENTINEL.split(_without_surrogates(text))):
            is_number = i % 2 == 1  # of a sentinel, between two texts
            if is_number and int(part) < self.extra_ids:
                ids.append(FIRST_BYTE_SENTINEL + int(part))
            else:
                literal = f"<extra_id_{part}>" if is_number else part
                ids += [b + BYTE_OFFSET for b in literal.encode()]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Vocabulary.decode`; byte sequences that are not UTF-8 become U+FFFD."""
        text = bytearray()
        for token_id in _until_eos(ids, self.eos_id, self.vocab_size):
            if token_id >= FIRST_BYTE_SENTINEL:
                text += self.token_string(token_id).encode()
            elif token_id >= BYTE_OFFSET:
                text.append(token_id - BYTE_OFFSET)
        return text.decode(errors="replace")

    def token_string(self, token_id: int) -> str:
        """See `Vocabulary.token_string`."""
        if token_id < BYTE_OFFSET:
            return ("<pad>", "</s>", "<unk>")[token_id]
        if token_id >= self.vocab_size:
            return f"<{token_id}>"
        if token_id >= FIRST_BYTE_SENTINEL:
            return f"<extra_id_{token_id - FIRST_BYTE_SENTINEL}>"
        byte = token_id - BYTE_OFFSET
        return chr(byte) if 0x20 <= byte < 0x7F else f"<0x{byte:02X}>"

    def save(self, folder: AnyPath) -> None:
        """Writes a marker file."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / BYTES_FILE, {"kind": "bytes", "offset": BYTE_OFFSET, "extra_ids": self.extra_ids})


class SentencePieceVocabulary:
    """A SentencePiece model, with T5's sentinels at its end.

    Sentinel `<extra_id_0>` has the highest id, `<extra_id_1>` the one before it, and so on; they
    are content, not specials, so `decode` shows them. As in seqio, a sentinel is recognised after a
    space or at a text's start, and takes that space.

    Args:
      model_file: the `.model` file.
      extra_ids: number of sentinels to add (100 for T5).
      new_tokens: special tokens behind the sentinels, in the order of their ids; `decode` skips them.

    Raises:
      DataError: the file is missing, is not a model, or defines no EOS.
    """

    def __init__(self, model_file: str | Path, extra_ids: int = 0, new_tokens: Sequence[str] = ()):
        import sentencepiece

        self.model_file, self.extra_ids = Path(model_file), extra_ids
        self.chat_template: ChatTemplate | None = None
        try:
            self._content = self.model_file.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self.model_file}: {error.strerror}") from error
        try:
            content = with_sentinels(self._content, extra_ids)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except Exception as error:  # protobuf and sentencepiece raise unrelated types here
            raise DataError(f"{self.model_file} is not a SentencePiece model: {error}") from error
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise DataError(f"{self.model_file} has no EOS piece; train it with eos_id >= 0")
        pad_id, bos_id = self._processor.pad_id(), self._processor.bos_id()
        self.pad_id = pad_id if pad_id >= 0 else self.eos_id
        self.start_id = bos_id if bos_id >= 0 else self.eos_id
        self._new = SplitTokens(new_tokens, self._processor.get_piece_size())
        self.new_tokens = self._new.tokens
        self.vocab_size = self._new.first_id + len(self.new_tokens)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the model file, the number of sentinels and the new tokens."""
        more = {"new_tokens": self.new_tokens} if self.new_tokens else {}
        return _hash_of(kind="sentencepiece", model=sha256_of_bytes(self._content), extra_ids=self.extra_ids, **more)

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary.encode`."""
        return self._new.encode(_without_surrogates(text), self._processor.encode)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Vocabulary.decode`."""
        return self._processor.decode(_until_eos(ids, self.eos_id, self._new.first_id))

    def token_string(self, token_id: int) -> str:
        """See `Vocabulary.token_string`."""
        if self._new.first_id <= token_id < self.vocab_size:
            return self.new_tokens[token_id - self._new.first_id]
        return self._processor.id_to_piece(token_id) if token_id < self.vocab_size else f"<{token_id}>"

    def save(self, folder: AnyPath) -> None:
        """Writes `spiece.model`, the number of sentinels and the new tokens."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / SENTENCEPIECE_FILE, self._content)
        config = {"extra_ids": self.extra_ids, "new_tokens": self.new_tokens}
        write_json(folder / SENTENCEPIECE_CONFIG_FILE, config)


def load_vocabulary(spec: str | AnyPath) -> Vocabulary:
    """Opens a vocabulary by what its path holds.

    Args:
      spec: 'bytes', or 'bytes+125' to add 125 sentinels; a folder with `tokenizer.json`, `spiece.model`
        or a saved byte vocabulary; or a SentencePiece file `NAME.model`, or `NAME.model+100` to add 100
        sentinels (a T5 folder of Hugging Face's needs no suffix: its `tokenizer_config.json` says how
        many). In a bucket (`gs://...`) too; it is copied to `$T5X_INSTRUCT_CACHE/staged` once.

    Raises:
      DataError: nothing that is a vocabulary is there; says what was looked for.
    """
    if of_bytes := re.fullmatch(r"bytes(?:\+(\d{1,6}))?", str(spec)):
        return ByteVocabulary(int(of_bytes[1] or 0))
    if is_bucket(str(spec)):
        return _load_from_bucket(str(spec))
    path = Path(spec)
    if path.is_dir():
        return _load_folder(path)
    model = re.fullmatch(r"(.+\.model)(?:\+(\d{1,6}))?", str(spec))
    if model and Path(model[1]).is_file():
        return SentencePieceVocabulary(model[1], int(model[2] or 0))
    if path.is_file() and path.name == TOKENIZER_FILE:
        return TokenizerVocabulary.load(path.parent)
    found = "is a file of another kind" if path.exists() else "does not exist"
    raise DataError(
        f"no vocabulary at {str(spec)!r}, which {found}; give 'bytes', a folder with "
        f"{TOKENIZER_FILE} or {SENTENCEPIECE_FILE}, or a SentencePiece file "
        "NAME.model (NAME.model+100 adds T5's 100 sentinels)"
    )


def _load_from_bucket(spec: str) -> Vocabulary:
    from t5x_instruct.common.buckets import BucketPath
    from t5x_instruct.common.staging import stage

    parts = re.fullmatch(r"(.+?)(\+\d{1,6})?", spec)
    assert parts is not None
    try:
        staged = stage(BucketPath(parts[1]), say=lambda line: None)
    except FileNotFoundError as error:
        raise DataError(f"no vocabulary at {spec!r}: {error.strerror}") from error
    return load_vocabulary(f"{staged}{parts[2] or ''}")


def token_strings(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Each token of `ids` for display."""
    return [vocabulary.token_string(int(i)) for i in ids]


def _load_folder(folder: Path) -> Vocabulary:
    if (folder / TOKENIZER_FILE).is_file():
        return TokenizerVocabulary.load(folder)
    if (folder / SENTENCEPIECE_FILE).is_file():
        extra_ids = 0
        for name in (TOKENIZER_CONFIG_FILE, SENTENCEPIECE_CONFIG_FILE):
            if (folder / name).is_file():
                extra_ids = _extra_ids(folder / name, extra_ids)
        new_tokens = _new_tokens(folder / SENTENCEPIECE_CONFIG_FILE)
        return SentencePieceVocabulary(folder / SENTENCEPIECE_FILE, extra_ids, new_tokens)
    if (folder / BYTES_FILE).is_file():
        return ByteVocabulary(_extra_ids(folder / BYTES_FILE, 0))
    looked_for = f"{TOKENIZER_FILE}, {SENTENCEPIECE_FILE}, {BYTES_FILE}"
    raise DataError(f"no vocabulary in folder {folder}: looked for {looked_for}")


def _extra_ids(path: Path, default: int) -> int:
    content = read_json(path)
    value = content.get("extra_ids", default) if isinstance(content, dict) else None
    if not isinstance(value, int) or not 0 <= value <= MAX_EXTRA_IDS:
        raise DataError(f"{path}: extra_ids must be a number from 0 to {MAX_EXTRA_IDS}, not {value!r}")
    return value


def _new_tokens(path: Path) -> list[str]:
    content = read_json(path) if path.is_file() else {}
    value = content.get("new_tokens", []) if isinstance(content, dict) else None
    if not isinstance(value, list) or not all(isinstance(token, str) and token for token in value):
        raise DataError(f"{path}: new_tokens must be a list of texts, not {value!r}")
    return value


def _token_text(value: Any) -> str | None:
    # Hugging Face writes a token as text or as an object {"content": text, ...}.
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _chat_source(folder: Path, value: Any) -> str | None:
    if isinstance(value, list):  # several named templates
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    if isinstance(value, str):
        return value
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _until_eos(ids: Sequence[int], eos_id: int, vocab_size: int) -> list[int]:
    kept = []
    for token_id in ids:
        if token_id == eos_id:
            break
        if 0 <= token_id < vocab_size:  # padding rows of an embedding have ids beyond it
            kept.append(int(token_id))
    return kept


def _without_surrogates(text: str) -> str:
    # Lone surrogates come from JSON escapes; no tokenizer and no UTF-8 encoder takes them.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _hash_of(**content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
