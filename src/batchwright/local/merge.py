"""The results of a run in input order, read in bounded memory.

A run has a batch, and one more for each time that its failures were tried again. All have the
same line numbers (a retry has blank lines in the place of the others), so that a result of a later
one takes the place of the failure before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

from batchwright.blobs.base import Blobs
from batchwright.engine.results import Place, ResultIndex, Settled

_WINDOW_LINES = 4096
_WINDOW_BYTES = 2 * 2**20
_GAP_BYTES = 4096  # read along where it saves a read


async def windows(index: ResultIndex, lines: int, blobs: Blobs) -> AsyncGenerator[list[Settled]]:
    """All results in the order of their lines, some megabytes at a time."""
    window: list[Place] = []
    size_bytes = 0
    for place in index.places(lines):
        window.append(place)
        size_bytes += place[1]
        if size_bytes >= _WINDOW_BYTES or len(window) >= _WINDOW_LINES:
            yield await _read(window, index, blobs)
            window, size_bytes = [], 0
    if window:
        yield await _read(window, index, blobs)


async def _read(window: list[Place], index: ResultIndex, blobs: Blobs) -> list[Settled]:
    found: list[Settled] = []
    make = tuple.__new__  # a third of the time of a call of the class
    for run in _runs(sorted(window), index):
        start, stop = run[0][0], run[-1][0] + run[-1][1]
        file = index.file_at(start)
        pieces = [piece async for piece in blobs.read(file.key, start - file.start, stop - start)]
        data, is_error = b"".join(pieces), file.is_error
        del pieces
        found += [
            make(Settled, (number, data[address - start : address - start + length - 1], is_error))
            for address, length, number in run
        ]
    found.sort()
    return found


def _runs(places: list[Place], index: ResultIndex) -> Iterator[list[Place]]:
    """Places that lie close together in one file, so that one read gets them."""
    first = run_end = file_end = 0
    for number, (address, length, _) in enumerate(places):
        if address - run_end > _GAP_BYTES or address >= file_end:
            if number > first:
                yield places[first:number]
            first, file_end = number, index.file_at(address).end
        run_end = address + length
    yield places[first:]


def pulled(
    windows: AsyncGenerator[list[Settled]], loop: asyncio.AbstractEventLoop
) -> Iterator[Settled]:
    """The same for a thread: it waits while the loop reads the next window."""

    async def following() -> list[Settled] | None:
        return await anext(windows, None)

    while window := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield from window
