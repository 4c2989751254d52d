"""The pace of a batch: how many requests are run per second, over the last seconds and minutes.

What is said of those that have settled is meant without copies: they come much faster.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

WINDOW_S = 10.0
SAMPLE_EVERY_S = 0.5
MEMORY_S = 300.0  # what a forecast is made from
MARK_EVERY_S = 5.0
SPANS_MAX = 10
SPAN_S_MIN = 1.0

Point = tuple[float, int]
"""A time on the monotonic clock, and how many had settled by then."""


class Pace:
    """A sliding window over (time, settled), fine for the last seconds and coarse before."""

    def __init__(self) -> None:
        self._samples: deque[Point] = deque()
        self._marks: deque[Point] = deque()

    def note(self, now: float, settled: int) -> None:
        """`now` on the monotonic clock."""
        samples, marks = self._samples, self._marks
        if samples and now - samples[-1][0] < SAMPLE_EVERY_S:
            return
        samples.append((now, settled))
        _forget(samples, now - WINDOW_S)
        if not marks or now - marks[-1][0] >= MARK_EVERY_S:
            marks.append((now, settled))
            _forget(marks, now - MEMORY_S)

    def per_s(self, now: float, settled: int) -> float:
        """0 until there is something to tell, and where nothing has settled of late."""
        if not self._samples:
            return 0.0
        self.note(now, settled)
        _forget(self._samples, now - WINDOW_S)
        at, before = self._samples[0]
        return (settled - before) / (now - at) if now > at else 0.0

    def spans_per_s(self, now: float, settled: int) -> tuple[list[float], float]:
        """The rate in each of up to ten spans, the oldest first, and the seconds of a span.

        They make up the last five minutes, or what is known of them; none below a second.
        """
        points = self._points(now, settled)
        begin = max(points[0][0], now - MEMORY_S)
        count = min(int((now - begin) / SPAN_S_MIN), SPANS_MAX)
        if not count:
            return [], 0.0
        span_s = (now - begin) / count
        cuts = [_settled_at(points, begin + at * span_s) for at in range(count)]
        cuts.append(float(settled))
        return [(late - early) / span_s for early, late in pairwise(cuts)], span_s

    def _points(self, now: float, settled: int) -> list[Point]:
        fine_from = self._samples[0][0] if self._samples else now
        coarse = [mark for mark in self._marks if mark[0] < fine_from]
        return [*coarse, *self._samples, (now, settled)]


def _forget(points: deque[Point], before: float) -> None:
    """Drop what is older, but for the last such point: from it the window is measured."""
    while len(points) > 1 and points[1][0] <= before:
        points.popleft()


def _settled_at(points: list[Point], at: float) -> float:
    """How many had settled at a time, on the straight line between the points around it."""
    earlier = points[0]
    for later in points:
        if later[0] >= at:
            passed_s = later[0] - earlier[0]
            part = (at - earlier[0]) / passed_s if passed_s > 0 else 0.0
            return earlier[1] + part * (later[1] - earlier[1])
        earlier = later
    return float(earlier[1])
