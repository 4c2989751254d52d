"""The client for plain HTTP, byte by byte: a connection whose other end the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from batchwright.providers.http1.connection import Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Wire(asyncio.Transport):
    """The other end, played by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_aborted = False
        self.is_reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def setsockopt(self, *_: int) -> None: ...

    def writelines(self, parts: Any) -> None:
        self.sent += b"".join(parts)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def connected(
    on_end: Callable[[Connection], None] = lambda ended: None,
) -> tuple[Connection, Wire]:
    connection, wire = Connection(on_end), Wire()
    connection.connection_made(wire)
    return connection, wire


def answered(body: bytes, headers: bytes = b"") -> bytes:
    return OK + headers + b"content-length: %d\r\n\r\n%b" % (len(body), body)
