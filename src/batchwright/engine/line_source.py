"""Where the reader has its lines from: the input in its own order, or by prefix."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from batchwright.blobs.base import CHUNK_BYTES, Blobs, read_extent_ranges
from batchwright.domain.batch import Batch
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.domain.order import Order
from batchwright.engine.input import input_lines
from batchwright.engine.prefixes import Arrangement, Prefixes, Walk
from batchwright.engine.preparation import Preparation
from batchwright.engine.prompt import prompt_reader

TAKEN_AT_ONCE = 256  # lines
ORDERING = "putting prompts that begin alike together"


class LineSource(Protocol):
    """The lines of one input file, a piece at a time."""

    def lines(self) -> AsyncIterator[Iterator[Line]]:
        """All of them; done ones may be left out."""
        ...

    def rest(self, piece: Iterator[Line], line: Line) -> AsyncIterator[Iterator[Line]]:
        """Those from `line` on, which has just come from `piece`: what will come there, comes here
        too. Takes note at once."""
        ...


class InputSource:
    """The lines in the order of the file."""

    def __init__(self, *, extents: Sequence[Extent], blobs: Blobs) -> None:
        self._extents = extents
        self._blobs = blobs

    def lines(self) -> AsyncIterator[Iterator[Line]]:
        """See `input_lines`."""
        return input_lines(self._blobs, self._extents)

    def rest(self, piece: Iterator[Line], line: Line) -> AsyncIterator[Iterator[Line]]:
        """See `input_lines`."""
        return input_lines(self._blobs, self._extents, line)


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
        preparation: Preparation,
        total: int,
    ) -> None:
        """`lead` says how many lines ahead the first of a group is to go out just now; `total` is
        the number of lines."""
        self._extents = extents
        self._blobs = blobs
        self._is_done = is_done
        self._lead = lead
        self._preparation = preparation
        self._total = total
        self._index = _Index(endpoint)

    async def lines(self) -> AsyncIterator[Iterator[Line]]:
        """As many at a time as are read at once."""
        await self._read_index()
        walk = self._index.walk(self._is_done)
        pieces = input_lines(self._blobs, self._extents) if walk is None else self._walk(walk)
        async for piece in pieces:
            yield piece

    def rest(self, piece: Iterator[Line], line: Line) -> AsyncIterator[Iterator[Line]]:
        """The rest of the piece, and what the walk that it is from goes on with."""
        if isinstance(piece, _Piece):
            return self._walk(piece.walk.copy(), piece.from_last())
        return input_lines(self._blobs, self._extents, line)

    async def _walk(self, walk: Walk, first: Sequence[Line] = ()) -> AsyncIterator[Iterator[Line]]:
        if first:
            yield _Piece(first, walk)
        take = partial(self._index.take, walk)
        while taken := await self._blobs.offload(partial(take, self._lead())):
            yield _Piece(await self._read(taken), walk)

    async def _read_index(self) -> None:
        index = self._index
        with self._preparation.step(ORDERING, self._total):
            async for lines in input_lines(self._blobs, self._extents):
                before = len(index.numbers)
                await self._blobs.offload(partial(index.add, lines))
                self._preparation.note(len(index.numbers) - before)
            await self._blobs.offload(index.arrange)

    async def _read(self, taken: Sequence[int]) -> list[Line]:
        """The lines of these indices, in their order."""
        index, in_file = self._index, sorted(taken)
        ranges = [(index.offsets[each], index.lengths[each]) for each in in_file]
        contents = await read_extent_ranges(self._blobs, self._extents, ranges)
        found = dict(zip(in_file, contents, strict=True))
        return [Line(index.numbers[each], index.offsets[each], found[each]) for each in taken]


class _Piece(Iterator[Line]):
    """Some lines, and the walk that goes on behind them."""

    def __init__(self, lines: Sequence[Line], walk: Walk) -> None:
        self.walk = walk
        self._lines = lines
        self._count = 0

    def __next__(self) -> Line:
        if self._count == len(self._lines):
            raise StopIteration
        self._count += 1
        return self._lines[self._count - 1]

    def from_last(self) -> Sequence[Line]:
        """The line that came last, and those after it."""
        return self._lines[self._count - 1 :]


def line_source(
    batch: Batch,
    *,
    extents: Sequence[Extent],
    blobs: Blobs,
    is_done: Callable[[int], bool] | None,
    lead: Callable[[], int],
    preparation: Preparation,
) -> LineSource:
    """The lines of a batch in the order that was asked for; see `PrefixSource`."""
    if batch.order is Order.INPUT:
        return InputSource(extents=extents, blobs=blobs)
    return PrefixSource(
        endpoint=batch.endpoint,
        extents=extents,
        blobs=blobs,
        is_done=is_done,
        lead=lead,
        preparation=preparation,
        total=batch.counts.total,
    )


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
        """Find the order; no line is added after that. Where it is that of the input, nothing is
        kept of the lines."""
        found = self._prefixes.arrange()
        if found.says_nothing:
            del self.numbers[:], self.offsets[:], self.lengths[:]
        else:
            self._arrangement = found

    def walk(self, is_done: Callable[[int], bool] | None) -> Walk | None:
        """A walk over the undone lines; None where it is that of the input."""
        found, numbers = self._arrangement, self.numbers
        if found is None:
            return None
        if is_done is None:
            return Walk(found)
        return Walk(found, is_done=lambda line: is_done(numbers[line]))

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
