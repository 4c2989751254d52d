"""What a handler is given: the parts of the server, and who asks.

`UserContext` and `AdminContext` are FastAPI dependencies: a handler that names one of them is
reached with a key that holds, and only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from batchwright.domain.batch import Batch
from batchwright.domain.errors import UsageError
from batchwright.engine.engine import Engine
from batchwright.server.auth import Authenticator, Buckets, Caller
from batchwright.server.body import parse_object, read_body
from batchwright.server.errors import Forbidden, TooManyRequests
from batchwright.server.metrics import Metrics
from batchwright.server.quota import LiveCalls, OpenBatches, check_stored
from batchwright.server.settings import ServerSettings
from batchwright.store.base import Idempotency, TenantStore

IDEMPOTENCY_KEY_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the server that all requests share."""

    engine: Engine
    tenants: TenantStore
    authenticator: Authenticator
    tenant_rates: Buckets | None
    open_batches: OpenBatches
    live_calls: LiveCalls
    metrics: Metrics
    settings: ServerSettings
    pepper: bytes

    def count_batch(self, batch: Batch) -> None:
        """Note a batch that was created."""
        self.open_batches.add(batch.tenant, batch.id)
        self.metrics.batches.inc()


@dataclass(frozen=True, slots=True)
class Context:
    """One request: who asks, and what may be used to answer."""

    request: Request
    services: Services
    caller: Caller

    @property
    def tenant(self) -> str:
        return self.caller.tenant

    @property
    def engine(self) -> Engine:
        return self.services.engine

    @property
    def tenants(self) -> TenantStore:
        return self.services.tenants

    @property
    def settings(self) -> ServerSettings:
        return self.services.settings

    async def check_stored(self, size_bytes: int = 0) -> None:
        """Raises `TooManyRequests` where the tenant would store more than it may."""
        now, most = self.engine.runtime.now(), self.settings.stored_bytes_per_tenant
        await check_stored(self.tenants, self.tenant, now, size_bytes, most)

    async def claimed_batch(self, claim: Idempotency | None) -> Batch | None:
        """The batch that an idempotency key has made already: asked for before anything is
        refused for want of room. Raises `Conflict` if it was for another request."""
        if claim is None:
            return None
        return await self.tenants.find_claimed_batch(self.tenant, claim)

    async def read_object(self) -> dict[str, Any]:
        """The JSON object in the body."""
        bytes_max = self.settings.json_body_bytes_max
        return parse_object(await read_body(self.request, bytes_max, self.engine.runtime.monotonic))

    def idempotency_key(self) -> str | None:
        """The `Idempotency-Key` header, None where there is none."""
        key = self.request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX:
            raise UsageError(
                f"An Idempotency-Key has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters.",
                param="Idempotency-Key",
                code="invalid_value",
            )
        return key

    def idempotency(self, key: str | None, fingerprint: str) -> Idempotency | None:
        """What the store is to keep of an idempotency key."""
        return (key and Idempotency(key, fingerprint, self.engine.runtime.now())) or None


def services_of(request: Request) -> Services:
    """The parts of the server that a request came to."""
    services: Services = request.app.state.services
    return services


async def caller_of(request: Request) -> Caller:
    """Who a request comes from. Raises `Unauthorized` or `TooManyRequests`."""
    address = request.client.host if request.client else ""
    return await services_of(request).authenticator.authenticate(request.headers, address)


async def _user(request: Request) -> Context:
    services = services_of(request)
    caller = await caller_of(request)
    if services.tenant_rates is not None:
        wait = services.tenant_rates.take(caller.tenant)
        if wait > 0:
            raise TooManyRequests(
                f"Rate limit reached: {services.settings.requests_per_s_per_tenant:g} requests "
                "per second.",
                retry_after_s=wait,
            )
    return Context(request, services, caller)


UserContext = Annotated[Context, Depends(_user)]


async def _admin(context: UserContext) -> Context:
    if not context.caller.is_admin:
        raise Forbidden("This needs an admin key.", code="insufficient_permissions")
    return context


AdminContext = Annotated[Context, Depends(_admin)]
