"""The application: parts in, routes out. It starts and stops nothing; who calls it does."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from batchwright.domain.errors import BatchwrightError
from batchwright.engine.engine import Engine
from batchwright.server import batches, files, health, keys, models, root, uploads
from batchwright.server.auth import Authenticator, Buckets
from batchwright.server.context import Services
from batchwright.server.errors import on_error
from batchwright.server.metrics import Metrics
from batchwright.server.middleware import Edge
from batchwright.server.passthrough import pass_through_routes
from batchwright.server.quota import LiveCalls, OpenBatches
from batchwright.server.settings import ServerSettings
from batchwright.store.base import EngineStore, TenantStore

RATE_BURST_S = 10.0  # a tenant may use so much of its rate at once


def create_app(
    *,
    engine: Engine,
    tenants: TenantStore,
    store: EngineStore,
    pepper: bytes,
    settings: ServerSettings,
) -> FastAPI:
    """The HTTP API over an engine that the caller starts and stops."""
    app = FastAPI(
        title="batchwright",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(engine)
    monotonic = engine.runtime.monotonic
    app.state.services = Services(
        engine=engine,
        tenants=tenants,
        authenticator=Authenticator(
            store=store,
            pepper=pepper,
            monotonic=monotonic,
            failures_per_minute=settings.failed_auth_per_minute,
            address_is_client=settings.address_is_client,
        ),
        tenant_rates=_tenant_rates(settings, engine),
        open_batches=OpenBatches(engine, store, settings.open_batches_per_tenant),
        live_calls=LiveCalls(settings.live_calls_per_tenant, settings.live_bytes_per_tenant),
        metrics=metrics,
        settings=settings,
        pepper=pepper,
    )
    _add_routes(app, settings)
    for kind in (BatchwrightError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(
        Edge,
        settings=settings,
        metrics=metrics,
        monotonic=monotonic,
        random_bytes=engine.runtime.token,
    )
    return app


def _add_routes(app: FastAPI, settings: ServerSettings) -> None:
    """Pass-through first: routes are tried in order."""
    app.router.routes.extend(pass_through_routes(settings.pass_through_endpoints))
    for part in (batches, files, uploads, models, keys, health, root):
        app.include_router(part.router)


def _tenant_rates(settings: ServerSettings, engine: Engine) -> Buckets | None:
    rate_per_s = settings.requests_per_s_per_tenant
    if rate_per_s is None:
        return None
    return Buckets(rate_per_s, rate_per_s * RATE_BURST_S, engine.runtime.monotonic)
