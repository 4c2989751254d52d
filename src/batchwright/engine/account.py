"""Account records: what a journal's account file holds, one of fixed size for each event.

The account file is recovery, index by line, counters and ledger in one. Three kinds of record:

- a *result* (`OUTPUT` or `ERROR`): the line that a request ended as, by offset, length and CRC-32.
  Of one that is a copy (`COPIED`) nothing was bought: its tokens and costs are what that saved;
- an *attempt* (neither flag): a try that may have cost money and did not become the result;
- a *mark* (`MARK`): the lengths up to which the three files were synced when it was written. Damage
  before a mark is damage; after the last one it is an unsynced tail.

Each record ends in the CRC-32 of its own bytes. So a CRC-32 over many of them tells whether all are
whole: over a whole record, whatever it says, the register changes in one and the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from struct import Struct
from typing import NamedTuple
from zlib import crc32

OUTPUT = 1  # the result is a line of the output file
ERROR = 2  # the result is a line of the error file
MAYBE_PAID = 4  # an answer of this attempt was lost: it may be paid for again
IN_CRASH = 8  # the attempt was in flight when the process died; ends in `Suspicion.packed`
MARK = 16
UNPRICED = 32  # a result of a model whose price is not known: its cost is not 0, but unknown
COPIED = 64  # a result that is a copy of another: its tokens and costs are saved, not spent

_FIELDS = Struct("<IIHHHHIIIIqqdQII")
_CHECK = Struct("<I")
_RECORD = Struct(_FIELDS.format + "I")
_UNCHECKED = Struct(_FIELDS.format + "4x")
_PLACE = Struct("<I6xH44xQI8x")
_EPOCH_AT = 14  # its two bytes
ATTEMPTS_MAX = 0xFFFF  # what a record can tell; waits that a provider asks for have no bound
RECORD_BYTES = _RECORD.size


class Record(NamedTuple):
    """One account record. Tokens are those of the attempt; costs are billionths of a dollar."""

    line: int
    lane: int  # CRC-32 of the lane's name
    code: int  # HTTP status or `domain.result.Code`
    flags: int
    attempts: int
    epoch: int  # modulo 65,536: a record of another epoch's file does not pass
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    tokens_reasoning: int
    cost_nano: int
    charge_nano: int
    at: float  # Unix seconds; of a copied answer, when it was bought
    offset: int
    length: int
    line_crc: int


# fmt: off
Fields = tuple[
    int, int, int, int, int, int,  # line, lane, code, flags, attempts, epoch
    int, int, int, int, int, int,  # tokens, cost, charge
    float, int, int, int,  # at, offset, length, line_crc
]
# fmt: on
"""The fields of a `Record` as a plain tuple: the hot path makes no `Record`."""


def pack(record: Fields) -> bytes:
    """The bytes of a record."""
    fields = _FIELDS.pack(*record)
    return fields + _CHECK.pack(crc32(fields))


def mark(epoch: int, output: int, error: int, account: int, at: float) -> bytes:
    """A mark: the three files are synced up to these lengths."""
    return pack((0, 0, 0, MARK, 0, epoch & 0xFFFF, 0, 0, 0, 0, output, error, at, account, 0, 0))


def marked_lengths(record: Record) -> tuple[int, int, int]:
    """(output, error, account) of a mark."""
    return record.cost_nano, record.charge_nano, record.offset


def are_whole(data: bytes, epoch: int) -> bool:
    """Whether `data` is nothing but records of `epoch` that check.

    A CRC-32 is linear: with its check behind it, every whole record changes the register alike, and
    a damaged one otherwise. One that is damaged is found as surely as by its own check; that
    several hide one another is as likely as that one passes its own, 2⁻³².
    """
    count, rest = divmod(len(data), RECORD_BYTES)
    low, high = epoch & 0xFF, epoch >> 8 & 0xFF
    return (
        rest == 0
        and crc32(data) == _crc_of_whole(count)
        and data[_EPOCH_AT::RECORD_BYTES] == bytes((low,)) * count
        and data[_EPOCH_AT + 1 :: RECORD_BYTES] == bytes((high,)) * count
    )


@lru_cache(maxsize=64)
def _crc_of_whole(count: int) -> int:
    return crc32(pack((0,) * 16) * count)


def unpack_all(data: bytes, epoch: int) -> Iterator[Record | None]:
    """The records in `data`; None for one that does not check, and for a torn last one."""
    return unpack_whole(data) if are_whole(data, epoch) else _unpack_each(data, epoch)


def unpack_whole(data: bytes) -> Iterator[Record]:
    """The records in `data`, of which all are whole."""
    return map(_make, _UNCHECKED.iter_unpack(data))


_make = partial(tuple.__new__, Record)  # what `Record._make` does, without its check


def _unpack_each(data: bytes, epoch: int) -> Iterator[Record | None]:
    wanted = epoch & 0xFFFF
    view = memoryview(data)
    whole = len(data) - len(data) % RECORD_BYTES
    start = 0
    for words in _RECORD.iter_unpack(view[:whole]):
        is_whole = crc32(view[start : start + _FIELDS.size]) == words[16] and words[5] == wanted
        yield _make(words[:16]) if is_whole else None
        start += RECORD_BYTES
    if whole < len(data):
        yield None


def places(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(line, flags, offset, length) of each of them: a third of the time."""
    return _PLACE.iter_unpack(data)


def place_of(data: bytes, number: int) -> tuple[int, int, int, int]:
    """The same of one of them, counted from 0."""
    return _PLACE.unpack_from(data, number * RECORD_BYTES)
