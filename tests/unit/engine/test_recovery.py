"""Recovery: what a crash, damage or a rival writer leaves is found out, and nothing is guessed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.batch import Batch, Counts, Status
from batchwright.domain.errors import Damaged, NoSpace, Superseded
from batchwright.domain.result import head_prefix, line_head
from batchwright.domain.segment import Segment, SegmentKeys, SegmentLengths
from batchwright.engine.account import OUTPUT, RECORD_BYTES
from batchwright.engine.copies import SLICE_LINES
from batchwright.engine.journal import Journal
from batchwright.engine.lane import LaneLimits
from batchwright.engine.recovery import (
    COPIES_MAX,
    Unheard,
    count_crowds,
    create_segment,
    find_unheard,
    read_line,
    read_records,
    take_over,
)
from batchwright.engine.slots import InFlight, LeftTable
from batchwright.engine.suspects import Crowd, Suspicion
from batchwright.engine.tally import Tally
from batchwright.store.memory import MemoryStore
from mortal import MortalWorld
from simulation import TENANT, World, chat_lines, simulate

BATCH = Batch(
    id="batch_1",
    tenant=TENANT,
    endpoint="/v1/chat/completions",
    input_file_id="file-1",
    completion_window="24h",
    created_at=0.0,
    expires_at=None,
    status=Status.IN_PROGRESS,
    in_progress_at=0.0,
    counts=Counts(total=100),
)


SLOTS = 8


class Disk:
    """A batch with one epoch's journal, and what its writer wrote in groups of lines."""

    def __init__(self, blobs: MemoryBlobs, store: MemoryStore, batch: Batch) -> None:
        self.blobs = blobs
        self.store = store
        self.batch = batch
        self.texts: dict[int, bytes] = {}
        self.tally = Tally()
        self.keys = SegmentKeys.of(batch.id, batch.epoch)
        self.journal = Journal(
            batch_id=batch.id,
            epoch=batch.epoch,
            blobs=blobs,
            tally=self.tally,
            now=lambda: 0.0,
            on_durable=lambda tokens: None,
            on_failed=lambda tokens: None,
        )

    def add(self, line: int, *, is_output: bool = True) -> None:
        text = b'%b,"filler":"%b"}\n' % (
            line_head(head_prefix(self.batch.id), line),
            b"x" * (line % 7),
        )
        self.texts[line] = text
        if is_output:
            self.journal.add_output(text, (line, 7, 200, 0, 1), (1, 0, 1, 0, 5, 5))
        else:
            self.journal.add_error(text, (line, 7, 200, 0, 1))

    async def group(self, *lines: int) -> None:
        """One group commit; every third line is an error."""
        for line in lines:
            self.add(line, is_output=line % 3 != 0)
        await self.journal.flush()

    def bytes_of(self, key: str) -> bytearray:
        return self.blobs._files[key].data

    async def recover(self) -> tuple[Tally, list[Segment], dict[int, bytes]]:
        """Take over; gives the tally, the frozen segments and the result lines by number."""
        recovered = await take_over(self.batch, store=self.store, blobs=self.blobs, crowds={})
        lines = {}
        for segment in recovered.segments:
            keys = SegmentKeys.of(segment.batch_id, segment.epoch)
            async for record in read_records(segment, self.blobs):
                key = keys.output if record.flags & OUTPUT else keys.error
                lines[record.line] = await read_line(self.blobs, key, record)
        return recovered.tally, list(recovered.segments), lines


async def fresh_disk(made: Batch = BATCH) -> Disk:
    blobs, store = MemoryBlobs(), MemoryStore()
    await store.create_batch(TENANT, made)
    batch = await store.take_over(made, [])
    await create_segment(batch, blobs, slots=SLOTS, process=1)
    return Disk(blobs, store, batch)


async def written_disk() -> Disk:
    """Three groups; the last mark stands before the third."""
    disk = await fresh_disk()
    for lines in ((1, 2, 3), (4, 5, 6, 7), (8, 9, 10)):
        await disk.group(*lines)
    return disk


