"""The interface to an upstream: how a request becomes an HTTP call and an answer comes back.

A `Provider` knows an account's API: it prepares calls and reads answers, without I/O.
A `Transport` moves bytes: one HTTP call out, one answer in.
The engine is given a provider with its transport and never sees which HTTP client it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from batchwright.domain.limits import LimitSeen

# The values that are made for each request are msgspec structs: ten times quicker to make than
# frozen dataclasses.


CONNECT_TIMEOUT_S = 10.0  # of every transport
WRITE_STALL_S = 60.0  # how long what was sent may stay unacknowledged

LARGE_ANSWER_BYTES = 2**20
"""An answer above it is received only as far as there is room for it."""


class Room(Protocol):
    """Where room in memory is asked for before a large answer is received."""

    async def reserve(self, size_bytes: int) -> None:
        """Wait until there is so much."""
        ...

    def give_back(self, size_bytes: int) -> None:
        """The answer is there, or will not come."""
        ...


class Call(msgspec.Struct, gc=False):
    """One HTTP call to be made. But for `room`, which its maker does not know, never changed."""

    method: str
    url: str  # absolute
    headers: Mapping[str, str]
    body: bytes  # empty for GET
    timeout_s: float  # for the whole call; the transport enforces it
    answer_bytes_max: int  # cap on the decoded answer
    room: Room | None = None  # for more than `LARGE_ANSWER_BYTES`; None: the transport's own

    def __repr__(self) -> str:
        """Without headers, which hold the key, and without what the caller said."""
        return f"Call(method={self.method!r}, url={self.url!r}, {len(self.body)} bytes)"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A complete HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StreamedAnswer(Protocol):
    """An answer whose body is still arriving."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, unbuffered. Raises `Ambiguous` if the connection breaks."""
        ...


class Transport(Protocol):
    """Bytes out, status + headers + bytes in."""

    async def send(self, call: Call) -> Answer:
        """Make one call and read its whole answer.

        Returns when the call has really ended, so that the caller may give back its slot.
        Any HTTP status is an answer. Redirects are not followed.
        Raises `NotSent`, `Ambiguous` or `AnswerTooLarge`, nothing else.
        """
        ...

    def stream(self, call: Call) -> AbstractAsyncContextManager[StreamedAnswer]:
        """Make one call and hand out its answer while it arrives; leaving closes it."""
        ...

    async def close(self) -> None:
        """Close every connection. Safe twice."""
        ...


class Provider(Protocol):
    """An account at an upstream."""

    @property
    def name(self) -> str:
        """The name in the configuration, unique; shown on result lines as part of the route."""
        ...

    @property
    def kind(self) -> str: ...

    @property
    def transport(self) -> Transport: ...

    def prepare(self, url: str, body: bytes) -> Call:
        """The call for a request: `url` is the path of the batch line (`/v1/chat/completions`),
        `body` its JSON with the route's model name already in place."""
        ...

    def read_limits(
        self, headers: Mapping[str, str], now_s: float, *, is_refusal: bool = False
    ) -> tuple[LimitSeen, ...]:
        """The rate limits that the headers of an answer tell; `now_s` is Unix time.

        It may be silent about some answers, to save time, but not about a refusal (429).
        """
        ...

    async def list_models(self) -> list[str]:
        """The names of the models that this account serves now, in its own order.

        Asks the upstream where the configuration does not say. Raises `TransportError`.
        """
        ...
