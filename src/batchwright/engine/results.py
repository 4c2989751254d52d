"""Reading results by their account records: while a batch runs, page by page; or by line."""

from __future__ import annotations

import re
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from batchwright.blobs.base import Blobs
from batchwright.domain.errors import UsageError
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import ERROR, OUTPUT, RECORD_BYTES, Record, place_of, places
from batchwright.engine.recovery import (
    BLOCK_RECORDS,
    read_line,
    read_records,
    read_whole_block,
    read_whole_few,
    read_whole_records,
)

RESULTS_PER_PAGE_MAX = 1000
PAGE_BYTES_MAX = 8 * 2**20
_CURSOR = re.compile(r"([0-9]{1,10})\.([0-9]{1,19})")  # epoch and byte of its account file


@dataclass(frozen=True, slots=True)
class ResultsPage:
    """Durable result lines, oldest first. `cursor` continues after them, now or later."""

    lines: list[bytes]
    cursor: str
    has_more: bool  # more is durable already


async def results_page(
    segments: Sequence[Segment],
    blobs: Blobs,
    *,
    cursor: str | None,
    limit: int,
    kinds: int = OUTPUT | ERROR,
) -> ResultsPage:
    """The results of `kinds` after `cursor` (None: from the first).

    Raises `UsageError` for a bad cursor.
    """
    epoch, position = _parse_cursor(cursor)
    lines: list[bytes] = []
    size_bytes = 0
    for segment in segments:
        if segment.epoch < epoch or segment.lengths is None:
            continue
        start = position if segment.epoch == epoch else 0
        epoch, position = segment.epoch, start
        keys = SegmentKeys.of(segment.batch_id, segment.epoch)
        async for record, end in _results(segment, blobs, start, kinds):
            if len(lines) >= limit or size_bytes >= PAGE_BYTES_MAX:
                return ResultsPage(lines, f"{epoch}.{position}", True)
            text = await read_line(blobs, _key(keys, record), record)
            lines.append(text)
            size_bytes += len(text)
            position = end
        position = max(position, segment.lengths.account)
    return ResultsPage(lines, f"{epoch}.{position}", False)


async def _results(
    segment: Segment, blobs: Blobs, start: int, kinds: int
) -> AsyncIterator[tuple[Record, int]]:
    """The result records from byte `start` on, each with the position behind it."""
    position = start
    async for record in read_records(segment, blobs, start, with_marks=True):
        position += RECORD_BYTES
        if record.flags & kinds:
            yield record, position


def _key(keys: SegmentKeys, record: Record) -> str:
    return keys.output if record.flags & OUTPUT else keys.error


def _parse_cursor(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return 0, 0
    ours = _CURSOR.fullmatch(cursor)
    if ours is None or int(ours[2]) % RECORD_BYTES != 0:
        raise UsageError("The cursor is not one of ours.", param="after", code="invalid_value")
    return int(ours[1]), int(ours[2])


class Settled(NamedTuple):
    """The line that a request ended as."""

    number: int  # its physical line in the request file, from 1
    line: bytes  # without its line end
    is_error: bool


class Stretch(NamedTuple):
    """Results that follow one another, in the request file and where they are kept."""

    first: int  # the number of the first line
    lines: int
    text: bytes  # whole lines with their ends
    is_error: bool

    def each(self) -> Iterator[Settled]:
        """Every result of it."""
        make, is_error = tuple.__new__, self.is_error  # a third of the time of a call of the class
        for number, line in enumerate(self.text.split(b"\n")[:-1], self.first):
            yield make(Settled, (number, line, is_error))


Place = tuple[str, int, int, int]
"""Key, offset and length of a result line, and the number of its request: it sorts by where it
lies."""


_LINE_OF = itemgetter(3)
_FEW_RECORDS = BLOCK_RECORDS // 32


def is_error_key(key: str) -> bool:
    """Whether a blob of a journal holds failures."""
    return key.endswith("/error")


class ResultIndex:
    """The account record of each line's result: 4 bytes a request. Built by `build`.

    Where a result lies is read from its record, when it is asked for. The records of neighbours
    are near one another, so that a few blocks of the account files, which are kept, do for many
    lines. Where the requests went out in another order, the records of a window are read alone.
    """

    _KEPT_BLOCKS: Final = 4

    def __init__(self, blobs: Blobs, lines: int) -> None:
        self.lines = lines
        self._blobs = blobs
        self._numbers = array("I", [0]) * (lines + 1)  # of records, from 1; 0: no result
        self._blocks: list[tuple[Segment, int]] = []  # the account files, with offsets
        self._kept: dict[int, bytes] = {}

    @classmethod
    async def build(cls, segments: Sequence[Segment], blobs: Blobs, lines: int) -> ResultIndex:
        """`lines` is the number of physical lines of the input."""
        index = cls(blobs, lines)
        for segment in segments:
            offset = 0
            async for data in read_whole_records(segment, blobs):
                index._note(data)
                index._blocks.append((segment, offset))
                offset += len(data)
        return index

    def _note(self, data: bytes) -> None:
        """Note whose the records of the next block are."""
        numbers = self._numbers
        first = len(self._blocks) * BLOCK_RECORDS + 1
        for number, (line, flags, _, _) in enumerate(places(data), first):
            if flags & (OUTPUT | ERROR):
                numbers[line] = number

    async def places(self, first: int, last: int) -> list[Place]:
        """Where the results of these lines lie, in the order of the lines."""
        found: list[Place] = []
        numbers = enumerate(self._numbers[first : last + 1], first)
        wanted = sorted([(number - 1, line) for line, number in numbers if number])
        for block, group in groupby(wanted, key=lambda each: each[0] // BLOCK_RECORDS):
            segment, _ = self._blocks[block]
            keys = SegmentKeys.of(segment.batch_id, segment.epoch)
            records = list(group)
            data, first_number = await self._records(block, [number for number, _ in records])
            for place, (number, line) in enumerate(records):
                at = place if first_number is None else number - first_number
                _, flags, offset, length = place_of(data, at)
                key = keys.output if flags & OUTPUT else keys.error
                found.append((key, offset, length, line))
        found.sort(key=_LINE_OF)
        return found

    async def _records(self, block: int, numbers: Sequence[int]) -> tuple[bytes, int | None]:
        """Records of a block: the whole of it, with the number of its first; or these alone, where
        they are few and it is not at hand."""
        first_number = block * BLOCK_RECORDS
        if block in self._kept or len(numbers) > _FEW_RECORDS:
            return await self._block(block), first_number
        segment, start = self._blocks[block]
        offsets = [start + (number - first_number) * RECORD_BYTES for number in numbers]
        return await read_whole_few(segment, self._blobs, offsets), None

    async def _block(self, number: int) -> bytes:
        data = self._kept.pop(number, None)
        if data is None:
            segment, offset = self._blocks[number]
            data = await read_whole_block(segment, self._blobs, offset)
        self._kept[number] = data  # the last that goes
        if len(self._kept) > self._KEPT_BLOCKS:
            del self._kept[next(iter(self._kept))]
        return data
