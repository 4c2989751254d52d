"""The slot table: which requests were in flight, known even after `kill -9`.

A request holds a slot from before it is sent until its result is durable. Its line and attempt
stand in a small mapped file meanwhile, written without sync: the page cache survives the process.
Requests that share a call have a slot each, and they are freed together.
So what a crash can cause to be paid for again is bounded by the slots, exactly, and is named.

The head of the table tells tables of one process from those of another, and an end that no request
can have caused (a stop, a full disk) from a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from struct import Struct

_WORD = Struct("=Q")
_HEAD_WORDS = 2  # the process; whether it ends on purpose
_HEAD_BYTES = _HEAD_WORDS * _WORD.size
_LINE_MASK = 2**32 - 1  # the line in the low half (an empty word is a free slot)
_ATTEMPT_MASK = 2**31 - 1  # the attempt in the high half, under the bit of the suspects
_GATED = 1 << 63


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that held a slot when the table was left."""

    line: int
    attempt: int
    was_gated: bool = False  # it was sent as a suspect, through the gate


@dataclass(frozen=True, slots=True)
class LeftTable:
    """A slot table as its process left it."""

    process: int  # the same in all tables of one process
    is_crash: bool  # False: whatever ended the process, or its writing, was no request
    in_flight: tuple[InFlight, ...]  # by line, each once


class SlotTable:
    """The slots of one batch in one epoch, over a mapped file of `table_bytes`."""

    def __init__(self, table: memoryview, process: int) -> None:
        self._table = table.cast("Q")  # a store of eight bytes is whole or not there
        self._table[0] = process
        self._free: list[int] = []  # of those that were taken once
        self._untouched = _HEAD_WORDS  # the first of those that never were
        self._joined: dict[int, list[int]] = {}  # by the first slot of a call, its further ones

    def take(self, line: int, attempt: int, *, is_gated: bool = False) -> int:
        """Write a request into a free slot and return its number.

        The lane's limit keeps the number taken below the size of the table.
        """
        slot = self._free.pop() if self._free else self._next_untouched()
        self._table[slot] = line | attempt << 32 | (_GATED if is_gated else 0)
        return slot

    def join(self, first: int, line: int, attempt: int) -> None:
        """Write a further request of the call that holds the slot `first`."""
        self._joined.setdefault(first, []).append(self.take(line, attempt))

    def give_back(self, slots: Sequence[int]) -> list[int]:
        """Free the slots of calls and those that joined them; returns the lines that held the
        former, in their order."""
        table = self._table
        lines = [table[slot] & _LINE_MASK for slot in slots]
        if self._joined:
            slots = [*slots, *chain.from_iterable(self._joined.pop(slot, ()) for slot in slots)]
        for slot in slots:
            table[slot] = 0
        self._free += slots
        return lines

    def _next_untouched(self) -> int:
        slot = self._untouched
        if slot >= len(self._table):
            raise IndexError("no slot is free")
        self._untouched += 1
        return slot

    def leave(self) -> None:
        """From here on no end of the process is held against what is in flight."""
        with suppress(ValueError):  # closed: nothing is in flight
            self._table[1] = 1

    def close(self) -> None:
        """Let go of the memory. Safe twice."""
        self._table.release()


def table_bytes(slots: int) -> int:
    """The size of a table with so many slots."""
    return _HEAD_BYTES + slots * _WORD.size


def slots_in(size_bytes: int) -> int:
    """How many slots a table of this size has."""
    return max(0, size_bytes - _HEAD_BYTES) // _WORD.size


def read_slots(data: bytes) -> LeftTable:
    """What a table says that a dead process left.

    A request that was being tried again while its last loss was being recorded stands in two slots:
    the last attempt counts.
    """
    whole = len(data) - len(data) % _WORD.size
    words = [word for (word,) in _WORD.iter_unpack(data[:whole])]
    process, is_left = (*words[:_HEAD_WORDS], 0, 0)[:_HEAD_WORDS]
    found: dict[int, InFlight] = {}
    for word in sorted(filter(None, words[_HEAD_WORDS:]), key=_by_line):
        line, attempt = _by_line(word)
        found[line] = InFlight(line, attempt, bool(word & _GATED))
    return LeftTable(process, not is_left, tuple(found.values()))


def _by_line(word: int) -> tuple[int, int]:
    return word & _LINE_MASK, word >> 32 & _ATTEMPT_MASK
