"""A request that has no result yet, and the heap in which it waits to be tried again."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from batchwright.domain.limits import Cost
from batchwright.domain.request import Request
from batchwright.engine.estimate import Estimator, estimate
from batchwright.engine.limiter import Reservation
from batchwright.engine.routing import Route


class Pending(msgspec.Struct, eq=False):
    """A request on its way to a result. It is the job that a lane runs."""

    request: Request
    route: Route
    estimator: Estimator  # of its model, in its batch
    cost: Cost  # estimated when it was read, or since; for the limits of the lane
    call: Callable[[Pending], Awaitable[None]]
    reserved: Reservation | None = None  # what the lane took for the attempt under way
    is_noted: bool = False  # the lane was told how that attempt ended
    attempts: int = 0  # those that count against `max_attempts`
    refused_at: int = 0  # the call answered 429 since which others were to be let in; 0: none was
    refusals: int = 0  # such answers after others were let in
    denied_at: int = 0  # the same of its calls whose credential was refused
    denials: int = 0
    tries: int = 0  # all of them
    is_maybe_paid: bool = False  # an answer was lost on the way

    @property
    def tokens(self) -> int:
        """The estimate as one number, for the fair queue."""
        return self.cost.input_tokens + self.cost.output_tokens

    def estimate(self) -> None:
        self.cost = estimate(self.estimator, len(self.request.body))

    @property
    def was_denied(self) -> bool:
        """Whether its credential was refused before."""
        return self.denied_at > 0

    def run(self) -> Awaitable[None]:
        return self.call(self)


J = TypeVar("J")


class Waiting(Generic[J]):
    """Jobs that wait for their next attempt, by due time; `on_due` gets each when it is due."""

    def __init__(self, *, monotonic: Callable[[], float], on_due: Callable[[J], None]) -> None:
        self._heap: list[tuple[float, int, J]] = []
        self._count = 0  # breaks ties: first come, first served
        self._timer: asyncio.TimerHandle | None = None
        self._monotonic = monotonic
        self._on_due = on_due

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, job: J, delay_s: float) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self._monotonic() + delay_s, self._count, job))
        if self._heap[0][2] is job:
            self._set_timer()

    def stop(self) -> None:
        """Let nothing come due any more. Safe twice."""
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, self._heap[0][0] - self._monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._release_due)

    def _release_due(self) -> None:
        now = self._monotonic() + 1e-6
        while self._heap and self._heap[0][0] <= now:
            self._on_due(heapq.heappop(self._heap)[2])
        if self._heap:
            self._set_timer()
