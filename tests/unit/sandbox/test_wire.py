from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.sandbox.wire import Request, RequestReader, WireError

PLAIN = b"POST /v1/x?y=1 HTTP/1.1\r\nContent-Length: 5\r\nX-Sandbox: hang\r\n\r\nhello"
CHUNKED = (
    b"POST /v1/x HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    b"3;note=1\r\nhel\r\n2\r\nlo\r\n0\r\ntrailer: 1\r\n\r\n"
)
GET = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"


def read_all(pieces: list[bytes]) -> list[Request]:
    reader, requests = RequestReader(), []
    for piece in pieces:
        request = reader.whole(piece)
        if request is not None:
            requests.append(request)
            continue
        reader.feed(piece)
        while (request := reader.next()) is not None:
            requests.append(request)
    return requests


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_requests_are_the_same_however_their_bytes_arrive(cuts: list[int]) -> None:
    data = PLAIN + CHUNKED + GET + PLAIN
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(bounds)]

    requests = read_all(pieces)

    assert [request.body for request in requests] == [b"hello", b"hello", b"", b"hello"]
    assert [request.head.method for request in requests] == ["POST", "POST", "GET", "POST"]
    assert [request.head.keeps_alive for request in requests] == [True, False, True, True]
    assert requests[0].head.path == "/v1/x"
    assert requests[0].head.behaviour == "hang"


def test_a_client_that_waits_for_leave_to_send_is_told_once() -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")

    assert reader.next() is None
    assert [reader.takes_continue(), reader.takes_continue()] == [True, False]
    reader.feed(b"x")
    assert reader.next() is not None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, 431),
    ],
)
def test_what_is_no_request_is_refused_with_a_status(data: bytes, status: int) -> None:
    reader = RequestReader()
    reader.feed(data)

    with pytest.raises(WireError) as caught:
        reader.next()

    assert caught.value.status == status
