"""What the sandbox sends for a request: decided without I/O, played out by the connection."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchwright.sandbox.answers import encode
from batchwright.sandbox.wire import LAST_CHUNK, answer_head, chunk


class Ending(enum.Enum):
    """What becomes of the connection after an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"  # stays open and silent until the client goes


class Hold(enum.Enum):
    """A step that waits until the test says `POST /sandbox/release`."""

    HOLD = "hold"


HOLD = Hold.HOLD
Step = bytes | float | Hold  # send these bytes; wait so many seconds; wait for the release


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What to send. `steps` follow after `data`."""

    status: int | None  # None: no whole answer is sent
    data: bytes
    steps: Iterator[Step] | None = None
    ending: Ending = Ending.KEEP


@dataclass(frozen=True, slots=True)
class Ordinary:
    """The answer that a request would get of a well-behaved upstream."""

    status: int
    headers: Mapping[str, str]
    payload: dict[str, Any]
    events: Iterator[bytes] | None = field(default=None)  # set where the body asks for a stream

    def reply(self) -> Reply:
        """The answer as it is."""
        if self.events is None:
            return whole(self.status, self.headers, encode(self.payload))
        return streamed(self.headers, self.events)


def whole(
    status: int, headers: Mapping[str, str], body: bytes, content_type: str = "application/json"
) -> Reply:
    """A complete answer of known length."""
    typed = {"content-type": content_type, **headers}
    return Reply(status, answer_head(status, typed, len(body)) + body)


def streamed(headers: Mapping[str, str], events: Iterator[bytes | Hold]) -> Reply:
    """Server-sent events, one chunk each."""
    typed = {"content-type": "text/event-stream; charset=utf-8", **headers}
    return Reply(200, answer_head(200, typed, None), _chunks(events))


def _chunks(events: Iterator[bytes | Hold]) -> Iterator[Step]:
    for event in events:
        yield event if isinstance(event, Hold) else chunk(event)
    yield LAST_CHUNK
