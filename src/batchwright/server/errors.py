"""The one place that turns errors into HTTP answers, always with OpenAI's error body.

`{"error": {"message", "type", "param", "code"}}`, all four keys on each.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from batchwright.domain.errors import (
    AnswerTooLarge,
    LongWait,
    NoSpace,
    TransportError,
    UsageError,
)
from batchwright.domain.result import Code

log = structlog.get_logger()

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Unauthorized(UsageError):
    """No key, or one that does not hold. The words never tell which."""

    status = 401

    def __init__(self) -> None:
        super().__init__(
            "Incorrect API key provided. Send a key as 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
        )


class Forbidden(UsageError):
    """The key holds, but may not do this."""

    status = 403


class BodyTooSlow(UsageError):
    """The body came below the least rate, or stopped."""

    status = 408


class BodyTooLarge(UsageError):
    """More bytes than the limit."""

    status = 413


class UnsupportedBody(UsageError):
    """A content encoding or type that is not taken."""

    status = 415


class RangeNotSatisfiable(UsageError):
    """The range of bytes lies behind the end of the file."""

    status = 416

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"The range lies outside the {size_bytes} bytes of the file.")
        self.size_bytes = size_bytes


class TooManyRequests(UsageError):
    """A rate limit of ours; `is_curable` tells whether waiting helps."""

    status = 429

    def __init__(self, message: str, *, retry_after_s: float, is_curable: bool = True) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.retry_after_s = retry_after_s
        self.is_curable = is_curable


class HeadersTooLarge(UsageError):
    """More or longer headers than the limit."""

    status = 431


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


def error_response(error: Exception, *, method: str = "", path: str = "") -> Response:
    """The answer to a request that ended in `error`."""
    match error:
        case UsageError():
            return _answer(
                error.status, error.message, error.param, error.code, _usage_headers(error)
            )
        case RequestValidationError():
            return _answer(400, *_bad_parameter(error))
        case HTTPException():
            text = _protocol_text(error.status_code, method, path)
            return _answer(error.status_code, text, None, None, error.headers or {})
        case NoSpace():
            return _answer(
                507,
                "The disk of the server is nearly full; nothing more is taken in until there "
                "is room.",
                code="insufficient_storage",
            )
        case AnswerTooLarge():  # the next one would be paid for, too
            message = f"The provider's answer is not handed on: {str(error).rstrip('.')}."
            headers = {"x-should-retry": "false"}
            return _answer(502, message, code=Code.RESPONSE_TOO_LARGE.wire, headers=headers)
        case LongWait():
            headers = _retry_after(error.wait_s)
            return _answer(429, str(error), code="rate_limit_exceeded", headers=headers)
        case TransportError():
            return _answer(502, _UNREACHED, code="upstream_failed")
        case _:
            return _answer(500, _OUR_FAULT)


async def on_error(request: Request, error: Exception) -> Response:
    """The exception handler of the application."""
    if isinstance(error, TransportError):
        log.warning("pass-through call failed", reason=str(error))
    if isinstance(error, HTTPException) and error.status_code == 405:
        error.headers = {"allow": ", ".join(_allowed(request))}
    return error_response(error, method=request.method, path=request.scope["path"])


def _allowed(request: Request) -> list[str]:
    """The methods of a path; each may have a route of its own."""
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    ]


def error_object(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> bytes:
    """The JSON of an error body."""
    error = {"message": message, "type": _type_of(status), "param": param, "code": code}
    return msgspec.json.encode({"error": error})


_UNREACHED = "The provider of this model gave no complete answer. The call may be repeated."
_OUR_FAULT = (
    "The server had an error while it worked on this request. If it persists, look for the "
    "x-request-id of this answer in the server's log."
)


def _answer(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return Response(
        error_object(status, message, param, code),
        status,
        {**(headers or {}), "cache-control": "no-store"},
        "application/json",
    )


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _usage_headers(error: UsageError) -> dict[str, str]:
    """What tells an SDK whether to try again: by default it repeats every 409 and 429."""
    if isinstance(error, TooManyRequests):
        headers = _retry_after(error.retry_after_s)
        return headers if error.is_curable else {**headers, "x-should-retry": "false"}
    if isinstance(error, RangeNotSatisfiable):
        return {"content-range": f"bytes */{error.size_bytes}"}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    return {"x-should-retry": "false"} if error.status == 409 else {}


def _retry_after(wait_s: float) -> dict[str, str]:
    return {"retry-after": str(max(1, round(wait_s + 0.5)))}


def _bad_parameter(error: RequestValidationError) -> tuple[str, str | None, str]:
    first = error.errors()[0]
    param = str(first["loc"][-1]) if first["loc"] else None
    return f"Invalid value for '{param}': {first['msg']}.", param, "invalid_value"


def _protocol_text(status: int, method: str, path: str) -> str:
    shown = path[:200]
    if status == 404:
        return f"Invalid URL ({method} {shown})"
    if status == 405:
        return f"Not allowed to {method} on {shown}."
    return f"The request cannot be answered (HTTP {status})."
