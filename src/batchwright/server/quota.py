"""How many batches of a tenant may be open at a time."""

from __future__ import annotations

from batchwright.engine.engine import Engine
from batchwright.server.errors import TooManyRequests
from batchwright.store.base import EngineStore

RETRY_AFTER_S = 60.0


class OpenBatches:
    """Counts the batches of each tenant that have not ended.

    The store is read once; an id is dropped when its tenant seems to be at the limit and the
    engine no longer supervises it. Batches made side by side may pass the limit by their number.
    """

    def __init__(self, engine: Engine, store: EngineStore, most: int | None) -> None:
        self._engine = engine
        self._store = store
        self._most = most
        self._ids: dict[str, list[str]] | None = None  # by tenant

    async def check(self, tenant: str) -> None:
        """Raises `TooManyRequests` for a tenant that has as many as it may."""
        if self._most is None:
            return
        ids = (await self._known()).get(tenant, [])
        if len(ids) < self._most:
            return
        ids[:] = [id_ for id_ in ids if self._engine.supervisor(id_) is not None]
        if len(ids) >= self._most:
            raise TooManyRequests(
                f"{self._most} batches are open already, as many as a tenant may have. Wait until "
                "one has ended, or cancel one.",
                retry_after_s=RETRY_AFTER_S,
                is_curable=False,
            )

    def add(self, tenant: str, batch_id: str) -> None:
        """Count a batch that was created after `check`."""
        if self._ids is not None:
            ids = self._ids.setdefault(tenant, [])
            if batch_id not in ids:  # an Idempotency-Key may bring an earlier one back
                ids.append(batch_id)

    async def _known(self) -> dict[str, list[str]]:
        if self._ids is None:
            found: dict[str, list[str]] = {}
            for batch in await self._store.unfinished_batches():
                found.setdefault(batch.tenant, []).append(batch.id)
            if self._ids is None:  # or another request was quicker
                self._ids = found
        return self._ids
