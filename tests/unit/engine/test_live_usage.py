"""The usage of a live call, overheard from a stream that is handed on unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from batchwright.domain.usage import NO_USAGE, Usage
from batchwright.engine.live_usage import TAIL_BYTES, Overheard

CHAT = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
RESPONSE = (
    b"event: response.completed\n"
    b'data: {"response":{"status":"completed","usage":{"input_tokens":9,"output_tokens":4}}}\n\n'
)


class Stream:
    """An answer in the chunks given."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def overhear(*chunks: bytes) -> Overheard:
    async def hand_on() -> Overheard:
        overheard = Overheard(Stream(chunks))
        assert [chunk async for chunk in overheard.chunks()] == list(chunks)
        return overheard

    return asyncio.run(hand_on())


@pytest.mark.parametrize(
    "end",
    [
        CHAT + b"data: [DONE]\n\n",
        CHAT,
        RESPONSE,
        b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}',
        CHAT + b'data: {"usage":null}\r\n\r\ndata: [DONE]\r\n\r\n',
    ],
)
def test_the_last_event_that_names_a_usage_tells_it_however_it_is_cut(end: bytes) -> None:
    for size in (1, 7, len(end)):
        chunks = [end[at : at + size] for at in range(0, len(end), size)]
        assert overhear(b'data: {"choices":[{}]}\n\n', *chunks).usage() == Usage(9, 0, 4)


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"data: [DONE]\n\n",
        b'data: {"usage"',
        b'data: {"usage":"many"}\n\n',
        b'data: {"usage":{"prompt_tokens":-1}}\n\n',
        b'data: {"text":"\xff \\"usage\\""}\n\n',
    ],
)
def test_a_stream_that_tells_none_has_none(end: bytes) -> None:
    assert overhear(end).usage() == NO_USAGE


def test_no_more_than_the_end_of_a_long_stream_is_kept() -> None:
    overheard = overhear(*[b"data: {}\n\n" * 100] * 1_000, CHAT, b"x" * 10 * TAIL_BYTES)
    assert overheard.usage() == NO_USAGE
    assert sum(map(len, overheard._tail)) <= 2 * TAIL_BYTES
