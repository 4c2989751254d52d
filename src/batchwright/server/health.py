"""`/healthz`, `/readyz`, `/metrics`: for machines that watch, without a key and without secrets."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from batchwright.engine.engine import Engine
from batchwright.server.context import services_of
from batchwright.server.wire import reply

router = APIRouter()


@router.get("/healthz")
@router.head("/healthz")
async def healthz() -> Response:
    """The process lives and answers."""
    return reply({"status": "ok"})


@router.get("/readyz")
@router.head("/readyz")
async def readyz(request: Request) -> Response:
    """Whether new work is taken; 503 and the reason where it is not."""
    reason = _refusal(services_of(request).engine)
    if reason is None:
        return reply({"status": "ready"})
    return reply({"status": "not ready", "reason": reason}, 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus."""
    text = services_of(request).metrics.text()
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _refusal(engine: Engine) -> str | None:
    if engine.failed.is_set():
        return "the disk failed; only a restart cures that"
    if engine.is_short_of_space:
        return "the disk is nearly full"
    return None
