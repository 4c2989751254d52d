"""The runtime of a real machine: system clocks, `asyncio.sleep`, and its random source."""

from __future__ import annotations

import asyncio
import random
import secrets
import time


class SystemRuntime:
    """Clocks, sleep, randomness and ids from the operating system."""

    def now(self) -> float:
        """Wall clock in Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only go up."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Let others run for so long."""
        await asyncio.sleep(delay_s)

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - for jitter; ids and keys come from `token`

    def token(self, size_bytes: int) -> bytes:
        """Unguessable bytes."""
        return secrets.token_bytes(size_bytes)
