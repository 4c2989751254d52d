"""The pruner: what has expired is hidden, and bytes that nothing uses any more are deleted."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from batchwright.blobs.base import Blobs
from batchwright.domain.errors import StorageError
from batchwright.engine.runtime import Runtime
from batchwright.store.base import EngineStore

BLOBS_PER_ROUND = 1000
WHOLE_BLOBS = "files/"  # where blobs are written before their row

log = structlog.get_logger()


class Pruner:
    """A loop that owns expiry and deletion. Its owner awaits `run` and cancels it."""

    def __init__(
        self,
        *,
        store: EngineStore,
        blobs: Blobs,
        runtime: Runtime,
        readers: Mapping[str, int],
        every_s: float,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._runtime = runtime
        self._readers = readers  # blob key → open downloads: their bytes stay
        self._every_s = every_s

    async def run(self) -> None:
        while True:
            try:
                await self.prune()
            except StorageError as error:
                log.warning("pruning failed, will be tried again", reason=str(error))
            await self._runtime.sleep(self._every_s)

    async def sweep(self) -> int:
        """Delete bytes that no row names, before anybody writes: what dead writers left behind.

        Returns how many blobs were deleted.
        """
        orphans = await self._store.unknown(await self._blobs.keys(WHOLE_BLOBS))
        for key in orphans:
            await self._blobs.delete(key)
        return len(orphans)

    async def prune(self) -> int:
        """One round; returns how many blobs were deleted."""
        await self._store.expire(self._runtime.now())
        found = await self._store.unreferenced(BLOBS_PER_ROUND)
        keys = [key for key in found if not self._readers.get(key)]
        for key in keys:
            await self._blobs.delete(key)
        if keys:
            await self._store.forget(keys)
        return len(keys)
