"""Published bytes are those that were written, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

import batchwright.engine.recovery as recovery
import batchwright.engine.result_files as result_files
from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged
from batchwright.domain.file import Extent
from batchwright.domain.segment import Segment
from batchwright.engine.account import RECORD_BYTES
from batchwright.engine.journal import Journal
from batchwright.engine.recovery import block_offsets
from batchwright.engine.result_files import read_result_extent
from batchwright.engine.tally import Tally

BATCH = "batch_1"


@dataclass(frozen=True, slots=True)
class Published:
    """A segment with thirty results, every third of them a failure."""

    blobs: MemoryBlobs
    segment: Segment
    keys: tuple[str, str]  # output, error
    content: tuple[bytes, bytes]

    def whole(self, which: int) -> Extent:
        return Extent(self.keys[which], 0, len(self.content[which]))

    async def read(self, extent: Extent) -> bytes:
        pieces = read_result_extent(extent, self.segment, self.blobs)
        return b"".join([piece async for piece in pieces])

    def damage(self, which: int, offset: int) -> None:
        self.blobs._files[self.keys[which]].data[offset] ^= 1


@pytest.fixture(params=[1, 100, 2**20], ids=lambda size: f"pieces of {size}")
async def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Published:
    monkeypatch.setattr(result_files, "CHUNK_BYTES", request.param)
    blobs = MemoryBlobs()
    journal = Journal(
        batch_id=BATCH,
        epoch=1,
        blobs=blobs,
        tally=Tally(),
        now=lambda: 0.0,
        on_durable=lambda tokens: None,
        on_failed=lambda tokens: None,
    )
    output, error = journal.keys.output, journal.keys.error
    await blobs.create((output, error, journal.keys.account))
    content = [b"", b""]
    for line in range(1, 31):
        text = b'{"line":%d,"filler":"%b"}\n' % (line, b"x" * (line * 7 % 40))
        content[line % 3 == 0] += text
        if line % 3:
            journal.add_output(text, (line, 7, 200, 0, 1), (1, 0, 1, 0, 5, 5))
        else:
            journal.add_error(text, (line, 7, 400, 0, 1))
        if line % 4 == 0:
            await journal.flush()
    segment = await journal.close()
    return Published(blobs, segment, (output, error), (content[0], content[1]))


@pytest.mark.parametrize("which", [0, 1])
async def test_a_result_file_comes_back_as_it_was_written(published: Published, which: int) -> None:
    assert await published.read(published.whole(which)) == published.content[which]


async def test_any_range_is_that_range(published: Published) -> None:
    content = published.content[0]
    for start in range(0, len(content), 13):
        for stop in range(start + 1, len(content) + 1, 29):
            extent = Extent(published.keys[0], start, stop - start)
            assert await published.read(extent) == content[start:stop]


@pytest.mark.parametrize("which", [0, 1])
async def test_the_records_before_a_range_are_not_all_read(
    published: Published, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_BLOCK_BYTES", 3 * RECORD_BYTES)
    halvings = len(block_offsets(published.segment)).bit_length()
    read, seen = published.blobs.read, list[str]()

    def counted(key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        seen.append(key)
        return read(key, offset, length)

    monkeypatch.setattr(published.blobs, "read", counted)
    content = published.content[which]
    for start in range(len(content)):
        seen.clear()
        extent = Extent(published.keys[which], start, 1)
        assert await published.read(extent) == content[start : start + 1]
        assert len(seen) <= halvings + 4  # and on to the next line of the kind, and the line


async def test_a_changed_byte_is_never_handed_out(published: Published) -> None:
    content = published.content[0]
    for offset in range(0, len(content), 5):
        published.damage(0, offset)
        with pytest.raises(Damaged, match="damaged"):
            await published.read(published.whole(0))
        # Nor where a client goes on from where it broke off, within the line.
        with pytest.raises(Damaged, match="damaged"):
            await published.read(Extent(published.keys[0], offset, 1))
        published.damage(0, offset)


async def test_bytes_that_no_record_knows_are_damage(published: Published) -> None:
    beyond = Extent(published.keys[0], 0, len(published.content[0]) + 1)

    with pytest.raises(Damaged, match="no account record"):
        await published.read(beyond)
