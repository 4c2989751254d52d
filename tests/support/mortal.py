"""A process that dies at its n-th step on the disk or in the store.

Every operation is two steps: one before it has changed anything, and one when it is done but its
caller does not know yet (an append has a third, between its writing and its sync). At the chosen
step the caller waits for ever and `Fate.met` is set: whoever drives the history then lets the
world crash, exactly there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import StorageError
from batchwright.engine.engine import Engine
from batchwright.engine.lane import Lane, LaneLimits
from batchwright.engine.routing import Account, Router
from batchwright.store.memory import MemoryStore
from simulation import ScriptedProvider, World

MODELS = ("m", "n")


class Fate:
    """Counts steps; at step `dies_at` it is met. 0: never. May be set again at any time."""

    def __init__(self) -> None:
        self.steps = 0
        self.dies_at = 0
        self.met = asyncio.Event()

    def set(self, after_steps: int) -> None:
        """Die at the `after_steps`-th step from now; 0: never."""
        self.met.clear()
        self.dies_at = self.steps + after_steps if after_steps else 0

    async def step(self) -> None:
        self.steps += 1
        if self.dies_at and self.steps >= self.dies_at:
            self.met.set()
            await asyncio.Future()


class MortalBlobs(MemoryBlobs):
    """A disk on which every operation is a step of `fate`, and may be made to fail."""

    def __init__(self, fate: Fate, **options: Any) -> None:
        super().__init__(pause=fate.step, **options)
        self.fate = fate
        self.failures: dict[str, list[StorageError]] = {}  # by method: what its next calls raise

    async def _begin(self, method: str) -> None:
        await self.fate.step()
        failures = self.failures.get(method)
        if failures:
            raise failures.pop(0)

    async def read(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        await self._begin("read")
        async for chunk in super().read(key, offset, length):
            yield chunk

    async def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        await self._begin("read_ranges")
        return await super().read_ranges(key, ranges)

    async def create(self, keys: Sequence[str]) -> None:
        await self._begin("create")
        await super().create(keys)
        await self.fate.step()

    async def append(self, writes: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        await self._begin("append")
        await super().append(writes)
        await self.fate.step()

    async def delete(self, key: str) -> None:
        await self._begin("delete")
        await super().delete(key)
        await self.fate.step()


class MortalStore:
    """The store in memory, every call of which is two steps of `fate`."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.inner = MemoryStore()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)

        async def call(*args: Any, **options: Any) -> Any:
            await self.fate.step()
            answer = await method(*args, **options)
            await self.fate.step()
            return answer

        return call


class MortalWorld(World):
    """A world whose disk and store share one fate. Make it inside a running loop."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.fate = Fate()
        self.blobs = MortalBlobs(self.fate)
        self.store: Any = MortalStore(self.fate)


class WideWorld(World):
    """A world with two lanes: model `m` on `upstream`, model `n` on `sidestream`."""

    side_limits = LaneLimits(max_concurrency=7)

    async def boot(self) -> Engine:
        main = Lane("upstream", limits=self.limits, runtime=self.runtime)
        side = Lane("sidestream", limits=self.side_limits, runtime=self.runtime)
        provider, other = ScriptedProvider(self.network), ScriptedProvider(self.network)
        other.name = "sidestream"
        accounts = [Account(provider, main, models=("m",)), Account(other, side, models=("n",))]
        self.engine = Engine(
            tenants=self.store,
            store=self.store,
            blobs=self.blobs,
            runtime=self.runtime,
            router=Router(accounts),
            settings=self.settings,
        )
        await self.engine.start()
        return self.engine
