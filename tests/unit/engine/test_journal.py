"""The journal: group commit, and what counts only when it is synced."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchwright.blobs.base import Blobs
from batchwright.blobs.local import LocalBlobs
from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged, StorageError
from batchwright.domain.result import Code
from batchwright.domain.segment import SegmentKeys, SegmentLengths
from batchwright.engine.account import (
    IN_CRASH,
    MARK,
    MAYBE_PAID,
    OUTPUT,
    RECORD_BYTES,
    marked_lengths,
    unpack_all,
)
from batchwright.engine.journal import Journal
from batchwright.engine.suspects import Suspicion
from batchwright.engine.tally import Tally

EPOCH = 70_000  # above 16 bits


class Gate:
    """A disk whose syncs wait until they are let through."""

    def __init__(self) -> None:
        self.is_open = True
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()

    def close(self) -> None:
        self.is_open = False

    async def pause(self) -> None:
        if not self.is_open:
            self.waiting.set()
            await self.go.wait()
            self.go.clear()
            self.waiting.clear()


class BusyBlobs(MemoryBlobs):
    """A disk whose writer is called at once and gets to it later."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.is_there = asyncio.Event()

    async def append(self, writes: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        self.called.set()
        await self.is_there.wait()
        await super().append(writes)


class Desk:
    """A journal, its disk and what it reported."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.blobs = MemoryBlobs(pause=self.gate.pause)
        self.tally = Tally()
        self.keys = SegmentKeys.of("batch_1", EPOCH)
        self.durable: list[list[Any]] = []

    async def open(self, blobs: Blobs | None = None) -> Journal:
        blobs = blobs or self.blobs
        await blobs.create((self.keys.output, self.keys.error, self.keys.account))
        return Journal(
            batch_id="batch_1",
            epoch=EPOCH,
            blobs=blobs,
            tally=self.tally,
            now=lambda: 12.5,
            on_durable=self._on_durable,
            on_failed=self._on_durable,
        )

    def _on_durable(self, tokens: Sequence[Any]) -> None:
        self.durable.append(list(tokens))

    def bytes_of(self, key: str) -> bytes:
        return bytes(self.blobs._files[key].data)


def add(journal: Journal, line: int, text: bytes, *, is_output: bool = True) -> None:
    if is_output:
        journal.add_output(text, (line, 1, 200, 0, 1), (3, 0, 2, 0, 4, 4), token=line)
    else:
        journal.add_error(text, (line, 1, Code.REQUEST_FAILED, 0, 1), token=line)


async def test_while_one_group_is_synced_the_next_gathers() -> None:
    desk = Desk()
    journal = await desk.open()
    desk.gate.close()
    add(journal, 1, b"one\n")
    await desk.gate.waiting.wait()
    for line in (2, 3, 4):
        add(journal, line, b"more\n")
    assert (desk.tally.settled, desk.durable) == (0, [])
    desk.gate.is_open = True
    desk.gate.go.set()
    await journal.flush()
    assert desk.durable == [[1], [2, 3, 4]]
    assert desk.tally.settled == 4
    await journal.close()


async def test_what_gathers_before_the_writer_gets_to_a_group_is_in_it() -> None:
    desk = Desk()
    desk.blobs = busy = BusyBlobs()
    journal = await desk.open()
    add(journal, 1, b"one\n")
    await busy.called.wait()
    add(journal, 2, b"two\n")
    add(journal, 3, b"failed\n", is_output=False)
    busy.is_there.set()
    await journal.flush()
    assert desk.durable == [[1, 2, 3]]
    assert desk.bytes_of(desk.keys.output) == b"one\ntwo\n"
    assert desk.bytes_of(desk.keys.error) == b"failed\n"
    assert (await journal.close()).lengths == SegmentLengths(8, 7, 4 * RECORD_BYTES)


async def test_each_record_is_in_one_group_while_a_thread_writes_and_the_loop_gathers(
    tmp_path: Path,
) -> None:
    desk = Desk()
    blobs = LocalBlobs(tmp_path)
    journal = await desk.open(blobs)
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for line in range(1, 5001):
            add(journal, line, b"%d\n" % line, is_output=line % 7 > 0)
            if line == 1000:
                await journal.flush()
            elif line % 50 == 0:
                await asyncio.sleep(0)
        await journal.flush()
    finally:
        sys.setswitchinterval(switch_s)
    await journal.close()
    assert [token for group in desk.durable for token in group] == [*range(1, 5001)]
    assert len(desk.durable) > 1
    for key, wanted in ((desk.keys.output, True), (desk.keys.error, False)):
        lines = [line for line in range(1, 5001) if (line % 7 > 0) == wanted]
        assert (tmp_path / key).read_bytes() == b"".join(b"%d\n" % line for line in lines)
    records = list(unpack_all((tmp_path / desk.keys.account).read_bytes(), EPOCH))
    assert [one.line for one in records if one and not one.flags & MARK] == [*range(1, 5001)]
    marks = [marked_lengths(one)[2] for one in records if one and one.flags & MARK]
    assert marks == [
        at * RECORD_BYTES for at, one in enumerate(records) if one and one.flags & MARK
    ]
    await blobs.close()


async def test_what_is_written_but_not_synced_does_not_count() -> None:
    desk = Desk()
    journal = await desk.open()
    desk.gate.close()
    add(journal, 1, b"one\n")
    await desk.gate.waiting.wait()
    assert desk.bytes_of(desk.keys.output) == b"one\n"
    assert journal.synced.output == 0
    assert not desk.tally.is_done(1)
    desk.gate.go.set()
    await journal.flush()
    assert journal.synced.output == 4
    desk.gate.is_open = True
    await journal.close()


async def test_each_group_begins_with_a_mark_of_what_was_synced_before_it() -> None:
    desk = Desk()
    journal = await desk.open()
    add(journal, 1, b"one\n")
    await journal.flush()
    add(journal, 2, b"failed\n", is_output=False)
    await journal.flush()
    segment = await journal.close()
    records = list(unpack_all(desk.bytes_of(desk.keys.account), EPOCH))
    marks = [record for record in records if record is not None and record.flags & MARK]
    assert [marked_lengths(one) for one in marks] == [(0, 0, 0), (4, 0, 2 * RECORD_BYTES)]
    assert segment.lengths == journal.synced
    assert (journal.synced.output, journal.synced.error) == (4, 7)
    assert journal.synced.account == 4 * RECORD_BYTES


async def test_records_say_where_each_line_lies() -> None:
    desk = Desk()
    journal = await desk.open()
    for line in range(1, 50):
        add(journal, line, b"%d\n" % line, is_output=line % 2 == 0)
        if line % 7 == 0:
            await journal.flush()
    await journal.close()
    found = {}
    for record in unpack_all(desk.bytes_of(desk.keys.account), EPOCH):
        assert record is not None
        if not record.flags & MARK:
            key = desk.keys.output if record.flags & OUTPUT else desk.keys.error
            found[record.line] = desk.bytes_of(key)[record.offset : record.offset + record.length]
    assert found == {line: b"%d\n" % line for line in range(1, 50)}


async def test_attempts_and_crashes_are_on_record_without_a_line() -> None:
    desk = Desk()
    journal = await desk.open()
    journal.add_attempt((5, 1, 502, MAYBE_PAID, 2), token="slot")
    journal.add_crash(6, 4, Suspicion(2, 9, 1, 3))
    await journal.flush()
    await journal.close()
    records = list(unpack_all(desk.bytes_of(desk.keys.account), EPOCH))
    assert [(r.line, r.flags, r.offset) for r in records[1:] if r] == [
        (5, MAYBE_PAID, 0),
        (6, MAYBE_PAID | IN_CRASH, 3),
    ]
    assert desk.tally.suspicions[6] == Suspicion(2, 9, 1, 3)
    assert desk.tally.tries == {5: 2, 6: 4}
    assert desk.durable == [["slot", None]]
    assert desk.bytes_of(desk.keys.output) == b""


async def test_a_failed_sync_ends_the_journal_and_hands_back_what_it_held() -> None:
    desk = Desk()
    journal = await desk.open()
    add(journal, 1, b"one\n")
    await journal.flush()
    synced = journal.synced
    desk.gate.close()
    add(journal, 2, b"two\n")
    await desk.gate.waiting.wait()
    add(journal, 3, b"three\n")
    desk.blobs.fail_next_append(StorageError("input/output error"))
    desk.gate.go.set()
    with pytest.raises(StorageError, match="input/output"):
        await journal.flush()
    assert desk.durable == [[1], [2, 3]]
    assert desk.tally.settled == 1
    assert journal.synced == synced
    assert not journal._gathered
    segment = await journal.close()
    assert segment.lengths == synced


async def test_a_result_that_could_not_be_gathered_takes_no_place_in_the_files() -> None:
    desk = Desk()
    journal = await desk.open()
    broken = (1, 1, 200, 0)  # no attempts
    with pytest.raises(ValueError, match="unpack"):
        journal.add_output(b"lost\n", broken, (0, 0, 0, 0, 0, 0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unpack"):
        journal.add_error(b"lost\n", broken)  # type: ignore[arg-type]
    add(journal, 2, b"two\n")
    add(journal, 3, b"three\n", is_output=False)
    await journal.flush()
    records = [one for one in unpack_all(desk.bytes_of(desk.keys.account), EPOCH) if one]
    assert [one.offset for one in records if not one.flags & MARK] == [0, 0]
    assert desk.bytes_of(desk.keys.output) == b"two\n"
    assert journal.synced == SegmentLengths(4, 6, 3 * RECORD_BYTES)
    await journal.close()


async def test_after_a_failure_nothing_is_written_and_nobody_waits_for_ever() -> None:
    desk = Desk()
    journal = await desk.open()
    desk.blobs.fail_next_append(StorageError("input/output error"))
    add(journal, 1, b"one\n")
    with pytest.raises(StorageError):
        await journal.flush()
    written = desk.bytes_of(desk.keys.account)
    add(journal, 2, b"two\n")
    with pytest.raises(StorageError):
        async with asyncio.timeout(5):
            await journal.flush()
    assert desk.bytes_of(desk.keys.account) == written


async def test_a_second_result_of_a_line_is_a_failure_that_is_told() -> None:
    desk = Desk()
    journal = await desk.open()
    add(journal, 1, b"one\n")
    add(journal, 1, b"again\n")
    with pytest.raises(Damaged, match="two results"):
        async with asyncio.timeout(5):
            await journal.flush()


async def test_flush_waits_for_nothing_where_nothing_was_added() -> None:
    desk = Desk()
    journal = await desk.open()
    await journal.flush()
    segment = await journal.close()
    assert segment.lengths == journal.synced
    assert desk.bytes_of(desk.keys.account) == b""


async def test_closing_makes_the_last_group_durable_and_is_safe_twice() -> None:
    desk = Desk()
    journal = await desk.open()
    add(journal, 1, b"one\n")
    first = await journal.close()
    assert await journal.close() == first
    assert desk.tally.is_done(1)
