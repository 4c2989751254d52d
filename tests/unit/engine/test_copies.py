"""Copies of result lines."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

import pytest

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged, StorageError
from batchwright.engine.account import OUTPUT, Record
from batchwright.engine.copies import SLICE_BYTES, Copy, CopyWriter, slices
from batchwright.engine.journal import Journal
from batchwright.engine.recorder import Recorder
from batchwright.engine.tally import Tally

SOURCE = (
    b'{"id":"batch_req_x_3","custom_id":"c","response":{"status_code":200,"request_id":"q",'
    b'"body":{"a": [1,  2]}},"error":null,"batchwright":{"route":"p/m","mode":"realtime",'
    b'"attempts":4,"cost_usd":0.5}}\n'
)
RECORD = Record(3, 9, 200, OUTPUT, 4, 1, 10, 4, 3, 2, 7, 7, 0.0, 5, len(SOURCE), crc32(SOURCE))
LINES = {8: b'{"custom_id":"eight","body":{}}', 5: b'{"custom_id":"f\\u00fcnf","body":{}}'}


class Written:
    """A journal that is open, the text of a source, and who writes copies of it."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.blobs = MemoryBlobs()
        self.journal = Journal(
            batch_id="batch_y",
            epoch=1,
            blobs=self.blobs,
            tally=self.tally,
            now=lambda: 0.0,
            on_durable=lambda tokens: self.writer.moved.set(),
            on_failed=lambda tokens: self.writer.moved.set(),
        )
        recorder = Recorder(self.journal, "batch_y")
        self.writer = CopyWriter(
            "batch_y", blobs=self.blobs, journal=self.journal, recorder=recorder
        )

    async def open(self) -> Written:
        keys = self.journal.keys
        await self.blobs.create((keys.output, keys.error, keys.account))
        writer = await self.blobs.open_writer("source")
        await writer.write(b"12345" + SOURCE)
        await writer.finish()
        return self

    async def write(self, copies: list[Copy]) -> list[Any]:
        texts = await self.writer.read_sources(copies)
        await self.writer.write(copies, texts, LINES, lambda: False)
        data = b"".join([chunk async for chunk in self.blobs.read(self.journal.keys.output)])
        return [json.loads(line) for line in data.splitlines()]


def copy_to(line: int, source: Record = RECORD) -> Copy:
    return Copy(source, "source", line, b'"copied_from":{"line":3}')


async def test_a_copy_has_its_own_names_and_the_answer_byte_for_byte() -> None:
    written = await Written().open()

    found = await written.write([copy_to(8), copy_to(5)])

    assert [(each["id"], each["custom_id"]) for each in found] == [
        ("batch_req_y_5", "fünf"),  # in the order of the input
        ("batch_req_y_8", "eight"),
    ]
    data = b"".join([chunk async for chunk in written.blobs.read(written.journal.keys.output)])
    assert data.count(b'"body":{"a": [1,  2]}},"error":null') == 2
    assert found[0]["batchwright"] == {
        "route": "p/m",
        "mode": "realtime",
        "attempts": 0,
        "cost_usd": 0,
        "copied_from": {"line": 3},
    }
    await written.journal.close()


async def test_copies_are_durable_when_they_are_written_and_count_as_saved() -> None:
    written = await Written().open()

    await written.write([copy_to(8), copy_to(5)])

    assert written.tally.is_done(5)
    assert written.tally.is_done(8)
    assert written.tally.savings.requests == 2
    assert written.tally.cost_nano == 0
    await written.journal.close()


async def test_a_source_that_does_not_check_is_damage() -> None:
    written = await Written().open()

    with pytest.raises(Damaged, match="source: the result line at byte 5"):
        await written.writer.read_sources([copy_to(8, RECORD._replace(line_crc=1))])
    await written.journal.close()


async def test_a_journal_that_fails_ends_the_writing() -> None:
    written = await Written().open()
    written.blobs.fail_next_append(StorageError("input/output error"))

    with pytest.raises(StorageError, match="input/output error"):
        await written.write([copy_to(8)])
    await written.journal.close()


def test_large_answers_are_copied_a_few_at_a_time() -> None:
    large: Any = None
    copies = [Copy(large, "output", line, b"", SLICE_BYTES // 3) for line in range(7)]
    assert [len(part) for part in slices(copies)] == [4, 3]
    copies = [Copy(large, "output", line, b"", 9 * SLICE_BYTES) for line in range(2)]
    assert [len(part) for part in slices(copies)] == [1, 1]
