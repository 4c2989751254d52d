"""The lines that the reader gets, by prefix: each once, as it stands in the file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from batchwright.blobs.base import CHUNK_BYTES
from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.engine.line_source import TAKEN_AT_ONCE, InputSource, LineSource, PrefixSource
from batchwright.engine.preparation import Preparation
from simulation import simulate

CHAT = "/v1/chat/completions"


def request(prompt: int, number: int) -> bytes:
    messages = [
        {"role": "system", "content": f"prompt {prompt}".ljust(3000, "x")},
        {"role": "user", "content": f"question {number}"},
    ]
    body = {"model": "m", "messages": messages}
    return json.dumps({"custom_id": f"r-{number}", "url": CHAT, "body": body}).encode()


def shuffled(prompts: int, count: int) -> list[bytes]:
    return [request(number % prompts, number) for number in range(count)]


async def stored(blobs: MemoryBlobs, data: bytes, cuts: Sequence[int] = ()) -> list[Extent]:
    """A file in several blobs, each with something before it."""
    extents = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        writer = await blobs.open_writer(f"part{start}")
        await writer.write(b"before" + data[start:end])
        await writer.finish()
        extents.append(Extent(f"part{start}", 6, end - start))
    return extents


def by_prefix(
    blobs: MemoryBlobs,
    extents: list[Extent],
    *,
    is_done: Callable[[int], bool] | None = None,
    lead: int = 0,
) -> PrefixSource:
    return PrefixSource(
        endpoint=CHAT,
        extents=extents,
        blobs=blobs,
        is_done=is_done,
        lead=lambda: lead,
        preparation=Preparation(),
        total=1,
    )


async def read(source: LineSource) -> list[Line]:
    return [line async for piece in source.lines() for line in piece]


async def read_rest(source: LineSource, number: int) -> tuple[list[Line], list[Line]]:
    """All lines, and the rest from the `number`-th on, as another scan gets them."""
    whole, rest = list[Line](), None
    async for piece in source.lines():
        for line in piece:
            if len(whole) == number:
                rest = source.rest(piece, line)
            whole.append(line)
    assert rest is not None
    return whole, [line async for piece in rest for line in piece]


def prompt_of(line: Line) -> str:
    text: str = json.loads(line.content or b"")["body"]["messages"][0]["content"]
    return text.rstrip("x")


@pytest.mark.parametrize("cuts", [[], [10, 5_000, 5_001, 20_000]])
async def test_lines_with_a_common_prompt_come_together_as_they_stand(cuts: list[int]) -> None:
    blobs, lines = MemoryBlobs(), shuffled(3, 20)
    data = b"\xef\xbb\xbf" + b"\r\n \n".join(lines)
    extents = await stored(blobs, data, cuts)

    found = await read(by_prefix(blobs, extents))

    in_file = await read(InputSource(extents=extents, blobs=blobs))
    assert sorted(found) == in_file
    assert [line.content for line in in_file] == lines
    assert [prompt_of(line) for line in found] == sorted(prompt_of(line) for line in in_file)
    assert [line.number for line in found[:7]] == [1, 7, 13, 19, 25, 31, 37]


@pytest.mark.parametrize("lead", [0, 3, 100])
async def test_from_a_line_on_it_is_the_rest_in_the_same_order(lead: int) -> None:
    blobs = MemoryBlobs()
    extents = await stored(blobs, b"\n".join(shuffled(30, 1_000)))
    for number in (0, 1, 255, 256, 700, 999):
        whole, rest = await read_rest(by_prefix(blobs, extents, lead=lead), number)
        assert rest == whole[number:]


async def test_forerunners_come_ahead_and_done_lines_do_not_come() -> None:
    blobs = MemoryBlobs()
    extents = await stored(blobs, b"\n".join(shuffled(2, 12)))
    found = await read(by_prefix(blobs, extents, is_done=lambda line: line in (2, 5), lead=3))
    assert [line.number for line in found] == [1, 3, 7, 4, 9, 11, 6, 8, 10, 12]


async def test_a_file_without_common_prompts_is_read_from_its_beginning_to_its_end() -> None:
    blobs = MemoryBlobs()
    extents = await stored(blobs, b"\n".join(shuffled(20, 20)))
    source = by_prefix(blobs, extents, lead=5)
    found, rest = await read_rest(source, 7)
    assert found == await read(InputSource(extents=extents, blobs=blobs))
    assert rest == found[7:]
    index = source._index
    assert [len(each) for each in (index.numbers, index.offsets, index.lengths)] == [0, 0, 0]


async def test_a_line_that_cannot_be_read_comes_where_it_stands() -> None:
    blobs = MemoryBlobs()
    lines = shuffled(2, 6)
    lines[3] = b'{"custom_id": '
    found = await read(by_prefix(blobs, await stored(blobs, b"\n".join(lines))))
    assert [line.number for line in found] == [1, 3, 5, 2, 6, 4]


def test_what_is_read_at_once_is_bounded_by_lines_and_by_bytes() -> None:
    async def bounded() -> tuple[list[int], list[int]]:
        blobs = MemoryBlobs()
        many = b"\n".join(shuffled(2, 600))
        large = b"\n".join(line + b" " * (CHUNK_BYTES // 2) for line in shuffled(2, 6))
        sizes = []
        for data in (many, large):
            source = by_prefix(blobs, await stored(blobs, data))
            sizes.append([len(list(piece)) async for piece in source.lines()])
            await blobs.delete("part0")
        return sizes[0], sizes[1]

    many, large = simulate(bounded())
    assert many == [TAKEN_AT_ONCE, TAKEN_AT_ONCE, 600 - 2 * TAKEN_AT_ONCE]
    assert large == [2, 2, 2]


def test_the_whole_file_is_read_in_slices_and_the_rest_off_the_loop() -> None:
    """A million lines may need a million reads, but none of them on the event loop."""

    async def counted() -> tuple[int, int]:
        blobs = Counting()
        extents = await stored(blobs, b"\n".join(shuffled(2, 1_000)))
        await read(by_prefix(blobs, extents))
        return blobs.reads, blobs.offloads

    reads, offloads = simulate(counted())
    assert reads == 4  # one for each 256 lines
    assert offloads == 4 + 1 + 1 + 4 + 1  # slices, the last line, the order, and takes


class Counting(MemoryBlobs):
    def __init__(self) -> None:
        super().__init__(pause=lambda: asyncio.sleep(0))
        self.reads = self.offloads = 0

    async def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self.reads += 1
        return await super().read_ranges(key, ranges)

    async def offload(self, function: Callable[[], object]) -> object:  # type: ignore[override]
        self.offloads += 1
        return await super().offload(function)
