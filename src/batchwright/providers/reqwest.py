"""HTTP with all that comes with it: `pyreqwest` (Rust `reqwest`) behind the `Transport` protocol.

For TLS, proxies and answers that are passed on while they arrive. Calls over plain HTTP to an
upstream that is at hand have a client of their own (`http1`).

Rules of this module, learned from pyreqwest 0.15:

- Cancelling a Python task does not end its call: the call goes on in the client's own thread
  until an answer or its timeout. So every call carries a timeout, and `send` holds on: a
  cancelled `send` raises `CancelledError` when the call has really ended, and its slot is free.
- Nothing but the timeout or an answer ends a call, not even closing the client while the body
  is being read. So `close` lets go of the calls that are held only because they were cancelled.
- The calls that it let go of go on in the client's thread. A wake-up that comes while the
  interpreter goes down aborts the process (seen with 3.11). So their coroutines are closed, which
  takes their wakers away, and `close` gives one that has begun the time to end: of programs that
  end just after, 8 of 340 aborted before and none of 250 since. Commands leave without taking the
  interpreter down at all (`cli._leave`).
- Closing the client leaves its idle connections open; they go with its last reference.
- A connection whose call was cut short is never used again (the client closes it).
- `max_connections` is not used: cancelled calls leak its permits. The limiter bounds the calls.
- Its `read_timeout` also runs while the first byte is awaited, and its `timeout` alone does not
  tell a stalled answer from a slow one. A model may think for minutes before it says anything, so
  the call's timeout is the only one.
- Answers are read as a stream up to a cap on the *decoded* bytes, so a gzip bomb stops there.
- The classes of its errors mislead (a request that timed out waiting for its answer is a
  `ConnectTimeoutError`). The cause `client error (Connect)` alone says that nothing was sent.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from types import coroutine
from typing import Any, TypeVar

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError
from pyreqwest.http import HeaderMap, Url
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from batchwright.domain.errors import (
    Ambiguous,
    AnswerTooLarge,
    ConfigError,
    NotSent,
    TransportError,
)
from batchwright.providers.base import (
    CONNECT_TIMEOUT_S,
    LARGE_ANSWER_BYTES,
    WRITE_STALL_S,
    Answer,
    Call,
)
from batchwright.providers.large_answers import LargeAnswers

T = TypeVar("T")

IDLE_TIMEOUT_S = 30.0  # shorter than most servers keep an idle connection (75 s, 60 s)
KNOWN_HEADERS_MAX = 16
SETTLE_S = 0.05  # for the client's thread to end a wake-up that it has begun

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.DOTALL)
_NOT_SENT = "client error (Connect)"  # hyper-util's name for all that precedes the first byte
_CONNECTING = "error sending request"  # the outermost cause; it names the URL


class ReqwestTransport:
    """Calls over HTTP/1.1, with one pool of connections. Build once, use for every call.

    `ca_file` is a PEM file of further roots to trust (an internal CA). `proxy` is the URL that
    all calls go through; the proxy variables of the environment are ignored. Redirects are not
    followed, cookies are not kept, certificates are always checked.

    A cancelled `send` raises when its call has really ended, at the latest after the call's
    timeout, or at once if the transport is closed.
    """

    __slots__ = ("_client", "_closed", "_headers", "_held", "_large")

    def __init__(
        self,
        *,
        ca_file: str | None = None,
        proxy: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._client: Client | None = _build_client(ca_file, proxy, connect_timeout_s)
        self._closed = False
        self._large = LargeAnswers()
        self._held: dict[asyncio.Task[Any], None] = {}  # cancelled, but not yet ended
        # The headers of an account are one mapping, the same for every call: read once.
        self._headers: dict[int, tuple[Mapping[str, str], HeaderMap]] = {}

    async def send(self, call: Call) -> Answer:
        """Make one call and read its whole answer. See `Transport.send`."""
        request = self._request(call, None)
        response = await self._answer(request)
        try:
            body = await self._read(response, call)
            if len(body) > call.answer_bytes_max:
                raise AnswerTooLarge(f"the answer is larger than {call.answer_bytes_max} bytes")
        except BaseException as error:
            await self._leave(request)
            if isinstance(error, PyreqwestError):
                raise _broken_off(error) from error
            raise
        # The body was read to its end, so the client has its connection back: leaving, which
        # costs as much as the read, is not needed.
        return Answer(response.status, _Headers(response), body)

    async def _read(self, response: Response, call: Call) -> bytes:
        """The body, up to one byte more than the call allows."""
        reader, bytes_max = response.body_reader, call.answer_bytes_max
        head = await _held(reader.read(min(LARGE_ANSWER_BYTES, bytes_max) + 1), self)
        if head is None:
            return b""
        if len(head) <= LARGE_ANSWER_BYTES or len(head) > bytes_max:
            return head.to_bytes()
        async with self._large.room_for(call):
            rest = await _held(reader.read(bytes_max + 1 - len(head)), self)
            return head.to_bytes() + (b"" if rest is None else rest.to_bytes())

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ReqwestStreamedAnswer]:
        """Make one call and hand out its answer while it arrives.

        Leaving early closes the connection. Leaving while a read is under way (a cancelled one)
        returns when the next bytes arrive or at the call's timeout.
        """
        request = self._request(call, 1)
        response = await self._answer(request)
        try:
            yield ReqwestStreamedAnswer(response, call.answer_bytes_max)
        finally:
            await self._leave(request)

    async def close(self) -> None:
        """Close every connection; calls under way end as `Ambiguous`. Safe twice."""
        await asyncio.sleep(0)  # for the tasks that were cancelled just before to come to `_hold`
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()
            del client  # the last reference: idle connections end with it
        if self._held:
            for task in [*self._held]:
                task.cancel()
            await asyncio.sleep(SETTLE_S)

    async def _answer(self, request: StreamRequest) -> Response:
        """The answer, of which the body is still to come."""
        try:
            return await _held(request.__aenter__(), self)
        except PyreqwestError as error:
            raise _translated(error) from error
        except asyncio.CancelledError:
            with suppress(RuntimeError):  # raised if there is nothing to leave
                await self._leave(request)  # it may have been answered meanwhile
            raise

    async def _leave(self, request: StreamRequest) -> None:
        # It waits for a read that is under way, and closing the client does not end that.
        if not self._closed:
            await _held(request.__aexit__(None, None, None), self)

    def _request(self, call: Call, buffer_bytes: int | None) -> StreamRequest:
        if self._client is None:
            raise NotSent("the transport is closed")
        try:
            builder = self._client.request(call.method, _parsed(call.url))
            builder = builder.headers(self._header_map(call.headers))
            if call.body:
                builder = builder.body_bytes(call.body)
            if buffer_bytes is not None:
                builder = builder.streamed_read_buffer_limit(buffer_bytes)
            return builder.timeout(_span(call.timeout_s)).build_streamed()
        except (PyreqwestError, ValueError) as error:
            raise NotSent(f"the call cannot be built: {type(error).__name__}") from error

    def _header_map(self, headers: Mapping[str, str]) -> HeaderMap:
        known = self._headers.get(id(headers))
        if known is not None:
            return known[1]
        if len(self._headers) >= KNOWN_HEADERS_MAX:
            self._headers.clear()
        header_map = HeaderMap(headers)
        self._headers[id(headers)] = (headers, header_map)  # holding it, its id stays its own
        return header_map


class ReqwestStreamedAnswer:
    """An answer whose body is still arriving."""

    __slots__ = ("_bytes_max", "_response", "headers", "status")

    def __init__(self, response: Response, bytes_max: int) -> None:
        self._response = response
        self._bytes_max = bytes_max
        self.status = response.status
        self.headers: Mapping[str, str] = _Headers(response)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `Ambiguous`, or `AnswerTooLarge` beyond the cap."""
        reader = self._response.body_reader
        received_bytes = 0
        while True:
            try:
                chunk = await reader.read_chunk()
            except PyreqwestError as error:
                raise _broken_off(error) from error
            if chunk is None:
                return
            received_bytes += len(chunk)
            if received_bytes > self._bytes_max:
                raise AnswerTooLarge(f"the answer is larger than {self._bytes_max} bytes")
            yield chunk.to_bytes()


