"""What a blob key may look like, the same for every implementation."""

from __future__ import annotations

import re

from batchwright.domain.errors import StorageError

KEY_LENGTH_MAX = 512

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_NAME}(?:/{_NAME})*", re.ASCII)


def checked_key(key: str) -> str:
    """The key itself, if it is a relative path of plain names; raises `StorageError` if not.

    A name never starts with a dot, so `..` cannot climb and hidden names stay ours.
    """
    if len(key) > KEY_LENGTH_MAX or not _KEY.fullmatch(key):
        raise StorageError(f"not a blob key: {key[:100]!r}")
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix itself, if it is empty or the beginning of a key; raises `StorageError` if not."""
    if prefix:
        checked_key(prefix.removesuffix("/"))
    return prefix
