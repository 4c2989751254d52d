"""The pace of a batch: how many requests settle per second, over the last seconds."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
SAMPLE_EVERY_S = 0.5


class Pace:
    """A sliding window over (time, settled)."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, settled: int) -> None:
        """`now` on the monotonic clock."""
        samples = self._samples
        if samples and now - samples[-1][0] < SAMPLE_EVERY_S:
            return
        samples.append((now, settled))
        while now - samples[0][0] > WINDOW_S:
            samples.popleft()

    def per_s(self, now: float, settled: int) -> float:
        """0 until there is something to tell."""
        if not self._samples:
            return 0.0
        at, before = self._samples[0]
        return (settled - before) / (now - at) if now > at else 0.0
