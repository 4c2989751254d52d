"""What a connection may do before a request is whole: uvicorn's protocol has no bound on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from batchwright.server.errors import error_object
from batchwright.server.settings import ServerSettings

HEAD_BYTES_MAX = 32 * 2**10
"""The most that may come in a row without being a body or ending the headers of a request."""


class Door:
    """What the connections of one server share."""

    def __init__(self, settings: ServerSettings, random_bytes: Callable[[int], bytes]) -> None:
        self.head_s = settings.head_s
        self.random_bytes = random_bytes
        self._connections_max = settings.connections_max
        self._per_address_max = settings.connections_per_address_max
        self._per_address: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count a connection; False if it is one too many."""
        self._per_address[address] += 1
        most = self._per_address_max
        if most is not None and self._per_address[address] > most:
            return False
        return self._per_address.total() <= self._connections_max

    def leave(self, address: str) -> None:
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds on connections, on the time of a head and on the bytes outside bodies.

    Trailers and the spaces between requests are held to the bound of a head too.
    """

    door: Door  # set by `guarded_protocol`
    _address = ""
    _is_in_head = True
    _has_advanced = False
    _idle_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override] # as uvicorn's
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if self.door.enter(self._address):
            self._await_head()
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self._address)
        self._end_wait()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._is_in_head and self._deadline is None:
            self._await_head()
        self._has_advanced = False
        super().data_received(data)
        self._idle_bytes = 0 if self._has_advanced else self._idle_bytes + len(data)
        if self._idle_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(431, "The headers of the request are too long.")

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._has_advanced = True
        self._end_wait()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.door.head_s, self._give_up)

    def _end_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._owes_answer():  # something came behind a request that we still work on
            self._await_head()
        else:
            self.transport.close()

    def _owes_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        """Answer what never reaches the application, and close."""
        if not (self._owes_answer() and self.cycle.response_started):
            body = error_object(status, message)
            request_id = self.door.random_bytes(16).hex().encode()
            self.transport.write(
                b"%bcontent-type: application/json\r\ncontent-length: %d\r\n"
                b"cache-control: no-store\r\nx-request-id: req_%b\r\nconnection: close\r\n\r\n%b"
                % (STATUS_LINE[status], len(body), request_id, body)
            )
        self.transport.close()


def guarded_protocol(
    settings: ServerSettings, random_bytes: Callable[[int], bytes]
) -> type[GuardedProtocol]:
    """The protocol class of one server, for `uvicorn.Config(http=…)`."""

    class Protocol(GuardedProtocol):
        door = Door(settings, random_bytes)

    return Protocol
