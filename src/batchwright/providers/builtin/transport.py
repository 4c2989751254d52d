"""The transport of the builtin models: what others send over a socket is computed here.

Small calls are computed on the event loop, where they take less time than a change of thread;
large ones and all for `builtin/sentiment`, which is slower by far, on one thread beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotFound, NotSent, UsageError
from batchwright.providers.base import Answer, Call
from batchwright.providers.builtin.answers import (
    answer_text,
    embedding_body,
    error_body,
    text_body,
)
from batchwright.providers.builtin.bodies import EmbeddingRequest, read_request
from batchwright.providers.builtin.events import text_events

INLINE_BYTES_MAX = 1024
_INLINE_COMMAS_MAX = 16
_T = TypeVar("_T")
_THREADS = 1  # the work is Python: a second thread would only fight for the interpreter


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer whose body is made while it is read."""

    status: int
    headers: dict[str, str]
    body: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class _BuiltinStream:
    """A `StreamedAnswer`: each chunk is one event, or the whole of an answer without events."""

    reply: _Reply
    answer_bytes_max: int

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def headers(self) -> dict[str, str]:
        return self.reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        for chunk in self.reply.body:
            size_bytes += len(chunk)
            _check_size(size_bytes, self.answer_bytes_max)
            yield chunk
            await asyncio.sleep(0)  # a long answer must not hold up everybody else


class BuiltinTransport:
    """Answers calls to the builtin models in process.

    `wall_clock` gives seconds since the epoch, for the `created` of an answer.
    Ids follow from the bytes of a request: the same request gets the same answer.
    """

    def __init__(self, *, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="builtin")
        self._is_closed = False

    async def send(self, call: Call) -> Answer:
        """Answer one call; a streamed one with all its events at once."""
        return await self._run(call, _answer_whole)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[_BuiltinStream]:
        """Answer one call piece by piece."""
        yield _BuiltinStream(await self._run(call, _reply_to), call.answer_bytes_max)

    async def close(self) -> None:
        """Wait for what is being computed, and end the thread. Safe twice."""
        self._is_closed = True
        await asyncio.to_thread(self._pool.shutdown)

    async def _run(self, call: Call, compute: Callable[[Call, int], _T]) -> _T:
        if self._is_closed:
            raise NotSent("The builtin provider is closed.")
        created = int(self._wall_clock())
        if _is_small(call):
            return compute(call, created)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(call.timeout_s):
                return await loop.run_in_executor(self._pool, compute, call, created)
        except TimeoutError as error:
            raise Ambiguous(f"No answer within {call.timeout_s:g} s.") from error


def _is_small(call: Call) -> bool:
    if len(call.body) > INLINE_BYTES_MAX or b"sentiment" in call.body:
        return False
    # A kilobyte may hold 250 inputs to embed, which take 50 ms.
    return call.body.count(b",") <= _INLINE_COMMAS_MAX


def _answer_whole(call: Call, created: int) -> Answer:
    reply = _reply_to(call, created)
    body = b"".join(reply.body)
    _check_size(len(body), call.answer_bytes_max)
    return Answer(reply.status, reply.headers, body)


def _reply_to(call: Call, created: int) -> _Reply:
    path = urlsplit(call.url).path
    key = blake2b(path.encode() + b"\n" + call.body, digest_size=16).hexdigest()
    try:
        if call.method != "POST":
            raise NotFound(f"Invalid URL ({call.method} {path}): builtin takes only POST.")
        return _answer_request(path, call.body, key, created)
    except UsageError as error:
        return _json_reply(error.status, key, error_body(error))


def _answer_request(path: str, body: bytes, key: str, created: int) -> _Reply:
    request = read_request(path, body)
    if isinstance(request, EmbeddingRequest):
        return _json_reply(200, key, embedding_body(request))
    text = answer_text(request, key, created)
    if request.is_streamed:
        return _Reply(200, _headers("text/event-stream; charset=utf-8", key), text_events(text))
    return _json_reply(200, key, text_body(text))


def _json_reply(status: int, key: str, value: object) -> _Reply:
    return _Reply(status, _headers("application/json", key), iter([msgspec.json.encode(value)]))


def _headers(content_type: str, key: str) -> dict[str, str]:
    return {"content-type": content_type, "x-request-id": f"req_{key}"}


def _check_size(size_bytes: int, size_bytes_max: int) -> None:
    if size_bytes > size_bytes_max:
        raise AnswerTooLarge(f"The answer passed {size_bytes_max:,} bytes.")
