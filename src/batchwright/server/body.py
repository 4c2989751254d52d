"""Reading request bodies: in pieces, with a bound on their size and on how slowly they may come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.requests import Request

from batchwright.domain.errors import UsageError
from batchwright.server.errors import BodyTooLarge, BodyTooSlow, ClientGone

SLOW_S = 30.0  # a body must bring `SLOW_BYTES` in so long, or is given up
SLOW_BYTES = 30 * 1024


async def body_chunks(
    request: Request, bytes_max: int, monotonic: Callable[[], float]
) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises `BodyTooLarge`, `BodyTooSlow`, or `ClientGone` where the connection ends early.
    """
    _check_announced(request, bytes_max)
    received = fresh = 0
    waited_s = 0.0
    while True:
        asked_at = monotonic()
        message = await _receive(request)
        waited_s += monotonic() - asked_at
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        received += len(chunk)
        fresh += len(chunk)
        if received > bytes_max:
            raise too_large(bytes_max)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return
        if fresh >= SLOW_BYTES:
            fresh, waited_s = 0, 0.0
        elif waited_s > SLOW_S:
            raise _too_slow()


async def read_body(request: Request, bytes_max: int, monotonic: Callable[[], float]) -> bytes:
    """The whole body, of at most `bytes_max`."""
    chunks = [chunk async for chunk in body_chunks(request, bytes_max, monotonic)]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_json(error) from error
    if not isinstance(value, dict):
        raise UsageError("The body of the request must be a JSON object.")
    return value


def bad_json(error: Exception, param: str | None = None) -> UsageError:
    """What a client is told of a body that is no JSON."""
    return UsageError(
        f"We could not parse the JSON body of your request: {error}. "
        "The API expects a JSON payload.",
        param=param,
    )


def too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request is larger than the {bytes_max:,} bytes that are allowed.")


def _check_announced(request: Request, bytes_max: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > bytes_max):
        raise too_large(bytes_max)


async def _receive(request: Request) -> Any:
    try:
        async with asyncio.timeout(SLOW_S):
            return await request.receive()
    except TimeoutError as error:
        raise _too_slow() from error


def _too_slow() -> BodyTooSlow:
    return BodyTooSlow(f"The body came slower than {SLOW_BYTES:,} bytes in {SLOW_S:.0f} s.")
