"""Calls handed through one by one to the provider of their model, streamed ones event by event."""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send

from batchwright.domain import strict_json
from batchwright.domain.errors import TransportError, UsageError
from batchwright.domain.request import with_model
from batchwright.engine.engine import Engine
from batchwright.engine.routing import Route
from batchwright.providers.base import Call, StreamedAnswer
from batchwright.server.body import bad_json, read_body
from batchwright.server.context import caller_of, services_of
from batchwright.server.errors import error_object
from batchwright.server.models import find_route
from batchwright.server.upstream import (
    EVENT_STREAM,
    QUOTED_BYTES,
    copied_headers,
    instead_of,
    is_fit,
)

log = structlog.get_logger()

DEFAULT_MODELS = {"/v1/moderations": "omni-moderation-latest"}  # where the body may name none


class _Named(msgspec.Struct, gc=False):
    """What is read of a body; all else is the provider's."""

    model: str | None = None
    stream: bool | None = None


_decode = msgspec.json.Decoder(_Named).decode


def pass_through_routes(endpoints: tuple[str, ...]) -> list[HttpRoute]:
    """Plain routes: FastAPI's machinery would cost more than all that is done here."""
    return [HttpRoute(path, pass_through, methods=["POST"]) for path in endpoints]


async def pass_through(request: Request) -> Response:
    """Answer with what the provider answers."""
    services = services_of(request)
    await caller_of(request)
    engine = services.engine
    body = await read_body(request, services.settings.call_body_bytes_max, engine.runtime.monotonic)
    path = request.scope["path"]
    named = _read(body)
    model = named.model or DEFAULT_MODELS.get(path)
    if not model:
        raise UsageError(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    route = find_route(engine.router, model)
    call = route.provider.prepare(path, with_model(body, named.model or "", route.model))
    if named.stream:
        return StreamedReply(engine, route, call)
    answer = await engine.call(route, call)
    if not is_fit(answer.status, answer.headers):
        return instead_of(answer.status, answer.headers, answer.body)
    return Response(answer.body, answer.status, copied_headers(answer.headers))


class StreamedReply(Response):
    """Hands a provider's answer on as it arrives, and ends the call when the client leaves."""

    def __init__(self, engine: Engine, route: Route, call: Call) -> None:
        self._engine = engine
        self._route = route
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_on(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.wait((sending, leaving))
        if not sending.cancelled():
            sending.result()

    async def _send_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._engine.stream(self._route, self._call) as answer:
            if is_fit(answer.status, answer.headers):
                await _send_on(answer, send)
            else:
                body = await _beginning(answer)
                await instead_of(answer.status, answer.headers, body)(scope, receive, send)


def _read(body: bytes) -> _Named:
    """Raises `UsageError` also for what two readers could take for two things."""
    try:
        strict_json.read(body)
        return _decode(body)
    except strict_json.DuplicateKey as error:
        raise bad_json(error, param=error.key) from error
    except msgspec.ValidationError as error:
        param = next((name for name in ("model", "stream") if f"$.{name}" in str(error)), None)
        raise UsageError(f"Invalid body: {error}.", param=param, code="invalid_type") from error
    except strict_json.BadJson as error:
        raise bad_json(error) from error


async def _send_on(answer: StreamedAnswer, send: Send) -> None:
    headers = copied_headers(answer.headers)
    is_events = headers["content-type"].startswith(EVENT_STREAM)
    if is_events:
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    try:
        async for chunk in answer.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except TransportError as error:
        if not is_events:
            raise
        log.warning("streamed call broke off", reason=str(error))
        await send({"type": "http.response.body", "body": _broken_off(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _beginning(answer: StreamedAnswer) -> bytes:
    body = b""
    async for chunk in answer.chunks():
        body += chunk
        if len(body) >= QUOTED_BYTES:
            break
    return body


def _broken_off() -> bytes:
    """The event by which the official SDKs learn that a stream failed."""
    message = "The provider's answer broke off."
    return b"data: %b\n\n" % error_object(502, message, code="upstream_failed")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
