"""What surrounds every request: its id, caps on its headers, its metrics, and the last resort.

Plain ASGI: it adds little to the way of a pass-through call.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchwright.server.errors import (
    ClientGone,
    HeadersTooLarge,
    UnsupportedBody,
    error_response,
)
from batchwright.server.metrics import Metrics
from batchwright.server.settings import ServerSettings

log = structlog.get_logger()

_REQUEST_ID = b"x-request-id"


class Edge:
    """The outermost layer of the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        metrics: Metrics,
        monotonic: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._azure = _azure_paths(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = self._monotonic()
        answer = _Answer(send, f"req_{self._random_bytes(16).hex()}")
        try:
            check_headers(scope["headers"], self._settings)
            scope["path"] = self._path(scope["path"])
            await self._app(scope, receive, answer.send)
        except ClientGone:
            return
        except Exception as error:
            if answer.status:
                raise  # the answer has begun: the connection must break off
            if not isinstance(error, HeadersTooLarge | UnsupportedBody):
                log.exception("request failed", request_id=answer.request_id, route=_route(scope))
            await error_response(error)(scope, receive, answer.send)
        finally:
            if answer.status:
                duration_s = self._monotonic() - started_at
                self._metrics.observe(scope["method"], _route(scope), answer.status, duration_s)

    def _path(self, path: str) -> str:
        """The path as OpenAI has it."""
        found = self._azure.fullmatch(path)
        return path if found is None else f"/v1{found[1] or found[2]}"


def _azure_paths(settings: ServerSettings) -> re.Pattern[str]:
    """What Azure's clients call: `/openai/…` with or without `v1`, and for a single call the
    deployment, which is the model that the body names too. Its name may have slashes."""
    calls = "|".join(
        re.escape(endpoint.removeprefix("/v1")) for endpoint in settings.pass_through_endpoints
    )
    return re.compile(rf"/(?:openai/v1|openai|v1)/deployments/.+?({calls})|/openai(?:/v1)?(/.*)")


class _Answer:
    """Sends an answer on, with the id of the request unless it brings one."""

    __slots__ = ("_send", "request_id", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0  # 0: not begun

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.setdefault("headers", [])
            if not any(name == _REQUEST_ID for name, _ in headers):
                headers.append((_REQUEST_ID, self.request_id.encode()))
        await self._send(message)


def check_headers(headers: list[tuple[bytes, bytes]], settings: ServerSettings) -> None:
    """Raises for too many or too long headers, and for an encoded body, which is never decoded."""
    size_bytes = 0
    for name, value in headers:
        size_bytes += len(name) + len(value)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedBody("Content-Encoding is not supported: send the body as it is.")
    if size_bytes > settings.header_bytes_max or len(headers) > settings.header_count_max:
        raise HeadersTooLarge("The headers of the request are too many or too long.")


def _route(scope: Scope) -> str:
    """The path with placeholders; never a path that a client made up."""
    return getattr(scope.get("route"), "path", "none")
