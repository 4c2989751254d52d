"""Result files: published as extents of a batch's segments, and read with a check of each line.

Nothing is copied when a batch ends. Disks forget: what was written whole may come back changed,
months later. So each line is held against its account record before it is handed out, and a reader
gets the bytes that were written or none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from zlib import crc32

from batchwright.blobs.base import CHUNK_BYTES, Blobs
from batchwright.domain.batch import Batch
from batchwright.domain.errors import Damaged
from batchwright.domain.file import RESULT_PURPOSE, Extent, File
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import ERROR, MARK, OUTPUT, Record, marked_lengths, unpack_whole
from batchwright.engine.recovery import block_offsets, read_whole_block, read_whole_records


def publishable(
    batch: Batch,
    which: str,
    segments: Sequence[Segment],
    *,
    file_id: str,
    now: float,
    ttl_s: float | None,
) -> tuple[File, list[Extent]] | None:
    """The `output` or `error` file over closed segments; None where it would be empty."""
    extents = [
        Extent(getattr(SegmentKeys.of(segment.batch_id, segment.epoch), which), 0, length)
        for segment in segments
        if (length := getattr(segment.lengths, which))
    ]
    if not extents:
        return None
    file = File(
        id=file_id,
        tenant=batch.tenant,
        purpose=RESULT_PURPOSE,
        filename=f"{batch.id}_{which}.jsonl",
        size_bytes=sum(extent.length for extent in extents),
        created_at=now,
        expires_at=None if ttl_s is None else now + ttl_s,
        sha256=None,
    )
    return file, extents


async def read_result_extent(
    extent: Extent, segment: Segment, blobs: Blobs
) -> AsyncIterator[bytes]:
    """The bytes of an extent of `segment`, in pieces of about a megabyte and of whole lines.

    The lines in which it begins and ends are checked whole. Raises `Damaged`.
    """
    kind = OUTPUT if extent.key.endswith("/output") else ERROR
    position, stop = extent.offset, extent.offset + extent.length
    first = await _block_before(position, kind, segment, blobs)
    async for data in read_whole_records(segment, blobs, first):
        wanted = await blobs.offload(partial(_wanted, data, kind, position))
        for lines in _pieces(wanted):
            start = lines[0].offset
            if start > position or position >= stop:
                break
            end = lines[-1].offset + lines[-1].length
            piece = b"".join([chunk async for chunk in blobs.read(extent.key, start, end - start)])
            await blobs.offload(partial(_check, piece, lines, extent.key))
            yield piece[position - start : stop - start]
            position = end
        if position >= stop:
            return
    if position < stop:
        raise Damaged(f"{extent.key}: no account record for the line at byte {position}")


async def _block_before(position: int, kind: int, segment: Segment, blobs: Blobs) -> int:
    """A block of the account file before which no record is of a line at `position` or behind it.

    Result lines lie in the order of their records, so the blocks are searched by halving.
    """
    blocks = block_offsets(segment)
    low, high = 0, len(blocks)
    while position and high - low > 1:
        middle = (low + high) // 2
        data = await read_whole_block(segment, blobs, blocks[middle])
        begins = await blobs.offload(partial(_begins_at, data, kind))
        if begins is not None and begins <= position:
            low = middle
        else:
            high = middle
    return blocks[low] if blocks else 0


def _begins_at(data: bytes, kind: int) -> int | None:
    """Up to where lines of `kind` lie before these records; None where none of them tells."""
    for record in unpack_whole(data):
        if record.flags & MARK:
            output, error, _ = marked_lengths(record)
            return output if kind == OUTPUT else error
        if record.flags & kind:
            return record.offset
    return None


def _wanted(data: bytes, kind: int, position: int) -> list[Record]:
    """The records of the lines of `kind` that end behind `position`."""
    return [
        record
        for record in unpack_whole(data)
        if record.flags & kind and record.offset + record.length > position
    ]


def _pieces(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Lines that follow one another, about `CHUNK_BYTES` of them."""
    piece: list[Record] = []
    size_bytes = 0
    for record in records:
        piece.append(record)
        size_bytes += record.length
        if size_bytes >= CHUNK_BYTES:
            yield piece
            piece, size_bytes = [], 0
    if piece:
        yield piece


def _check(data: bytes, lines: Sequence[Record], key: str) -> None:
    view, start = memoryview(data), lines[0].offset
    position = start
    for line in lines:
        end = line.offset + line.length
        if line.offset != position or crc32(view[position - start : end - start]) != line.line_crc:
            raise Damaged(f"{key}: the result line at byte {position} is damaged")
        position = end