def last_mark(disk: Disk) -> SegmentLengths:
    """The lengths that the last mark vouches for."""
    before = [disk.texts[line] for line in range(1, 8)]
    output = sum(len(text) for line, text in enumerate(before, 1) if line % 3)
    error = sum(len(text) for line, text in enumerate(before, 1) if not line % 3)
    return SegmentLengths(output, error, 9 * RECORD_BYTES)


async def test_a_segment_that_was_only_killed_is_recovered_whole() -> None:
    disk = await written_disk()
    tally, segments, lines = await disk.recover()
    assert lines == disk.texts
    assert segments[0].lengths == disk.journal.synced
    assert (tally.completed, tally.failed, tally.cost_nano) == (7, 3, 35)


@pytest.mark.parametrize("file", ["output", "error", "account"])
async def test_a_cut_anywhere_after_the_last_mark_drops_a_tail_and_nothing_else(file: str) -> None:
    disk = await written_disk()
    floor, size = getattr(last_mark(disk), file), getattr(disk.journal.synced, file)
    assert size > floor
    for length in range(floor, size):
        disk = await written_disk()
        del disk.bytes_of(getattr(disk.keys, file))[length:]
        tally, segments, lines = await disk.recover()
        assert set(range(1, 8)) <= set(lines) < set(range(1, 11))
        assert all(disk.texts[line] == text for line, text in lines.items())
        assert tally.settled == len(lines)
        assert segments[0].lengths is not None
        assert getattr(segments[0].lengths, file) <= length


@pytest.mark.parametrize("file", ["output", "error", "account"])
async def test_a_changed_byte_after_the_last_mark_never_gives_a_wrong_result(file: str) -> None:
    disk = await written_disk()
    floor, size = getattr(last_mark(disk), file), getattr(disk.journal.synced, file)
    random = Random(file)
    for offset in range(floor, size):
        disk = await written_disk()
        disk.bytes_of(getattr(disk.keys, file))[offset] ^= random.randrange(1, 256)
        tally, _, lines = await disk.recover()
        assert set(range(1, 8)) <= set(lines) < set(range(1, 11))
        assert all(disk.texts[line] == text for line, text in lines.items())
        assert tally.settled == len(lines)


async def test_a_changed_byte_before_the_last_mark_of_the_account_file_is_damage() -> None:
    disk = await written_disk()
    for offset in range(last_mark(disk).account):
        disk = await written_disk()
        disk.bytes_of(disk.keys.account)[offset] ^= 1 << (offset % 8)
        with pytest.raises(Damaged, match="account"):
            await disk.recover()
        assert (await disk.store.get_batch(TENANT, BATCH.id)).epoch == disk.batch.epoch


@pytest.mark.parametrize("file", ["output", "error"])
async def test_a_result_file_shorter_than_its_last_mark_is_damage(file: str) -> None:
    disk = await written_disk()
    for length in range(getattr(last_mark(disk), file)):
        disk = await written_disk()
        del disk.bytes_of(getattr(disk.keys, file))[length:]
        with pytest.raises(Damaged, match="were synced"):
            await disk.recover()


@pytest.mark.parametrize("file", ["output", "error"])
async def test_a_changed_byte_in_a_synced_result_line_is_never_handed_out(file: str) -> None:
    disk = await written_disk()
    for offset in range(getattr(last_mark(disk), file)):
        disk = await written_disk()
        disk.bytes_of(getattr(disk.keys, file))[offset] ^= 4
        with pytest.raises(Damaged, match="damaged"):
            await disk.recover()


@pytest.mark.parametrize("left_out", range(1, 14))
async def test_an_account_file_that_leaves_out_more_answers_than_there_were_slots_was_cut(
    left_out: int,
) -> None:
    disk = await fresh_disk()
    for line in range(1, 40, 3):  # 13 answers, each a group with its mark
        await disk.group(line)
    del disk.bytes_of(disk.keys.account)[-2 * RECORD_BYTES * left_out :]

    if left_out > SLOTS:
        with pytest.raises(Damaged, match="was cut"):
            await disk.recover()
    else:  # so much may have been on its way to the disk
        tally, _, _ = await disk.recover()
        assert tally.completed == 13 - left_out


