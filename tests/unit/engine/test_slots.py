"""The slot table: what it says after a death is what was in flight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.slots import InFlight, SlotTable, read_slots, table_bytes

SIZE = 6


@given(st.lists(st.integers(1, 2**32 - 1), unique=True, max_size=40), st.data())
def test_the_table_names_exactly_what_holds_a_slot(lines: list[int], data: st.DataObject) -> None:
    memory = bytearray(table_bytes(SIZE))
    table = SlotTable(memoryview(memory), process=2**64 - 1)
    held: dict[int, int] = {}
    for line in lines:
        if len(held) == SIZE:
            done = data.draw(st.sampled_from(sorted(held)))
            assert table.give_back([held.pop(done)]) == [done]
        held[line] = table.take(line, line % 5, is_gated=line % 3 == 0)
        assert sorted(held.values()) == sorted(dict.fromkeys(held.values()))
        left = read_slots(bytes(memory))
        assert (left.process, left.is_crash) == (2**64 - 1, True)
        assert list(left.in_flight) == [InFlight(n, n % 5, n % 3 == 0) for n in sorted(held)]


def test_a_table_that_was_left_on_purpose_says_so() -> None:
    memory = bytearray(table_bytes(2))
    table = SlotTable(memoryview(memory), process=3)
    table.take(9, 1)
    table.leave()
    assert not read_slots(bytes(memory)).is_crash
    table.close()
    table.leave()  # a stop after the end


def test_a_line_in_two_slots_counts_once_with_its_last_attempt() -> None:
    memory = bytearray(table_bytes(3))
    table = SlotTable(memoryview(memory), process=3)
    for attempt in (2, 3, 1):
        table.take(9, attempt)
    assert read_slots(bytes(memory)).in_flight == (InFlight(9, 3),)


def test_the_slots_of_one_call_are_freed_together_and_used_again() -> None:
    memory = bytearray(table_bytes(4))
    table = SlotTable(memoryview(memory), process=3)
    first = table.take(5, 1)
    for line in (6, 7, 8):
        table.join(first, line, 2)
    assert [entry.line for entry in read_slots(bytes(memory)).in_flight] == [5, 6, 7, 8]
    assert table.give_back([first]) == [5]
    assert read_slots(bytes(memory)).in_flight == ()
    slots = [table.take(line, 1) for line in (1, 2, 3, 4)]
    assert len(set(slots)) == 4
    assert table.give_back(slots[1:3]) == [2, 3]
    assert [entry.line for entry in read_slots(bytes(memory)).in_flight] == [1, 4]


def test_a_torn_last_entry_is_passed_over() -> None:
    memory = bytearray(table_bytes(2))
    table = SlotTable(memoryview(memory), process=3)
    table.take(9, 1)
    table.take(8, 2)
    assert read_slots(bytes(memory)[:-1]).in_flight == (InFlight(9, 1),)
    assert read_slots(b"").in_flight == ()
