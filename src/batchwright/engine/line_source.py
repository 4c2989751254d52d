"""Where the reader has its lines from: the input in its own order, or by prefix."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from batchwright.blobs.base import CHUNK_BYTES, Blobs, read_extent_ranges
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.engine.input import input_lines
from batchwright.engine.prefixes import Arrangement, Prefixes, Walk
from batchwright.engine.prompt import prompt_reader

TAKEN_AT_ONCE = 256  # lines


class LineSource(Protocol):
    """The lines of one input file, as often as they are asked for, in the same order each time."""

    def lines(self, start: Line | None) -> AsyncIterator[Iterator[Line]]:
        """All of them, or those from `start` on; done ones may be left out."""
        ...


class InputSource:
    """The lines in the order of the file."""

    def __init__(self, *, extents: Sequence[Extent], blobs: Blobs) -> None:
        self._extents = extents
        self._blobs = blobs

    def lines(self, start: Line | None) -> AsyncIterator[Iterator[Line]]:
        """A piece of the file at a time. See `input_lines`."""
        return input_lines(self._blobs, self._extents, start)


class PrefixSource:
    """The lines whose prompts begin alike together. See `Prefixes`.

    Before the first one all are read once, in slices and off the event loop. From then on each is
    read from where it lies.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        extents: Sequence[Extent],
        blobs: Blobs,
        is_done: Callable[[int], bool] | None,
        lead: Callable[[], int],
    ) -> None:
        """`lead` says how many lines ahead the first of a group is to go out just now. Where it
        is always 0, each call of `lines` gives the same order."""
        self._endpoint = endpoint
        self._extents = extents
        self._blobs = blobs
        self._is_done = is_done
        self._lead = lead
        self._index: _Index | None = None

    async def lines(self, start: Line | None) -> AsyncIterator[Iterator[Line]]:
        """As many at a time as are read at once."""
        offload, index = self._blobs.offload, self._index
        if index is None:
            index = self._index = await self._read_index()
        walk = await offload(partial(index.walk, start, self._is_done))
        if walk is None:
            async for lines in input_lines(self._blobs, self._extents, start):
                yield lines
            return
        while taken := await offload(partial(index.take, walk, self._lead())):
            yield iter(await self._read(index, taken))

    async def _read_index(self) -> _Index:
        index = _Index(self._endpoint)
        async for lines in input_lines(self._blobs, self._extents):
            await self._blobs.offload(partial(index.add, lines))
        await self._blobs.offload(index.arrange)
        return index

    async def _read(self, index: _Index, taken: Sequence[int]) -> list[Line]:
        """The lines of these indices, in their order."""
        in_file = sorted(taken)
        ranges = [(index.offsets[each], index.lengths[each]) for each in in_file]
        contents = await read_extent_ranges(self._blobs, self._extents, ranges)
        found = dict(zip(in_file, contents, strict=True))
        return [Line(index.numbers[each], index.offsets[each], found[each]) for each in taken]


class _Index:
    """Where each line lies, and when its turn is. Lines are indices from 0, without blank ones."""

    def __init__(self, endpoint: str) -> None:
        self.numbers = array("I")
        self.offsets = array("Q")
        self.lengths = array("I")
        self._read_prompt = prompt_reader(endpoint)
        self._prefixes = Prefixes()
        self._arrangement: Arrangement | None = None

    def add(self, lines: Iterator[Line]) -> None:
        """Note the next lines of the file."""
        for number, offset, content in lines:
            self.numbers.append(number)
            self.offsets.append(offset)
            self.lengths.append(len(content or b""))
            self._prefixes.add(*self._read_prompt(content or b""))

    def arrange(self) -> None:
        """Find the order; no line is added after that."""
        found = self._prefixes.arrange()
        self._arrangement = None if found.says_nothing else found

    def walk(self, start: Line | None, is_done: Callable[[int], bool] | None) -> Walk | None:
        """A walk over the undone lines, from a line on; None where it is that of the input."""
        found, numbers = self._arrangement, self.numbers
        if found is None:
            return None
        place = 0
        if start is not None:
            place = found.order.index(bisect_left(self.offsets, start.offset))
        if is_done is None:
            return Walk(found, start=place)
        return Walk(found, start=place, is_done=lambda line: is_done(numbers[line]))

    def take(self, walk: Walk, lead: int) -> list[int]:
        """The next lines: as many as are read at once."""
        walk.lead = lead
        taken, size_bytes = list[int](), 0
        for line in walk:
            taken.append(line)
            size_bytes += self.lengths[line]
            if len(taken) == TAKEN_AT_ONCE or size_bytes >= CHUNK_BYTES:
                break
        return taken
