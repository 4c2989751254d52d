"""Whatever bytes a server sends, in whatever pieces: the client for plain HTTP against `h11`."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent, TransportError
from batchwright.providers.base import Answer
from batchwright.providers.http1 import connection as connection_module
from batchwright.providers.http1.connection import Connection
from http1_wire import Wire, answered, connected

BYTES_MAX = 200
LARGE_BYTES = 40  # in place of a MiB, so that room is waited for
NEXT = b'{"whose":"the next"}'


@dataclass(frozen=True, slots=True)
class Sent:
    """What a server sends for one call."""

    data: bytes
    body: bytes  # decoded
    status: int
    headers: list[str]  # their names
    needs_end: bool  # its body ends with the connection


# --- answers


EARLY = [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
    b"HTTP/1.1 199 Odd\r\ncontent-encoding: gzip\r\n\r\n",
]


@st.composite
def whole_answers(draw: st.DrawFn) -> Sent:
    """An answer that every client takes."""
    status = draw(st.sampled_from([200, 201, 204, 304, 400, 429, 503]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    body = b"" if status in (204, 304) else draw(st.binary(max_size=BYTES_MAX))
    lines = draw(
        st.lists(
            st.sampled_from([b"X-Y: z", b"retry-after: 1", b"x-empty:", b"x-last:  a "]), max_size=3
        )
    )
    lines += draw(st.sampled_from([[], [], [b"connection: close"], [b"Connection: keep-alive"]]))
    data = body
    if status not in (204, 304) and draw(st.booleans()):
        packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        data = packer.compress(body) + packer.flush()
        lines.append(b"content-encoding: gzip")
    frames = ["length", "end"] if version == b"1.0" else ["length", "end", "chunks"]
    framing = "none" if status in (204, 304) else draw(st.sampled_from(frames))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(data))
    if framing == "chunks":
        lines.append(b"transfer-encoding: chunked")
        data = draw(chunked(data))
    start = b"".join(draw(st.lists(st.sampled_from(EARLY), max_size=2)))
    head = b"\r\n".join([b"HTTP/%b %d Said" % (version, status), *lines]) + b"\r\n\r\n"
    names = [line.partition(b":")[0].decode().lower() for line in lines]
    return Sent(start + head + data, body, status, [*dict.fromkeys(names)], framing == "end")


@st.composite
def chunked(draw: st.DrawFn, data: bytes) -> bytes:
    sent, rest = b"", data
    while rest:
        size = draw(st.integers(1, len(rest)))
        extension = draw(st.sampled_from([b"", b"", b";a=b"]))
        sent += b"%x%b\r\n%b\r\n" % (size, extension, rest[:size])
        rest = rest[size:]
    return sent + b"0\r\n" + draw(st.sampled_from([b"", b"x-sum: 1\r\n"])) + b"\r\n"


TELLING = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b" ",
    b":",
    b"content-length: 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"content-encoding: gzip\r\n",
    b"connection: close\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 199 Odd\r\ncontent-length: 2\r\n\r\nab",
    b"HTTP/1.1 101 Switch\r\nupgrade: x\r\n\r\n",
    b"\0",
    b"\xff",
]


@st.composite
def broken_answers(draw: st.DrawFn) -> bytes:
    """A whole answer in which something was put in, left out or changed."""
    data = draw(whole_answers()).data
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.sampled_from([start, start, start + 1, start + 20, len(data)]))
        put_in = draw(st.one_of(st.sampled_from(TELLING), st.binary(max_size=4), st.just(b"")))
        data = data[:start] + put_in + data[end:]
    return data


@st.composite
def pieces_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=6))
    if draw(st.integers(0, 9)) == 0:
        cuts = list(range(len(data)))
    places = sorted({0, *cuts, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


# --- a call, and what it is held to


@dataclass(frozen=True, slots=True)
class Received:
    outcome: Answer | TransportError | None  # None: still waiting
    connection: Connection
    wire: Wire


async def receive(pieces: list[bytes], ending: str, *, bytes_max: int = BYTES_MAX) -> Received:
    """Play a server that sends these pieces, and then closes, resets or waits."""
    connection, wire = connected()
    coming = connection.begin(b"", b"", bytes_max)
    left = deque(pieces)
    is_lost = False
    while True:
        while left and wire.is_reading and not wire.is_aborted:
            connection.data_received(left.popleft())
            assert connection._size_bytes <= bytes_max + 1
            assert len(connection._body) <= bytes_max + 1
        if not left and wire.is_reading and not wire.is_aborted and ending != "wait":
            if ending == "close":
                connection.eof_received()
            connection.connection_lost(ConnectionResetError() if ending == "reset" else None)
            is_lost = True
        if not (coming.done() and not coming.exception() and coming.result() is None):
            break
        coming = connection.go_on()
    if wire.is_aborted or is_lost:
        assert coming.done()
        assert not connection.is_reusable()
        with pytest.raises(NotSent):
            connection.begin(b"", b"", bytes_max)
    if not coming.done():
        return Received(None, connection, wire)
    error = coming.exception()
    assert error is None or isinstance(error, (Ambiguous, AnswerTooLarge))
    return Received(error or coming.result(), connection, wire)


def play(pieces: list[bytes], ending: str) -> Answer | TransportError | None:
    async def played() -> Answer | TransportError | None:
        received = await receive(pieces, ending)
        if isinstance(received.outcome, Answer) and received.connection.is_reusable():
            await answer_the_next(received.connection)
        return received.outcome

    with patch.object(connection_module, "LARGE_ANSWER_BYTES", LARGE_BYTES):
        return asyncio.run(played())


BEHIND = [b"", b"\r\n", b"?", answered(b"nobody's"), answered(b"nobody's", b"x-request-id: 7\r\n")]


async def answer_the_next(connection: Connection) -> None:
    coming = connection.begin(b"", b"", BYTES_MAX)
    connection.data_received(answered(NEXT))
    answer = await coming
    assert answer is not None
    assert answer.body == NEXT


@settings(max_examples=300)
@given(data=st.data())
def test_a_whole_answer_is_delivered_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    sent = data.draw(whole_answers())
    behind = b"" if sent.needs_end else data.draw(st.sampled_from(BEHIND))
    pieces = data.draw(pieces_of(sent.data + behind))
    ending = "close" if sent.needs_end else data.draw(st.sampled_from(["close", "reset", "wait"]))

    outcome = play(pieces, ending)

    assert isinstance(outcome, Answer)
    assert (outcome.status, outcome.body) == (sent.status, sent.body)
    assert list(outcome.headers) == sent.headers


@settings(max_examples=500)
@given(data=st.data())
def test_of_a_broken_answer_nothing_is_delivered_that_another_parser_would_not_read(
    data: st.DataObject,
) -> None:
    broken = data.draw(broken_answers())
    pieces = data.draw(pieces_of(broken))
    ending = data.draw(st.sampled_from(["close", "reset", "wait"]))

    outcome = play(pieces, ending)

    if isinstance(outcome, Answer):
        read = read_by_h11(broken, is_closed=ending == "close")
        assert read is None or read == (outcome.status, outcome.body)


@settings(max_examples=200)
@given(
    pieces=st.lists(st.binary(max_size=50), max_size=8),
    ending=st.sampled_from(["close", "reset", "wait"]),
)
def test_arbitrary_bytes_end_as_an_error(pieces: list[bytes], ending: str) -> None:
    outcome = play(pieces, ending)

    assert not isinstance(outcome, Answer)


def read_by_h11(data: bytes, *, is_closed: bool) -> tuple[int, bytes] | None:
    """The answer that `h11` reads, with its body decoded; None where it reads none."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if is_closed:
        client.receive_data(b"")
    head, body = None, b""
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            match event:
                case h11.InformationalResponse():
                    continue
                case h11.Response():
                    head = event
                case h11.Data():
                    body += event.data
                case _:
                    return None
        assert head is not None
        encoding = dict(reversed([*head.headers])).get(b"content-encoding", b"").strip().lower()
        if body and encoding in (b"gzip", b"x-gzip"):
            body = zlib.decompress(body, 16 + zlib.MAX_WBITS)
    except (h11.RemoteProtocolError, zlib.error):
        return None
    return head.status_code, body