class _Headers(Mapping[str, str]):
    """A view of an answer's headers that costs nothing until it is used.

    Of a repeated header the first value counts. A value that is not text is left out.
    """

    __slots__ = ("_response",)

    def __init__(self, response: Response) -> None:
        self._response = response

    def __getitem__(self, name: str) -> str:
        try:
            return self._response.headers[name]
        except ValueError:
            raise KeyError(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """As in every mapping, at the speed of the client's own look-up."""
        try:
            return self._response.headers.get(name, default)
        except ValueError:
            return default

    def __iter__(self) -> Iterator[str]:
        return (name for name in dict.fromkeys(self._response.headers) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"_Headers({dict(self)})"


@coroutine
def _held(awaited: Coroutine[Any, Any, T], transport: ReqwestTransport) -> Generator[Any, Any, T]:
    """Await a coroutine of the client to its real end, whatever happens to the task.

    `Task.cancel` cancels the future that the task waits on, and throws `CancelledError` in here.
    It is not passed on: the coroutine is asked again and waits on a new future. This is what
    `asyncio.shield` does with a task and a future for each call; here a call that is not
    cancelled pays for one generator.
    """
    resume = awaited.send
    try:
        while True:
            yield resume(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except asyncio.CancelledError:
        yield from _hold(awaited, transport)
        raise


def _hold(
    awaited: Coroutine[Any, Any, T], transport: ReqwestTransport
) -> Generator[Any, Any, None]:
    """Wait for the end of a cancelled call, whose outcome nobody wants any more."""
    task = asyncio.current_task()
    if task is None:
        return
    transport._held[task] = None
    try:
        while not transport._closed:
            try:
                yield awaited.send(None)
            except asyncio.CancelledError:  # cancelled again, perhaps by `close`
                continue
            except (StopIteration, PyreqwestError):
                return
    finally:
        transport._held.pop(task, None)
        awaited.close()  # nobody is to be woken for it any more


@lru_cache(maxsize=64)
def _parsed(url: str) -> Url:
    return Url(url)


@lru_cache(maxsize=64)
def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def _build_client(ca_file: str | None, proxy: str | None, connect_timeout_s: float) -> Client:
    builder = (
        ClientBuilder()
        .user_agent("batchwright")
        .follow_redirects(False)
        .referer(False)
        .default_cookie_store(False)
        .no_proxy()
        .gzip(True)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .connect_timeout(timedelta(seconds=connect_timeout_s))
        .pool_idle_timeout(timedelta(seconds=IDLE_TIMEOUT_S))
    )
    if sys.platform == "linux":  # the option exists there alone
        builder = builder.tcp_user_timeout(timedelta(seconds=WRITE_STALL_S))
    if proxy is not None:
        builder = builder.proxy(_proxy(proxy))
    for certificate in _certificates(ca_file):
        builder = builder.add_root_certificate_pem(certificate)
    try:
        return builder.build()
    except PyreqwestError as error:
        raise ConfigError(f"the HTTP client cannot be built: {_reason(error)}") from error


def _proxy(url: str) -> ProxyBuilder:
    try:
        return ProxyBuilder.all(url)
    except (PyreqwestError, ValueError) as error:
        # The URL may carry a password: it is not repeated.
        raise ConfigError(
            "proxy: expected a URL such as http://proxy.internal:3128", param="proxy"
        ) from error


def _certificates(ca_file: str | None) -> list[bytes]:
    if ca_file is None:
        return []
    try:
        found = _PEM.findall(Path(ca_file).read_bytes())
    except OSError as error:
        raise ConfigError(f"ca_file: cannot read {ca_file}: {error.strerror}") from error
    if not found:
        raise ConfigError(f"ca_file: expected PEM certificates, found none in {ca_file}")
    return found


def _translated(error: PyreqwestError) -> TransportError:
    """What became of a call that brought no status and headers."""
    if _NOT_SENT in _causes(error):
        return NotSent(f"cannot connect: {_reason(error)}")
    return _broken_off(error)


def _broken_off(error: PyreqwestError) -> Ambiguous:
    if isinstance(error, RequestTimeoutError):
        return Ambiguous("no complete answer within the timeout")
    return Ambiguous(f"the connection broke: {_reason(error)}")


def _reason(error: PyreqwestError) -> str:
    """The innermost causes, without the URL (it may carry a key)."""
    causes = [cause for cause in _causes(error) if not cause.startswith(_CONNECTING)]
    return ": ".join(causes[-2:]) or error.message


def _causes(error: PyreqwestError) -> list[str]:
    details = getattr(error, "details", None) or {}
    return [cause["message"] for cause in details.get("causes") or []]
