"""The sandbox as a server: HTTP/1.1 on a plain asyncio protocol.

A connection answers one request at a time and in order; what a client sends ahead waits. Reading
stops while answers do not go out or too much waits, so a connection holds a bounded amount.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import cast

from batchwright.sandbox.answers import encode
from batchwright.sandbox.ledger import Ledger
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.replies import Ending, Hold, Reply, whole
from batchwright.sandbox.upstream import Planned, Upstream, bad_request
from batchwright.sandbox.wire import CONTINUE, Request, RequestReader, WireError

BACKLOG = 4096
AHEAD_BYTES_MAX = 1024 * 1024  # sent ahead by a client whose request is being answered
GC_THRESHOLD = 100_000  # answers are built of dicts without cycles: there is little to find
RELEASE_PATH = "/sandbox/release"
HELD_PATH = "/sandbox/held"


def run_sandbox(options: SandboxOptions, tls: ssl.SSLContext | None = None) -> None:
    """Serve until SIGTERM or SIGINT; over TLS where there is a context for it.

    Prints `sandbox listening on http://HOST:PORT/v1` once it can be reached. Raises `OSError` if
    the port is taken or the ledger cannot be written.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(options, announce=_print_ready, tls=tls))


async def serve(
    options: SandboxOptions,
    *,
    announce: Callable[[str], None],
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve in a running event loop until SIGTERM or SIGINT; `announce` is given the base URL."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ledger = Ledger(options.ledger, loop.call_later) if options.ledger is not None else None
    holds = Holds()
    connections: set[Connection] = set()
    upstream = Upstream(
        options,
        start_id=time.time_ns() // 1000,
        record=None if ledger is None else _recorder(ledger),
        start_s=loop.time(),
    )
    try:
        server = await loop.create_server(
            lambda: Connection(loop, upstream, holds, connections),
            options.host,
            options.port,
            backlog=BACKLOG,
            ssl=tls,
        )
        host, port = server.sockets[0].getsockname()[:2]
        announce(f"{'http' if tls is None else 'https'}://{host}:{port}/v1")
        await stop.wait()
        server.close()
        for connection in list(connections):
            connection.abort()
    finally:
        if ledger is not None:
            ledger.close()


class Holds:
    """The answers that wait for `POST /sandbox/release`."""

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._count = 0

    async def wait(self) -> None:
        """Wait for the next release."""
        self._count += 1
        try:
            await self._released.wait()
        finally:
            self._count -= 1

    def answer(self, request: Request) -> Reply | None:
        """The answer to a request that asks about what is held, or lets it go."""
        if request.head.path == HELD_PATH:
            return whole(200, {}, encode({"held": self._count}))
        if request.head.path != RELEASE_PATH:
            return None
        self._released.set()
        self._released = asyncio.Event()
        return whole(200, {}, encode({"released": self._count}))


class Connection(asyncio.Protocol):
    """One client. Reads a request, has it planned, plays the reply, goes on to the next."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        upstream: Upstream,
        holds: Holds,
        connections: set[Connection],
    ) -> None:
        self._loop = loop
        self._upstream = upstream
        self._holds = holds
        self._connections = connections
        self._reader = RequestReader()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._is_busy = False  # a reply is being waited for or played
        self._has_ended = False
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._timer: asyncio.TimerHandle | None = None
        self._player: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._player is not None:
            self._player.cancel()

    def pause_writing(self) -> None:
        self._can_write.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._can_write.set()
        self._transport.resume_reading()
        self._answer_waiting()

    def data_received(self, data: bytes) -> None:
        if not self._is_busy:
            request = self._reader.whole(data)
            if request is not None and not self._has_ended:
                self._answer(request)
                return
            self._reader.feed(data)
            self._answer_waiting()
            return
        self._reader.feed(data)
        if self._reader.waiting_bytes > AHEAD_BYTES_MAX:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A client that has closed its side may still wait for its answer."""
        return self._is_busy

    def abort(self) -> None:
        """End the connection now."""
        self._has_ended = True
        self._transport.abort()

    def _answer_waiting(self) -> None:
        """Answer what has arrived, up to the first reply that takes time."""
        while not self._is_busy and not self._has_ended and self._can_write.is_set():
            try:
                request = self._reader.next()
            except WireError as error:
                self._start(Planned(bad_request(error.status, str(error))), False)
                return
            if request is None:
                if self._reader.takes_continue():
                    self._transport.write(CONTINUE)
                return
            self._answer(request)

    def _answer(self, request: Request) -> None:
        keeps_alive = request.head.keeps_alive
        if request.head.path.startswith("/sandbox/"):
            reply = self._holds.answer(request)
            if reply is not None:
                self._start(Planned(reply), keeps_alive)
                return
        planned = self._upstream.plan(request, self._loop.time())
        if planned.latency_s:
            self._is_busy = True
            self._timer = self._loop.call_later(
                planned.latency_s, self._start_late, planned, keeps_alive
            )
        else:
            self._start(planned, keeps_alive)

    def _start_late(self, planned: Planned, keeps_alive: bool) -> None:
        self._timer = None
        self._is_busy = False
        self._start(planned, keeps_alive)
        self._go_on()

    def _start(self, planned: Planned, keeps_alive: bool) -> None:
        """Send a reply: at once where it is whole, else step by step in a task."""
        reply = planned.reply
        if reply.data:
            self._transport.write(reply.data)
        if reply.steps is not None:
            self._is_busy = True
            self._player = self._loop.create_task(self._play(planned, keeps_alive))
        else:
            self._finish(planned, keeps_alive)

    async def _play(self, planned: Planned, keeps_alive: bool) -> None:
        for step in planned.reply.steps or ():
            if isinstance(step, Hold):
                await self._holds.wait()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await self._can_write.wait()
                self._transport.write(step)
                await asyncio.sleep(0)  # an endless body must leave room for other connections
        self._player = None
        self._is_busy = False
        self._finish(planned, keeps_alive)
        self._go_on()

    def _finish(self, planned: Planned, keeps_alive: bool) -> None:
        if planned.tokens_estimated:
            self._upstream.settle(planned, self._loop.time())
        if planned.reply.ending is Ending.KEEP and keeps_alive:
            return
        match planned.reply.ending:
            case Ending.RESET:
                self._reset()
            case Ending.HANG:
                self._is_busy = True
            case _:
                self._has_ended = True
                self._transport.close()

    def _go_on(self) -> None:
        """Take up what arrived while a reply was played."""
        if not self._is_busy and not self._has_ended:
            self._transport.resume_reading()
            self._answer_waiting()

    def _reset(self) -> None:
        """End with TCP RST: a socket that does not linger sends one when it is closed."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()


def _recorder(ledger: Ledger) -> Callable[[str, str, int | None, str], None]:
    def record(path: str, body_sha256: str, status: int | None, request_id: str) -> None:
        ledger.record(time.time(), path, body_sha256, status, request_id)

    return record


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it doubles the calls a second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _print_ready(base_url: str) -> None:
    sys.stdout.write(f"sandbox listening on {base_url}\n")
    sys.stdout.flush()
