"""What a provider's answer may be for it to be handed on, and what is said instead of another.

A redirect is not followed, so its body says nothing. A 401 is about the server's own key, not
about that of the client, and may quote it. A type that a browser would run is never
handed on under our own address; a proxy's error page keeps its status and becomes an error body.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import Response

from batchwright.server.errors import error_object

EVENT_STREAM = "text/event-stream"
QUOTED_BYTES = 2**10
"""So much of a body that is not handed on is quoted."""

_KEY_REFUSED = 401
_COPIED = ("content-type", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry")
_COPIED_PREFIXES = ("x-ratelimit-", "openai-")
_TYPES = (
    "application/json",
    "application/jsonl",
    "application/x-ndjson",
    "application/octet-stream",
    EVENT_STREAM,
)
_TYPE_PREFIXES = ("audio/", "image/")


def copied_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a provider's answer that are the client's business."""
    copied = {
        name: value
        for name, value in headers.items()
        if name in _COPIED or name.startswith(_COPIED_PREFIXES)
    }
    copied.setdefault("content-type", "application/json")
    copied["x-content-type-options"] = "nosniff"
    return copied


def is_fit(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer is handed on as it is."""
    if 300 <= status < 400 or status == _KEY_REFUSED:
        return False
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind in _TYPES or kind.endswith("+json") or kind.startswith(_TYPE_PREFIXES)


def instead_of(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    """The error that a client gets where an answer is not fit. `body` may be its beginning."""
    if 300 <= status < 400:
        message = f"The provider answered a redirect to {_host(headers)}, which is not followed."
        return _error(502, message, "upstream_redirected", {"x-should-retry": "false"})
    if status == _KEY_REFUSED:
        message = "The provider refused the key that this server has for it (HTTP 401)."
        return _error(502, message, "upstream_key_refused", {"x-should-retry": "false"})
    if status < 300:
        kind = headers["content-type"][:100]
        message = f"The provider answered {status} with the type {kind!r}, which is not handed on."
        return _error(502, message, "upstream_unreadable", {"x-should-retry": "false"})
    quoted = body[:QUOTED_BYTES].decode(errors="replace").strip()
    message = f"The provider answered {status}: {quoted}" if quoted else f"HTTP {status}"
    return _error(status, message, "upstream_failed", copied_headers(headers))


def _host(headers: Mapping[str, str]) -> str:
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    return host[:253] if host else "another address of its own"


def _error(status: int, message: str, code: str, headers: Mapping[str, str]) -> Response:
    kept = {name: value for name, value in headers.items() if name != "content-type"}
    kept |= {"x-content-type-options": "nosniff", "cache-control": "no-store"}
    body = error_object(status, message, code=code)
    return Response(body, status, kept, media_type="application/json")
