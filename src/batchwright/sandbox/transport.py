"""The sandbox without a network: a transport that answers by itself, for rehearsals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from batchwright.domain.errors import Ambiguous, AnswerTooLarge
from batchwright.providers.base import Answer, Call
from batchwright.sandbox.answers import Composed, compose, encode, request_hash
from batchwright.sandbox.latency import parse_latency
from batchwright.sandbox.streams import events


class SandboxTransport:
    """Answers every model name, in process, the same each time; nothing is sent or paid.

    `latency` is as for `batchwright sandbox` (`100ms`, `50-150ms`); a call's own timeout applies.
    The path of a call counts from its last `/v1/`, so that any base URL will do.
    """

    def __init__(self, seed: int = 0, *, latency: str = "0") -> None:
        self._seed = seed
        self._latency = parse_latency(latency)

    async def send(self, call: Call) -> Answer:
        """The whole answer, also to a body that asks for a stream. See `Transport`."""
        composed, request_id = await self._answer_in_time(call)
        body = encode(composed.payload)
        if len(body) > call.answer_bytes_max:
            raise AnswerTooLarge(f"the answer has more than {call.answer_bytes_max:,} bytes")
        return Answer(composed.status, _headers("application/json", request_id), body)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[SandboxStream]:
        """Server-sent events where the body asks for them, else the answer in one piece."""
        composed, request_id = await self._answer_in_time(call)
        if composed.is_stream and composed.status == 200:
            headers = _headers("text/event-stream; charset=utf-8", request_id)
            yield SandboxStream(200, headers, events(composed))
        else:
            body = encode(composed.payload)
            yield SandboxStream(composed.status, _headers("application/json", request_id), [body])

    async def close(self) -> None:
        """There is nothing to close."""

    async def _answer_in_time(self, call: Call) -> tuple[Composed, str]:
        path = _path(call.url)
        digest = request_hash(path, call.body, self._seed)
        latency_s = self._latency.draw_s(int.from_bytes(digest[16:22], "big") / 2**48)
        await asyncio.sleep(min(latency_s, call.timeout_s))
        if latency_s > call.timeout_s:
            raise Ambiguous(f"no answer within {call.timeout_s:g} s")
        return compose(path, call.body, digest), "req_sandbox_" + digest.hex()[:20]


@dataclass(frozen=True, slots=True)
class SandboxStream:
    """A `StreamedAnswer` whose events are known."""

    status: int
    headers: dict[str, str]
    pieces: Iterable[bytes]

    async def chunks(self) -> AsyncIterator[bytes]:
        """One event at a time; between two, other tasks run."""
        for piece in self.pieces:
            yield piece
            await asyncio.sleep(0)


def _path(url: str) -> str:
    path = urlsplit(url).path
    _, mark, tail = path.rpartition("/v1/")
    return mark + tail if mark else path


def _headers(content_type: str, request_id: str) -> dict[str, str]:
    return {
        "content-type": content_type,
        "server": "batchwright-sandbox",
        "x-request-id": request_id,
    }
