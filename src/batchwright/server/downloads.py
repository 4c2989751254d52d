"""The bytes of a file, streamed over its extents, whole or one range of them (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from batchwright.domain.file import RESULT_PURPOSE, Extent, File, slice_extents
from batchwright.server.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` (included) to `stop` (excluded)."""

    start: int
    stop: int


def download(
    request: Request,
    file: File,
    extents: Sequence[Extent],
    read: Callable[[Sequence[Extent]], AsyncIterator[bytes]],
) -> Response:
    """The answer with the bytes of a file. The caller holds the extents until it is sent.

    Where `read` raises, the answer breaks off: no client takes it for whole.
    """
    etag = f'"{file.id}"'
    headers = _headers(file, etag)
    if not {etag, "*"}.isdisjoint(_etags(request.headers.get("if-none-match", ""))):
        return Response(status_code=304, headers=headers)
    span = _requested(request, etag, file.size_bytes)
    status = 200
    if span is None:
        span = Span(0, file.size_bytes)
    else:
        status = 206
        headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{file.size_bytes}"
    headers["content-length"] = str(span.stop - span.start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    chunks = read(slice_extents(tuple(extents), span.start, span.stop))
    return StreamingResponse(chunks, status, headers)


def parse_range(header: str, size_bytes: int) -> Span | None:
    """The one range that is asked for; None where the whole file is to be sent.

    Several ranges, and what cannot be read, are answered with the whole file, as RFC 9110 allows.
    Raises `RangeNotSatisfiable` for a range that holds no byte of the file.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        span = Span(max(0, size_bytes - int(found[2])), size_bytes)
    else:
        stop = min(int(found[2]) + 1, size_bytes) if found[2] else size_bytes
        if found[2] and int(found[2]) < int(found[1]):
            return None
        span = Span(int(found[1]), stop)
    if span.start >= span.stop:
        raise RangeNotSatisfiable(size_bytes)
    return span


def _requested(request: Request, etag: str, size_bytes: int) -> Span | None:
    header = request.headers.get("range")
    if header is None or request.headers.get("if-range", etag) != etag:
        return None
    return parse_range(header, size_bytes)


def _etags(header: str) -> list[str]:
    return [etag.strip().removeprefix("W/") for etag in header.split(",")]


def _headers(file: File, etag: str) -> dict[str, str]:
    return {
        "content-type": _content_type(file),
        "content-disposition": content_disposition(file.filename),
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-transform",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
    }


def _content_type(file: File) -> str:
    """Never `application/json`: clients would parse it."""
    is_lines = file.purpose in ("batch", RESULT_PURPOSE) or file.filename.endswith(".jsonl")
    return "application/jsonl" if is_lines else "application/octet-stream"


def content_disposition(filename: str) -> str:
    """An attachment with any name (RFC 6266; RFC 5987 for what is not plain)."""
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
