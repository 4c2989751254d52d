"""The slot table: which requests were in flight, known even after `kill -9`.

A request holds a slot from before it is sent until its result is durable. Its line and attempt
stand in a small mapped file meanwhile, written without sync: the page cache survives the process.
So what a crash can cause to be paid for again is bounded by the slots, exactly, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

_ENTRY = Struct("<II")  # line (0: free), attempt
ENTRY_BYTES = _ENTRY.size


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that held a slot when the table was left."""

    line: int
    attempt: int


class SlotTable:
    """The slots of one batch in one epoch, over a mapped file."""

    def __init__(self, table: memoryview) -> None:
        self._table = table
        self._free = list(range(len(table) // ENTRY_BYTES - 1, -1, -1))

    def take(self, line: int, attempt: int) -> int:
        """Write a request into a free slot and return its number.

        The lane's limit keeps the number taken below the size of the table.
        """
        slot = self._free.pop()
        _ENTRY.pack_into(self._table, slot * ENTRY_BYTES, line, attempt)
        return slot

    def give_back(self, slot: int) -> None:
        _ENTRY.pack_into(self._table, slot * ENTRY_BYTES, 0, 0)
        self._free.append(slot)


def read_slots(data: bytes) -> list[InFlight]:
    """The requests in a table that a dead process left, by line."""
    whole = len(data) - len(data) % ENTRY_BYTES
    taken = [InFlight(line, attempt) for line, attempt in _ENTRY.iter_unpack(data[:whole]) if line]
    return sorted(taken, key=lambda entry: entry.line)
