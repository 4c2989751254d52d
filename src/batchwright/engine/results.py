"""Reading results by their account records: while a batch runs, page by page; or by line."""

from __future__ import annotations

import re
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from batchwright.blobs.base import Blobs
from batchwright.domain.errors import UsageError
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import ERROR, OUTPUT, RECORD_BYTES, Record
from batchwright.engine.recovery import read_line, read_record_lists, read_records

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


class ResultIndex:
    """Where each result lies, by physical line: 14 bytes a request.

    Built by `build`; `read` gives the result line of an input line.
    """

    def __init__(self, lines: int) -> None:
        # Made by repetition: from bytes, each would be there twice for a moment.
        self._offsets = array("Q", [0]) * (lines + 1)
        self._lengths = array("I", [0]) * (lines + 1)
        self._places = array("H", [0]) * (lines + 1)  # 0: no result
        self._keys: list[str] = [""]

    @classmethod
    async def build(cls, segments: Sequence[Segment], blobs: Blobs, lines: int) -> ResultIndex:
        """`lines` is the number of physical lines of the input."""
        index = cls(lines)
        for segment in segments:
            keys = SegmentKeys.of(segment.batch_id, segment.epoch)
            first = len(index._keys)
            index._keys += [keys.output, keys.error]
            async for records in read_record_lists(segment, blobs):
                index._note(records, first)
        return index

    def _note(self, records: list[Record], first: int) -> None:
        """Note where results lie; `first` is the place of the output of their segment."""
        offsets, lengths, places = self._offsets, self._lengths, self._places
        for record in records:
            flags, line = record.flags, record.line
            if flags & (OUTPUT | ERROR):
                offsets[line] = record.offset
                lengths[line] = record.length
                places[line] = first if flags & OUTPUT else first + 1

    def places(self, lines: int) -> Iterator[tuple[int, str, int, int]]:
        """(line, blob key, offset, length) of each result of the first `lines` lines."""
        keys = self._keys
        found = zip(self._places, self._offsets, self._lengths, strict=True)
        for line, (place, offset, length) in enumerate(islice(found, lines + 1)):
            if place:
                yield line, keys[place], offset, length

    def place(self, line: int) -> tuple[str, int, int] | None:
        """(blob key, offset, length) of a line's result; None if it has none."""
        place = self._places[line]
        return (self._keys[place], self._offsets[line], self._lengths[line]) if place else None
