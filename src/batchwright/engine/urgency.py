"""The deadline boost: a batch that would not end in time gets more of what its tenant has.

The rate that a batch needs is compared with the rate that it has, and its weight is moved by the
ratio, in steps of at most a factor of two. Where its share decides its rate, the weight so comes to
rest where the batch just ends in time.

It is raised only if its rivals, the other batches of the tenant that want the same lanes, are what
makes it late: not where there are none, for more weight would change nothing but take from the next
one that comes; and not where the time suffices for all of them together, as beside a small batch,
which has ended long before. Other tenants are never asked to give way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

CHECK_EVERY_S = 5.0
RAISED_MAX = 64.0  # times the weight of its priority
STEP_MAX = 2.0
RESERVE = 0.1  # of the time at the beginning is left over: tries repeat, and limits change
AVERAGED_OVER_S = 60.0


class Rival(NamedTuple):
    """Another batch of the tenant that wants a lane of this one."""

    left: int  # requests
    per_s: float  # of late


class Urgency:
    """What is known of one running batch: how fast it has been, and the weight that it needs."""

    def __init__(
        self,
        weight: float,
        *,
        now: float,
        settled: int,
        left_s: float,
        rivals: Callable[[], Sequence[Rival]],
    ) -> None:
        """`weight` is that of its priority, the least it gets; `now` on the monotonic clock.
        `rivals` is asked only where the batch would be late."""
        self.weight = weight
        self._least = weight
        self._rate_per_s: float | None = None  # None: nothing is known yet
        self._checked_at = now
        self._settled = settled
        self._rivals = rivals
        self._reserve_s = RESERVE * left_s

    def check(self, *, now: float, settled: int, left: int, left_s: float) -> float:
        """The weight for a batch with `left` requests to settle and `left_s` to its deadline."""
        passed_s = now - self._checked_at
        if passed_s >= CHECK_EVERY_S:
            self._observe(settled - self._settled, passed_s)
            self._checked_at, self._settled = now, settled
            if self._rate_per_s:
                within_s = max(left_s - self._reserve_s, 1.0)
                self._move(self._lacking(left, within_s, self._rate_per_s))
        return self.weight

    def _lacking(self, left: int, within_s: float, rate_per_s: float) -> float:
        """By what factor the batch has to be faster; at most 1 where none has to give way."""
        alone = left / within_s / rate_per_s
        if alone <= 1:
            return alone
        rivals = self._rivals()
        if not rivals:
            return 0.0
        together = left + sum(rival.left for rival in rivals)
        together_per_s = rate_per_s + sum(rival.per_s for rival in rivals)
        return alone if together / within_s > together_per_s else 0.0

    def _observe(self, settled: int, passed_s: float) -> None:
        """Average the rate over about a minute: slow lanes settle a request now and then."""
        rate_per_s = settled / passed_s
        if self._rate_per_s is None:
            self._rate_per_s = rate_per_s or None
        else:
            part = min(1.0, passed_s / AVERAGED_OVER_S)
            self._rate_per_s += (rate_per_s - self._rate_per_s) * part

    def _move(self, ratio: float) -> None:
        step = min(max(ratio, 1 / STEP_MAX), STEP_MAX)
        self.weight = min(max(self.weight * step, self._least), RAISED_MAX * self._least)