async def test_copies_of_answers_may_be_unsynced_beside_the_answers_in_slots() -> None:
    disk = await fresh_disk(replace(BATCH, options={"dedupe": True}))
    for line in range(1, 2 * SLOTS):
        disk.add(line)
    await disk.journal.flush()
    del disk.bytes_of(disk.keys.account)[RECORD_BYTES:]  # all but the mark, as a kill may leave it

    tally, _, _ = await disk.recover()

    assert tally.settled == 0


def test_no_more_copies_are_written_at_a_time_than_recovery_takes_for_unsynced() -> None:
    assert SLICE_LINES <= COPIES_MAX


async def test_answers_without_any_account_file_are_damage() -> None:
    disk = await written_disk()
    await disk.blobs.delete(disk.keys.account)
    with pytest.raises(Damaged, match="is gone"):
        await disk.recover()


async def test_zeros_and_garbage_after_the_end_are_dropped() -> None:
    for tail in (bytes(RECORD_BYTES), bytes(7), Random(1).randbytes(3 * RECORD_BYTES + 5)):
        disk = await written_disk()
        synced = disk.journal.synced
        for key in (disk.keys.output, disk.keys.error, disk.keys.account):
            disk.bytes_of(key).extend(tail)
        _, segments, lines = await disk.recover()
        assert lines == disk.texts
        assert segments[0].lengths == synced


async def test_records_of_another_epoch_do_not_pass() -> None:
    disk = await written_disk()
    other = await fresh_disk()
    other.journal.epoch = 2
    await other.group(20, 21)
    disk.bytes_of(disk.keys.account).extend(other.bytes_of(other.keys.account))
    _, _, lines = await disk.recover()
    assert lines == disk.texts


async def test_what_a_zombie_appends_after_the_take_over_is_in_no_file() -> None:
    disk = await written_disk()
    _, segments, _ = await disk.recover()
    await disk.group(11, 12)
    batch = await disk.store.get_batch(TENANT, BATCH.id)
    again = await take_over(batch, store=disk.store, blobs=disk.blobs, crowds={})
    assert again.segments[0] == segments[0]
    assert not again.tally.is_done(11)
    assert again.tally.settled == 10


async def test_the_second_of_two_that_take_over_is_superseded() -> None:
    disk = await written_disk()
    await take_over(disk.batch, store=disk.store, blobs=disk.blobs, crowds={})
    with pytest.raises(Superseded):
        await take_over(disk.batch, store=disk.store, blobs=disk.blobs, crowds={})


async def test_a_writer_that_died_before_it_made_its_files_left_nothing() -> None:
    disk = await written_disk()
    batch = (await take_over(disk.batch, store=disk.store, blobs=disk.blobs, crowds={})).batch
    again = await take_over(batch, store=disk.store, blobs=disk.blobs, crowds={})
    assert again.segments[1].lengths == SegmentLengths(0, 0, 0)
    assert again.tally.settled == 10


async def test_a_frozen_segment_is_held_to_its_frozen_lengths() -> None:
    for file in ("output", "error", "account"):
        disk = await written_disk()
        batch = (await take_over(disk.batch, store=disk.store, blobs=disk.blobs, crowds={})).batch
        del disk.bytes_of(getattr(disk.keys, file))[-1:]
        with pytest.raises(Damaged):
            await take_over(batch, store=disk.store, blobs=disk.blobs, crowds={})


async def test_a_segment_whose_files_are_gone_is_damage() -> None:
    disk = await written_disk()
    batch = (await take_over(disk.batch, store=disk.store, blobs=disk.blobs, crowds={})).batch
    await disk.blobs.delete(disk.keys.account)
    with pytest.raises(Damaged, match="missing"):
        await take_over(batch, store=disk.store, blobs=disk.blobs, crowds={})


# What was in flight


def left(*in_flight: InFlight, is_crash: bool = True) -> LeftTable:
    return LeftTable(process=7, is_crash=is_crash, in_flight=in_flight)


def unheard(
    table: LeftTable, before: dict[int, Suspicion], tally: Tally | None = None, epoch: int = 4
) -> list[Unheard]:
    crowds = {7: Crowd(0, len(table.in_flight))}
    return find_unheard(table, tally or Tally(), before, crowds, epoch)


