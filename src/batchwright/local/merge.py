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
from batchwright.engine.results import Place, ResultIndex, Stretch, is_error_key

_WINDOW_LINES = 2048
_WINDOW_BYTES = 2**20


async def windows(index: ResultIndex, blobs: Blobs) -> AsyncGenerator[list[Stretch]]:
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


async def _read(window: list[Place], blobs: Blobs) -> list[Stretch]:
    found: list[Stretch] = []
    make = tuple.__new__  # a third of the time of a call of the class
    for key, group in groupby(sorted(_joined(window)), key=itemgetter(0)):
        joined, is_error = list(group), is_error_key(key)
        texts = await blobs.read_ranges(key, [(offset, length) for _, offset, length, *_ in joined])
        found += [
            make(Stretch, (first, lines, text, is_error))
            for (_, _, _, first, lines), text in zip(joined, texts, strict=True)
        ]
    found.sort()
    return found


def _joined(window: list[Place]) -> Iterator[tuple[str, int, int, int, int]]:
    """Key, offset and length of each stretch, its first line and how many it has."""
    (key, start, _, first), end, lines = window[0], window[0][1], 0
    for next_key, offset, length, line in window:
        if offset != end or line != first + lines or next_key != key:
            yield key, start, end - start, first, lines
            key, start, first, lines = next_key, offset, line, 0
        end, lines = offset + length, lines + 1
    yield key, start, end - start, first, lines


def pulled(
    windows: AsyncGenerator[list[Stretch]], loop: asyncio.AbstractEventLoop
) -> Iterator[Stretch]:
    """The same for a thread: it waits while the loop reads the next window."""

    async def following() -> list[Stretch] | None:
        return await anext(windows, None)

    while window := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield from window
        window = []  # not held while the next one is read
