"""The results of a run in input order, read in bounded memory.

A run has a batch, and one more for each time that its failures were tried again. All have the
same line numbers (a retry has blank lines in the place of the others), so that a result of a later
one takes the place of the failure before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from itertools import groupby
from operator import itemgetter

from batchwright.blobs.base import Blobs
from batchwright.engine.results import Place, ResultIndex, Settled, is_error_key

_WINDOW_LINES = 2048
_WINDOW_BYTES = 2**20


async def windows(index: ResultIndex, blobs: Blobs) -> AsyncGenerator[list[Settled]]:
    """All results in the order of their lines, about a megabyte at a time."""
    async for window in _windows(index):
        yield await _read(window, blobs)


async def _windows(index: ResultIndex) -> AsyncGenerator[list[Place]]:
    for first in range(1, index.lines + 1, _WINDOW_LINES):
        window: list[Place] = []
        size_bytes = 0
        for place in await index.places(first, min(first + _WINDOW_LINES - 1, index.lines)):
            window.append(place)
            size_bytes += place[2]
            if size_bytes >= _WINDOW_BYTES:
                yield window
                window, size_bytes = [], 0
        if window:
            yield window


async def failed_lines(index: ResultIndex) -> bytearray:
    """For each line, from 0 on: 1 where its result is a failure, else 0."""
    failed = bytearray(index.lines + 1)
    async for window in _windows(index):
        for key, _, _, number in window:
            failed[number] = is_error_key(key)
    return failed


async def _read(window: list[Place], blobs: Blobs) -> list[Settled]:
    found: list[Settled] = []
    make = tuple.__new__  # a third of the time of a call of the class
    for key, group in groupby(sorted(window), key=itemgetter(0)):
        places, is_error = list(group), is_error_key(key)
        ranges = [(offset, length - 1) for _, offset, length, _ in places]
        lines = await blobs.read_ranges(key, ranges)
        found += [
            make(Settled, (number, line, is_error))
            for (_, _, _, number), line in zip(places, lines, strict=True)
        ]
    found.sort()
    return found


def pulled(
    windows: AsyncGenerator[list[Settled]], loop: asyncio.AbstractEventLoop
) -> Iterator[Settled]:
    """The same for a thread: it waits while the loop reads the next window."""

    async def following() -> list[Settled] | None:
        return await anext(windows, None)

    while window := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield from window
        window = []  # not held while the next one is read
