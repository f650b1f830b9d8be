"""64-bit hashes of words and of runs of words, for many texts at once.

A word is a run of letters and digits in lower case; in scripts that are written without spaces each character is one.
Hashes are polynomials modulo 2**64 whose letters are spread by a bijective hash, so that the hash of any run is the
difference of two prefix sums: the work does not depend on how long runs are.

Source: Karp and Rabin, "Efficient randomized pattern-matching algorithms", 1987 (rolling hashes).
"""

import functools
import sys
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.data.mixtures import mix64

Hashes = NDArray[np.uint64]
_U64 = np.uint64
_LETTER_BASE = _U64(0x9E3779B97F4A7C15)  # odd, so it has an inverse
_WORD_BASE = _U64(0xD1342543DE82EF95)
_NO_SPACES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
)


class Words(NamedTuple):
    """The words of several texts.

    Attributes:
        hashes: uint64 [W], a hash of each word, texts one after the other.
        ends: int64 [T], where in `hashes` each text ends.
    """

    hashes: Hashes
    ends: NDArray[np.int64]


class Runs(NamedTuple):
    """Runs of n words.

    Attributes:
        hashes: uint64 [R].
        texts: int64 [R], the text each run is of, ascending.
    """

    hashes: Hashes
    texts: NDArray[np.int64]


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """Of each code point: 0 no part of a word, 1 a part of one, 2 a word of its own."""
    kinds = np.zeros(sys.maxunicode + 2, np.uint8)
    characters = map(chr, range(sys.maxunicode + 1))
    marks = frozenset(("Mn", "Mc"))  # vowel signs are parts of words, though no letters
    letters = (c.isalnum() or unicodedata.category(c) in marks for c in characters)
    kinds[:-1] = np.fromiter(letters, np.uint8, sys.maxunicode + 1)
    for first, last in _NO_SPACES:
        kinds[first : last + 1] *= 2
    return kinds


def words_of(texts: Sequence[str]) -> Words:
    """The words of texts, hashed; a few million characters at a time take about 100 bytes of memory each."""
    # A line break between texts: no word goes over it.
    lowered = [text.lower() for text in texts]
    points = np.frombuffer("\n".join([*lowered, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[points]
    inside = kinds > 0
    starts, stops = inside.copy(), inside.copy()
    joined = (kinds[1:] == 1) & (kinds[:-1] == 1)
    starts[1:] &= ~joined
    stops[:-1] &= ~joined
    first, last = np.flatnonzero(starts), np.flatnonzero(stops)
    sums = _prefix_sums(mix64(points.astype(_U64) + _U64(1)), _LETTER_BASE)
    hashes = mix64(_of_runs(sums, first, last + 1, _LETTER_BASE))
    lengths = np.fromiter(map(len, lowered), np.int64, len(lowered))
    return Words(hashes, np.searchsorted(first, np.cumsum(lengths + 1)))


def runs_of(words: Words, n: int) -> Runs:
    """Every run of `n` words that stands within one text; a shorter text has none.

    Args:
        words: of several texts.
        n: words of a run, at least 1.
    """
    starts = np.concatenate([[0], words.ends[:-1]])
    counts = np.maximum(words.ends - starts - n + 1, 0)
    texts = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = starts[texts] + offsets
    sums = _prefix_sums(words.hashes, _WORD_BASE)
    return Runs(mix64(_of_runs(sums, first, first + n, _WORD_BASE)), texts)


@functools.lru_cache(maxsize=4)
def _powers(base: int, log_size: int) -> tuple[Hashes, Hashes]:
    """The powers of a base and of its inverse modulo 2**64, [2**log_size] each."""
    inverse = pow(base, -1, 1 << 64)
    both = []
    for one in (base, inverse):
        powers = np.full(1 << log_size, one, _U64)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


def _tables(base: np.uint64, size: int) -> tuple[Hashes, Hashes]:
    return _powers(int(base), max(10, (size - 1).bit_length()))


def _prefix_sums(values: Hashes, base: np.uint64) -> Hashes:
    """sums[i] = values[0] + values[1] * base + ... + values[i - 1] * base**(i - 1)."""
    powers, _ = _tables(base, len(values) + 1)
    sums = np.zeros(len(values) + 1, _U64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return sums


def _of_runs(sums: Hashes, first: NDArray[np.int64], end: NDArray[np.int64], base: np.uint64) -> Hashes:
    """The hash of each run [first, end), wherever it stands."""
    _, inverses = _tables(base, len(sums))
    return (sums[end] - sums[first]) * inverses[first]
