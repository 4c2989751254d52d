"""Room for live calls: as many places as were live at once lately, and never all."""

from __future__ import annotations

from batchwright.engine.live_room import REMEMBERED_S, LiveRoom


def room_after(*at_once: int) -> LiveRoom:
    room = LiveRoom()
    for count in at_once:
        room.note(count, 1_000.0)
    return room


def test_where_nobody_called_nothing_is_kept() -> None:
    assert LiveRoom().kept(0, 50, 1_000.0) == 0


def test_as_many_places_are_kept_as_were_live_at_once() -> None:
    assert room_after(1, 3, 2).kept(0, 50, 1_000.0) == 3


def test_a_live_call_in_flight_uses_a_place_that_was_kept() -> None:
    room = room_after(3)
    assert [room.kept(running, 50, 1_000.0) for running in (1, 3, 5)] == [2, 0, 0]


def test_half_of_the_places_are_left_to_batch_work() -> None:
    room = room_after(40)
    assert [room.kept(0, allowed, 1_000.0) for allowed in (1, 2, 5, 50)] == [0, 1, 2, 25]


def test_what_was_long_ago_is_forgotten() -> None:
    room = room_after(3)
    assert room.kept(0, 50, 1_000.0 + 2 * REMEMBERED_S - 1) == 3
    assert room.kept(0, 50, 1_000.0 + 2 * REMEMBERED_S) == 0


def test_a_peak_counts_for_one_span_more_and_then_no_longer() -> None:
    room = room_after(9)
    kept = []
    for number in range(1, 4):
        now = 1_000.0 + number * REMEMBERED_S
        room.note(2, now)
        kept.append(room.kept(0, 50, now))
    assert kept == [9, 2, 2]
