"""The copier: gives requests of a batch results that are there already, so that they are not sent.

    recall           from earlier batches, once, before anything is sent (see `AnswerCache`)
    find_duplicates  once, before anything is sent
    _copy_new        for each result of a leader that has become durable: its followers

It reads the journal of its own batch behind those who write it, so the way of a request knows
nothing of it. What is to be copied follows from the inputs and the journals, so after a crash the
next copier finds out by itself what is left.

A follower ends as its leader ended, well or not. Only what was cut short (cancelled, expired) is no
result to be copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from batchwright.blobs.base import Blobs, read_extent_ranges
from batchwright.domain.batch import Batch
from batchwright.domain.file import Extent
from batchwright.domain.result import NOT_RUN
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import ERROR, OUTPUT, Record, unpack_whole
from batchwright.engine.answer_cache import AnswerCache
from batchwright.engine.bodies import Bodies
from batchwright.engine.copies import Copy, CopyWriter, slices
from batchwright.engine.duplicates import NO_DUPLICATES, Duplicates, find_duplicates
from batchwright.engine.journal import Journal
from batchwright.engine.preparation import Preparation
from batchwright.engine.recorder import Recorder
from batchwright.engine.recovery import read_whole_records
from batchwright.engine.routing import Router
from batchwright.engine.runtime import Runtime
from batchwright.store.base import EngineStore

LOOKING_FOR_DUPLICATES = "looking for requests that are the same"


class Copier:
    """Copies for one batch, in one epoch."""

    def __init__(
        self,
        *,
        batch: Batch,
        extents: Sequence[Extent],
        blobs: Blobs,
        journal: Journal,
        writer: CopyWriter,
        earlier: Sequence[Segment],
        cache: AnswerCache | None,
        preparation: Preparation,
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """`earlier` are the frozen segments of the batch. `on_end` is called where the work of
        `start` ends: as it was stopped, or with what went wrong."""
        self._batch = batch
        self._extents = extents
        self._blobs = blobs
        self._journal = journal
        self._writer = writer
        self._earlier = earlier
        self._cache = cache
        self._preparation = preparation
        self._on_end = on_end
        self._duplicates = None if batch.is_deduped else NO_DUPLICATES  # None: not known yet
        self._copies_in_all = 0  # once all followers have theirs; known with the duplicates
        self._at = (0, 0)  # epoch, and byte of its account file up to which all is copied
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    def is_follower(self, line: int) -> bool:
        """Whether a line is never sent. Known once `start` has called `on_ready`."""
        return self._duplicates is not None and self._duplicates.is_follower(line)

    @property
    def owed(self) -> int:
        """How many followers are still to get a result; 0 while they are not known."""
        return max(self._copies_in_all - self._journal.tally.copies, 0)

    def start(self, on_ready: Callable[[], None]) -> None:
        """Copy what earlier batches have, find the followers, call `on_ready`, and copy for them
        until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._run(on_ready))
        self._task.add_done_callback(self._on_done)

    def go_on(self) -> None:
        """Something has become durable, or nothing more will."""
        self._writer.moved.set()

    async def stop(self) -> None:
        """Copy nothing more; what is gathered is in the journal when this returns. Safe twice."""
        self._is_stopped = True
        self.go_on()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def finish(self, is_stopping: Callable[[], bool]) -> None:
        """After `stop`: copy to followers what can be. Leaves early, resumable, on a stop."""
        if self._journal.tally.settled and await self._know_duplicates(is_stopping):
            await self._copy_new(is_stopping)

    async def _run(self, on_ready: Callable[[], None]) -> None:
        if not await self._know_duplicates(self._has_stopped, await self._recall()):
            return
        if self._is_stopped:
            return
        on_ready()
        moved = self._writer.moved
        while self._has_followers and not self._is_stopped:
            moved.clear()
            await self._copy_new(self._has_stopped)
            if not moved.is_set():
                await moved.wait()

    async def _recall(self) -> Bodies | None:
        """Copy what earlier batches have; the bodies of this one, where that had to read them."""
        cache, self._cache = self._cache, None  # it holds megabytes
        return None if cache is None else await cache.recall(self._has_stopped)

    @property
    def _has_followers(self) -> bool:
        return self._duplicates is not None and self._duplicates.count > 0

    def _has_stopped(self) -> bool:
        return self._is_stopped

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._on_end(None if task.cancelled() else task.exception())

    async def _know_duplicates(
        self, is_stopping: Callable[[], bool], bodies: Bodies | None = None
    ) -> bool:
        if self._duplicates is not None:
            return True
        with self._preparation.step(LOOKING_FOR_DUPLICATES, self._batch.counts.total):
            found = await find_duplicates(
                self._extents,
                endpoint=self._batch.endpoint,
                blobs=self._blobs,
                preparation=self._preparation,
                is_stopping=is_stopping,
                known=bodies,
            )
        if found is not None:
            tally = self._journal.tally
            undone = await self._blobs.offload(partial(found.count_undone, tally.is_done))
            self._copies_in_all = tally.copies + undone
            self._duplicates = found
        return found is not None

    # Copying to followers

    async def _copy_new(self, is_stopping: Callable[[], bool]) -> None:
        """Copy the results that have become durable since."""
        duplicates = self._duplicates
        if duplicates is None or not duplicates.count:
            return
        open_one = Segment(self._batch.id, self._journal.epoch, self._journal.synced)
        for segment in (*self._earlier, open_one):
            epoch, start = self._at
            if segment.epoch < epoch:
                continue
            start = start if segment.epoch == epoch else 0
            async for data in read_whole_records(segment, self._blobs, start):
                for copies in slices(self._copies(unpack_whole(data), segment, duplicates)):
                    await self._copy(copies, duplicates, is_stopping)
                    if is_stopping():
                        return
                start += len(data)
                self._at = (segment.epoch, start)

    def _copies(
        self, records: Iterable[Record], segment: Segment, duplicates: Duplicates
    ) -> Iterator[Copy]:
        """What of these results goes to lines that have none."""
        is_done, keys = self._journal.tally.is_done, SegmentKeys.of(segment.batch_id, segment.epoch)
        for record in records:
            if not record.flags & (OUTPUT | ERROR) or record.code in NOT_RUN:
                continue
            key = keys.output if record.flags & OUTPUT else keys.error
            mark = b'"copied_from":{"line":%d}' % record.line
            for line in duplicates.followers(record.line):
                if not is_done(line):
                    size_bytes = record.length + duplicates.place(line)[1]
                    yield Copy(record, key, line, mark, size_bytes)

    async def _copy(
        self, copies: list[Copy], duplicates: Duplicates, is_stopping: Callable[[], bool]
    ) -> None:
        places = {line: duplicates.place(line) for line in sorted([copy.line for copy in copies])}
        found = await read_extent_ranges(self._blobs, self._extents, list(places.values()))
        lines = dict(zip(places, found, strict=True))
        texts = await self._writer.read_sources(copies)
        await self._writer.write(copies, texts, lines, is_stopping)


def make_copier(
    batch: Batch,
    *,
    extents: Sequence[Extent],
    store: EngineStore,
    blobs: Blobs,
    runtime: Runtime,
    router: Router,
    journal: Journal,
    recorder: Recorder,
    earlier: Sequence[Segment],
    preparation: Preparation,
    on_end: Callable[[BaseException | None], None],
) -> Copier:
    """The copier of a batch, with the answers of earlier batches where it asks for them."""
    cache = None
    writer = CopyWriter(batch.id, blobs=blobs, journal=journal, recorder=recorder)
    if batch.cache_max_age_s is not None:
        cache = AnswerCache(
            batch,
            max_age_s=batch.cache_max_age_s,
            extents=extents,
            store=store,
            blobs=blobs,
            router=router,
            writer=writer,
            is_done=journal.tally.is_done,
            runtime=runtime,
            preparation=preparation,
        )
    return Copier(
        batch=batch,
        extents=extents,
        blobs=blobs,
        journal=journal,
        writer=writer,
        earlier=earlier,
        cache=cache,
        preparation=preparation,
        on_end=on_end,
    )
