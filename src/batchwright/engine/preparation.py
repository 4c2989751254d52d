"""What a batch reads before its first request goes out, for those who ask why nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Preparation:
    """The step that is under way, if any, and how far it is."""

    def __init__(self) -> None:
        self._step: str | None = None
        self._read = 0  # requests
        self._total = 0

    @contextmanager
    def step(self, what: str, total: int) -> Iterator[None]:
        """While inside, `what` is being done; it takes the reading of `total` requests."""
        self._step, self._read, self._total = what, 0, total
        try:
            yield
        finally:
            self._step = None

    def note(self, count: int) -> None:
        """So many more requests were read."""
        self._read += count

    @property
    def message(self) -> str | None:
        """The step with its figures, for a person; None where there is none."""
        if self._step is None:
            return None
        return f"{self._step}: {self._read:,} of {self._total:,} requests read"
