"""The client for plain HTTP, byte by byte: a connection on a transport of the test's own."""

from __future__ import annotations

import asyncio
import gzip
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent
from batchwright.providers.base import LARGE_ANSWER_BYTES, Answer, Call
from batchwright.providers.http1.connection import Connection
from batchwright.providers.http1.deadlines import Deadlines
from batchwright.providers.http1.head import Head

MIB = 2**20
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

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def connected() -> tuple[Connection, Wire]:
    connection, wire = Connection(lambda ended: None), Wire()
    connection.connection_made(wire)
    return connection, wire


def answered(body: bytes, headers: bytes = b"") -> bytes:
    return OK + headers + b"content-length: %d\r\n\r\n%b" % (len(body), body)


@given(cuts=st.lists(st.integers(0, 200), max_size=8), is_zipped=st.booleans())
def test_an_answer_is_the_same_in_whatever_pieces_it_arrives(
    cuts: list[int], is_zipped: bool
) -> None:
    async def receive() -> Answer | None:
        connection, _ = connected()
        coming = connection.begin(b"", b"", MIB)
        body = b'{"choices":[]}'
        sent = answered(body)
        if is_zipped:
            sent = answered(gzip.compress(body), b"content-encoding: gzip\r\n")
        places = sorted({0, *(min(cut, len(sent)) for cut in cuts), len(sent)})
        for start, end in pairwise(places):
            connection.data_received(sent[start:end])
        assert connection.is_reusable()
        return await coming

    answer = asyncio.run(receive())

    assert answer is not None
    assert (answer.status, answer.body) == (200, b'{"choices":[]}')
    assert answer.headers["content-type"] == "application/json"


async def test_what_comes_before_anything_was_asked_ends_the_connection() -> None:
    connection, wire = connected()

    connection.data_received(answered(b"{}"))

    assert wire.is_aborted
    with pytest.raises(NotSent):
        connection.begin(b"", b"", MIB)


async def test_what_comes_after_an_answer_ends_the_connection_and_the_answer_stands() -> None:
    connection, wire = connected()
    coming = connection.begin(b"", b"", MIB)

    connection.data_received(answered(b'{"whose":"mine"}') + answered(b'{"whose":"nobody"}'))

    answer = await coming
    assert answer is not None
    assert answer.body == b'{"whose":"mine"}'
    assert wire.is_aborted
    assert not connection.is_reusable()


async def test_a_large_answer_waits_for_room_and_so_does_what_is_packed_in_it() -> None:
    body = bytes(2 * LARGE_ANSWER_BYTES)
    packed = gzip.compress(body)
    connection, wire = connected()
    coming = connection.begin(b"", b"", 4 * MIB)

    connection.data_received(answered(packed, b"content-encoding: gzip\r\n"))

    assert await coming is None
    assert not wire.is_reading
    whole = await connection.go_on()
    assert whole is not None
    assert whole.body == body


async def test_a_large_answer_whose_connection_breaks_while_it_waits_is_ambiguous() -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", 4 * MIB)
    connection.data_received(OK + b"content-length: 4000000\r\n\r\n" + bytes(MIB + 1))
    assert await coming is None

    connection.connection_lost(ConnectionResetError())

    with pytest.raises(Ambiguous):
        await connection.go_on()


async def test_a_large_answer_is_too_large_as_soon_as_it_passes_its_cap() -> None:
    connection, wire = connected()
    coming = connection.begin(b"", b"", 2 * MIB)
    connection.data_received(OK + b"content-length: 9000000\r\n\r\n" + bytes(MIB + 1))
    assert await coming is None
    rest = connection.go_on()

    connection.data_received(bytes(MIB))

    with pytest.raises(AnswerTooLarge):
        await rest
    assert wire.is_aborted


async def test_of_calls_that_share_a_timeout_only_those_end_whose_time_is_over() -> None:
    deadlines = Deadlines(0.05)
    (early, _), (late, _) = connected(), connected()
    ends, stays = (each.begin(b"", b"", MIB) for each in (early, late))
    deadlines.add(early)
    await asyncio.sleep(0.03)
    deadlines.add(late)

    with pytest.raises(Ambiguous, match="within the timeout"):
        await ends

    assert not stays.done()
    with pytest.raises(Ambiguous, match="within the timeout"):
        await stays
    assert deadlines.is_used
    for connection in (early, late):
        deadlines.remove(connection)
    assert not deadlines.is_used


# --- the head of a request


def head_of(url: str, headers: dict[str, str] | None = None, method: str = "POST") -> Head:
    return Head.made(Call(method, url, headers or {}, b"", 1.0, MIB))


def test_a_request_begins_with_its_path_its_host_and_its_headers() -> None:
    head = head_of("http://[::1]:8080/v1/chat?a=b", {"Authorization": "Bearer k y"})

    lines = head.of(b"{}").decode().split("\r\n")

    assert (head.address.host, head.address.port) == ("::1", 8080)
    assert lines[:2] == ["POST /v1/chat?a=b HTTP/1.1", "host: [::1]:8080"]
    assert "authorization: Bearer k y" in lines
    assert lines[-3:] == ["content-length: 2", "", ""]


def test_a_get_has_no_length() -> None:
    assert b"content-length" not in head_of("http://h/v1/models", method="GET").of(b"")


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://h/", {}),
        ("http:///v1", {}),
        ("http://[::1", {}),
        ("http://h:99999/", {}),
        ("http://h/a b", {}),
        ("http://h/\r\nx: y", {}),
        ("http://h/é", {}),
        ("http://h/", {"x\r\ny": "z"}),
        ("http://h/", {"x": "secret\r\ny: z"}),
        ("http://h/", {"x": "secret\x00"}),
    ],
)
def test_what_cannot_be_sent_is_refused_without_being_repeated(
    url: str, headers: dict[str, str]
) -> None:
    with pytest.raises(NotSent) as caught:
        head_of(url, headers)

    assert "secret" not in str(caught.value)
