"""The transport: a pool of connections, and the way of a call over one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from batchwright.domain.errors import Ambiguous, NotSent
from batchwright.providers.base import CONNECT_TIMEOUT_S, Answer, Call, StreamedAnswer
from batchwright.providers.http1.connecting import Where, connect
from batchwright.providers.http1.connection import IDLE_TIMEOUT_S, Connection
from batchwright.providers.http1.deadlines import OUT_OF_TIME, Deadlines
from batchwright.providers.http1.head import Address, Head
from batchwright.providers.large_answers import LargeAnswers
from batchwright.providers.reqwest import ReqwestTransport

KNOWN_HEADS_MAX = 64

_CLOSED = "the transport was closed"

Idle = dict[Connection, None]
"""Connections to one address; the one that was used last is the last."""


class Http1Transport:
    """Calls over plain HTTP/1.1, with a pool of connections. Build once, use for every call.

    Proxies are never used, redirects not followed, cookies not kept.
    """

    __slots__ = (
        "_connect_timeout_s",
        "_deadlines",
        "_failed",
        "_heads",
        "_idle",
        "_is_closed",
        "_large",
        "_streams",
        "_sweeper",
        "_waits",
    )

    def __init__(self, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._is_closed = False
        self._large = LargeAnswers()
        self._heads: dict[tuple[str, str, int], tuple[Head, Idle]] = {}
        self._idle: dict[Address, Idle] = {}  # of an account, so there is one address
        self._failed: dict[Address, set[Where]] = {}  # which addresses of a host, of late
        self._sweeper: asyncio.TimerHandle | None = None  # while there are idle ones
        self._deadlines: dict[float, Deadlines] = {}  # by timeout
        self._waits: dict[asyncio.Timeout, None] = {}  # of calls that wait without a connection
        self._streams: ReqwestTransport | None = None

    async def send(self, call: Call) -> Answer:
        """Make one call and read its whole answer. See `Transport.send`."""
        (head, idle), timeout_s = self._head(call), call.timeout_s
        connection = _take(idle)
        if connection is None:
            loop = asyncio.get_running_loop()
            started = loop.time()
            connection = await self._connect(head.address, timeout_s)
            # In whole seconds, so that calls still share a timer with others.
            timeout_s -= int(loop.time() - started)
        body = call.body
        try:
            answered = connection.begin(head.of(body), body, call.answer_bytes_max)
            deadlines = self._deadlines_of(timeout_s)
            deadline = deadlines.add(connection)
            try:
                answer = await answered
                if answer is None:
                    answer = await self._receive_large(call, connection, deadline)
            finally:
                deadlines.remove(connection)
        except BaseException:
            connection.close()
            raise
        if connection.is_reusable():
            self._keep(connection, idle)
        return answer

    async def _receive_large(self, call: Call, connection: Connection, deadline: float) -> Answer:
        """The rest of a large answer, once there is room for it."""
        try:
            async with self._wait_until(deadline), self._large.room_for(call):
                return await connection.go_on()  # type: ignore[return-value] # no second `None`
        except TimeoutError as error:
            raise Ambiguous(_CLOSED if self._is_closed else OUT_OF_TIME) from error

    def stream(self, call: Call) -> AbstractAsyncContextManager[StreamedAnswer]:
        """Make one call and hand out its answer while it arrives. See `Transport.stream`."""
        if self._streams is None:
            self._streams = ReqwestTransport(connect_timeout_s=self._connect_timeout_s)
        return self._streams.stream(call)

    async def close(self) -> None:
        """Close every connection; calls under way end as `Ambiguous`. Safe twice."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for idle in self._idle.values():
            for connection in [*idle]:
                connection.close()
        for deadlines in self._deadlines.values():
            deadlines.end_all(Ambiguous(_CLOSED))
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now)
        if self._streams is not None:
            await self._streams.close()

    # Connections

    async def _connect(self, address: Address, timeout_s: float) -> Connection:
        deadline = asyncio.get_running_loop().time() + min(self._connect_timeout_s, timeout_s)
        try:
            async with self._wait_until(deadline):
                connection = await connect(address, lambda: Connection(self._forget), self._failed)
        except TimeoutError as error:
            raise NotSent("cannot connect: no answer within the timeout") from error
        if self._is_closed:
            connection.close()
            raise NotSent("the transport is closed")
        return connection

    def _keep(self, connection: Connection, idle: Idle) -> None:
        if self._is_closed:
            connection.close()
            return
        idle[connection] = None
        if self._sweeper is None:
            self._sweep_later()

    def _forget(self, connection: Connection) -> None:
        for idle in self._idle.values():
            idle.pop(connection, None)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(IDLE_TIMEOUT_S / 2, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        for idle in self._idle.values():
            for connection in [each for each in idle if not each.is_fresh()]:
                connection.close()
        self._sweeper = None
        if any(self._idle.values()):
            self._sweep_later()

    @asynccontextmanager
    async def _wait_until(self, deadline: float) -> AsyncIterator[None]:
        """Raises `TimeoutError` if that comes first, or the end of the transport."""
        async with asyncio.timeout_at(deadline) as wait:
            self._waits[wait] = None
            try:
                yield
            finally:
                del self._waits[wait]

    def _deadlines_of(self, timeout_s: float) -> Deadlines:
        deadlines = self._deadlines.get(timeout_s)
        if deadlines is None:
            for unused in [each for each in self._deadlines.values() if not each.is_used]:
                unused.stop()
                del self._deadlines[unused.timeout_s]
            deadlines = self._deadlines[timeout_s] = Deadlines(timeout_s)
        return deadlines

    # The head of a request

    def _head(self, call: Call) -> tuple[Head, Idle]:
        """It, and the idle connections to where it goes."""
        if self._is_closed:
            raise NotSent("the transport is closed")
        key = (call.method, call.url, id(call.headers))
        known = self._heads.get(key)
        if known is None:
            if len(self._heads) >= KNOWN_HEADS_MAX:
                self._heads.clear()
            head = Head.made(call)
            known = self._heads[key] = head, self._idle.setdefault(head.address, {})
        return known


def _take(idle: Idle) -> Connection | None:
    while idle:
        connection, _ = idle.popitem()
        if connection.is_fresh():
            return connection
        connection.close()
    return None
