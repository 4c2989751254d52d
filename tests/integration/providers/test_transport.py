"""One suite for both HTTP clients, over a server that can do everything wrong."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, ConfigError, NotSent
from batchwright.providers.base import Call
from batchwright.providers.http1 import Http1Transport, connecting, connection
from batchwright.providers.http1 import transport as http1_transport
from batchwright.providers.http1.deadlines import Deadlines
from batchwright.providers.reqwest import ReqwestTransport, _held
from fault_server import FaultServer, serve_faults

MIB = 1 << 20

AnyTransport = ReqwestTransport | Http1Transport


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with serve_faults() as running:
        yield running


@pytest.fixture(params=[ReqwestTransport, Http1Transport])
def kind(request: pytest.FixtureRequest) -> type[AnyTransport]:
    made: type[AnyTransport] = request.param
    return made


@pytest.fixture
async def transport(kind: type[AnyTransport]) -> AsyncIterator[AnyTransport]:
    opened = kind(connect_timeout_s=2)
    yield opened
    await opened.close()


@pytest.fixture
async def reqwest() -> AsyncIterator[ReqwestTransport]:
    opened = ReqwestTransport(connect_timeout_s=2)
    yield opened
    await opened.close()


@pytest.fixture
async def http1() -> AsyncIterator[Http1Transport]:
    opened = Http1Transport(connect_timeout_s=2)
    yield opened
    await opened.close()


@pytest.fixture
def many_files() -> None:
    """Enough file descriptors for 1,000 connections with both ends in this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def call(
    url: str,
    body: bytes = b'{"a":1}',
    *,
    timeout_s: float = 30,
    bytes_max: int = MIB,
    method: str = "POST",
) -> Call:
    return Call(method, url, {"content-type": "application/json"}, body, timeout_s, bytes_max)


# --- answers


async def test_a_call_brings_status_headers_and_body(
    server: FaultServer, transport: AnyTransport
) -> None:
    answer = await transport.send(call(server.url + "/echo", b'{"hello":"world"}'))

    assert (answer.status, answer.body) == (200, b'{"hello":"world"}')
    assert type(answer.body) is bytes
    assert answer.headers["content-type"] == "application/json"


async def test_any_status_is_an_answer_and_header_names_are_lower_case(
    server: FaultServer, transport: AnyTransport
) -> None:
    answer = await transport.send(call(server.url + "/rate-limited"))

    assert answer.status == 429
    assert list(answer.headers) == ["retry-after", "x-request-id", "content-length"]
    assert answer.headers.get("retry-after") == "7"
    assert answer.headers.get("x-missing") is None


async def test_a_header_that_is_not_text_is_left_out(
    server: FaultServer, transport: AnyTransport
) -> None:
    answer = await transport.send(call(server.url + "/odd-header"))

    assert dict(answer.headers) == {"x-two": "a", "content-length": "2"}
    assert answer.headers.get("x-odd") is None


async def test_an_empty_answer_has_an_empty_body(
    server: FaultServer, transport: AnyTransport
) -> None:
    answer = await transport.send(call(server.url + "/echo", b"", method="GET"))

    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["/greeted", "/until-closed", "/not-kept"])
async def test_an_answer_is_taken_however_it_is_framed(
    path: str, server: FaultServer, transport: AnyTransport
) -> None:
    for number in range(2):
        answer = await transport.send(call(server.url + path, b'{"number":%d}' % number))

        assert (answer.status, answer.body) == (200, b'{"number":%d}' % number)


async def test_what_follows_the_last_chunk_is_no_part_of_the_body(
    server: FaultServer, transport: AnyTransport
) -> None:
    assert (await transport.send(call(server.url + "/trailed"))).body == b"first"
    assert (await transport.send(call(server.url + "/echo", b"next"))).body == b"next"


async def test_connections_are_used_again(server: FaultServer, transport: AnyTransport) -> None:
    for _ in range(5):
        await transport.send(call(server.url + "/echo"))

    assert server.connections == 1


# --- what a call must not do


async def test_a_redirect_is_an_answer_and_is_not_followed(
    server: FaultServer, transport: AnyTransport
) -> None:
    answer = await transport.send(call(server.url + "/redirect"))

    assert answer.status == 307
    assert [request.path for request in server.requests] == ["/redirect"]


