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


_Place = tuple[str, int, int, int]
"""Key, offset and length of a result line, and the number of its request: it sorts by where it
lies."""


def is_error_key(key: str) -> bool:
    """Whether a blob of a journal holds failures."""
    return key.endswith("/error")


async def windows(index: ResultIndex, lines: int, blobs: Blobs) -> AsyncGenerator[list[Settled]]:
    """All results in the order of their lines, some megabytes at a time."""
    window: list[_Place] = []
    size_bytes = 0
    for number, key, offset, length in index.places(lines):
        window.append((key, offset, length, number))
        size_bytes += length
        if size_bytes >= _WINDOW_BYTES or len(window) >= _WINDOW_LINES:
            yield await _read(window, blobs)
            window, size_bytes = [], 0
    if window:
        yield await _read(window, blobs)


async def _read(window: list[_Place], blobs: Blobs) -> list[Settled]:
    found: list[Settled] = []
    make = tuple.__new__  # a third of the time of a call of the class
    for run in _runs(sorted(window)):
        key, start, *_ = run[0]
        end = run[-1][1] + run[-1][2]
        data = b"".join([chunk async for chunk in blobs.read(key, start, end - start)])
        is_error = is_error_key(key)
        for _, offset, length, number in run:
            line = data[offset - start : offset - start + length]
            found.append(make(Settled, (number, line.rstrip(b"\n"), is_error)))
    found.sort()
    return found


def _runs(places: list[_Place]) -> Iterator[list[_Place]]:
    """Places that lie close together, so that one read gets them."""
    run: list[_Place] = []
    run_key, run_end = "", 0
    for place in places:
        key, offset, length, _ = place
        if run and (key != run_key or offset - run_end > _GAP_BYTES):
            yield run
            run = []
        run.append(place)
        run_key, run_end = key, offset + length
    yield run


def pulled(
    windows: AsyncGenerator[list[Settled]], loop: asyncio.AbstractEventLoop
) -> Iterator[Settled]:
    """The same for a thread: it waits while the loop reads the next window."""

    async def following() -> list[Settled] | None:
        return await anext(windows, None)

    while window := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield from window
