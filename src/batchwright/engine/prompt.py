"""What a provider's prompt cache sees of a request: its prompt, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from batchwright.domain.order import PROMPT_FIELDS
from batchwright.engine.prefixes import PREFIX_BYTES_MAX

_KIND_FIELDS = ("model", "prompt_cache_key")
"""Each model has a cache of its own, and where a request names one, each name has."""


def prompt_reader(endpoint: str) -> Callable[[bytes], tuple[bytes, bytes]]:
    """A function from a line of an input file for `endpoint` to its kind and its prompt.

    Only prompts of one kind can share a prefix. A prompt is the texts of its fields as they stand
    in the file, in the order in which a model sees them, and at most about `PREFIX_BYTES_MAX` long.
    A line that cannot be read has none: whoever reads it to send it says what is wrong.
    """
    names = PROMPT_FIELDS[endpoint]
    decode = _decoder(names)

    def read(content: bytes) -> tuple[bytes, bytes]:
        try:
            body = decode(content).body
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b"", b""
        return _joined(body, _KIND_FIELDS), _joined(body, names)

    return read


@cache
def _decoder(names: tuple[str, ...]) -> Callable[[bytes], Any]:
    fields = [(name, Raw, Raw()) for name in (*_KIND_FIELDS, *names)]
    body = msgspec.defstruct("Body", fields, gc=False)
    return msgspec.json.Decoder(msgspec.defstruct("Line", [("body", body)], gc=False)).decode


def _joined(body: Any, names: tuple[str, ...]) -> bytes:
    texts = [memoryview(getattr(body, name))[:PREFIX_BYTES_MAX] for name in names]
    return b"\0".join(texts)[:PREFIX_BYTES_MAX]
