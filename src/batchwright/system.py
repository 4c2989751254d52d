"""The real machine: its clocks, `asyncio.sleep`, its random source, how it schedules us."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import sys
import time
from contextlib import suppress


class SystemRuntime:
    """Clocks, sleep, randomness and ids from the operating system."""

    now = staticmethod(time.time)  # wall clock in Unix seconds
    monotonic = staticmethod(time.monotonic)  # seconds that only go up

    async def sleep(self, delay_s: float) -> None:
        """Let others run for so long."""
        await asyncio.sleep(delay_s)

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - for jitter; ids and keys come from `token`

    def token(self, size_bytes: int) -> bytes:
        """Unguessable bytes."""
        return secrets.token_bytes(size_bytes)


GC_THRESHOLD = 50_000  # objects made and not yet gone, of which thousands are calls under way


def prefer_throughput() -> None:
    """Let this thread, and those that it starts, finish what they are at. Called once, at start.

    The collector of cycles looks less often, and no more at what was made so far: what a request
    needs has no cycles, and is gone with it. Left alone it takes a tenth of our part of a request.

    Under `SCHED_BATCH` (Linux, sched(7)) a thread that wakes up does not push aside the one that
    runs. Otherwise each answer that arrives interrupts the interpreter in favour of the HTTP
    client's thread, which soon waits for the interpreter: 1.4 switches a request where there is
    one core, and a third of the throughput. Elsewhere, or where it is not allowed, nothing is
    done.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
