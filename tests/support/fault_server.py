"""An HTTP/1.1 server on loopback whose every fault is chosen by the path of the request.

It counts what a client leaves behind: open connections, requests received, requests whose
client went away. Tests wait on `until(...)` and never for a time.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def answer(body: bytes, *, head: bytes = JSON_HEAD) -> bytes:
    """A whole HTTP answer with its content-length."""
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def gzip_bomb(size_bytes: int) -> bytes:
    """About a thousandth of `size_bytes`, which it becomes when decoded."""
    block = gzip.compress(bytes(MIB))
    return block if size_bytes <= MIB else gzip.compress(bytes(size_bytes), compresslevel=9)


@dataclass(slots=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.writer.transport.abort()


Behaviour = Callable[["FaultServer", Connection, Received], Awaitable[None]]


class _Ended(Exception):
    """A behaviour has ended the connection."""


@dataclass(slots=True)
class FaultServer:
    """Use `serve_faults()`. `release` lets every `/hang` and `/gate` go on."""

    url: str = ""
    open_connections: int = 0
    connections: int = 0
    requests: list[Received] = field(default_factory=list)
    sent_chunks: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def until(self, predicate: Callable[[FaultServer], bool], timeout_s: float = 10) -> None:
        """Wait until `predicate(self)` holds; the timeout only turns a hang into a failure."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: predicate(self))

    async def notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            await self._serve(Connection(reader, writer))
        except _Ended:
            writer.close()  # what was sent still arrives
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # nobody reads what is still buffered
        finally:
            with suppress(OSError):
                await writer.wait_closed()
            self.open_connections -= 1
            self._tasks.discard(task)
            await self.notify()

    async def _serve(self, connection: Connection) -> None:
        while True:
            request = await _read_request(connection.reader)
            self.requests.append(request)
            await self.notify()
            behaviour = BEHAVIOURS.get(request.path.partition("?")[0], echo)
            await _while_connected(connection, behaviour(self, connection, request))

    async def close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _while_connected(connection: Connection, work: Awaitable[None]) -> None:
    """Run a behaviour, but stop as soon as the client closes its side."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_client_closed(connection.reader))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ConnectionResetError("the client left")
        doing.result()
    finally:
        doing.cancel()
        gone.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _client_closed(reader: asyncio.StreamReader) -> None:
    # A client of HTTP/1.1 without pipelining sends nothing before its answer is complete,
    # so whatever ends this wait without data is the end of the connection.
    while not reader.at_eof():
        await reader._wait_for_data("closed")  # type: ignore[attr-defined]
        if reader._buffer:  # type: ignore[attr-defined]
            return


async def _read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if path == "/early":
        return Received(method, path, headers, b"")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


async def echo(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(answer(request.body))


async def hang(server: FaultServer, connection: Connection, request: Received) -> None:
    await server.release.wait()
    await connection.send(answer(request.body))


async def gate(server: FaultServer, connection: Connection, request: Received) -> None:
    """One small chunk at once, the second only after `release`."""
    await connection.send(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    await server.release.wait()
    await connection.send(b"6\r\nsecond\r\n0\r\n\r\n")


async def drip(server: FaultServer, connection: Connection, request: Received) -> None:
    """A byte now and then, for ever: only a limit on the whole call ends it."""
    await connection.send(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        await connection.send(b"1\r\n \r\n")
        await asyncio.sleep(0.01)


async def infinite(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n")
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while True:
        await connection.send(block)
        server.sent_chunks += 1


async def late_and_infinite(server: FaultServer, connection: Connection, request: Received) -> None:
    await server.release.wait()
    await infinite(server, connection, request)


async def bomb(server: FaultServer, connection: Connection, request: Received) -> None:
    """64 MiB in 64 KiB of gzip, again and again as members of one body."""
    head = JSON_HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    await connection.send(head)
    member = gzip_bomb(64 * MIB)
    while True:
        await connection.send(b"%x\r\n%s\r\n" % (len(member), member))
        server.sent_chunks += 1


async def gzipped(server: FaultServer, connection: Connection, request: Received) -> None:
    head = JSON_HEAD + b"content-encoding: gzip\r\n"
    await connection.send(answer(gzip.compress(request.body), head=head))


async def brotli(server: FaultServer, connection: Connection, request: Received) -> None:
    head = JSON_HEAD + b"content-encoding: br\r\n"
    await connection.send(answer(b"not decoded", head=head))


async def close_at_once(server: FaultServer, connection: Connection, request: Received) -> None:
    raise _Ended


async def reset_at_once(server: FaultServer, connection: Connection, request: Received) -> None:
    connection.reset()
    raise _Ended


async def close_in_headers(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(JSON_HEAD)
    raise _Ended


async def close_in_body(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(JSON_HEAD + b'content-length: 100\r\n\r\n{"half":')
    raise _Ended


async def no_last_chunk(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    raise _Ended


async def cut_gzip(server: FaultServer, connection: Connection, request: Received) -> None:
    head = JSON_HEAD + b"content-encoding: gzip\r\n"
    await connection.send(answer(gzip.compress(request.body)[:-9], head=head))


async def not_http(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    raise _Ended


async def unsolicited(server: FaultServer, connection: Connection, request: Received) -> None:
    """Two answers to one request: the second belongs to nobody."""
    await connection.send(answer(b'{"whose":"first"}') + answer(b'{"whose":"nobody"}'))


async def many_headers(server: FaultServer, connection: Connection, request: Received) -> None:
    head = JSON_HEAD + b"".join(b"x-%d: y\r\n" % i for i in range(1000))
    await connection.send(answer(b"{}", head=head))


async def huge_header(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(answer(b"{}", head=JSON_HEAD + b"x: " + b"y" * MIB + b"\r\n"))


async def odd_header(server: FaultServer, connection: Connection, request: Received) -> None:
    head = b"HTTP/1.1 200 OK\r\nx-odd: \xff\xfe\r\nX-Two: a\r\nX-Two: b\r\n"
    await connection.send(answer(b"{}", head=head))


async def late(server: FaultServer, connection: Connection, request: Received) -> None:
    """An answer that comes when most clients with a short timeout have left."""
    await asyncio.sleep(0.02)
    await connection.send(answer(request.body))


async def redirect(server: FaultServer, connection: Connection, request: Received) -> None:
    head = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\n"
    await connection.send(answer(b"", head=head))


async def set_cookie(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(answer(b"{}", head=JSON_HEAD + b"set-cookie: a=b\r\n"))


async def rate_limited(server: FaultServer, connection: Connection, request: Received) -> None:
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nX-Request-Id: r1\r\n"
    await connection.send(answer(b'{"error":{}}', head=head))


async def models(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(answer(b'{"object":"list","data":[{"id":"b-1"},{"id":"a-2"}]}'))


async def greeted(server: FaultServer, connection: Connection, request: Received) -> None:
    """What a server may say before its answer (RFC 9110, section 15.2)."""
    await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")
    await connection.send(answer(request.body))


async def until_closed(server: FaultServer, connection: Connection, request: Received) -> None:
    """A body without a length: it ends with the connection."""
    await connection.send(JSON_HEAD + b"\r\n" + request.body)
    raise _Ended


async def not_kept(server: FaultServer, connection: Connection, request: Received) -> None:
    await connection.send(answer(request.body, head=JSON_HEAD + b"connection: close\r\n"))


async def switched(server: FaultServer, connection: Connection, request: Received) -> None:
    """An upgrade that nobody asked for."""
    await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")
    raise _Ended


async def trailed(server: FaultServer, connection: Connection, request: Received) -> None:
    head = JSON_HEAD + b"transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
    await connection.send(head + b"5\r\nfirst\r\n0\r\nx-sum: 1\r\n\r\n")


async def early(server: FaultServer, connection: Connection, request: Received) -> None:
    """An answer before the body of the request was read, which it never is."""
    head = b"HTTP/1.1 413 Content Too Large\r\n"
    await connection.send(answer(b'{"error":{}}', head=head))
    await server.release.wait()


async def cut_off(server: FaultServer, connection: Connection, request: Received) -> None:
    """Its side is closed half-way, and nothing more is read."""
    await connection.send(JSON_HEAD + b"content-length: 100\r\n\r\nhalf")
    connection.writer.write_eof()
    await server.release.wait()


BEHAVIOURS: dict[str, Behaviour] = {
    "/early": early,
    "/cut-off": cut_off,
    "/late-and-infinite": late_and_infinite,
    "/greeted": greeted,
    "/until-closed": until_closed,
    "/not-kept": not_kept,
    "/switched": switched,
    "/trailed": trailed,
    "/hang": hang,
    "/gate": gate,
    "/drip": drip,
    "/infinite": infinite,
    "/bomb": bomb,
    "/gzipped": gzipped,
    "/brotli": brotli,
    "/close-at-once": close_at_once,
    "/reset-at-once": reset_at_once,
    "/close-in-headers": close_in_headers,
    "/close-in-body": close_in_body,
    "/no-last-chunk": no_last_chunk,
    "/cut-gzip": cut_gzip,
    "/not-http": not_http,
    "/unsolicited": unsolicited,
    "/many-headers": many_headers,
    "/huge-header": huge_header,
    "/odd-header": odd_header,
    "/late": late,
    "/redirect": redirect,
    "/set-cookie": set_cookie,
    "/rate-limited": rate_limited,
    "/v1/models": models,
}


@asynccontextmanager
async def serve_faults(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultServer]:
    """A running fault server on a free port; its connections end with the block."""
    faults = FaultServer()
    server = await asyncio.start_server(
        faults.accept, "127.0.0.1", 0, ssl=tls, backlog=2048, limit=4 * MIB
    )
    port = server.sockets[0].getsockname()[1]
    faults.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield faults
    finally:
        server.close()
        await faults.close()
        await server.wait_closed()
