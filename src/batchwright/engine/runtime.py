"""The runtime seam: clocks, sleep, randomness and ids come in from outside."""

from __future__ import annotations

from typing import Protocol


class Runtime(Protocol):
    """What the engine asks of the machine. The simulation has a virtual one."""

    def now(self) -> float:
        """Wall clock in Unix seconds: for timestamps that are stored or shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go up: for waits, timeouts and rates."""
        ...

    async def sleep(self, delay_s: float) -> None: ...

    def random(self) -> float:
        """Uniform in [0, 1): for jitter."""
        ...

    def token(self, size_bytes: int) -> bytes:
        """Unguessable bytes: for ids and keys."""
        ...


def new_id(runtime: Runtime, prefix: str) -> str:
    """An id such as `batch_0f…`: a kind and 128 random bits in hex."""
    return f"{prefix}{runtime.token(16).hex()}"
