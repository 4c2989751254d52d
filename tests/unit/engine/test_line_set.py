"""A set of line numbers, one bit each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.line_set import LineSet


@given(st.lists(st.integers(0, 30_000), max_size=60))
def test_it_holds_exactly_the_lines_that_were_added_and_says_which_were_new(
    lines: list[int],
) -> None:
    found = LineSet()
    seen: set[int] = set()

    for line in lines:
        assert found.add(line) == (line not in seen)
        seen.add(line)

    at_once = LineSet()
    twice = [line for at, line in enumerate(lines) if line in lines[:at]]
    assert at_once.add_all(lines) == next(iter(twice), None)
    assert at_once.add_all([]) is None

    assert len(found) == len(seen)
    near = {line + step for line in seen | {0, 8_191} for step in (-1, 0, 1, 8, 8_192)}
    assert {line for line in near if line >= 0 and line in found} == seen & near
