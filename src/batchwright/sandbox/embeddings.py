"""The sandbox's embeddings: unit vectors, each a function of its text alone, and cheap to make.

A vector is put together from pieces of four numbers, each of them one of 256 that are made once for
a length of vectors. All pieces have the same share of the length, so that any of them together give
a vector of length one, with as many digits as a real one has.
"""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64encode
from functools import lru_cache
from hashlib import shake_256
from typing import NamedTuple

import msgspec

_PIECE = 4  # numbers, chosen by one byte

_encode = msgspec.json.Encoder().encode


class _Pieces(NamedTuple):
    """The 256 pieces of each form: as JSON without brackets, and as little-endian floats."""

    texts: tuple[bytes, ...]
    floats: tuple[bytes, ...]


def vector_json(model: str, item: str | list[int], size: int) -> msgspec.Raw:
    """The vector of one input as a JSON list of numbers in single precision."""
    digest, pieces, last = _chosen(model, item, size)
    texts = [pieces.texts[byte] for byte in digest[: size // _PIECE]]
    if size % _PIECE:
        texts.append(last.texts[digest[-1]])
    return msgspec.Raw(b"[%b]" % b",".join(texts))


def vector_base64(model: str, item: str | list[int], size: int) -> str:
    """The same vector as OpenAI's `encoding_format` base64: its floats, little-endian."""
    digest, pieces, last = _chosen(model, item, size)
    floats = [pieces.floats[byte] for byte in digest[: size // _PIECE]]
    if size % _PIECE:
        floats.append(last.floats[digest[-1]])
    return b64encode(b"".join(floats)).decode()


def _chosen(model: str, item: str | list[int], size: int) -> tuple[bytes, _Pieces, _Pieces]:
    """A byte for each piece, the pieces, and those for the end that is no whole one."""
    digest = shake_256(_encode([model, size, item])).digest(-(-size // _PIECE))
    return digest, _pieces(_PIECE, size), _pieces(size % _PIECE, size)


@lru_cache(maxsize=64)
def _pieces(length: int, size: int) -> _Pieces:
    """Pieces of so many numbers for vectors of `size` numbers."""
    made = [_piece(number, length, size) for number in range(256)]
    return _Pieces(
        tuple(_encode(piece.tolist())[1:-1] for piece in made),
        tuple(_little_endian(piece) for piece in made),
    )


def _piece(number: int, length: int, size: int) -> array[float]:
    noise = array("h", shake_256(b"%d %d %d" % (number, length, size)).digest(2 * length))
    if sys.byteorder == "big":
        noise.byteswap()
    total = math.sqrt(sum(x * x for x in noise) * size / max(length, 1)) or 1.0
    return array("f", [x / total for x in noise])


def _little_endian(piece: array[float]) -> bytes:
    if sys.byteorder == "big":
        piece = piece[:]
        piece.byteswap()
    return piece.tobytes()
