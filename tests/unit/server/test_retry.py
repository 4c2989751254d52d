"""The lines to repeat are kept as bits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.server.retry import LineSet


@given(st.sets(st.integers(1, 100_000)))
def test_a_line_set_holds_what_was_added(lines: set[int]) -> None:
    kept = LineSet()
    for line in sorted(lines):
        kept.add(line)

    assert kept.count == len(lines)
    assert all(line in kept for line in lines)
    assert not any(line + 1 in kept for line in lines if line + 1 not in lines)
