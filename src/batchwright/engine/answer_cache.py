"""The answer cache: what earlier batches of a tenant have answered is not bought again.

A batch that opted in looks, before it sends anything, at the earlier batches of its tenant that
opted in too and that have the same endpoint. A request whose body was answered there, through the
route that it would take now and not longer ago than it allows, gets a copy of that answer. A copy
hands its answer on, as old as when it was bought: so what comes every night is found in the newest
batch, however long ago that was.

Nothing is stored for it: what an earlier batch was asked stands in its input file, and what it
answered in its journal. So an entry ends with either file, and with nothing else to be forgotten.
What is read of them is bounded by `LOOK_BACK_BATCHES` and `LOOK_BACK_REQUESTS`, the newest first.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from batchwright.blobs.base import Blobs, read_extent_ranges
from batchwright.domain.answers import says_it_failed
from batchwright.domain.batch import CACHE, Batch
from batchwright.domain.errors import StorageError
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.domain.request import parse_request
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.engine.account import OUTPUT, RECORD_BYTES, Record, unpack_whole
from batchwright.engine.bodies import BUCKETS, Bodies, read_bodies
from batchwright.engine.copies import (
    SLICE_BYTES,
    SLICE_LINES,
    Copy,
    CopyWriter,
    Texts,
    body_of,
    route_of,
    slices,
)
from batchwright.engine.input import input_lines
from batchwright.engine.preparation import Preparation
from batchwright.engine.reader import ROUTE_EVERY_S
from batchwright.engine.recovery import read_whole_records
from batchwright.engine.routing import Route, Router, UnknownModel
from batchwright.engine.runtime import Runtime
from batchwright.store.base import EngineStore

LOOK_BACK_BATCHES = 100
LOOK_BACK_REQUESTS = 1_000_000  # of all of them together; the newest is looked at in any case
UNHEARD_WAIT_S = 300.0  # in all, for providers that still load, where other requests wait too
LOOKING_BACK = "looking for answers of earlier batches"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Earlier:
    """An earlier batch, and where its answers stand."""

    batch: Batch
    segments: Sequence[Segment]
    records: array[int]
    """By line of its input: where the record of its answer stands, as 1 + the byte in the account
    files of its segments, end to end; 0 where there is no answer to be copied."""

    def account_files(self) -> Iterator[tuple[int, int, SegmentKeys]]:
        """Start and end of each, end to end, and the keys of its segment."""
        start = 0
        for segment in self.segments:
            end = start + (segment.lengths.account if segment.lengths else 0)
            yield start, end, SegmentKeys.of(segment.batch_id, segment.epoch)
            start = end

    def output_of(self, at: int) -> str:
        """The key of the result lines of the record at `at`."""
        return next(keys.output for _, end, keys in self.account_files() if at <= end)

    def mark(self, record: Record) -> bytes:
        """What a copy of an answer is marked with: where it was found, and when it was bought."""
        where = (self.batch.id.encode(), record.line, record.at)
        return b'"cached_from":{"batch":"%b","line":%d,"at":%d}' % where


class _Hits:
    """For each line of the batch what it can be copied from."""

    def __init__(self, lines: int) -> None:
        self.count = 0
        self._batches = array("B", [0]) * (lines + 1)  # 0: nothing
        self._lines = array("I", [0]) * (lines + 1)

    def add(self, line: int, earlier: int, source: int) -> None:
        self.count += 1
        self._batches[line] = earlier + 1
        self._lines[line] = source

    def of(self, line: int) -> tuple[int, int] | None:
        """The number of the earlier batch, and its line."""
        earlier = self._batches[line]
        return (earlier - 1, self._lines[line]) if earlier else None


class AnswerCache:
    """Copies to one batch what earlier ones have answered."""

    def __init__(
        self,
        batch: Batch,
        *,
        max_age_s: int,
        extents: Sequence[Extent],
        store: EngineStore,
        blobs: Blobs,
        router: Router,
        writer: CopyWriter,
        is_done: Callable[[int], bool],
        runtime: Runtime,
        preparation: Preparation,
    ) -> None:
        """`is_done` tells which lines of the batch need no answer any more."""
        self._batch = batch
        self._max_age_s = max_age_s
        self._extents = extents
        self._store = store
        self._blobs = blobs
        self._router = router
        self._writer = writer
        self._is_done = is_done
        self._runtime = runtime
        self._preparation = preparation
        self._earlier: list[_Earlier] = []
        self._waited_s = 0.0  # for providers that have not said what they serve
        self._routes: dict[str, Route | None] = {}  # by model; None: nobody serves it

    async def recall(self, is_stopping: Callable[[], bool]) -> Bodies | None:
        """Copy every answer that is there. Leaves early, resumable, on a stop.

        Returns the bodies of the batch itself where they were read, for who has use for them.
        Raises `StorageError` where the batch's own input cannot be read; what an earlier one cannot
        give is bought.
        """
        batches = await self._batches_to_look_at()
        if not batches:
            return None
        requests = sum(batch.counts.total for batch in (self._batch, *batches))
        with self._preparation.step(LOOKING_BACK, requests):
            asked = await self._read_bodies(self._extents, is_stopping)
            if asked is None:
                return None
            hits = await self._find_hits(asked, batches, is_stopping)
        if hits.count and not is_stopping():
            await self._copy_hits(hits, is_stopping)
        return asked

    async def _batches_to_look_at(self) -> list[Batch]:
        found = await self._store.ended_batches(
            self._batch.tenant,
            endpoint=self._batch.endpoint,
            option=CACHE,
            since=self._runtime.now() - self._max_age_s,
            limit=LOOK_BACK_BATCHES,
        )
        chosen: list[Batch] = []
        requests = 0
        for batch in found:
            requests += batch.counts.total
            if chosen and requests > LOOK_BACK_REQUESTS:
                break
            chosen.append(batch)
        return chosen

    # Finding what was answered

    async def _find_hits(
        self, asked: Bodies, batches: Sequence[Batch], is_stopping: Callable[[], bool]
    ) -> _Hits:
        """What these batches can give; not all of it where a stop came first."""
        hits = _Hits(asked.lines)
        for batch in batches:
            try:
                await self._look_at(batch, asked, hits, is_stopping)
            except StorageError as error:
                self._warn(f"{batch.id} cannot give its answers", error)
            if is_stopping():
                break
        return hits

    async def _look_at(
        self, batch: Batch, asked: Bodies, hits: _Hits, is_stopping: Callable[[], bool]
    ) -> None:
        """Note which lines an earlier batch can give an answer to that no newer one has."""
        now, extents = self._runtime.now(), None
        for file_id in (batch.output_file_id, batch.input_file_id):
            found = await self._store.engine_file(batch.tenant, file_id or "", now=now)
            if found is None:
                return  # its files are gone, and its answers with them
            extents = found[1]
        answered = await self._read_bodies(extents or (), is_stopping)
        if answered is None:
            return
        segments = await self._store.segments(batch.id)
        records = await self._answers_of(segments, answered.lines)
        number = len(self._earlier)
        self._earlier.append(_Earlier(batch, segments, records))
        await self._blobs.offload(
            partial(_match, asked, answered, records, self._is_done, hits, number)
        )

    async def _read_bodies(
        self, extents: Sequence[Extent], is_stopping: Callable[[], bool]
    ) -> Bodies | None:
        return await read_bodies(
            extents,
            endpoint=self._batch.endpoint,
            blobs=self._blobs,
            preparation=self._preparation,
            is_stopping=is_stopping,
        )

    async def _answers_of(self, segments: Sequence[Segment], lines: int) -> array[int]:
        """`_Earlier.records`: answers of success that were bought lately enough."""
        since, at = self._runtime.now() - self._max_age_s, 1
        records = array("Q", [0]) * (lines + 1)
        for segment in segments:
            async for data in read_whole_records(segment, self._blobs):
                _note_answers(data, at, since, records)
                at += len(data)
        return records

    # Copying it

    async def _copy_hits(self, hits: _Hits, is_stopping: Callable[[], bool]) -> None:
        wanted: list[Line] = []
        size_bytes = 0
        async for lines in input_lines(self._blobs, self._extents):
            for line in lines:
                if hits.of(line.number) is None or self._is_done(line.number):
                    continue
                wanted.append(line)
                size_bytes += len(line.content or b"")
                if len(wanted) >= SLICE_LINES or size_bytes >= SLICE_BYTES:
                    await self._copy_slice(wanted, hits, is_stopping)
                    wanted, size_bytes = [], 0
                if is_stopping():
                    return
        if wanted:
            await self._copy_slice(wanted, hits, is_stopping)

    async def _copy_slice(
        self, lines: list[Line], hits: _Hits, is_stopping: Callable[[], bool]
    ) -> None:
        own = {line.number: line.content or b"" for line in lines}
        models = await self._blobs.offload(partial(_models, lines))
        await self._until_known(dict.fromkeys(models.values()), is_stopping)
        for part in slices(await self._copies(lines, hits)):
            try:
                texts = await self._writer.read_sources(part)
            except StorageError as error:
                self._warn("some answers of earlier batches are bought again", error)
                continue
            kept = await self._blobs.offload(partial(self._good, part, texts, models))
            if kept and not is_stopping():
                await self._writer.write(kept, texts, own, is_stopping)

    async def _until_known(self, models: Iterable[str], is_stopping: Callable[[], bool]) -> None:
        """Wait while one of these may come with an account that has not said yet what it serves:
        without its route an answer that is there would be bought again.

        In a batch of one model nothing could be sent meanwhile. In one of several the requests for
        the others wait as well, so that has an end.
        """
        while not is_stopping() and any(map(self._is_awaited, models)):
            if self._batch.model is None and self._waited_s >= UNHEARD_WAIT_S:
                return
            await self._runtime.sleep(ROUTE_EVERY_S)
            self._waited_s += ROUTE_EVERY_S

    def _is_awaited(self, model: str) -> bool:
        may_come, explain = self._router.may_come, self._router.explain
        return may_come(model) and explain(model, with_nearest=False) is not None

    async def _copies(self, lines: list[Line], hits: _Hits) -> list[Copy]:
        """What is to be copied to these lines, grouped by where it comes from."""
        wanted: dict[int, list[tuple[int, int]]] = {}  # earlier batch → (record, line)
        for number, _, _ in lines:
            if (hit := hits.of(number)) is not None:
                earlier, source = hit
                at = self._earlier[earlier].records[source]
                wanted.setdefault(earlier, []).append((at, number))
        copies: list[Copy] = []
        for earlier, places in wanted.items():
            try:
                copies += await self._copies_of(self._earlier[earlier], sorted(places))
            except StorageError as error:
                self._warn("some answers of an earlier batch are bought again", error)
        return copies

    async def _copies_of(self, earlier: _Earlier, places: list[tuple[int, int]]) -> list[Copy]:
        accounts = [
            Extent(keys.account, 0, end - start) for start, end, keys in earlier.account_files()
        ]
        ranges = [(at - 1, RECORD_BYTES) for at, _ in places]
        data = await read_extent_ranges(self._blobs, accounts, ranges)
        records = unpack_whole(b"".join(data))
        return [
            Copy(record, earlier.output_of(at), line, earlier.mark(record), record.length)
            for record, (at, line) in zip(records, places, strict=True)
        ]

    def _good(self, copies: list[Copy], texts: Texts, models: Mapping[int, str]) -> list[Copy]:
        """Those whose request would go the way that its answer came, and not the answers that say
        of themselves that they failed: the next try may do better."""
        endpoint = self._batch.endpoint
        return [
            copy
            for copy in copies
            if _is_by(self._route(models[copy.line]), copy.source, text := texts[copy.place])
            and not says_it_failed(endpoint, body_of(text))
        ]

    def _route(self, model: str) -> Route | None:
        if model not in self._routes:
            try:
                self._routes[model] = self._router.find(model)
            except UnknownModel:
                self._routes[model] = None
        return self._routes[model]

    def _warn(self, what: str, error: StorageError) -> None:
        log.warning(what, batch=self._batch.id, reason=str(error))


def _is_by(route: Route | None, record: Record, text: bytes) -> bool:
    """Whether a result came by a route: from the same place, of the same name and model."""
    return route is not None and record.lane == route.lane.tag and route_of(text) == route.name_json


def _models(lines: Sequence[Line]) -> dict[int, str]:
    """By line, the model that it asks for."""
    return {line.number: parse_request(line.number, line.content or b"").model for line in lines}


def _note_answers(data: bytes, at: int, since: float, records: array[int]) -> None:
    """Note the places of answers; the first record of `data` is at `at`."""
    for record in unpack_whole(data):
        if record.flags & OUTPUT and record.at >= since:
            records[record.line] = at
        at += RECORD_BYTES


def _match(
    asked: Bodies,
    answered: Bodies,
    records: array[int],
    is_done: Callable[[int], bool],
    hits: _Hits,
    earlier: int,
) -> None:
    """Note for each line that has nothing yet the first one with its body that has an answer."""
    for bucket in range(BUCKETS):
        known: dict[bytes, int] = {}
        for hashed, line in answered.bucket(bucket):
            if records[line]:
                known.setdefault(hashed, line)
        answered.forget(bucket)
        for hashed, line in asked.bucket(bucket) if known else ():
            if hashed in known and hits.of(line) is None and not is_done(line):
                hits.add(line, earlier, known[hashed])
