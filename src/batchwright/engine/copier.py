"""The copier: gives each follower of a batch the result of its leader (see `Duplicates`).

    find_duplicates  once, before the first line is read for sending
    _copy_new        for each result of a leader that has become durable: its followers

It reads the journal of its own batch behind those who write it, so the way of a request knows
nothing of it. A copy is a result like any other: a line and a record. What is to be copied follows
from the input and the journal, so after a crash the next copier finds out by itself what is left.

A follower ends as its leader ended, well or not. Only what was cut short (cancelled, expired) is no
result to be copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

import msgspec

from batchwright.blobs.base import Blobs, read_extent_ranges
from batchwright.domain.batch import Batch
from batchwright.domain.errors import Damaged
from batchwright.domain.file import Extent
from batchwright.domain.result import NOT_RUN, copied_line, head_prefix, line_head
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import ERROR, OUTPUT, Record, unpack_whole
from batchwright.engine.duplicates import Duplicates, find_duplicates
from batchwright.engine.journal import Journal
from batchwright.engine.recorder import Recorder
from batchwright.engine.recovery import read_whole_records

SLICE_LINES = 2_000
SLICE_BYTES = 4 * 2**20  # read for copies at a time; a slice has one of them at least


class _Copy(NamedTuple):
    """A result that is to be copied to a line."""

    source: Record
    key: str  # where the text of the source lies
    line: int
    size_bytes: int  # of the source and of the line in the input


class Copier:
    """Copies within one batch, in one epoch."""

    def __init__(
        self,
        *,
        batch: Batch,
        extents: Sequence[Extent],
        blobs: Blobs,
        journal: Journal,
        recorder: Recorder,
        earlier: Sequence[Segment],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """`earlier` are the frozen segments of the batch. `on_end` is called where the work of
        `start` ends: as it was stopped, or with what went wrong."""
        self._batch = batch
        self._extents = extents
        self._blobs = blobs
        self._journal = journal
        self._recorder = recorder
        self._earlier = earlier
        self._on_end = on_end
        self._duplicates: Duplicates | None = None  # not known yet
        self._at = (0, 0)  # epoch, and byte of its account file up to which all is copied
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._wake = asyncio.Event()

    def is_follower(self, line: int) -> bool:
        """Whether a line is never sent. Known once `start` has called `on_ready`."""
        return self._duplicates is not None and self._duplicates.is_follower(line)

    def start(self, on_ready: Callable[[], None]) -> None:
        """Find the followers, call `on_ready`, and copy until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._run(on_ready))
        self._task.add_done_callback(self._on_done)

    def go_on(self) -> None:
        """Something has become durable, or nothing more will."""
        self._wake.set()

    async def stop(self) -> None:
        """Copy nothing more; what is gathered is in the journal when this returns. Safe twice."""
        self._is_stopped = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def finish(self, is_stopping: Callable[[], bool]) -> None:
        """After `stop`: copy what can be copied now. Leaves early, resumable, on a stop."""
        if self._journal.tally.settled and await self._know_duplicates(is_stopping):
            await self._copy_new(is_stopping)

    async def _run(self, on_ready: Callable[[], None]) -> None:
        if not await self._know_duplicates(self._has_stopped) or self._is_stopped:
            return
        on_ready()
        while self._has_followers and not self._is_stopped:
            self._wake.clear()
            await self._copy_new(self._has_stopped)
            if not self._wake.is_set():
                await self._wake.wait()

    @property
    def _has_followers(self) -> bool:
        return self._duplicates is not None and self._duplicates.count > 0

    def _has_stopped(self) -> bool:
        return self._is_stopped

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._on_end(None if task.cancelled() else task.exception())

    async def _know_duplicates(self, is_stopping: Callable[[], bool]) -> bool:
        if self._duplicates is None:
            self._duplicates = await find_duplicates(
                self._extents,
                endpoint=self._batch.endpoint,
                blobs=self._blobs,
                is_stopping=is_stopping,
            )
        return self._duplicates is not None

    # Copying

    async def _copy_new(self, is_stopping: Callable[[], bool]) -> None:
        """Copy the results that have become durable since."""
        open_one = Segment(self._batch.id, self._journal.epoch, self._journal.synced)
        for segment in (*self._earlier, open_one):
            epoch, start = self._at
            if segment.epoch < epoch:
                continue
            start = start if segment.epoch == epoch else 0
            async for data in read_whole_records(segment, self._blobs, start):
                for copies in _slices(self._copies(unpack_whole(data), segment)):
                    await self._copy(copies, is_stopping)
                    if is_stopping():
                        return
                start += len(data)
                self._at = (segment.epoch, start)

    def _copies(self, records: Iterable[Record], segment: Segment) -> Iterator[_Copy]:
        """What of these results goes to lines that have none."""
        duplicates, is_done = self._duplicates or Duplicates(), self._journal.tally.is_done
        keys = SegmentKeys.of(segment.batch_id, segment.epoch)
        for record in records:
            if not record.flags & (OUTPUT | ERROR) or record.code in NOT_RUN:
                continue
            key = keys.output if record.flags & OUTPUT else keys.error
            for line in duplicates.followers(record.line):
                if not is_done(line):
                    yield _Copy(record, key, line, record.length + duplicates.place(line)[1])

    async def _copy(self, copies: list[_Copy], is_stopping: Callable[[], bool]) -> None:
        """Write copies; they are durable when this returns, but for a stop."""
        texts = await self._read_sources(copies)
        lines = await self._read_lines([copy.line for copy in copies])
        prefix = head_prefix(self._batch.id)
        rendered = await self._blobs.offload(partial(_render, copies, texts, lines, prefix))
        for copy, text in rendered:
            self._recorder.copied(copy.line, text, copy.source)
        is_done, last = self._journal.tally.is_done, rendered[-1][0].line
        while not is_done(last) and not is_stopping():
            if self._journal.failure is not None:
                raise self._journal.failure
            self._wake.clear()
            await self._wake.wait()
        self._wake.set()  # more may be durable than was waited for

    async def _read_sources(self, copies: list[_Copy]) -> dict[tuple[str, int], bytes]:
        """The texts that are copied, by where they lie. Raises `Damaged` for one that is not."""
        texts: dict[tuple[str, int], bytes] = {}
        wanted = {(copy.key, copy.source.offset): copy.source for copy in copies}
        for key, places in groupby(sorted(wanted), key=lambda place: place[0]):
            sources = [wanted[place] for place in places]
            ranges = [(source.offset, source.length) for source in sources]
            found = await self._blobs.read_ranges(key, ranges)
            for source, text in zip(sources, found, strict=True):
                if crc32(text) != source.line_crc:
                    raise Damaged(f"{key}: the result line at byte {source.offset} is damaged")
                texts[key, source.offset] = text
        return texts

    async def _read_lines(self, lines: list[int]) -> dict[int, bytes]:
        """The followers' own lines of the input."""
        assert self._duplicates is not None  # noqa: S101 - there are copies
        places = {line: self._duplicates.place(line) for line in sorted(lines)}
        found = await read_extent_ranges(self._blobs, self._extents, list(places.values()))
        return dict(zip(places, found, strict=True))