def test_each_line_in_flight_counts_one_more_crash_of_its_crowd() -> None:
    before = {2: Suspicion(1, 9, 0, 3)}
    found = unheard(left(InFlight(1, 1), InFlight(2, 5)), before)
    assert found == [
        Unheard(1, 1, Suspicion(1, 2, 0, 4)),
        Unheard(2, 5, Suspicion(2, 2, 0, 4)),
    ]
    assert before[2] == Suspicion(2, 2, 0, 4)


def test_what_was_in_flight_at_an_end_on_purpose_is_listed_and_not_suspected() -> None:
    assert unheard(left(InFlight(1, 3), is_crash=False), {}) == [Unheard(1, 3, None)]


def test_a_line_that_was_answered_after_all_is_neither() -> None:
    tally = Tally()
    tally._mark_done((1,))
    assert unheard(left(InFlight(1, 1)), {}, tally) == []


def test_a_crash_that_is_on_record_is_not_counted_twice() -> None:
    assert unheard(left(InFlight(2, 1)), {2: Suspicion(2, 5, 0, 4)}) == []


async def test_the_crowd_is_counted_over_all_batches_of_a_process() -> None:
    blobs, store = MemoryBlobs(), MemoryStore()
    batches = []
    for number, process in ((1, 5), (2, 5), (3, 6)):
        batch = replace(BATCH, id=f"batch_{number}")
        await store.create_batch(TENANT, batch)
        batch = await store.take_over(batch, [])
        table = await create_segment(batch, blobs, slots=8, process=process)
        table.take(1, 1)
        table.take(2, 1, is_gated=number == 2)
        batches.append(batch)
    found = await count_crowds(batches, store=store, blobs=blobs)
    assert found == {5: Crowd(1, 3), 6: Crowd(0, 2)}


# Damage seen from outside


def test_a_damaged_batch_stands_still_with_a_plain_problem_and_sends_nothing() -> None:
    async def damaged() -> None:
        world = World(1)
        await world.boot()
        batch = await world.create_batch(chat_lines(500))
        await asyncio.sleep(5)
        await world.crash()
        world.blobs._files[SegmentKeys.of(batch.id, 1).account].data[RECORD_BYTES + 40] ^= 1
        sent = len(world.network.ledger)
        engine = await world.boot()
        await engine.wait(batch.id)
        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert supervisor.problem is not None
        assert "a synced account record is damaged" in supervisor.problem
        assert len(world.network.ledger) == sent
        assert (await world.get_batch(batch.id)).status is Status.IN_PROGRESS
        await engine.stop()
        assert engine.failure is None

    simulate(damaged())


def test_a_damaged_batch_does_not_keep_the_others_from_running() -> None:
    async def one_of_two() -> None:
        world = World(2)
        await world.boot()
        bad = await world.create_batch(chat_lines(200))
        good = await world.create_batch(chat_lines(200))
        await asyncio.sleep(3)
        await world.crash()
        world.blobs._files[SegmentKeys.of(bad.id, 1).account].data[40] ^= 1
        engine = await world.boot()
        await engine.wait(good.id)
        assert (await world.get_batch(good.id)).counts.completed == 200
        assert (await world.get_batch(bad.id)).status is Status.IN_PROGRESS

    simulate(one_of_two())


# Death at every step

LINES = 50