async def test_cookies_are_not_kept(server: FaultServer, transport: AnyTransport) -> None:
    await transport.send(call(server.url + "/set-cookie"))
    await transport.send(call(server.url + "/echo"))

    assert "cookie" not in server.requests[1].headers


async def test_only_gzip_is_asked_for_and_decoded(
    server: FaultServer, transport: AnyTransport
) -> None:
    gzipped = await transport.send(call(server.url + "/gzipped", b'{"zip":1}'))
    brotli = await transport.send(call(server.url + "/brotli"))

    assert server.requests[0].headers["accept-encoding"] == "gzip"
    assert gzipped.body == b'{"zip":1}'
    assert brotli.body == b"not decoded"


async def test_proxies_of_the_environment_are_ignored(
    kind: type[AnyTransport], server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    transport = kind()

    answer = await transport.send(call(server.url + "/echo"))

    assert answer.status == 200
    await transport.close()


async def test_a_configured_proxy_carries_the_calls(server: FaultServer) -> None:
    transport = ReqwestTransport(proxy=server.url)

    answer = await transport.send(call("http://provider.invalid/echo"))

    assert answer.status == 200
    assert server.requests[0].path == "http://provider.invalid/echo"
    await transport.close()


# --- time


@pytest.mark.parametrize("path", ["/hang", "/gate", "/drip"])
async def test_a_call_ends_at_its_timeout_and_its_connection_with_it(
    path: str, server: FaultServer, transport: AnyTransport
) -> None:
    with pytest.raises(Ambiguous, match="no complete answer within the timeout"):
        await transport.send(call(server.url + path, timeout_s=0.2))

    await server.until(lambda s: s.open_connections == 0)


async def test_the_time_for_connecting_is_part_of_the_time_for_the_call(
    server: FaultServer, http1: Http1Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = asyncio.get_running_loop()
    waits: list[float] = []
    monkeypatch.setattr(http1_transport, "connect", slow_connect(clock, 3.0))
    monkeypatch.setattr(Deadlines, "__init__", noting(waits, Deadlines.__init__))

    await http1.send(call(server.url + "/echo", timeout_s=30))
    await http1.send(call(server.url + "/echo", timeout_s=30))

    assert waits == [27.0, 30]


def slow_connect(clock: Any, by_s: float) -> Any:
    """`connect`, after which so much time has passed."""
    connect, time = http1_transport.connect, clock.time

    async def connect_late(*args: Any) -> Any:
        connection = await connect(*args)
        clock.time = lambda: time() + by_s
        return connection

    return connect_late


def noting(waits: list[float], init: Any) -> Any:
    def noted(self: Deadlines, timeout_s: float) -> None:
        waits.append(timeout_s)
        init(self, timeout_s)

    return noted


async def test_a_call_that_waits_for_room_ends_at_its_timeout(
    server: FaultServer, http1: Http1Transport
) -> None:
    room = CountedRoom()
    large = call(server.url + "/echo", b"x" * (MIB + 1), bytes_max=3 * MIB, timeout_s=0.5)
    large.room = room

    with pytest.raises(Ambiguous, match="no complete answer within the timeout"):
        await http1.send(large)

    assert room.asked == [3 * MIB]
    assert room.given_back == []
    await server.until(lambda s: s.open_connections == 0)


async def test_a_connection_that_was_idle_for_too_long_is_not_used_again(
    server: FaultServer, http1: Http1Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_S", 0.0)
    await http1.send(call(server.url + "/echo"))

    await http1.send(call(server.url + "/echo"))

    assert server.connections == 2
    await server.until(lambda s: s.open_connections == 1)


# --- cancelling


async def test_a_cancelled_call_holds_until_it_has_really_ended(
    server: FaultServer, reqwest: ReqwestTransport
) -> None:
    sending = asyncio.create_task(reqwest.send(call(server.url + "/hang")))
    await server.until(lambda s: len(s.requests) == 1)

    sending.cancel()
    await reqwest.send(call(server.url + "/echo"))  # the loop has gone round meanwhile
    sending.cancel()
    await reqwest.send(call(server.url + "/echo"))
    assert not sending.done()
    server.release.set()

    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_a_call_cancelled_while_its_body_arrives_holds_too(
    server: FaultServer, reqwest: ReqwestTransport
) -> None:
    sending = asyncio.create_task(reqwest.send(call(server.url + "/gate")))
    await server.until(lambda s: len(s.requests) == 1)

    sending.cancel()
    await reqwest.send(call(server.url + "/echo"))
    assert not sending.done()
    server.release.set()

    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_a_call_that_is_answered_after_it_was_cancelled_leaves_no_connection(
    server: FaultServer, transport: AnyTransport
) -> None:
    sending = asyncio.create_task(transport.send(call(server.url + "/late-and-infinite")))
    await server.until(lambda s: len(s.requests) == 1)

    sending.cancel()
    server.release.set()

    with pytest.raises(asyncio.CancelledError):
        await sending
    await server.until(lambda s: s.open_connections == 0)


@pytest.mark.parametrize("path", ["/hang", "/gate", "/drip"])
async def test_over_plain_http_a_cancelled_call_has_ended_at_once_and_its_connection_with_it(
    path: str, server: FaultServer, http1: Http1Transport
) -> None:
    sending = asyncio.create_task(http1.send(call(server.url + path)))
    await server.until(lambda s: len(s.requests) == 1)

    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sending
    await server.until(lambda s: s.open_connections == 0)


async def test_1000_cancelled_calls_leave_no_connection_and_a_call_afterwards_succeeds(
    many_files: None, server: FaultServer, transport: AnyTransport
) -> None:
    slots = asyncio.Semaphore(1000)

    async def one() -> None:
        async with slots:
            await transport.send(call(server.url + "/hang", timeout_s=60.0))

    calls = [asyncio.create_task(one()) for _ in range(1000)]
    await server.until(lambda s: len(s.requests) >= 500)
    assert slots.locked()
    for task in calls:
        task.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert slots._value == 1000
    await server.until(lambda s: s.open_connections == 0)
    assert (await transport.send(call(server.url + "/echo", b"after"))).body == b"after"


async def test_no_answer_reaches_another_call_after_cancels_and_timeouts(
    server: FaultServer, transport: AnyTransport
) -> None:
    dice = random.Random(7)
    wrong: list[bytes] = []

    async def echoed(number: int) -> None:
        body = b'{"number":%d}' % number
        answer = await transport.send(call(server.url + "/echo", body))
        if answer.body != body:
            wrong.append(answer.body)

    async def timed_out() -> None:
        with pytest.raises(Ambiguous):
            await transport.send(call(server.url + "/late", b'{"late":1}', timeout_s=0.01))

    tasks: list[asyncio.Task[None]] = []
    for number in range(300):
        work = timed_out() if number % 10 == 0 else echoed(number)
        tasks.append(asyncio.create_task(work))
        if number % 7 == 0:
            dice.choice(tasks[-5:]).cancel()
        if number % 3 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    assert wrong == []


async def test_bytes_that_nobody_asked_for_do_not_answer_the_next_call(
    server: FaultServer, transport: AnyTransport
) -> None:
    first = await transport.send(call(server.url + "/unsolicited"))
    second = await transport.send(call(server.url + "/echo", b'{"whose":"mine"}'))

    assert first.body == b'{"whose":"first"}'
    assert second.body == b'{"whose":"mine"}'


STRESS_PATHS = {
    **dict.fromkeys(["/echo", "/gzipped", "/not-kept", "/until-closed", "/late"], True),
    **dict.fromkeys(["/hang", "/drip", "/reset-at-once", "/close-in-body", "/cut-off"], False),
    **dict.fromkeys(["/no-last-chunk", "/many-headers", "/infinite", "/unsolicited"], False),
}


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_after_thousands_of_calls_that_ended_in_every_way_nothing_is_left_and_none_was_mixed_up(
    kind: type[AnyTransport], loop: Any
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_stress(kind))


async def _stress(kind: type[AnyTransport]) -> None:
    dice = random.Random(11)
    slots = asyncio.Semaphore(40)
    wrong: list[object] = []
    paths = [*STRESS_PATHS, *["/echo"] * len(STRESS_PATHS)]

    async def one(number: int, path: str, timeout_s: float) -> None:
        body = b'{"number":%d}' % number
        async with slots:
            try:
                given = await transport.send(call(server.url + path, body, timeout_s=timeout_s))
            except (NotSent, Ambiguous, AnswerTooLarge):
                return
            is_answer = STRESS_PATHS[path] and given.body == body
            if not is_answer and given.body != b'{"whose":"first"}':
                wrong.append((path, body, given.body))

    async with serve_faults() as server:
        before = asyncio.all_tasks()
        transport = kind()
        sending: list[asyncio.Task[None]] = []
        for number in range(2000):
            timeout_s = dice.choice([0.02, 0.05, 0.2])
            sending.append(asyncio.create_task(one(number, dice.choice(paths), timeout_s)))
            if dice.random() < 0.2:
                dice.choice(sending[-60:]).cancel()
            if dice.random() < 0.5:
                await asyncio.sleep(0)
            if number % 100 == 99:
                await asyncio.wait(sending[:-50])
        outcomes = await asyncio.gather(*sending, return_exceptions=True)

        assert wrong == []
        assert {type(each) for each in outcomes} == {type(None), asyncio.CancelledError}
        assert slots._value == 40
        if isinstance(transport, Http1Transport):
            idle = sum(len(each) for each in transport._idle.values())
            assert not any(each.is_used for each in transport._deadlines.values())
            await server.until(lambda s: s.open_connections <= idle)
        await transport.close()
        await server.until(lambda s: s.open_connections == 0)
        assert asyncio.all_tasks() == before


# --- size


async def test_an_answer_of_exactly_the_cap_is_taken_and_one_byte_more_is_not(
    server: FaultServer, transport: AnyTransport
) -> None:
    whole = await transport.send(call(server.url + "/echo", b"x" * 1000, bytes_max=1000))

    assert len(whole.body) == 1000
    with pytest.raises(AnswerTooLarge):
        await transport.send(call(server.url + "/echo", b"x" * 1001, bytes_max=1000))


@pytest.mark.parametrize("path", ["/infinite", "/bomb"])
async def test_an_endless_answer_or_a_gzip_bomb_stops_at_the_cap(
    path: str, server: FaultServer, transport: AnyTransport
) -> None:
    with pytest.raises(AnswerTooLarge):
        await transport.send(call(server.url + path, bytes_max=MIB))

    await server.until(lambda s: s.open_connections == 0)
    assert server.sent_chunks < 1000


class CountedRoom:
    """Room for large answers that is there when `is_free` is set."""

    def __init__(self) -> None:
        self.is_free = asyncio.Event()
        self.is_asked = asyncio.Event()
        self.asked: list[int] = []
        self.given_back: list[int] = []

    async def reserve(self, size_bytes: int) -> None:
        self.asked.append(size_bytes)
        self.is_asked.set()
        await self.is_free.wait()

    def give_back(self, size_bytes: int) -> None:
        self.given_back.append(size_bytes)


async def test_a_large_answer_is_received_when_there_is_room_and_a_small_one_at_once(
    server: FaultServer, transport: AnyTransport
) -> None:
    room = CountedRoom()
    url = server.url + "/echo"
    small, large = (call(url, b"x" * size, bytes_max=3 * MIB) for size in (MIB, MIB + 1))
    small.room = large.room = room
    assert len((await transport.send(small)).body) == MIB
    assert room.asked == []

    sending = asyncio.create_task(transport.send(large))
    await room.is_asked.wait()
    assert not sending.done()
    room.is_free.set()
    assert len((await sending).body) == MIB + 1
    assert room.asked == room.given_back == [large.answer_bytes_max]


async def test_a_call_after_a_large_answer_is_answered(
    server: FaultServer, transport: AnyTransport
) -> None:
    # Its end arrives together with the byte that makes it large.
    large = call(server.url + "/echo", b"x" * (MIB + 300), bytes_max=3 * MIB)
    assert len((await transport.send(large)).body) == MIB + 300

    assert (await transport.send(call(server.url + "/echo", b"next", timeout_s=5))).body == b"next"


async def test_a_large_answer_that_breaks_off_gives_its_room_back(
    server: FaultServer, transport: AnyTransport
) -> None:
    room = CountedRoom()
    room.is_free.set()
    endless = call(server.url + "/infinite", bytes_max=3 * MIB)
    endless.room = room
    with pytest.raises(AnswerTooLarge):
        await transport.send(endless)
    assert room.asked == room.given_back == [3 * MIB]


async def test_a_large_answer_whose_call_is_cancelled_while_it_waits_leaves_no_connection(
    server: FaultServer, http1: Http1Transport
) -> None:
    room = CountedRoom()
    large = call(server.url + "/echo", b"x" * (MIB + 1), bytes_max=3 * MIB)
    large.room = room
    sending = asyncio.create_task(http1.send(large))
    await room.is_asked.wait()

    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sending
    assert room.given_back == []
    await server.until(lambda s: s.open_connections == 0)


async def test_an_answer_that_comes_before_the_body_was_sent_is_taken_and_the_connection_is_not(
    server: FaultServer, http1: Http1Transport
) -> None:
    answer = await http1.send(call(server.url + "/early", bytes(16 * MIB)))

    assert answer.status == 413
    server.release.set()
    await server.until(lambda s: s.open_connections == 0)


# --- what went wrong


@pytest.mark.parametrize(
    "path",
    [
        "/close-at-once",
        "/reset-at-once",
        "/close-in-headers",
        "/close-in-body",
        "/cut-off",
        "/no-last-chunk",
        "/cut-gzip",
        "/not-http",
        "/many-headers",
        "/huge-header",
    ],
)
async def test_a_call_that_broke_after_it_was_sent_is_ambiguous(
    path: str, server: FaultServer, transport: AnyTransport
) -> None:
    with pytest.raises(Ambiguous) as caught:
        await transport.send(call(server.url + path + "?key=secret"))

    assert "secret" not in str(caught.value)
    assert (await transport.send(call(server.url + "/echo"))).status == 200


async def test_a_switch_of_protocols_that_nobody_asked_for_is_no_answer(
    server: FaultServer, http1: Http1Transport
) -> None:
    with pytest.raises(Ambiguous):
        await http1.send(call(server.url + "/switched"))


NOWHERE = [
    "http://127.0.0.1:1/",
    "http://no-such-host.invalid/",
    "http://two..dots/",
    "http://%s/" % ("long" * 16),
    "nonsense",
]


@pytest.mark.parametrize("url", NOWHERE)
async def test_a_call_that_found_no_server_was_not_sent(url: str, transport: AnyTransport) -> None:
    with pytest.raises(NotSent):
        await transport.send(call(url))


async def test_a_call_with_a_header_that_cannot_be_sent_was_not_sent(
    server: FaultServer, transport: AnyTransport
) -> None:
    broken = Call("POST", server.url, {"authorization": "Bearer a\r\nb"}, b"{}", 5, MIB)

    with pytest.raises(NotSent) as caught:
        await transport.send(broken)

    assert "Bearer" not in str(caught.value)


async def test_a_connect_timeout_was_not_sent(kind: type[AnyTransport]) -> None:
    transport = kind(connect_timeout_s=0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        # The queue of one is filled, so the kernel answers no further connection.
        fillers = [_connecting(address) for _ in range(4)]

        with pytest.raises(NotSent, match="cannot connect"):
            await transport.send(call(f"http://127.0.0.1:{address[1]}/", timeout_s=20))

        for filler in fillers:
            filler.close()
    await transport.close()


async def test_a_dead_address_before_the_right_one_does_not_take_the_time_of_a_call(
    server: FaultServer, http1: Http1Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, port = asyncio.get_running_loop(), int(server.url.rpartition(":")[2])
    with socket.socket() as full:
        full.bind(("127.0.0.2", port))
        full.listen(0)
        fillers = [_connecting(("127.0.0.2", port)) for _ in range(4)]
        kinds = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*kinds, (host, port)) for host in ("127.0.0.3", "127.0.0.2", "127.0.0.1")]

        async def getaddrinfo(*_: Any, **__: Any) -> Any:
            return found

        monkeypatch.setattr(connecting, "NEXT_ADDRESS_S", 0.2)
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        answer = await http1.send(call(f"http://a-name:{port}/echo", timeout_s=5))

        assert answer.status == 200
        for filler in fillers:
            filler.close()


async def test_of_several_addresses_those_that_did_not_answer_are_tried_last_the_next_time(
    server: FaultServer, http1: Http1Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, port = asyncio.get_running_loop(), int(server.url.rpartition(":")[2])
    kinds = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kinds, (host, port)) for host in ("127.0.0.3", "127.0.0.1", "127.0.0.2")]
    tried, connect = list[str](), connecting._connect

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [*found]

    async def watched(made: Any, family: int, where: Any) -> Any:
        tried.append(where[0])
        return await connect(made, family, where)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(connecting, "_connect", watched)
    for _ in range(3):  # each over a connection of its own
        await http1.send(call(f"http://a-name:{port}/not-kept"))

    assert tried == ["127.0.0.3", "127.0.0.1", "127.0.0.1", "127.0.0.1"]

    found[1] = (*kinds, ("127.0.0.1", 1))  # it has moved
    with pytest.raises(NotSent):
        await http1.send(call(f"http://a-name:{port}/not-kept"))
    assert tried[4:] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


async def test_the_servers_behind_a_name_are_connected_to_in_the_order_that_is_found(
    server: FaultServer, http1: Http1Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, port = asyncio.get_running_loop(), int(server.url.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]
    tried = list[str]()

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        found.reverse()  # as DNS does
        return [*found]

    async def reached(made: Any, family: int, where: Any) -> Any:
        tried.append(where[0])
        return (await loop.create_connection(made, "127.0.0.1", port, family=family))[1]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(connecting, "_connect", reached)
    for _ in range(4):
        await http1.send(call(f"http://a-name:{port}/not-kept"))

    assert tried == ["127.0.0.2", "127.0.0.1"] * 2


async def test_what_the_system_says_of_a_failed_connect_is_told_and_no_address(
    http1: Http1Transport,
) -> None:
    with pytest.raises(NotSent, match=r"^cannot connect: Connection refused$"):
        await http1.send(call("http://127.0.0.1:1/"))


async def test_without_a_file_descriptor_left_nothing_was_sent_and_later_calls_go_on(
    server: FaultServer, http1: Http1Transport
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(NotSent, match="Too many open files"):
            await http1.send(call(server.url + "/echo"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(lowest)

    assert (await http1.send(call(server.url + "/echo"))).status == 200


def _connecting(address: tuple[str, int]) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(address)
    return client


async def test_a_call_that_is_let_go_wakes_nobody_any_more(reqwest: ReqwestTransport) -> None:
    # The client's thread would come back for it, if need be to an interpreter that goes down.
    begun, is_closed = asyncio.Event(), False

    async def call_without_end() -> None:
        nonlocal is_closed
        begun.set()
        try:
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        finally:
            is_closed = True

    async def held(call: Coroutine[Any, Any, None]) -> None:
        await _held(call, reqwest)

    under_way = call_without_end()  # as the frames of an exception hold it, beyond its task
    task = asyncio.create_task(held(under_way))
    await begun.wait()
    task.cancel()
    await reqwest.close()

    assert is_closed
    assert task.cancelled()


# --- TLS


@pytest.fixture
async def secure(authority: Path) -> AsyncIterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    async with serve_faults(tls=context) as running:
        yield running


async def test_a_certificate_of_an_unknown_authority_ends_a_call_before_it_is_sent(
    secure: FaultServer, reqwest: ReqwestTransport
) -> None:
    with pytest.raises(NotSent):
        await reqwest.send(call(secure.url + "/echo"))

    assert secure.requests == []


async def test_a_ca_file_makes_its_authority_known(authority: Path, secure: FaultServer) -> None:
    transport = ReqwestTransport(ca_file=str(authority / "cert.pem"))

    answer = await transport.send(call(secure.url + "/echo"))

    assert answer.status == 200
    await transport.close()


def test_a_ca_file_that_is_missing_or_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")

    with pytest.raises(ConfigError, match="cannot read"):
        ReqwestTransport(ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="expected PEM certificates"):
        ReqwestTransport(ca_file=str(empty))


def test_a_proxy_that_is_no_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError) as caught:
        ReqwestTransport(proxy="http://user:secret@")

    assert "secret" not in str(caught.value)


# --- streams


async def test_a_stream_hands_out_its_first_bytes_before_the_next_are_sent(
    server: FaultServer, transport: AnyTransport
) -> None:
    async with transport.stream(call(server.url + "/gate")) as answer:
        chunks = answer.chunks()
        first = await anext(chunks)
        assert not server.release.is_set()
        server.release.set()
        rest = [chunk async for chunk in chunks]

    assert (answer.status, first, rest) == (200, b"first", [b"second"])
    assert answer.headers["content-type"] == "application/json"


async def test_leaving_a_stream_early_closes_its_connection(
    server: FaultServer, transport: AnyTransport
) -> None:
    async with transport.stream(call(server.url + "/gate")) as answer:
        await anext(answer.chunks())

    await server.until(lambda s: s.open_connections == 0)


async def test_a_cancelled_stream_leaves_no_connection(
    server: FaultServer, transport: AnyTransport
) -> None:
    async def read() -> None:
        async with transport.stream(call(server.url + "/gate", timeout_s=0.5)) as answer:
            async for _ in answer.chunks():
                reading.set()

    reading = asyncio.Event()
    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until(lambda s: s.open_connections == 0)


async def test_a_stream_that_breaks_is_ambiguous(
    server: FaultServer, transport: AnyTransport
) -> None:
    received: list[bytes] = []

    with pytest.raises(Ambiguous):
        await read_stream(transport, call(server.url + "/no-last-chunk"), received)

    assert received == [b"first"]


async def test_a_stream_stops_at_the_cap(server: FaultServer, transport: AnyTransport) -> None:
    received: list[bytes] = []

    with pytest.raises(AnswerTooLarge):
        await read_stream(transport, call(server.url + "/infinite", bytes_max=MIB), received)

    assert sum(map(len, received)) <= MIB
    await server.until(lambda s: s.open_connections == 0)


async def read_stream(transport: AnyTransport, of: Call, received: list[bytes]) -> None:
    async with transport.stream(of) as answer:
        async for chunk in answer.chunks():
            received.append(chunk)  # noqa: PERF401 -- what came before an error counts


async def test_a_stream_that_finds_no_server_was_not_sent(transport: AnyTransport) -> None:
    with pytest.raises(NotSent):
        async with transport.stream(call("http://127.0.0.1:1/")):
            pass


# --- closing


async def test_closing_is_safe_twice_and_sends_nothing_more(
    server: FaultServer, kind: type[AnyTransport]
) -> None:
    transport = kind()
    await transport.close()
    await transport.close()

    with pytest.raises(NotSent):
        await transport.send(call(server.url + "/echo"))
    assert server.requests == []


async def test_closing_closes_the_connections_that_are_idle(
    server: FaultServer, kind: type[AnyTransport]
) -> None:
    transport = kind()
    await asyncio.gather(*(transport.send(call(server.url + "/echo")) for _ in range(5)))

    await transport.close()

    await server.until(lambda s: s.open_connections == 0)


async def test_closing_ends_calls_that_wait_for_their_answer(
    server: FaultServer, kind: type[AnyTransport]
) -> None:
    transport = kind()
    sending = asyncio.create_task(transport.send(call(server.url + "/hang")))
    await server.until(lambda s: len(s.requests) == 1)

    await transport.close()

    with pytest.raises(Ambiguous):
        await sending


@pytest.mark.parametrize("path", ["/hang", "/gate", "/drip"])
async def test_closing_lets_go_of_cancelled_calls(
    path: str, server: FaultServer, kind: type[AnyTransport]
) -> None:
    transport = kind()
    sending = asyncio.create_task(transport.send(call(server.url + path, timeout_s=5)))
    await server.until(lambda s: len(s.requests) == 1)
    sending.cancel()
    await asyncio.sleep(0)

    await transport.close()

    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_closing_ends_a_call_that_is_still_connecting() -> None:
    transport = Http1Transport(connect_timeout_s=30)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [_connecting(address) for _ in range(4)]
        sending = asyncio.create_task(transport.send(call(f"http://127.0.0.1:{address[1]}/")))
        while not transport._waits:
            await asyncio.sleep(0)

        await transport.close()

        with pytest.raises(NotSent):
            await sending
        for filler in fillers:
            filler.close()


async def test_closing_ends_a_call_that_waits_for_room(server: FaultServer) -> None:
    transport, room = Http1Transport(), CountedRoom()
    large = call(server.url + "/echo", b"x" * (MIB + 1), bytes_max=3 * MIB)
    large.room = room
    sending = asyncio.create_task(transport.send(large))
    await room.is_asked.wait()

    await transport.close()

    with pytest.raises(Ambiguous):
        await sending
    await server.until(lambda s: s.open_connections == 0)
