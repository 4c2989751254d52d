"""Faults by chance: which try of which request fails, and how, from the request's hash."""

from __future__ import annotations

from hashlib import sha256

FAULTS = ("status-500", "status-503", "status-429", "reset", "truncate")
TRIES_KEPT = 1_000_000


def fault(digest: bytes, attempt: int, rate: float) -> str | None:
    """The name of the behaviour that the `attempt`-th try of a request meets, or None."""
    draw = sha256(b"%b %d" % (digest, attempt)).digest()
    if int.from_bytes(draw[:8], "big") >= rate * 2**64:
        return None
    return FAULTS[draw[8] % len(FAULTS)]


class Tries:
    """How often each request was tried since it was last answered well.

    Only requests that are failing take memory.
    """

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def next(self, digest: bytes) -> int:
        """The number of this try, from 1."""
        return self._counts.get(digest, 0) + 1

    def failed(self, digest: bytes, attempt: int) -> None:
        """Remember a try that was not answered well."""
        if len(self._counts) >= TRIES_KEPT:
            del self._counts[next(iter(self._counts))]
        self._counts[digest] = attempt

    def answered(self, digest: bytes) -> None:
        """Forget a request."""
        self._counts.pop(digest, None)
