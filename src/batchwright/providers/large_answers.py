"""Room in memory for a large answer while it is received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchwright.providers.base import Call

LARGE_ANSWERS_MAX = 4  # of live calls at a time: the others wait in their sockets


class LargeAnswers:
    """Asks the room of a call; calls that bring none share one of a few answers at a time."""

    __slots__ = ("_few",)

    def __init__(self) -> None:
        self._few = asyncio.Semaphore(LARGE_ANSWERS_MAX)

    @asynccontextmanager
    async def room_for(self, call: Call) -> AsyncIterator[None]:
        """Wait for room for the largest answer that the call takes, and give it back at the end."""
        if call.room is None:
            async with self._few:
                yield
            return
        await call.room.reserve(call.answer_bytes_max)
        try:
            yield
        finally:
            call.room.give_back(call.answer_bytes_max)
