"""When calls run out of time."""

from __future__ import annotations

import asyncio

from batchwright.domain.errors import Ambiguous, TransportError
from batchwright.providers.http1.connection import Connection

OUT_OF_TIME = "no complete answer within the timeout"


class Deadlines:
    """The calls under way that share a timeout, in the order in which they run out."""

    __slots__ = ("_calls", "_loop", "_timer", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._calls: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_used(self) -> bool:
        return bool(self._calls)

    def add(self, connection: Connection) -> float:
        """Returns when its call runs out, on the clock of the event loop."""
        self._calls[connection] = deadline = self._loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_timer)
        return deadline

    def remove(self, connection: Connection) -> None:
        self._calls.pop(connection, None)

    def stop(self) -> None:
        """Of no use any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end_all(self, error: TransportError) -> None:
        self.stop()
        for connection in self._calls:
            connection.fail(error)

    def _on_timer(self) -> None:
        now = self._loop.time() + 1e-3  # timers of the loop are no more exact
        self._timer = None
        for connection, deadline in self._calls.items():  # left to their tasks to remove
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._on_timer)
                return
            connection.fail(Ambiguous(OUT_OF_TIME))
