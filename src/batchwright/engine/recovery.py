"""Recovery: from the segments on the disk back to the tally, and the take-over of a batch.

A frozen segment is read to its frozen lengths, where everything must check. An open one is read as
far as it checks: damage before its last mark is damage (`Damaged`: the batch stops, nothing is
bought again in silence); after the mark it is a tail that was never synced, and is dropped. Such a
tail holds no more answers than there were slots (and copies of answers, which need none, than are
written at a time): an account file that leaves more of them out was cut.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from batchwright.blobs.base import Blobs
from batchwright.domain.batch import Batch
from batchwright.domain.errors import Damaged
from batchwright.domain.result import head_prefix
from batchwright.domain.segment import Segment, SegmentKeys, SegmentLengths
from batchwright.engine.account import (
    ERROR,
    MARK,
    OUTPUT,
    RECORD_BYTES,
    Record,
    are_whole,
    marked_lengths,
    unpack_all,
    unpack_whole,
)
from batchwright.engine.slots import LeftTable, SlotTable, read_slots, slots_in, table_bytes
from batchwright.engine.suspects import Crowd, Suspicion, judge
from batchwright.engine.tally import Tally
from batchwright.store.base import EngineStore

BLOCK_RECORDS = 4096  # how many are read at a time
COPIES_MAX = 2_000  # that any version so far has written at a time: it is never lowered
_BLOCK_BYTES = BLOCK_RECORDS * RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Unheard:
    """A request without a result that was in flight when its writer ended."""

    line: int
    tries: int
    suspicion: Suspicion | None  # None where no request can have been what ended it


@dataclass(frozen=True, slots=True)
class Recovered:
    """A batch taken over: its new epoch, what is done, and what was in flight before."""

    batch: Batch
    tally: Tally
    unheard: tuple[Unheard, ...]  # none after a clean stop
    segments: tuple[Segment, ...]  # the older ones, frozen


async def count_crowds(
    batches: Sequence[Batch], *, store: EngineStore, blobs: Blobs
) -> dict[int, Crowd]:
    """What each dead process had in flight, over all batches that it left."""
    crowds: dict[int, Crowd] = {}
    for batch in batches:
        for segment in await store.segments(batch.id):
            left = await _left_table(segment, blobs)
            gated = sum(entry.was_gated for entry in left.in_flight)
            before = crowds.get(left.process, Crowd(0, 0))
            others = before.others + len(left.in_flight) - gated
            crowds[left.process] = Crowd(before.suspects + gated, others)
    return crowds


async def take_over(
    batch: Batch,
    *,
    store: EngineStore,
    blobs: Blobs,
    crowds: Mapping[int, Crowd],
    closed: Segment | None = None,
) -> Recovered:
    """Recover a batch and become its writer, fencing any older one.

    `crowds` is what `count_crowds` found at the start. `closed` is a segment that this process
    itself has closed, after its disk was full: what is valid of it is known.
    Raises `Damaged`, or `Superseded` if another process took over meanwhile.
    The files of the new segment are made by `create_segment`: it may fail, the epoch stays.
    """
    tally = Tally()
    segments = [
        closed if closed is not None and closed.epoch == segment.epoch else segment
        for segment in await store.segments(batch.id)
    ]
    frozen = [
        Segment(
            segment.batch_id,
            segment.epoch,
            await _replay(segment, blobs, tally, COPIES_MAX if batch.may_have_copies else 0),
        )
        for segment in segments
    ]
    unheard: list[Unheard] = []
    suspicions = dict(tally.suspicions)
    for segment in segments:
        left = await _left_table(segment, blobs)
        unheard += find_unheard(left, tally, suspicions, crowds, segment.epoch)
    batch = await store.take_over(batch, frozen)
    return Recovered(batch, tally, tuple(unheard), tuple(frozen))


async def create_segment(batch: Batch, blobs: Blobs, *, slots: int, process: int) -> SlotTable:
    """Create the files of the segment of the batch's epoch, and its slot table.

    Raises `NoSpace` on a full disk, holding nothing open.
    """
    keys = SegmentKeys.of(batch.id, batch.epoch)
    files = (keys.output, keys.error, keys.account)
    await blobs.create(files)
    try:
        return SlotTable(blobs.map(keys.slots, table_bytes(slots)), process)
    except BaseException:
        await blobs.release(files)
        raise


async def forget_in_flight(recovered: Recovered, blobs: Blobs) -> None:
    """Drop the slot tables of dead writers, once what they say is in the journal."""
    for segment in recovered.segments:
        await blobs.delete(SegmentKeys.of(segment.batch_id, segment.epoch).slots)


async def _replay(segment: Segment, blobs: Blobs, tally: Tally, copies_max: int) -> SegmentLengths:
    """Feed a segment's valid records to the tally; returns its valid lengths.

    `copies_max` is how many answers without a slot may be unsynced.
    """
    if segment.lengths is None:
        return await _replay_open(segment, blobs, tally, copies_max)
    keys = SegmentKeys.of(segment.batch_id, segment.epoch)
    await _require_bytes(blobs, keys.output, segment.lengths.output)
    await _require_bytes(blobs, keys.error, segment.lengths.error)
    async for data in read_whole_records(segment, blobs):
        for record in unpack_whole(data):
            if not record.flags & MARK:
                tally.apply(record)
    return segment.lengths


async def _replay_open(
    segment: Segment, blobs: Blobs, tally: Tally, copies_max: int
) -> SegmentLengths:
    """Replay a segment that nobody closed: a mark vouches for all before it, the rest is checked.

    Holds only the records since the last mark, which is one group.
    """
    keys = SegmentKeys.of(segment.batch_id, segment.epoch)
    if await blobs.size(keys.account) is None:
        if await blobs.size(keys.output):
            raise Damaged(f"{keys.account} is gone, and {keys.output} has answers")
        return SegmentLengths(0, 0, 0)  # its writer died before it made its files
    # What a killed writer wrote may still be in the system's cache only: what counts is durable.
    await blobs.append([(key, ()) for key in (keys.output, keys.error, keys.account)])
    await blobs.release((keys.output, keys.error, keys.account))
    size = await blobs.size(keys.account) or 0
    marked = (0, 0, 0)
    position = 0
    held: list[Record] = []
    is_cut = False
    for offset in range(0, size, _BLOCK_BYTES):
        data = await _read_block(blobs, keys.account, offset, size)
        for record in unpack_all(data, segment.epoch):
            if record is not None and record.flags & MARK:
                marked = marked_lengths(record)
                if is_cut and marked[2] > position:
                    raise Damaged(f"{keys.account}: a synced account record is damaged")
            is_cut = is_cut or record is None
            if is_cut or record is None:
                continue
            position += RECORD_BYTES
            if record.flags & MARK:
                for vouched in held:
                    tally.apply(vouched)
                held.clear()
            else:
                held.append(record)
    lengths = await _replay_tail(keys, blobs, tally, marked, held)
    await _require_account(segment, blobs, lengths.output, copies_max)
    return lengths


async def _replay_tail(
    keys: SegmentKeys,
    blobs: Blobs,
    tally: Tally,
    marked: tuple[int, int, int],
    tail: list[Record],
) -> SegmentLengths:
    """Apply the records after the last mark as far as their lines check."""
    output, error, account = marked
    sizes = (
        await _require_bytes(blobs, keys.output, output),
        await _require_bytes(blobs, keys.error, error),
    )
    if tail:
        account += RECORD_BYTES  # the mark that opens the group
    for record in tail:
        end = record.offset + record.length
        if record.flags & OUTPUT:
            if end > sizes[0] or not await _line_checks(blobs, keys.output, record):
                break
            output = end
        elif record.flags & ERROR:
            if end > sizes[1] or not await _line_checks(blobs, keys.error, record):
                break
            error = end
        tally.apply(record)
        account += RECORD_BYTES
    return SegmentLengths(output, error, account)


async def _require_account(
    segment: Segment, blobs: Blobs, known_bytes: int, copies_max: int
) -> None:
    """Raises `Damaged` where more answers have no account record than can have been unsynced.

    Without its slot table, which a power cut may take along, nothing is known of that.
    """
    keys = SegmentKeys.of(segment.batch_id, segment.epoch)
    size_bytes = await blobs.size(keys.slots)
    if size_bytes is None:
        return
    answers = await _count_answers(segment.batch_id, blobs, keys.output, known_bytes)
    if answers > (unsynced_max := slots_in(size_bytes) + copies_max):
        raise Damaged(
            f"{keys.account} was cut: {answers:,} answers have no record there, and at most "
            f"{unsynced_max:,} were not synced"
        )


async def _count_answers(batch_id: str, blobs: Blobs, key: str, start: int) -> int:
    """How many result lines begin in a file from byte `start` on."""
    begin = head_prefix(batch_id)
    found, rest = 0, b""
    async for chunk in blobs.read(key, start, (await blobs.size(key) or 0) - start):
        seen = rest + chunk
        found += seen.count(begin)
        rest = seen[1 - len(begin) :]
    return found


async def _require_bytes(blobs: Blobs, key: str, size_bytes: int) -> int:
    """The size of a result file, which is at least what was synced of it."""
    found = await blobs.size(key) or 0
    if found < size_bytes:
        raise Damaged(f"{key} has {found} bytes, {size_bytes} were synced")
    return found


async def read_records(
    segment: Segment, blobs: Blobs, start: int = 0, *, with_marks: bool = False
) -> AsyncIterator[Record]:
    """The records of a segment up to its lengths, from byte `start` of the account file on.

    Raises `Damaged` for one that does not check.
    """
    async for data in read_whole_records(segment, blobs, start):
        for record in unpack_whole(data):
            if with_marks or not record.flags & MARK:
                yield record


async def read_whole_records(
    segment: Segment, blobs: Blobs, start: int = 0
) -> AsyncIterator[bytes]:
    """The same undecoded, marks included, in blocks of `BLOCK_RECORDS`; the last may be shorter."""
    for offset in block_offsets(segment, start):
        yield await read_whole_block(segment, blobs, offset)


def block_offsets(segment: Segment, start: int = 0) -> range:
    """Where these blocks lie in the account file."""
    assert segment.lengths is not None  # noqa: S101 - the caller froze it or took the synced ones
    return range(start, segment.lengths.account, _BLOCK_BYTES)


async def read_whole_block(segment: Segment, blobs: Blobs, offset: int) -> bytes:
    """One of these blocks, by where it lies in the account file. Raises `Damaged`."""
    assert segment.lengths is not None  # noqa: S101 - as above
    key, end = SegmentKeys.of(segment.batch_id, segment.epoch).account, segment.lengths.account
    data = await _read_block(blobs, key, offset, end)
    if not are_whole(data, segment.epoch):
        raise Damaged(f"{key}: an account record before byte {end} is bad")
    return data


async def read_whole_few(segment: Segment, blobs: Blobs, offsets: Sequence[int]) -> bytes:
    """The records at these rising bytes of the account file, one after the other. Raises
    `Damaged`."""
    key = SegmentKeys.of(segment.batch_id, segment.epoch).account
    ranges = [(offset, RECORD_BYTES) for offset in offsets]
    data = b"".join(await blobs.read_ranges(key, ranges))
    if not are_whole(data, segment.epoch):
        raise Damaged(f"{key}: an account record before byte {offsets[-1] + RECORD_BYTES} is bad")
    return data


async def _read_block(blobs: Blobs, key: str, offset: int, end: int) -> bytes:
    length = min(_BLOCK_BYTES, end - offset)
    return b"".join([chunk async for chunk in blobs.read(key, offset, length)])


async def _line_checks(blobs: Blobs, key: str, record: Record) -> bool:
    return crc32(await _line_bytes(blobs, key, record)) == record.line_crc


async def read_line(blobs: Blobs, key: str, record: Record) -> bytes:
    """The result line of a record. Raises `Damaged` if it does not check."""
    line = await _line_bytes(blobs, key, record)
    if crc32(line) != record.line_crc:
        raise Damaged(f"{key}: the result line at byte {record.offset} is damaged")
    return line


async def _line_bytes(blobs: Blobs, key: str, record: Record) -> bytes:
    return b"".join([chunk async for chunk in blobs.read(key, record.offset, record.length)])


async def _left_table(segment: Segment, blobs: Blobs) -> LeftTable:
    key = SegmentKeys.of(segment.batch_id, segment.epoch).slots
    size = await blobs.size(key) or 0
    return read_slots(
        b"".join([chunk async for chunk in blobs.read(key, 0, size)]) if size else b""
    )


def find_unheard(
    left: LeftTable,
    tally: Tally,
    suspicions: dict[int, Suspicion],
    crowds: Mapping[int, Crowd],
    epoch: int,
) -> list[Unheard]:
    """The requests that the writer of `epoch` left in flight, without those answered after all.

    A crash is added to the `suspicions` of each, but for one that was added by a recovery that
    died itself.
    """
    found = []
    for entry in left.in_flight:
        before = suspicions.get(entry.line, Suspicion())
        if tally.is_done(entry.line) or before.epoch >= epoch:
            continue
        suspicion = None
        if left.is_crash:
            crowd = crowds[left.process]
            suspicion = judge(before, crowd, was_gated=entry.was_gated, epoch=epoch)
            suspicions[entry.line] = suspicion
        found.append(Unheard(entry.line, entry.attempt, suspicion))
    return found
