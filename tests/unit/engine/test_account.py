"""Account records: what is packed comes back, and a changed bit is always found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.account import (
    ERROR,
    MARK,
    MAYBE_PAID,
    OUTPUT,
    RECORD_BYTES,
    Record,
    are_whole,
    mark,
    marked_lengths,
    pack,
    places,
    unpack_all,
    unpack_whole,
)

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.builds(
    Record,
    line=U32,
    lane=U32,
    code=U16,
    flags=st.sampled_from([0, OUTPUT, ERROR, OUTPUT | MAYBE_PAID]),
    attempts=U16,
    epoch=U16,
    tokens_in=U32,
    tokens_cached=U32,
    tokens_out=U32,
    tokens_reasoning=U32,
    cost_nano=I64,
    charge_nano=I64,
    at=st.floats(allow_nan=False),
    offset=st.integers(0, 2**64 - 1),
    length=U32,
    line_crc=U32,
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was_packed(record: Record) -> None:
    data = pack(record)
    assert len(data) == RECORD_BYTES
    assert list(unpack_all(data, record.epoch)) == [record]


@given(RECORDS, st.integers(0, RECORD_BYTES - 1), st.integers(1, 255))
def test_every_changed_byte_is_found(record: Record, offset: int, change: int) -> None:
    data = bytearray(pack(record))
    data[offset] ^= change
    assert list(unpack_all(bytes(data), record.epoch)) == [None]


@given(st.lists(RECORDS, max_size=5), U16)
def test_many_records_are_whole_at_once_if_each_is(records: list[Record], epoch: int) -> None:
    records = [record._replace(epoch=epoch) for record in records]
    data = b"".join(map(pack, records))

    assert are_whole(data, epoch)
    assert list(unpack_whole(data)) == records
    assert list(places(data)) == [
        (record.line, record.flags, record.offset, record.length) for record in records
    ]


@given(st.lists(RECORDS, min_size=1, max_size=5), st.data())
def test_one_damaged_record_among_many_is_found_and_the_others_are_read(
    records: list[Record], data: st.DataObject
) -> None:
    packed = bytearray().join(pack(record._replace(epoch=7)) for record in records)
    damaged = data.draw(st.integers(0, len(records) - 1))
    for offset in data.draw(st.sets(st.integers(0, RECORD_BYTES - 1), min_size=1, max_size=4)):
        packed[damaged * RECORD_BYTES + offset] ^= data.draw(st.integers(1, 255))

    found = list(unpack_all(bytes(packed), 7))

    assert not are_whole(bytes(packed), 7)
    wanted: list[Record | None] = [record._replace(epoch=7) for record in records]
    wanted[damaged] = None
    assert found == wanted


@given(st.lists(RECORDS, min_size=1, max_size=5), st.integers(1, 2**16 - 1))
def test_a_record_of_another_epoch_among_many_is_found(records: list[Record], others: int) -> None:
    epochs = [7] * (len(records) - 1) + [7 ^ others]
    mixed = zip(records, epochs, strict=True)
    data = b"".join(pack(record._replace(epoch=epoch)) for record, epoch in mixed)

    assert not are_whole(data, 7)
    assert [record is None for record in unpack_all(data, 7)] == [each != 7 for each in epochs]


@given(RECORDS, RECORDS, st.integers(0, 2 * RECORD_BYTES))
def test_every_truncation_is_found(first: Record, second: Record, length: int) -> None:
    second = second._replace(epoch=first.epoch)
    found = list(unpack_all((pack(first) + pack(second))[:length], first.epoch))
    whole, torn = divmod(length, RECORD_BYTES)
    assert found == [first, second][:whole] + [None] * bool(torn)


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES), U16)
def test_garbage_does_not_pass(data: bytes, epoch: int) -> None:
    assert list(unpack_all(data, epoch)) == [None]


def test_zeros_do_not_pass() -> None:
    assert list(unpack_all(bytes(3 * RECORD_BYTES), 0)) == [None] * 3


@given(RECORDS, st.integers(0, 2**20))
def test_a_record_of_another_epoch_does_not_pass(record: Record, epoch: int) -> None:
    found = list(unpack_all(pack(record), epoch))
    assert found == [record if epoch & 0xFFFF == record.epoch else None]


def test_a_mark_tells_the_synced_lengths_also_of_huge_files() -> None:
    data = mark(70_001, 2**40, 2**41, 2**42, 1.5)
    (found,) = unpack_all(data, 70_001)
    assert found is not None
    assert found.flags & MARK
    assert marked_lengths(found) == (2**40, 2**41, 2**42)
