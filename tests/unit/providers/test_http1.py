"""The client for plain HTTP, piece by piece, and what it sends."""

from __future__ import annotations

import asyncio
import gzip
import sys
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent
from batchwright.providers.base import LARGE_ANSWER_BYTES, Answer, Call
from batchwright.providers.http1.connection import OVERHEAD_BYTES_MAX, PIECE_BYTES_MIN, Connection
from batchwright.providers.http1.deadlines import Deadlines
from batchwright.providers.http1.head import Head
from http1_wire import OK, answered, connected

MIB = 2**20
EMPTY_GZIP = gzip.compress(b"", mtime=0)


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


@given(st.lists(st.sampled_from([1, 2, PIECE_BYTES_MIN - 1, PIECE_BYTES_MIN, 9_999]), min_size=1))
def test_long_and_short_pieces_come_together_in_their_order(sizes: list[int]) -> None:
    body = bytes(number % 251 for number in range(sum(sizes)))

    async def receive() -> Answer | None:
        connection, _ = connected()
        coming = connection.begin(b"", b"", MIB)
        connection.data_received(OK + b"content-length: %d\r\n\r\n" % len(body))
        start = 0
        for size in sizes:
            connection.data_received(body[start : start + size])
            start += size
        return await coming

    answer = asyncio.run(receive())

    assert answer is not None
    assert answer.body == body


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
    assert connection.is_reusable()
    assert wire.is_reading


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


async def test_what_is_packed_in_many_pieces_stops_at_the_cap_after_the_wait_for_room() -> None:
    packed = gzip.compress(bytes(64 * MIB))
    pieces = [packed[start : start + 100] for start in range(0, len(packed), 100)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    connection, _ = connected()
    coming = connection.begin(b"", b"", 2 * MIB)
    head = b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    connection.data_received(OK + head + chunks)
    assert await coming is None

    with pytest.raises(AnswerTooLarge):
        await connection.go_on()

    assert connection._size_bytes == 2 * MIB + 1


async def test_an_answer_in_tiny_chunks_takes_no_more_memory_than_its_body() -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)
    connection.data_received(OK + b"transfer-encoding: chunked\r\n\r\n")

    tracemalloc.start()
    for _ in range(50):
        connection.data_received(b"2\r\nab\r\n" * 1000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    connection.data_received(b"0\r\n\r\n")

    answer = await coming
    assert answer is not None
    assert answer.body == b"ab" * 50_000
    assert peak_bytes < 3 * len(answer.body)


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (OK, b"x: y\r\n"),
        (OK + b"x: ", b"y"),
        (OK + b"transfer-encoding: chunked\r\n\r\n", b"0" * 8),
        (OK + b"transfer-encoding: chunked\r\n\r\n1;", b"x"),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"y"),
        (OK + b"content-encoding: gzip\r\n\r\n" + EMPTY_GZIP[:10], b"\0\0\0\xff\xff"),
    ],
)
async def test_what_goes_on_for_ever_without_any_body_is_ended(
    start: bytes, endless: bytes
) -> None:
    connection, wire = connected()
    coming = connection.begin(b"", b"", MIB)

    connection.data_received(start)
    for _ in range(2 * OVERHEAD_BYTES_MAX // 1000):
        if not wire.is_aborted:
            connection.data_received(endless * (1000 // len(endless)))

    assert wire.is_aborted
    with pytest.raises(Ambiguous):
        await coming


async def test_what_follows_a_large_answer_while_it_waits_for_room_is_no_part_of_it() -> None:
    body = b"x" * (LARGE_ANSWER_BYTES + 2)
    connection, wire = connected()
    coming = connection.begin(b"", b"", 4 * MIB)
    connection.data_received(answered(body) + answered(b"nobody's", b"x-request-id: 7\r\n"))
    assert await coming is None

    answer = await connection.go_on()

    assert answer is not None
    assert answer.body == body
    assert "x-request-id" not in answer.headers
    assert wire.is_aborted


async def test_trailers_and_second_answers_add_nothing_to_the_headers() -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)

    connection.data_received(
        OK
        + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nretry-after: 1\r\n\r\n"
        + answered(b"{}", b"retry-after: 2\r\n")
    )

    answer = await coming
    assert answer is not None
    assert list(answer.headers) == ["content-type", "transfer-encoding"]


async def test_an_answer_before_the_answer_has_no_body_and_no_encoding_for_the_next() -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)
    connection.data_received(b"HTTP/1.1 103 Early\r\ncontent-encoding: gzip\r\n\r\n")
    connection.data_received(answered(b"{}"))
    answer = await coming
    assert answer is not None
    assert answer.body == b"{}"

    coming = connection.begin(b"", b"", MIB)
    connection.data_received(b"HTTP/1.1 104 Odd\r\ncontent-length: 2\r\n\r\nab" + answered(b"{}"))
    with pytest.raises(Ambiguous):
        await coming


@pytest.mark.parametrize("name", [b"gzip", b"GZIP", b"x-gzip", b"gzip  "])
async def test_gzip_has_two_names_and_spaces_are_no_part_of_them(name: bytes) -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)

    connection.data_received(
        answered(gzip.compress(b"{}"), b"content-encoding: %b\r\nx: y \r\n" % name)
    )

    answer = await coming
    assert answer is not None
    assert (answer.body, answer.headers["x"]) == (b"{}", "y")


