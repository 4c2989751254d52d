"""HTTP/1.1 as the sandbox needs it: requests out of a stream of bytes, heads of answers.

The heads of one client differ little, so parsed heads are kept by their bytes; this is what
makes a small request cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 512 * 1024 * 1024
HEADS_KEPT = 4096
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class WireError(Exception):
    """Not HTTP, or over a bound: it gets `status` and the connection ends."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Head(msgspec.Struct, frozen=True, gc=False):
    """Request line and headers, as far as they matter here."""

    method: str
    path: str
    size_bytes: int
    is_chunked: bool
    keeps_alive: bool
    expects_continue: bool
    behaviour: str  # of the header x-sandbox


class Request(msgspec.Struct, frozen=True, gc=False):
    """One whole request."""

    head: Head
    body: bytes


class RequestReader:
    """Cuts a stream of bytes into requests; `feed` what arrives, then take `next` until None."""

    def __init__(self) -> None:
        self._inbox = bytearray()
        self._head: Head | None = None
        self._chunked: _ChunkedBody | None = None
        self._searched = 0

    @property
    def waiting_bytes(self) -> int:
        """What has arrived and belongs to no request yet."""
        return len(self._inbox)

    def feed(self, data: bytes) -> None:
        """Add bytes as they come."""
        self._inbox += data

    def whole(self, data: bytes) -> Request | None:
        """The request that `data` is, if it is just one and nothing waits; else feed it."""
        if self._inbox or self._head is not None:
            return None
        end = data.find(b"\r\n\r\n")
        head = _HEADS.get(data[:end])
        if head is None or head.is_chunked or len(data) - end - 4 != head.size_bytes:
            return None
        return Request(head, data[end + 4 :])

    def next(self) -> Request | None:
        """The next whole request. Raises `WireError`."""
        head = self._head
        if head is None:
            head = self._head = self._next_head()
            if head is None:
                return None
        if self._chunked is not None:
            body = self._chunked.read(self._inbox)
            if body is None:
                return None
        elif len(self._inbox) < head.size_bytes:
            return None
        else:
            body = bytes(self._inbox[: head.size_bytes])
            del self._inbox[: head.size_bytes]
        self._head = self._chunked = None
        return Request(head, body)

    def takes_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends its body; true once."""
        head = self._head
        if head is None or not head.expects_continue:
            return False
        self._head = msgspec.structs.replace(head, expects_continue=False)
        return True

    def _next_head(self) -> Head | None:
        inbox = self._inbox
        end = inbox.find(b"\r\n\r\n", self._searched)
        if end < 0:
            if len(inbox) > HEAD_BYTES_MAX:
                raise WireError(431, "the head of the request is over 64 KiB")
            self._searched = max(len(inbox) - 3, 0)
            return None
        raw = bytes(inbox[:end])
        del inbox[: end + 4]
        self._searched = 0
        head = _HEADS.get(raw)
        if head is None:
            head = parse_head(raw)
            if len(_HEADS) >= HEADS_KEPT:
                _HEADS.clear()
            _HEADS[raw] = head
        if head.is_chunked:
            self._chunked = _ChunkedBody()
        return head


def parse_head(raw: bytes) -> Head:
    """Read a head without its closing blank line. Raises `WireError`."""
    lines = raw.lstrip(b"\r\n").decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise WireError(400, "the request line is not that of HTTP/1.1")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise WireError(400, "a header has no colon")
        headers[name.lower()] = value.strip()
    size = headers.get("content-length", "0")
    if not (size.isascii() and size.isdigit()):
        raise WireError(400, "content-length is not a number")
    if int(size) > BODY_BYTES_MAX:
        raise WireError(413, "the body is over 512 MiB")
    connection = headers.get("connection", "").lower()
    return Head(
        method=parts[0],
        path=parts[1].partition("?")[0],
        size_bytes=int(size),
        is_chunked="chunked" in headers.get("transfer-encoding", "").lower(),
        keeps_alive=connection == "keep-alive"
        or (parts[2] == "HTTP/1.1" and "close" not in connection),
        expects_continue=headers.get("expect", "").lower() == "100-continue",
        behaviour=headers.get("x-sandbox", ""),
    )


def answer_head(status: int, headers: Mapping[str, str], size_bytes: int | None) -> bytes:
    """The head of an answer; without a size its body comes in chunks."""
    lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if size_bytes is None:
        lines.append("transfer-encoding: chunked")
    else:
        lines.append(f"content-length: {size_bytes}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"

_HEADS: dict[bytes, Head] = {}


class _ChunkedBody:
    """A body in chunks, gathered while it arrives."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._in_trailer = False

    def read(self, inbox: bytearray) -> bytes | None:
        """Take what has arrived from the front of `inbox`; the whole body once it is there."""
        at = 0
        while not self._in_trailer:
            line_end = inbox.find(b"\r\n", at)
            if line_end < 0:
                break
            size = _chunk_size(bytes(inbox[at:line_end]))
            if len(self._body) + size > BODY_BYTES_MAX:
                raise WireError(413, "the body is over 512 MiB")
            start = line_end + 2
            if size == 0:
                self._in_trailer, at = True, start
            elif len(inbox) < start + size + 2:
                break
            else:
                self._body += inbox[start : start + size]
                at = start + size + 2
        del inbox[:at]
        return bytes(self._body) if self._in_trailer and self._skip_trailer(inbox) else None

    def _skip_trailer(self, inbox: bytearray) -> bool:
        while (line_end := inbox.find(b"\r\n")) >= 0:
            del inbox[: line_end + 2]
            if line_end == 0:
                return True
        if len(inbox) > HEAD_BYTES_MAX:
            raise WireError(431, "the trailer of the request is over 64 KiB")
        return False


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        return int(digits, 16)
    except ValueError:
        raise WireError(400, "the size of a chunk is not a number") from None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
