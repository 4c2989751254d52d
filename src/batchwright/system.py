"""The real machine: its clocks, `asyncio.sleep`, its random source, how it schedules us."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import time
from contextlib import suppress


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


def prefer_throughput() -> None:
    """Ask the system to let this thread, and those that it starts, finish what they are at.

    Under `SCHED_BATCH` (Linux, sched(7)) a thread that wakes up does not push aside the one that
    runs. Otherwise each answer that arrives interrupts the interpreter in favour of the HTTP
    client's thread, which soon waits for the interpreter: 1.4 switches a request where there is
    one core, and a third of the throughput. Elsewhere, or where it is not allowed, nothing is
    done.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
