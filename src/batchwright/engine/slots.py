"""The slot table: which requests were in flight, known even after `kill -9`.

A request holds a slot from before it is sent until its result is durable. Its line and attempt
stand in a small mapped file meanwhile, written without sync: the page cache survives the process.
So what a crash can cause to be paid for again is bounded by the slots, exactly, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

_ENTRY = Struct("=Q")  # the line in the low half (0: free), the attempt in the high one
ENTRY_BYTES = _ENTRY.size
_LINE_MASK = 2**32 - 1


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that held a slot when the table was left."""

    line: int
    attempt: int


class SlotTable:
    """The slots of one batch in one epoch, over a mapped file."""

    def __init__(self, table: memoryview) -> None:
        self._table = table.cast("Q")  # a store of eight bytes is whole or not there
        self._free = list(range(len(self._table) - 1, -1, -1))

    def take(self, line: int, attempt: int) -> int:
        """Write a request into a free slot and return its number.

        The lane's limit keeps the number taken below the size of the table.
        """
        slot = self._free.pop()
        self._table[slot] = line | attempt << 32
        return slot

    def give_back(self, slot: int) -> None:
        self._table[slot] = 0
        self._free.append(slot)


def read_slots(data: bytes) -> list[InFlight]:
    """The requests in a table that a dead process left, by line."""
    whole = len(data) - len(data) % ENTRY_BYTES
    entries = (entry for (entry,) in _ENTRY.iter_unpack(data[:whole]) if entry)
    taken = [InFlight(entry & _LINE_MASK, entry >> 32) for entry in entries]
    return sorted(taken, key=lambda entry: entry.line)
