"""A connection and the call on it: bytes out, and an answer made of the bytes that come."""

from __future__ import annotations

import asyncio
import socket
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent, TransportError
from batchwright.providers.base import LARGE_ANSWER_BYTES, WRITE_STALL_S, Answer

# Shorter than servers at hand keep an idle connection: gunicorn 2 s; uvicorn (so vLLM), Node.js
# and llama.cpp 5 s. One that is closed while a call is on its way costs a call that may have been
# paid for; a new connection costs a tenth of a millisecond.
IDLE_TIMEOUT_S = 1.5
OVERHEAD_BYTES_MAX = 64 * 2**10  # of an answer: what arrives without any of its body
HEADERS_MAX = 100
PIECE_BYTES_MIN = 4096  # of a body: shorter ones are not kept apart

_FINAL_STATUS = 200
_ENCODING = b"content-encoding"
_ENCODING_LENGTH = len(_ENCODING)
_GZIPS = (b"gzip", b"x-gzip")  # two names of one thing (RFC 9110, section 8.4.1.3)
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_BROKEN = "the connection broke: {}"
_EARLY = "the server closed it before the answer was whole"
_NOT_HTTP = "the answer is not HTTP/1.1"


class Connection(asyncio.Protocol):
    """A connection, and the call on it if there is one."""

    __slots__ = (
        "_answered",
        "_body",
        "_bytes_max",
        "_failure",
        "_gzip",
        "_has_body",
        "_headers",
        "_idle_until",
        "_is_in_head",
        "_is_kept",
        "_is_spoiled",
        "_is_whole",
        "_loop",
        "_on_end",
        "_overhead_bytes",
        "_parser",
        "_rest",
        "_size_bytes",
        "_status",
        "_taken_max",
        "_transport",
        "_waiting",
    )

    def __init__(self, on_end: Callable[[Connection], None]) -> None:
        """`on_end` is called when it is not to be used again; perhaps twice."""
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport
        # Its result is None in place of a large answer, which goes on after `go_on`.
        self._answered: asyncio.Future[Answer | None] | None = None
        self._waiting: bytearray | None = None  # what has come while there is no room for it
        self._failure: TransportError | None = None
        self._is_spoiled = False  # not to be used again
        self._is_in_head = True
        self._has_body = self._is_whole = self._is_kept = False

    # The call

    def begin(self, head: bytes, body: bytes, bytes_max: int) -> asyncio.Future[Answer | None]:
        """Send a request; the future has its answer, or raises what has become of it."""
        if self._is_spoiled:
            raise NotSent("cannot connect: the server closed the connection at once")
        self._headers: list[tuple[bytes, bytes]] = []
        self._overhead_bytes = 0
        self._is_in_head = True
        self._status = 0
        self._body = b""  # its first piece
        self._rest: list[bytes | bytearray] = []  # further ones
        self._size_bytes = 0  # of it, decoded
        self._bytes_max = bytes_max
        self._taken_max = min(bytes_max, LARGE_ANSWER_BYTES)  # for more there must be room
        self._gzip: zlib._Decompress | None = None
        self._has_body = self._is_whole = self._is_kept = False
        answered = self._answered = self._loop.create_future()
        self._transport.writelines((head, body))
        return answered

    def go_on(self) -> asyncio.Future[Answer | None]:
        """There is room for a large answer: receive the rest."""
        answered = self._answered = self._loop.create_future()
        if self._failure is not None:
            self._settle(self._failure)
            return answered
        self._taken_max = self._bytes_max
        waiting, self._waiting = self._waiting, None
        if waiting:
            self._take(bytes(waiting))
        if not self._is_spoiled:
            self._transport.resume_reading()  # also for the call after this one
        if self._is_whole:
            self._end()
        elif self._is_spoiled:
            self.fail(self._failure or Ambiguous(_BROKEN.format(_EARLY)))
        return answered

    def is_reusable(self) -> bool:
        """Whether another call may follow the one that was answered; closes it if not."""
        if self._is_spoiled:
            return False
        if not self._is_kept or self._transport.get_write_buffer_size():
            self.close()
            return False
        self._idle_until = self._loop.time() + IDLE_TIMEOUT_S
        return True

    def is_fresh(self) -> bool:
        """Whether an idle connection is to be used: the server has hardly closed it yet."""
        return self._loop.time() < self._idle_until and not self._transport.is_closing()

    def fail(self, error: TransportError) -> None:
        """End the call, if there is one, and the connection."""
        self._failure = self._failure or error
        self._body, self._rest = b"", []
        self._settle(error)
        self.close()

    def close(self) -> None:
        """Close the connection at once. Safe twice."""
        self._is_spoiled = True
        self._transport.abort()
        self._on_end(self)

    def _settle(self, outcome: Answer | TransportError | None) -> None:
        answered, self._answered = self._answered, None
        if answered is None or answered.done():  # cancelled
            return
        if isinstance(outcome, TransportError):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)

    def _end(self) -> None:
        """The answer is whole."""
        gzip, body, rest = self._gzip, self._body, self._rest
        if gzip is not None and not gzip.eof and self._has_body:
            self.fail(Ambiguous("the answer ends within its gzip"))
            return
        self._gzip, self._body, self._rest = None, b"", []  # an idle connection holds no answer
        whole = b"".join((body, *rest)) if rest else body
        self._settle(Answer(self._status, AnswerHeaders(self._headers), whole))

    def _take(self, data: bytes) -> None:
        """Take in a piece of the body as it was sent."""
        if self._waiting is not None:
            self._waiting += data
            return
        self._has_body = True
        rest = b""
        room_bytes = self._taken_max - self._size_bytes + 1  # never 0: to zlib it has no limit
        if self._gzip is not None:
            try:
                data = self._gzip.decompress(data, room_bytes)
            except zlib.error:
                self.fail(Ambiguous("the answer is not the gzip that it says it is"))
                return
            if self._gzip.unused_data:
                self.fail(Ambiguous("the answer goes on behind the end of its gzip"))
                return
            rest = self._gzip.unconsumed_tail
        elif len(data) > room_bytes:
            data, rest = data[:room_bytes], data[room_bytes:]
        if not self._body:
            self._body = data
        else:
            self._add_piece(data)
        self._size_bytes += len(data)
        if self._size_bytes > self._taken_max:
            self._pass_taken_max(rest)

    def _add_piece(self, data: bytes) -> None:
        """Long pieces are copied together in the end alone; many short ones, of a byte or two,
        would fill the memory."""
        rest = self._rest
        if len(data) >= PIECE_BYTES_MIN:
            rest.append(data)
        elif rest and isinstance(rest[-1], bytearray):
            rest[-1] += data
        else:
            rest.append(bytearray(data))

    def _pass_taken_max(self, rest: bytes) -> None:
        if self._taken_max == self._bytes_max:
            self.fail(AnswerTooLarge(f"the answer is larger than {self._bytes_max} bytes"))
            return
        self._waiting = bytearray(rest)
        self._transport.pause_reading()
        self._settle(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if sys.platform == "linux":  # the option exists there alone
            connected: socket.socket = transport.get_extra_info("socket")
            stall_ms = int(WRITE_STALL_S * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)

    def data_received(self, data: bytes) -> None:
        if self._answered is None and self._waiting is None:
            self.close()  # nobody has asked
            return
        size_bytes = self._size_bytes
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.fail(Ambiguous(_NOT_HTTP))
            return
        if self._size_bytes == size_bytes and not self._is_whole:
            self._overhead_bytes += len(data)
            if self._overhead_bytes > OVERHEAD_BYTES_MAX:
                self.fail(Ambiguous("64 KiB of the answer came without any of its body"))

    def eof_received(self) -> None:
        # The loop would first send what is left of the request, to a server that may not read it.
        self._on_last_byte(None)
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._on_last_byte(error)
        self._is_spoiled = True
        self._on_end(self)
        del self._parser  # it holds this connection: without it both are gone at once

    def _on_last_byte(self, error: Exception | None) -> None:
        if self._is_whole or (self._answered is None and self._waiting is None):
            return
        if error is None and self._ends_with_connection():
            self._is_whole = True
            if self._waiting is None:
                self._end()
        else:
            self.fail(Ambiguous(_BROKEN.format(_EARLY if error is None else _reason(error))))

    def _ends_with_connection(self) -> bool:
        """Whether the end of the body is that of the connection (RFC 9112, section 6.3)."""
        names = {name.lower() for name, _ in self._headers}
        return not self._is_in_head and not names & {b"content-length", b"transfer-encoding"}

    # httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        if self._is_whole:  # a second answer, which nobody has asked for
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # not of a trailer, nor of a second answer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_whole:
            return
        self._is_in_head = False
        self._status = self._parser.get_status_code()
        if len(self._headers) > HEADERS_MAX:
            self.fail(Ambiguous(f"the answer has more than {HEADERS_MAX} headers"))
        if self._status < _FINAL_STATUS:
            return
        for name, value in self._headers:
            if len(name) == _ENCODING_LENGTH and name.lower() == _ENCODING:
                if value.strip().lower() in _GZIPS:
                    self._gzip = zlib.decompressobj(_GZIP_WBITS)
                return

    def on_body(self, data: bytes) -> None:
        if not self._is_whole and (self._answered is not None or self._waiting is not None):
            self._take(data)

    def on_message_complete(self) -> None:
        if self._is_whole:
            return
        if self._status < _FINAL_STATUS:  # `100 Continue` and its like: the answer is still to come
            if self._has_body:  # they have no body (RFC 9110, section 15.2)
                self.fail(Ambiguous(_NOT_HTTP))
            self._headers.clear()
            self._is_in_head = True
            return
        self._is_whole = True
        self._is_kept = self._parser.should_keep_alive()
        if self._waiting is None and self._answered is not None:
            self._end()


class AnswerHeaders(Mapping[str, str]):
    """The headers of an answer, names in lower case. Of a repeated one the first value counts; a
    value that is not text is left out."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return str(value)

    def get(self, name: str, default: Any = None) -> Any:
        """As in every mapping, without an error on the way."""
        wanted = name.encode()
        length = len(wanted)
        for given, value in self._raw:
            if len(given) == length and given.lower() == wanted:
                return value.decode().strip() if value.isascii() else default
        return default

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(name.lower() for name, _ in self._raw if name.isascii())
        return (name for name in (given.decode() for given in names) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"AnswerHeaders({dict(self)})"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
