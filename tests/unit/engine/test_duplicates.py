"""Which lines of an input have the same body."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.blobs.base import read_extent_ranges
from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged
from batchwright.domain.file import Extent
from batchwright.engine.duplicates import Duplicates, find_duplicates
from batchwright.engine.preparation import Preparation

URL = "/v1/chat/completions"


def line(name: str, body: str) -> bytes:
    return b'{"custom_id": "%b", "body": %b, "method": "POST", "url": "%b"}' % (
        name.encode(),
        body.encode(),
        URL.encode(),
    )


async def stored(data: bytes, *, cut: int = 0) -> tuple[MemoryBlobs, list[Extent]]:
    """A file of two extents, the first of `cut` bytes."""
    blobs = MemoryBlobs()
    writer = await blobs.open_writer("in")
    await writer.write(data)
    await writer.finish()
    return blobs, [Extent("in", 0, cut), Extent("in", cut, len(data) - cut)]


async def duplicates(
    blobs: MemoryBlobs, extents: Sequence[Extent], *, is_stopping: bool = False
) -> Duplicates | None:
    return await find_duplicates(
        extents,
        endpoint=URL,
        blobs=blobs,
        preparation=Preparation(),
        is_stopping=lambda: is_stopping,
    )


async def found_in(lines: Sequence[bytes]) -> Duplicates:
    blobs, extents = await stored(b"\n".join(lines))
    found = await duplicates(blobs, extents)
    assert found is not None
    return found


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=40))
async def test_followers_are_the_later_lines_with_the_body_of_a_leader(
    bodies: list[int | None],
) -> None:
    """None is a blank line."""
    found = await found_in(
        [b"" if body is None else line(f"{n}", f'{{"a":{body}}}') for n, body in enumerate(bodies)]
    )
    followers: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for number, body in enumerate(bodies, 1):
        if body is not None:
            leader = first.setdefault(body, number)
            followers.setdefault(leader, []).extend([number] if number != leader else [])
    for number in range(len(bodies) + 3):
        assert list(found.followers(number)) == followers.get(number, [])
        assert found.is_follower(number) == any(number in each for each in followers.values())
    assert found.count == sum(map(len, followers.values()))


async def test_the_line_of_a_follower_is_found_by_its_place() -> None:
    lines = [line("a", '{"x":1}'), line("b", '{"x":2}'), b"", line("c", '{"x":1}') + b"\r"]
    data = b"\xef\xbb\xbf" + b"\n".join([*lines, line("d", '{"x":1}')])
    blobs, extents = await stored(data, cut=150)
    found = await duplicates(blobs, extents)
    assert found is not None
    places = [found.place(number) for number in found.followers(1)]
    texts = await read_extent_ranges(blobs, extents, places)
    assert [json.loads(text)["custom_id"] for text in texts] == ["c", "d"]


@pytest.mark.parametrize(
    "other", ['{"model":"m", "a":1}', '{"a":1,"model":"m"}', '{"model":"p/m","a":1}']
)
async def test_bodies_that_differ_in_a_byte_are_not_the_same(other: str) -> None:
    found = await found_in([line("a", '{"model":"m","a":1}'), line("b", other)])
    assert found.count == 0


async def test_what_stands_beside_the_body_does_not_matter() -> None:
    other = b'{"url": "/chat/completions", "custom_id": "b", "method": "POST", "body":{"a":1} }'
    found = await found_in([line("a", '{"a":1}'), other])
    assert list(found.followers(1)) == [2]


async def test_followers_that_are_not_done_are_counted() -> None:
    found = await found_in([line("a", '{"x":1}'), line("b", "{}"), *[line("c", '{"x":1}')] * 3])
    assert found.count_undone(lambda number: number in (1, 4)) == 2


async def test_without_equals_nothing_is_kept_of_the_lines() -> None:
    found = await found_in([line("a", f'{{"a":{number}}}') for number in range(1000)])
    assert found.count == 0
    assert not found._next
    assert not found._offsets


async def test_a_stop_ends_the_reading() -> None:
    blobs, extents = await stored(line("a", "{}"))
    stopped = await duplicates(blobs, extents, is_stopping=True)
    assert stopped is None


async def test_a_line_that_does_not_read_is_damage() -> None:
    with pytest.raises(Damaged, match="line 2"):
        await found_in([line("a", "{}"), b"{"])
