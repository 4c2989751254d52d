"""Calls handed through one by one to the provider of their model, streamed ones event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send

from batchwright.domain import strict_json
from batchwright.domain.errors import AnswerTooLarge, TransportError, UsageError
from batchwright.domain.request import with_model
from batchwright.domain.result import Code
from batchwright.engine.engine import Engine
from batchwright.engine.routing import Route
from batchwright.providers.base import Call, StreamedAnswer
from batchwright.server.body import bad_json, body_chunks
from batchwright.server.context import Services, caller_of, services_of
from batchwright.server.errors import ClientGone, error_object
from batchwright.server.models import find_route
from batchwright.server.quota import LiveCall
from batchwright.server.upstream import (
    EVENT_STREAM,
    QUOTED_BYTES,
    copied_headers,
    instead_of,
    is_fit,
)

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

AT_ONCE_BYTES = 64 * 2**10  # about 10 ms, however odd; 16 MiB may take three seconds
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
    """Answer with what the provider answers; the call ends when its client leaves."""
    services = services_of(request)
    caller = await caller_of(request)
    engine = services.engine
    with ExitStack() as held:
        live = held.enter_context(services.live_calls.entered(caller.tenant))
        route, call, is_streamed = await _asked(request, services, live)
        if is_streamed:
            return StreamedReply(engine, route, call, held.pop_all())
        answer = await _while_there(request.receive, engine.gateway.call(route, call))
    if not is_fit(answer.status, answer.headers):
        return instead_of(answer.status, answer.headers, answer.body)
    return Response(answer.body, answer.status, copied_headers(answer.headers))


async def _asked(request: Request, services: Services, live: LiveCall) -> tuple[Route, Call, bool]:
    """The call that a request wants made, where to, and whether its answer is to be streamed."""
    body = await _read_body(request, services, live)
    path = request.scope["path"]
    named = await _worked(_read, body)
    model = named.model or DEFAULT_MODELS.get(path)
    if not model:
        raise UsageError(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    route = find_route(services.engine.router, model)
    body = await _worked(with_model, body, named.model or "", route.model)
    call = route.provider.prepare(path, body)
    return route, call, bool(named.stream)


async def _worked(
    work: Callable[Concatenate[bytes, P], T], body: bytes, *args: P.args, **kwargs: P.kwargs
) -> T:
    """`work` on a body; in a thread where it is so large that all others might wait for it."""
    if len(body) <= AT_ONCE_BYTES:
        return work(body, *args, **kwargs)
    return await asyncio.to_thread(work, body, *args, **kwargs)


async def _read_body(request: Request, services: Services, live: LiveCall) -> bytes:
    """The whole body, each chunk counted as it comes."""
    chunks = []
    bytes_max = services.settings.call_body_bytes_max
    async for chunk in body_chunks(request, bytes_max, services.engine.runtime.monotonic):
        live.grow(len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled when the client leaves. Raises `ClientGone` then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait((working, leaving))
    if working.cancelled():
        raise ClientGone
    return working.result()


class StreamedReply(Response):
    """Hands a provider's answer on as it arrives, and ends the call when the client leaves.

    `held` is closed at the end.
    """

    def __init__(self, engine: Engine, route: Route, call: Call, held: ExitStack) -> None:
        self._engine = engine
        self._route = route
        self._call = call
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await _while_there(receive, self._send_on(scope, receive, send))

    async def _send_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._engine.gateway.stream(self._route, self._call) as answer:
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
        await send({"type": "http.response.body", "body": _broken_off(error), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _beginning(answer: StreamedAnswer) -> bytes:
    body = b""
    async for chunk in answer.chunks():
        body += chunk
        if len(body) >= QUOTED_BYTES:
            break
    return body


def _broken_off(error: TransportError) -> bytes:
    """The event by which the official SDKs learn that a stream failed."""
    if isinstance(error, AnswerTooLarge):
        message = f"The rest of the provider's answer is not handed on: {error}."
        return b"data: %b\n\n" % error_object(502, message, code=Code.RESPONSE_TOO_LARGE.wire)
    message = "The provider's answer broke off."
    return b"data: %b\n\n" % error_object(502, message, code="upstream_failed")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