@pytest.mark.parametrize("head", [answered(b""), b"HTTP/1.1 204 No Content\r\n\r\n"])
async def test_an_answer_without_a_body_needs_none_of_its_encoding(head: bytes) -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)
    line, _, rest = head.partition(b"\r\n")

    connection.data_received(line + b"\r\ncontent-encoding: gzip\r\n" + rest)

    answer = await coming
    assert answer is not None
    assert answer.body == b""


@pytest.mark.parametrize("behind", [b"\0", EMPTY_GZIP])
async def test_of_gzip_there_is_one_member_and_nothing_behind_it(behind: bytes) -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)

    connection.data_received(answered(gzip.compress(b"{}") + behind, b"content-encoding: gzip\r\n"))

    with pytest.raises(Ambiguous, match="behind the end"):
        await coming


@pytest.mark.parametrize("size_bytes", [MIB, MIB + 1, 3 * MIB])
@pytest.mark.parametrize("is_zipped", [False, True])
async def test_up_to_its_cap_an_answer_is_taken_and_one_byte_more_is_not(
    size_bytes: int, is_zipped: bool
) -> None:
    for cap, is_taken in [(size_bytes, True), (size_bytes - 1, False)]:
        connection, _ = connected()
        coming = connection.begin(b"", b"", cap)
        sent = answered(b"x" * size_bytes)
        if is_zipped:
            sent = answered(gzip.compress(b"x" * size_bytes), b"content-encoding: gzip\r\n")
        connection.data_received(sent)
        if cap > MIB:
            assert await coming is None
            coming = connection.go_on()

        if is_taken:
            answer = await coming
            assert answer is not None
            assert len(answer.body) == size_bytes
        else:
            with pytest.raises(AnswerTooLarge):
                await coming


async def test_an_idle_connection_holds_no_answer() -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)
    connection.data_received(answered(gzip.compress(b"{}"), b"content-encoding: gzip\r\n"))
    await coming

    assert connection.is_reusable()
    assert (connection._body, connection._rest, connection._gzip) == (b"", [], None)


async def test_a_connection_that_ended_is_gone_without_a_search_for_cycles() -> None:
    connection, _ = connected()
    coming = connection.begin(b"", b"", MIB)
    connection.data_received(answered(b"{}"))
    await coming
    connection.connection_lost(None)

    assert sys.getrefcount(connection) == 2  # this name, and the argument


async def test_after_its_last_byte_a_connection_is_not_used_although_more_could_be_sent() -> None:
    ended: list[Connection] = []
    connection, wire = connected(ended.append)
    connection.begin(b"", b"", MIB)
    connection.data_received(answered(b"{}"))
    assert connection.is_reusable()

    connection.eof_received()

    assert ended == [connection]
    assert wire.is_aborted
    with pytest.raises(NotSent):
        connection.begin(b"", b"", MIB)


async def test_a_call_ends_with_the_last_byte_although_its_body_is_still_being_sent() -> None:
    connection, wire = connected()
    coming = connection.begin(b"", b"", MIB)

    connection.data_received(OK + b"\r\nhalf")
    connection.eof_received()

    answer = await coming
    assert answer is not None
    assert answer.body == b"half"
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


def test_a_get_has_no_length_and_no_body() -> None:
    head = head_of("http://h/v1/models", {"content-length": "7"}, method="GET")

    assert b"content-length" not in head.of(b"")
    with pytest.raises(NotSent):
        head.of(b"which the server would take for the next request")


def test_the_length_is_ours_and_the_last_header() -> None:
    head = head_of("http://h/v1", {"Content-Length": "7", "x": "y"})

    assert head.of(b"{}").endswith(b"x: y\r\ncontent-length: 2\r\n\r\n")


def test_what_has_no_answer_of_the_usual_kind_is_refused() -> None:
    with pytest.raises(NotSent):
        head_of("http://h/v1/models", method="HEAD")


def test_port_0_is_not_another_port() -> None:
    assert head_of("http://h:0/").address.port == 0


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
        ("http://h/", {"x:y": "secret"}),
        ("http://h/", {"": "secret"}),
    ],
)
def test_what_cannot_be_sent_is_refused_without_being_repeated(
    url: str, headers: dict[str, str]
) -> None:
    with pytest.raises(NotSent) as caught:
        head_of(url, headers)

    assert "secret" not in str(caught.value)
