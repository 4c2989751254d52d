"""What a tenant may have at a time: open batches, live calls, stored bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from batchwright.engine.engine import Engine
from batchwright.server.errors import TooManyRequests
from batchwright.store.base import EngineStore, TenantStore

RETRY_AFTER_S = 60.0
RETRY_LIVE_AFTER_S = 1.0


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


class LiveCall:
    """What one live call holds of its tenant's share: itself, and the bytes of its body."""

    __slots__ = ("_of_tenant", "size_bytes")

    def __init__(self, of_tenant: _LiveCallsOfTenant) -> None:
        self._of_tenant = of_tenant
        self.size_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """Count bytes of the body as they come. Raises `TooManyRequests`."""
        self._of_tenant.take(size_bytes)
        self.size_bytes += size_bytes


class LiveCalls:
    """Bounds the live calls of each tenant, those that wait and those under way alike, and the
    bytes of their bodies, which are held in memory."""

    def __init__(self, calls_max: int | None, bytes_max: int | None) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._tenants: dict[str, _LiveCallsOfTenant] = {}

    @contextmanager
    def entered(self, tenant: str) -> Iterator[LiveCall]:
        """Count a call until the end. Raises `TooManyRequests` where it is one too many."""
        of_tenant = self._tenants.setdefault(
            tenant, _LiveCallsOfTenant(self._calls_max, self._bytes_max)
        )
        of_tenant.enter()
        call = LiveCall(of_tenant)
        try:
            yield call
        finally:
            of_tenant.leave(call.size_bytes)
            if not of_tenant.count:
                del self._tenants[tenant]


class _LiveCallsOfTenant:
    def __init__(self, calls_max: int | None, bytes_max: int | None) -> None:
        self.count = 0
        self._size_bytes = 0
        self._calls_max = calls_max
        self._bytes_max = bytes_max

    def enter(self) -> None:
        if self._calls_max is not None and self.count >= self._calls_max:
            raise _too_many_live(f"{self._calls_max:,} live calls")
        self.count += 1

    def take(self, size_bytes: int) -> None:
        if self._bytes_max is not None and self._size_bytes + size_bytes > self._bytes_max:
            raise _too_many_live(f"live calls with {self._bytes_max:,} bytes")
        self._size_bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        self.count -= 1
        self._size_bytes -= size_bytes


def _too_many_live(what: str) -> TooManyRequests:
    return TooManyRequests(
        f"A tenant may have {what} open at a time. Wait until one has been answered.",
        retry_after_s=RETRY_LIVE_AFTER_S,
    )


async def check_stored(
    tenants: TenantStore, tenant: str, now: float, size_bytes: int, most: int | None
) -> None:
    """Raises `TooManyRequests` where a tenant would store more than it may."""
    if most is None:
        return
    stored_bytes = await tenants.stored_bytes(tenant, now)
    if stored_bytes + size_bytes > most:
        raise TooManyRequests(
            f"{stored_bytes:,} bytes are stored already, and a tenant may have {most:,}. Delete "
            "files that are not needed any more.",
            retry_after_s=RETRY_AFTER_S,
            is_curable=False,
        )
