"""Tokens beside the pieces of a SentencePiece model."""

import re
from collections.abc import Callable, Sequence


class SplitTokens:
    """Special tokens that a text is split at before its parts are encoded, each as a text of its own.

    That is what transformers does with tokens that were added to a SentencePiece model, so that ids agree.

    Args:
      tokens: their texts, in the order of their ids; where several begin at one place, the longest is meant.
      first_id: id of the first one.
    """

    def __init__(self, tokens: Sequence[str], first_id: int):
        self.tokens, self.first_id = tuple(tokens), first_id
        self._ids = {token: first_id + i for i, token in enumerate(self.tokens)}
        self._pattern = re.compile("|".join(map(re.escape, sorted(self.tokens, key=len, reverse=True))))

    def encode(self, text: str, encode_part: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text; `encode_part` gives those of what lies between two tokens."""
        ids: list[int] = []
        start = 0
        for token in self._pattern.finditer(text) if self.tokens else ():
            ids += [*encode_part(text[start : token.start()]), self._ids[token[0]]]
            start = token.end()
        return ids + encode_part(text[start:])


def with_sentinels(content: bytes, extra_ids: int) -> bytes:
    """A SentencePiece model with T5's sentinels behind its pieces, `<extra_id_0>` last.

    Args:
      content: of the model's file.
      extra_ids: number of sentinels.

    Raises:
      google.protobuf.message.DecodeError: the content is no model.
    """
    if not extra_ids:
        return content
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    user_defined = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    for i in reversed(range(extra_ids)):
        # The leading U+2581 makes a sentinel take the space before it, as T5's models expect.
        model.pieces.add(piece=f"\u2581<extra_id_{i}>", score=0.0, type=user_defined)
    return model.SerializeToString()
