"""Extents: a range of a file is the same range of its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.file import Extent, slice_extents

LENGTHS = st.lists(st.integers(0, 9), max_size=6)


def content(extents: list[Extent]) -> list[tuple[str, int]]:
    """Every byte by the place that it comes from."""
    return [(e.key, at) for e in extents for at in range(e.offset, e.offset + e.length)]


@given(LENGTHS, st.integers(0, 60), st.integers(0, 60))
def test_a_slice_of_the_extents_is_the_slice_of_the_bytes(
    lengths: list[int], start: int, stop: int
) -> None:
    whole = [Extent(f"blob-{n % 2}", 100 * n, length) for n, length in enumerate(lengths)]
    found = slice_extents(tuple(whole), start, stop)
    assert content(found) == content(whole)[start:stop]
    assert all(extent.length > 0 for extent in found)
