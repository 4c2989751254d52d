"""The lines of validated input, from any line on."""

from __future__ import annotations

import pytest

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.engine.input import input_lines, read_request

TEXT = b"\xef\xbb\xbfone\r\n\ntwo\nthree is longer\n   \nfour"


async def stored(blobs: MemoryBlobs, cuts: list[int]) -> list[Extent]:
    """The text in several blobs, each with something before it."""
    extents = []
    for start, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True):
        writer = await blobs.open_writer(f"part{start}")
        await writer.write(b"before" + TEXT[start:end])
        await writer.finish()
        extents.append(Extent(f"part{start}", 6, end - start))
    return extents


async def read(blobs: MemoryBlobs, extents: list[Extent], start: Line | None = None) -> list[Line]:
    return [line async for lines in input_lines(blobs, extents, start) for line in lines]


@pytest.mark.parametrize("cuts", [[], [7], [3, 9, 12], [8, 9]])
async def test_reading_from_a_line_gives_it_and_what_follows(cuts: list[int]) -> None:
    blobs = MemoryBlobs()
    extents = await stored(blobs, cuts)
    lines = await read(blobs, extents)
    assert [(line.number, line.content) for line in lines] == [
        (1, b"one"),
        (3, b"two"),
        (4, b"three is longer"),
        (6, b"four"),
    ]
    for at, line in enumerate(lines):
        assert await read(blobs, extents, line) == lines[at:]


def test_a_line_that_does_not_read_is_damage() -> None:
    with pytest.raises(Damaged, match="line 3 of the input file"):
        read_request(Line(3, 10, b'{"custom_id": '), "/v1/chat/completions")
