"""The slot table: what it says after a death is what was in flight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.slots import ENTRY_BYTES, InFlight, SlotTable, read_slots

SIZE = 6


@given(st.lists(st.integers(1, 2**32 - 1), unique=True, max_size=40), st.data())
def test_the_table_names_exactly_what_holds_a_slot(lines: list[int], data: st.DataObject) -> None:
    memory = bytearray(SIZE * ENTRY_BYTES)
    table = SlotTable(memoryview(memory))
    held: dict[int, int] = {}
    for line in lines:
        if len(held) == SIZE:
            done = data.draw(st.sampled_from(sorted(held)))
            table.give_back(held.pop(done))
        held[line] = table.take(line, line % 5)
        assert sorted(held.values()) == sorted(dict.fromkeys(held.values()))
        assert read_slots(bytes(memory)) == [InFlight(n, n % 5) for n in sorted(held)]


def test_a_torn_last_entry_is_passed_over() -> None:
    memory = bytearray(2 * ENTRY_BYTES)
    table = SlotTable(memoryview(memory))
    table.take(9, 1)
    table.take(8, 2)
    assert read_slots(bytes(memory)[:-1]) == [InFlight(9, 1)]
    assert read_slots(b"") == []
