"""Packing: several embedding requests as one call. Bytes only. `unpacking` is the way back.

Theory of operation. A body is cut into the value of its `input` and all the rest, the *key*.
Bodies with the same key, byte for byte, may share a call: the inputs are joined into one list and
put where the first `input` stood. Texts and token ids never share a call, since the API takes lists
of one kind (platform.openai.com/docs/api-reference/embeddings/create). A body that is not plainly
of a known form has no key and is sent alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Raw

from batchwright.domain.strict_json import keys

EMBEDDINGS_URL: Final = "/v1/embeddings"

# Where `input` stood in a key: control characters, which no JSON text holds raw.
_TEXTS: Final = b"\0"
_TOKENS: Final = b"\1"
_FLOAT_BYTES: Final = 22  # of a number in single precision with all its digits, and its comma
_BASE64_BYTES: Final = 6
_KEY_BYTES_KEPT: Final = 4096
_QUOTE: Final = ord('"')
_NAME: Final = b'"input"'
_NAME_AND_COLON: Final = re.compile(rb'"input"[ \t\r\n]*+:[ \t\r\n]*+')
_SPACE: Final = re.compile(rb"[ \t\r\n]*")


class Part(msgspec.Struct, frozen=True, gc=False):
    """What a request brings to a packed call."""

    key: bytes  # its body without the inputs; equal keys may share a call
    items: bytes  # its inputs as they stand in a list, without the brackets
    inputs: int  # how many they are, at least 1


class _Input(msgspec.Struct, gc=False):
    input: Raw = Raw()


class _Said(msgspec.Struct, gc=False):
    """What a body says of the vectors that it wants."""

    dimensions: Annotated[int, msgspec.Meta(ge=1, le=2**20)] | None = None
    encoding_format: str | None = None


_decode_input = msgspec.json.Decoder(_Input).decode
_decode_said = msgspec.json.Decoder(_Said).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode
_decode_lists = msgspec.json.Decoder(list[list[int]]).decode


def read_part(body: bytes) -> Part | None:
    """What a validated body brings to a packed call; None where it is to be sent alone.

    Taken are a text, a list of texts, a list of token ids and a list of such lists, none empty.
    """
    value = bytes(_decode_input(body).input)
    found = _items(value)
    if found is None:
        return None
    mark, items, inputs = found
    start = _start(body, value)
    return Part(body[:start] + mark + body[start + len(value) :], items, inputs)


def vector_bytes(key: bytes) -> int | None:
    """How long the vector of one input will be in the answer, if requests with this key say how
    many numbers it is to have; a few more bytes than that. None too for a key that is long."""
    return _said_bytes(key) if len(key) <= _KEY_BYTES_KEPT else None


@lru_cache(maxsize=64)
def _said_bytes(key: bytes) -> int | None:
    try:
        said = _decode_said(key.replace(_TEXTS, b"0").replace(_TOKENS, b"0"))
    except msgspec.ValidationError:
        return None
    if said.dimensions is None:
        return None
    return said.dimensions * (_BASE64_BYTES if said.encoding_format == "base64" else _FLOAT_BYTES)


class PartReader:
    """`read_part` for many bodies, most of which differ from the last one in their text alone.

    Where a body begins as another did up to its `input`, its own stands there too. If that is a
    text without escapes, and behind it follows what did there, the key is the same: no body that is
    valid has a second `input`.
    """

    def __init__(self) -> None:
        self._key = self._before = self._after = b""

    def read(self, body: bytes) -> Part | None:
        """See `read_part`."""
        if body.startswith(self._before) and body.endswith(self._after):
            value = body[len(self._before) : len(body) - len(self._after)]
            if _is_one_text(value):
                return Part(self._key, value, 1)
        part = read_part(body)
        if part is not None and part.items[0] == _QUOTE and part.inputs == 1:
            self._key = part.key
            self._before, _, self._after = part.key.partition(_TEXTS)
        return part


def packed_body(parts: Sequence[Part]) -> bytes:
    """The body of one call for all `parts`, which have the same key."""
    key = parts[0].key
    mark = _TEXTS if _TEXTS in key else _TOKENS
    before, _, after = key.partition(mark)
    return b"%b[%b]%b" % (before, b",".join([part.items for part in parts]), after)


# The body of a request


def _is_one_text(value: bytes) -> bool:
    """Whether it is a text, not empty and without escapes, if it begins as a value does."""
    last = len(value) - 1
    return last > 1 and value[0] == _QUOTE and value.find(b'"', 1) == last and b"\\" not in value


def _start(body: bytes, value: bytes) -> int:
    """Where the `value` of the `input` at the top of `body` starts."""
    if name := _NAME_AND_COLON.search(body):
        start = name.end()
        behind = start + len(value)
        # With an escape or a second `input` outside of it, this may be another's member.
        is_plain = body.find(b"\\", 0, start) < 0 and body.find(b"\\", behind) < 0
        if is_plain and body.startswith(value, start) and body.find(_NAME, behind) < 0:
            return start
    behind_colon = next(offset for key, offset in keys(body) if key == "input")
    space = _SPACE.match(body, behind_colon)
    return space.end() if space else behind_colon


def _items(value: bytes) -> tuple[bytes, bytes, int] | None:
    """Mark, items and number of inputs of a value of `input`; None where it is none of ours."""
    if value.startswith(b'"'):
        return (_TEXTS, value, 1) if len(value) > 2 else None
    if not value.startswith(b"["):
        return None
    inner = value[1:-1]
    first = inner.lstrip()[:1]
    try:
        if first == b'"':
            texts = _decode_texts(value)
            return (_TEXTS, inner, len(texts)) if all(texts) else None
        if first == b"[":
            lists = _decode_lists(value)
            return (_TOKENS, inner, len(lists)) if all(lists) else None
        return (_TOKENS, value, 1) if _decode_ids(value) else None
    except msgspec.ValidationError:
        return None
