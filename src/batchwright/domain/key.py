"""API keys: `bw_<8-character id>_<secret><check>`.

The prefix and the check let secret scanners find a leaked key, and let a server refuse junk before
any look-up (the form of GitHub's tokens, github.blog 2021-04-05). Only a keyed hash is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass

PREFIX = "bw"
DEFAULT_TENANT = "default"
ROLES = ("admin", "user")
CONFIGURED_ID = "admin"  # of the key that the operator chose, whatever its form

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43  # 32 bytes in base 62
_CHECK_LENGTH = 6  # a CRC-32 in base 62


@dataclass(frozen=True, slots=True)
class Key:
    """What the store keeps of a key. `digest` is `digest_of(pepper, token)`."""

    id: str  # the public id: the 8 characters after the prefix
    tenant: str
    role: str
    name: str
    digest: bytes
    created_at: float
    revoked_at: float | None = None


def make_token(random_bytes: bytes) -> str:
    """A key's text from 40 random bytes. Shown once, never stored."""
    public = _base62(int.from_bytes(random_bytes[:8], "big"), 11)[-8:]
    secret = _base62(int.from_bytes(random_bytes[8:40], "big"), _SECRET_LENGTH)
    unchecked = f"{PREFIX}_{public}_{secret}"
    return unchecked + _check(unchecked)


def public_id(token: str) -> str | None:
    """The public id in a key's text, or None if the text is no key of ours."""
    parts = token.split("_")
    if len(parts) != 3 or parts[0] != PREFIX or len(parts[1]) != 8:
        return None
    if len(parts[2]) != _SECRET_LENGTH + _CHECK_LENGTH or not token.isascii():
        return None
    return parts[1] if _check(token[:-_CHECK_LENGTH]) == token[-_CHECK_LENGTH:] else None


def lookup_id(token: str) -> str:
    """The id that a key is stored under: its public id, or `CONFIGURED_ID` for any other text."""
    return public_id(token) or CONFIGURED_ID


def digest_of(pepper: bytes, token: str) -> bytes:
    """HMAC-SHA-256: enough for secrets of 256 bits, and no lever for denial of service."""
    return hmac.digest(pepper, token.encode(), hashlib.sha256)


def _check(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECK_LENGTH)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