@dataclass(slots=True)
class Life:
    """A history of one batch of `LINES` lines, and what it was known to have recorded."""

    world: MortalWorld
    batch_id: str = ""

    async def begin(self) -> None:
        await self.world.boot()
        self.batch_id = (await self.world.create_batch(chat_lines(LINES))).id

    async def until_death(self, steps: int) -> bool:
        """Go on until the fate is met (True) or the batch has ended."""
        fate = self.world.fate
        fate.set(steps)
        met = asyncio.ensure_future(fate.met.wait())
        ended = asyncio.ensure_future(self.to_end())
        await asyncio.wait((met, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in (met, ended):
            task.cancel()
        return fate.met.is_set()

    async def to_end(self) -> None:
        if self.world.engine is None:
            await self.world.boot()
        assert self.world.engine is not None
        await self.world.engine.wait(self.batch_id)

    def recorded(self) -> dict[str, None]:
        """The requests whose answers the dying process knows to be durable."""
        engine = self.world.engine
        supervisor = engine.supervisor(self.batch_id) if engine else None
        if supervisor is None or supervisor.current is None:
            return {}
        tally = supervisor.current.tally
        return {f"request {i}": None for i in range(LINES) if tally.is_done(i + 1)}

    async def crash(self, *, power_cut: bool) -> None:
        self.world.fate.set(0)
        await self.world.crash(power_cut=power_cut)

    async def check(self) -> None:
        """One line per request, each whole, and the counts say so."""
        world = self.world
        batch = await world.get_batch(self.batch_id)
        assert batch.status is Status.COMPLETED
        output = (await world.read_file(batch.output_file_id)).splitlines()
        errors = (await world.read_file(batch.error_file_id)).splitlines()
        ids = Counter(json.loads(line)["custom_id"] for line in (*output, *errors))
        assert ids == Counter(f"r-{i}" for i in range(LINES))
        assert batch.counts == Counts(LINES, len(output), len(errors))
        assert batch.closing.possibly_paid_twice <= LINES


def new_life(seed: int) -> Life:
    return Life(MortalWorld(seed, fault_rate=0.2, limits=LaneLimits(max_concurrency=8)))


async def count_steps(first_death: int = 0) -> int:
    """The steps of an undisturbed run, or of the recovery and run after a death."""
    life = new_life(1)
    await life.begin()
    if first_death:
        await life.until_death(first_death)
        await life.crash(power_cut=False)
    before = life.world.fate.steps
    await life.to_end()
    await life.check()
    return life.world.fate.steps - before


async def die_and_recover(deaths: tuple[int, ...], *, power_cut: bool) -> None:
    """Die after each of these numbers of steps in turn, then live to the end."""
    life = new_life(1)
    await life.begin()
    bought: dict[str, None] = {}
    sent = 0
    for steps in deaths:
        if not await life.until_death(steps):
            break
        assert not set(bought) & set(life.world.network.ledger[sent:])
        bought |= life.recorded()
        sent = len(life.world.network.ledger)
        await life.crash(power_cut=power_cut)
    life.world.fate.set(0)
    await life.to_end()
    assert not set(bought) & set(life.world.network.ledger[sent:])
    await life.check()


def test_a_death_at_any_step_loses_nothing_and_buys_nothing_again() -> None:
    steps = simulate(count_steps())
    assert steps > 150
    for at in range(1, steps + 1, 2):
        simulate(die_and_recover((at,), power_cut=at % 4 == 1))


@pytest.mark.parametrize("first", [3, 20, 90, 150])
def test_a_death_at_any_step_of_the_recovery_converges(first: int) -> None:
    steps = simulate(count_steps(first))
    for at in [*range(1, 30), *range(30, steps, 9)]:
        simulate(die_and_recover((first, at), power_cut=at % 2 == 1))


def test_a_process_that_dies_again_and_again_in_its_recovery_comes_through_in_the_end() -> None:
    for steps in range(1, 14):
        simulate(die_and_recover((60, *[steps] * 4), power_cut=False))


# A full disk


@pytest.mark.parametrize("method", ["create", "append"])
def test_a_disk_that_is_full_at_any_point_makes_the_batch_wait_and_loses_nothing(
    method: str,
) -> None:
    async def full(calls_before: int) -> bool:
        world = MortalWorld(3, limits=LaneLimits(max_concurrency=8))
        engine = await world.boot()
        real = getattr(type(world.blobs), method)
        calls = 0

        async def failing(*args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls in (calls_before + 1, calls_before + 2):
                raise NoSpace("no space left on device")
            await real(world.blobs, *args)

        setattr(world.blobs, method, failing)
        batch = await world.create_batch(chat_lines(LINES))
        await engine.wait(batch.id)
        ended = await world.get_batch(batch.id)
        assert ended.counts == Counts(LINES, LINES, 0)
        assert len(await world.read_file(ended.output_file_id)) > 0
        return calls > calls_before

    calls_before = 0
    while simulate(full(calls_before)):
        calls_before += 1
    assert calls_before >= (1 if method == "create" else 5)