def _slices(copies: Iterator[_Copy]) -> Iterator[list[_Copy]]:
    """Copies, some megabytes at a time."""
    part: list[_Copy] = []
    size_bytes = 0
    for copy in copies:
        part.append(copy)
        size_bytes += copy.size_bytes
        if len(part) >= SLICE_LINES or size_bytes >= SLICE_BYTES:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


class _Ours(msgspec.Struct):
    route: msgspec.Raw
    mode: msgspec.Raw


class _Source(msgspec.Struct):
    """What of a result line its copies take over."""

    response: msgspec.Raw
    error: msgspec.Raw
    batchwright: _Ours


class _Own(msgspec.Struct):
    custom_id: str


_decode_source = msgspec.json.Decoder(_Source).decode
_decode_own = msgspec.json.Decoder(_Own).decode


def _render(
    copies: list[_Copy],
    texts: dict[tuple[str, int], bytes],
    lines: dict[int, bytes],
    prefix: bytes,
) -> list[tuple[_Copy, bytes]]:
    """The copies with their result lines, in the order of the input: so what is read in that order
    later lies together."""
    rendered = []
    for source, same in groupby(copies, key=attrgetter("source")):
        of_source = list(same)
        result = _decode_source(texts[of_source[0].key, source.offset])
        ours = b'{"route":%b,"mode":%b,"attempts":0,"cost_usd":0,"copied_from":{"line":%d}}' % (
            bytes(result.batchwright.route),
            bytes(result.batchwright.mode),
            source.line,
        )
        response, error = bytes(result.response), bytes(result.error)
        for copy in of_source:
            custom_id = _decode_own(lines[copy.line]).custom_id
            head = line_head(prefix, copy.line)
            rendered.append((copy, copied_line(head, custom_id, response, error, ours)))
    rendered.sort(key=lambda made: made[0].line)
    return rendered
