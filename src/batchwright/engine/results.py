"""Reading results by their account records: while a batch runs, page by page; or by line."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from batchwright.blobs.base import Blobs
from batchwright.domain.errors import UsageError
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import ERROR, OUTPUT, RECORD_BYTES, Record, places
from batchwright.engine.recovery import read_line, read_records, read_whole_records

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


Place = tuple[int, int, int]
"""Address and length of a result line, and the number of its request: it sorts by where it lies."""


class ResultFile(NamedTuple):
    """A result file of a segment, as a range of addresses."""

    start: int
    end: int
    key: str
    is_error: bool


class ResultIndex:
    """Where each result lies, by physical line: 12 bytes a request.

    The result files of all segments are thought of as one, end to end: an address is a place in
    it. Built by `build`.
    """

    def __init__(self, lines: int) -> None:
        # Made by repetition: from bytes, each would be there twice for a moment.
        self._addresses = array("Q", [0]) * (lines + 1)  # 0: no result
        self._lengths = array("I", [0]) * (lines + 1)
        self._files: list[ResultFile] = []
        self._end = 1  # of the last file

    @classmethod
    async def build(cls, segments: Sequence[Segment], blobs: Blobs, lines: int) -> ResultIndex:
        """`lines` is the number of physical lines of the input."""
        index = cls(lines)
        for segment in segments:
            assert segment.lengths is not None  # noqa: S101 - as of `read_whole_records`
            keys = SegmentKeys.of(segment.batch_id, segment.epoch)
            output = index._add_file(keys.output, segment.lengths.output, is_error=False)
            error = index._add_file(keys.error, segment.lengths.error, is_error=True)
            async for data in read_whole_records(segment, blobs):
                index._note(data, output, error)
        return index

    def _add_file(self, key: str, size_bytes: int, *, is_error: bool) -> int:
        start, self._end = self._end, self._end + size_bytes
        self._files.append(ResultFile(start, self._end, key, is_error))
        return start

    def _note(self, data: bytes, output: int, error: int) -> None:
        """Note where results lie, in files that begin at these addresses."""
        addresses, lengths = self._addresses, self._lengths
        for line, flags, offset, length in places(data):
            if flags & (OUTPUT | ERROR):
                addresses[line] = (output if flags & OUTPUT else error) + offset
                lengths[line] = length

    def places(self, lines: int) -> Iterator[Place]:
        """Of each result of the first `lines` lines, in the order of their lines."""
        found = zip(self._addresses, self._lengths, range(lines + 1), strict=False)
        return (place for place in found if place[0])

    def file_at(self, address: int) -> ResultFile:
        """The file that an address lies in."""
        return self._files[bisect_right(self._files, address, key=attrgetter("start")) - 1]
