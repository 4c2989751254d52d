"""Bodies have a bound on their size and on how slowly they come."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from batchwright.domain.errors import UsageError
from batchwright.server.body import SLOW_BYTES, SLOW_S, body_chunks, parse_object, read_body
from batchwright.server.errors import BodyTooLarge, BodyTooSlow, ClientGone


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request_of(*messages: dict[str, Any], step_s: float = 0.0, clock: Clock) -> Request:
    """A request whose messages come `step_s` apart."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        clock.now += step_s
        return left.pop(0)

    return Request({"type": "http", "headers": []}, receive)


def part(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


async def test_a_body_comes_whole_or_not_at_all() -> None:
    clock = Clock()
    whole = request_of(part(b"ab"), part(b""), part(b"c", more=False), clock=clock)
    assert await read_body(whole, 3, clock) == b"abc"

    large = request_of(part(b"ab"), part(b"cd", more=False), clock=clock)
    with pytest.raises(BodyTooLarge):
        await read_body(large, 3, clock)

    gone = request_of(part(b"ab"), {"type": "http.disconnect"}, clock=clock)
    with pytest.raises(ClientGone):
        await read_body(gone, 3, clock)


async def test_a_body_that_trickles_is_given_up() -> None:
    clock = Clock()
    trickle = request_of(*[part(b"x")] * 100, step_s=SLOW_S / 10, clock=clock)

    with pytest.raises(BodyTooSlow):
        await read_body(trickle, 1000, clock)

    assert clock.now <= SLOW_S * 1.2


async def test_a_slow_but_steady_body_is_taken() -> None:
    clock = Clock()
    block = b"x" * SLOW_BYTES
    steady = [part(block) for _ in range(9)] + [part(b"", more=False)]
    request = request_of(*steady, step_s=SLOW_S - 1, clock=clock)

    chunks = [chunk async for chunk in body_chunks(request, 10**6, clock)]

    assert chunks == [block] * 9


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}"])
def test_no_body_is_an_empty_object(body: bytes) -> None:
    assert parse_object(body) == {}


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"1", b'{"a": NaN}', b'"\xff"', b"[" * 10**6, b'{"a": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        parse_object(body)
