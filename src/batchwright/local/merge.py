"""The results of a run in input order, read in bounded memory.

A run has a batch, and one more for each time that its failures were tried again. All have the
same line numbers (a retry has blank lines in the place of the others), so that a result of a later
one takes the place of the failure before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from batchwright.blobs.base import Blobs
from batchwright.engine.results import ResultIndex

_WINDOW_LINES = 4096
_WINDOW_BYTES = 8 * 2**20
_GAP_BYTES = 4096  # read along where it saves a read


class Settled(NamedTuple):
    """The line that a request ended as."""

    number: int  # its physical line in the request file, from 1
    line: bytes  # without its line end
    is_error: bool


class _Place(NamedTuple):
    key: str
    offset: int
    length: int
    number: int


def is_error_key(key: str) -> bool:
    """Whether a blob of a journal holds failures."""
    return key.endswith("/error")


async def windows(index: ResultIndex, lines: int, blobs: Blobs) -> AsyncGenerator[list[Settled]]:
    """All results in the order of their lines, some megabytes at a time."""
    window: list[_Place] = []
    size_bytes = 0
    for number in range(1, lines + 1):
        place = index.place(number)
        if place is None:
            continue
        window.append(_Place(*place, number))
        size_bytes += place[2]
        if size_bytes >= _WINDOW_BYTES or len(window) >= _WINDOW_LINES:
            yield await _read(window, blobs)
            window, size_bytes = [], 0
    if window:
        yield await _read(window, blobs)


async def _read(window: list[_Place], blobs: Blobs) -> list[Settled]:
    found: list[Settled] = []
    for run in _runs(sorted(window)):
        start, end = run[0].offset, run[-1].offset + run[-1].length
        data = b"".join([chunk async for chunk in blobs.read(run[0].key, start, end - start)])
        found += [
            Settled(
                place.number,
                data[place.offset - start : place.offset - start + place.length].rstrip(b"\n"),
                is_error_key(place.key),
            )
            for place in run
        ]
    return sorted(found)


def _runs(places: list[_Place]) -> Iterator[list[_Place]]:
    """Places that lie close together, so that one read gets them."""
    run: list[_Place] = []
    for place in places:
        if run and not _follows(run[-1], place):
            yield run
            run = []
        run.append(place)
    yield run


def _follows(before: _Place, place: _Place) -> bool:
    gap = place.offset - before.offset - before.length
    return place.key == before.key and gap <= _GAP_BYTES


def pulled(
    windows: AsyncGenerator[list[Settled]], loop: asyncio.AbstractEventLoop
) -> Iterator[Settled]:
    """The same for a thread: it waits while the loop reads the next window."""

    async def following() -> list[Settled] | None:
        return await anext(windows, None)

    while window := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield from window
