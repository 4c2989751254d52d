"""The transport: a pool of connections, and the way of a call over one of them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from batchwright.domain.errors import Ambiguous, NotSent
from batchwright.providers.base import Answer, Call, StreamedAnswer
from batchwright.providers.http1.connection import Connection
from batchwright.providers.http1.deadlines import Deadlines
from batchwright.providers.http1.head import Address, Head
from batchwright.providers.large_answers import LargeAnswers
from batchwright.providers.transport import CONNECT_TIMEOUT_S, IDLE_TIMEOUT_S, HttpTransport

KNOWN_HEADS_MAX = 64


class Http1Transport:
    """Calls over plain HTTP/1.1, with a pool of connections. Build once, use for every call.

    Proxies are never used, redirects not followed, cookies not kept.
    """

    __slots__ = (
        "_connect_timeout_s",
        "_deadlines",
        "_heads",
        "_idle",
        "_is_closed",
        "_large",
        "_streams",
        "_sweeper",
    )

    def __init__(self, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._is_closed = False
        self._large = LargeAnswers()
        self._heads: dict[tuple[str, str, int], Head] = {}
        # By address; of each the one that was used last is the last.
        self._idle: dict[Address, dict[Connection, None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None  # while there are idle ones
        self._deadlines: dict[float, Deadlines] = {}  # by timeout
        self._streams: HttpTransport | None = None

    async def send(self, call: Call) -> Answer:
        """Make one call and read its whole answer. See `Transport.send`."""
        head = self._head(call)
        connection = self._take_idle(head.address)
        if connection is None:
            connection = await self._connect(head.address, call.timeout_s)
        body = call.body
        try:
            answered = connection.begin(head.of(body), body, call.answer_bytes_max)
            deadlines = self._deadlines_of(call.timeout_s)
            deadlines.add(connection)
            try:
                answer = await answered
                if answer is None:
                    async with self._large.room_for(call):
                        answer = await connection.go_on()
            finally:
                deadlines.remove(connection)
        except BaseException:
            connection.close()
            raise
        if connection.is_reusable():
            self._keep(connection, head.address)
        return answer  # type: ignore[return-value] # a second `None` never comes

    def stream(self, call: Call) -> AbstractAsyncContextManager[StreamedAnswer]:
        """Make one call and hand out its answer while it arrives. See `Transport.stream`."""
        if self._streams is None:
            self._streams = HttpTransport(connect_timeout_s=self._connect_timeout_s)
        return self._streams.stream(call)

    async def close(self) -> None:
        """Close every connection; calls under way end as `Ambiguous`. Safe twice."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for idle in self._idle.values():
            for connection in [*idle]:
                connection.close()
        self._idle.clear()
        for deadlines in self._deadlines.values():
            deadlines.end_all(Ambiguous("the transport was closed"))
        if self._streams is not None:
            await self._streams.close()

    # Connections

    async def _connect(self, address: Address, timeout_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(min(self._connect_timeout_s, timeout_s)):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._forget), address.host, address.port
                )
        except TimeoutError as error:
            raise NotSent("cannot connect: no answer within the timeout") from error
        except OSError as error:
            raise NotSent(f"cannot connect: {error.strerror or type(error).__name__}") from error
        if self._is_closed:
            connection.close()
            raise NotSent("the transport is closed")
        return connection

    def _take_idle(self, address: Address) -> Connection | None:
        idle = self._idle.get(address)
        return idle.popitem()[0] if idle else None

    def _keep(self, connection: Connection, address: Address) -> None:
        if self._is_closed:
            connection.close()
            return
        self._idle.setdefault(address, {})[connection] = None
        if self._sweeper is None:
            self._sweep_later()

    def _forget(self, connection: Connection) -> None:
        for idle in self._idle.values():  # of an account, so there is one address
            idle.pop(connection, None)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(IDLE_TIMEOUT_S / 2, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long: servers close it soon, and a call might be on its
        way then."""
        since = asyncio.get_running_loop().time() - IDLE_TIMEOUT_S
        for idle in self._idle.values():
            for connection in [each for each in idle if each.idle_since <= since]:
                connection.close()
        self._idle = {address: idle for address, idle in self._idle.items() if idle}
        self._sweeper = None
        if self._idle:
            self._sweep_later()

    def _deadlines_of(self, timeout_s: float) -> Deadlines:
        deadlines = self._deadlines.get(timeout_s)
        if deadlines is None:
            kept = {each.timeout_s: each for each in self._deadlines.values() if each.is_used}
            deadlines = kept[timeout_s] = Deadlines(timeout_s)
            self._deadlines = kept
        return deadlines

    # The head of a request

    def _head(self, call: Call) -> Head:
        if self._is_closed:
            raise NotSent("the transport is closed")
        key = (call.method, call.url, id(call.headers))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= KNOWN_HEADS_MAX:
                self._heads.clear()
            head = self._heads[key] = Head.made(call)
        return head
