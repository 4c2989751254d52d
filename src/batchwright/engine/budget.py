"""The budget: what the requests and answers of one batch may hold in memory.

Bodies count from when they are read, answers from when they are there, both until the result is
durable. A large answer asks before it is received.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from batchwright.providers.base import LARGE_ANSWER_BYTES


class Budget:
    """Bytes held by one batch, of at most about `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.held_bytes = 0
        self.bytes_max = bytes_max
        self._large_bytes = 0  # of them, in large answers: asked for, or not durable yet
        self._asking: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._is_open = False

    async def reserve(self, size_bytes: int) -> None:
        """Wait for room for the rest of a large answer. First come, first served.

        Where no large answer holds any, there is room: so one at least goes on, always.
        """
        if not self._asking and self._has_room(size_bytes):
            self._take(size_bytes)
            return
        asked = asyncio.get_running_loop().create_future()
        self._asking.append((size_bytes, asked))
        try:
            await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled():
                self.give_back(size_bytes)
            raise

    def give_back(self, size_bytes: int) -> None:
        """Return what was reserved."""
        self.held_bytes -= size_bytes
        self._large_bytes -= size_bytes
        self._grant_soon()

    def keep(self, answer_bytes: int) -> None:
        """Count a whole answer, until `drop`."""
        self.held_bytes += answer_bytes
        if answer_bytes > LARGE_ANSWER_BYTES:
            self._large_bytes += answer_bytes

    def drop(self, bodies_bytes: Iterable[int], answers_bytes: Sequence[int]) -> None:
        """Results are durable: their requests and their answers are held no longer."""
        self.held_bytes -= sum(bodies_bytes) + sum(answers_bytes)
        if self._large_bytes:
            self._large_bytes -= sum(each for each in answers_bytes if each > LARGE_ANSWER_BYTES)
        if self._asking:
            self._grant_soon()

    def open(self) -> None:
        """Let everybody pass: nothing is kept of what comes from now on."""
        self._is_open = True
        self._grant_soon()

    def _has_room(self, size_bytes: int) -> bool:
        fits = self.held_bytes + size_bytes <= self.bytes_max
        return fits or not self._large_bytes or self._is_open

    def _take(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self._large_bytes += size_bytes

    def _grant_soon(self) -> None:
        """On the next turn of the loop: whoever gave room back first says what it keeps."""
        if self._asking:
            asyncio.get_running_loop().call_soon(self._grant)

    def _grant(self) -> None:
        while self._asking and (self._asking[0][1].done() or self._has_room(self._asking[0][0])):
            size_bytes, asked = self._asking.popleft()
            if not asked.done():
                self._take(size_bytes)
                asked.set_result(None)
