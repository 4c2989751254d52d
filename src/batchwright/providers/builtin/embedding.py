"""`builtin/embedding`: vectors by feature hashing, so that texts sharing words are near.

A text is taken as its words, and each word as itself and its character 3- and 4-grams, so that
`charger` and `charging` are near too. Every feature is hashed (CRC-32, the same on every
machine) to a coordinate and a sign; the sum is scaled to unit length, so that the dot product
of two vectors is the cosine of their angle. Common English words count little.
It knows spelling, not meaning: `cheap` and `inexpensive` are strangers to it.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

DIMENSIONS_DEFAULT = 256
DIMENSIONS_MAX = 1536

_WORD = re.compile(r"[^\W\u2e80-\U0010ffff]+|[^\s]")
_COMMON_WORDS = (
    "a about after all also am an and any are as at be because been before but by can could did"
    " do does doing for from get got had has have he her him his how i if in into is it its just"
    " me more most my no not of off on one or our out over she so some such than that the their"
    " them then there these they this to too up us very was we were what when which while who"
    " will with would you your s t don re ve ll m"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_COMMON_WEIGHT = 0.15
_MARK_WEIGHT = 0.1  # a punctuation mark or another character that is no letter
_GRAMS_SHARE = 0.7  # the length of the n-grams' part, against the word's own 1
_WORD_CHARS_MAX = 64  # of a longer word only the beginning counts

_Features = tuple[tuple[int, float], ...]  # (hash, weight)


def embed(text: str, dimensions: int = DIMENSIONS_DEFAULT) -> list[float]:
    """The unit vector of a text, rounded to 8 decimals.

    The same text gives the same vector on every machine and in every version of Python.
    """
    vector = _sum_features(text, dimensions)
    length = math.sqrt(math.fsum(x * x for x in vector))
    if length < 1e-9:  # nothing to count, or all cancelled out: still a unit vector
        vector, length = [0.0] * dimensions, 1.0
        vector[crc32(text.encode()) % dimensions] = 1.0
    return [round(x / length, 8) for x in vector]


def to_base64(vector: Sequence[float]) -> str:
    """A vector as OpenAI's `encoding_format: "base64"`: float32, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _sum_features(text: str, dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    words = Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    for word, count in words.items():
        scale = math.sqrt(count)
        for feature, weight in _features_of(word):
            vector[(feature >> 1) % dimensions] += scale * (weight if feature & 1 else -weight)
    return vector


@lru_cache(maxsize=16_384)
def _features_of(word: str) -> _Features:
    """A word's own feature and those of its n-grams; `<` and `>` mark its ends."""
    if word in _COMMON:
        return ((crc32(word.encode()), _COMMON_WEIGHT),)
    if not word[0].isalnum():
        return ((crc32(word.encode()), _MARK_WEIGHT),)
    marked = f"<{word[:_WORD_CHARS_MAX]}>"
    grams = [marked[i : i + n] for n in (3, 4) for i in range(len(marked) - n + 1)]
    weight = _GRAMS_SHARE / math.sqrt(len(grams))
    own = (crc32(word.encode()), 1.0)
    return (own, *((crc32(f"#{gram}".encode()), weight) for gram in grams))
