"""The room that batch work leaves to live calls where only so many calls may be in flight.

To go before all batch work helps a live call little where every place is taken: the calls of a
batch begin together and end together, so it would wait for most of one. So for a while after live
calls were made, batch work leaves as many places as were live at once, but never takes less than
half of them. Where nobody calls, nothing is left free.
"""

from __future__ import annotations

REMEMBERED_S = 60.0


class LiveRoom:
    """How many calls were live at once lately, waiting ones too. Plain state."""

    __slots__ = ("_before", "_until", "peak")

    def __init__(self) -> None:
        self.peak = 0  # of the span that ends at `_until`; 0: nothing need be kept free
        self._before = 0  # of the span before
        self._until = 0.0

    def note(self, at_once: int, now: float) -> None:
        """So many are live, or want to be: those whose clients have left are not."""
        if now >= self._until:
            self._before = 0 if self._is_over(now) else self.peak
            self.peak = 0
            self._until = now + REMEMBERED_S
        self.peak = max(self.peak, at_once)

    def kept(self, running: int, allowed: int, now: float) -> int:
        """How many of the places that are `allowed` are to stay free, with so many live calls in
        flight."""
        if not self.peak:
            return 0
        if self._is_over(now):
            self.peak = self._before = 0
            return 0
        return max(min(max(self.peak, self._before), allowed // 2) - running, 0)

    def _is_over(self, now: float) -> bool:
        return now >= self._until + REMEMBERED_S
