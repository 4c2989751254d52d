"""Lines of one batch whose bodies are the same, byte for byte.

The first line with a body is the *leader*, every later one a *follower* of it.

Found anew in each epoch by reading the input, so nothing of it is stored. While the hashes are
compared they take 20 bytes a line; after that a follower is found by 16 bytes a line, and by none
where no two bodies are the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from batchwright.blobs.base import Blobs
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.engine.bodies import BUCKETS, Bodies, read_bodies
from batchwright.engine.input import input_lines
from batchwright.engine.preparation import Preparation


class Duplicates:
    """Leaders, their followers, and where those lie in the input."""

    def __init__(self) -> None:
        self.count = 0  # of followers
        self._next = array("I")  # by line: the next line with the same body; 0: none
        self._is_follower = bytearray()  # one bit per line
        self._offsets = array("Q")  # by line; filled for followers alone
        self._lengths = array("I")

    def is_follower(self, line: int) -> bool:
        byte = line >> 3
        return byte < len(self._is_follower) and bool(self._is_follower[byte] >> (line & 7) & 1)

    def followers(self, line: int) -> Iterator[int]:
        """The followers of a leader in the order of the input; none of any other line."""
        if line >= len(self._next) or self.is_follower(line):
            return
        while line := self._next[line]:
            yield line

    def place(self, follower: int) -> tuple[int, int]:
        """Offset and length of a follower's line in the input."""
        return self._offsets[follower], self._lengths[follower]

    def count_undone(self, is_done: Callable[[int], bool]) -> int:
        """How many followers are not done."""
        return sum(not is_done(line) for line, length in enumerate(self._lengths) if length)

    def _link(self, earlier: int, later: int, lines: int) -> None:
        if not self.count:  # by repetition: from bytes, each would be there twice for a moment
            self._next = array("I", [0]) * (lines + 1)
            self._is_follower = bytearray((lines >> 3) + 1)
        self.count += 1
        self._next[earlier] = later
        self._is_follower[later >> 3] |= 1 << (later & 7)

    def _make_places(self) -> None:
        self._offsets = array("Q", [0]) * len(self._next)
        self._lengths = array("I", [0]) * len(self._next)

    def _note_places(self, lines: Iterator[Line]) -> None:
        for number, offset, content in lines:
            if self.is_follower(number):
                self._offsets[number] = offset
                self._lengths[number] = len(content or b"")


NO_DUPLICATES = Duplicates()


async def find_duplicates(
    extents: Sequence[Extent],
    *,
    endpoint: str,
    blobs: Blobs,
    preparation: Preparation,
    is_stopping: Callable[[], bool],
    known: Bodies | None = None,
) -> Duplicates | None:
    """As `read_bodies`, which is spared where the bodies are known; they are given up."""
    bodies = known or await read_bodies(
        extents, endpoint=endpoint, blobs=blobs, preparation=preparation, is_stopping=is_stopping
    )
    if bodies is None:
        return None
    found = await blobs.offload(partial(duplicates_of, bodies))
    if found.count:
        found._make_places()
        async for lines in input_lines(blobs, extents):
            await blobs.offload(partial(found._note_places, lines))
            if is_stopping():
                return None
    return found


def duplicates_of(bodies: Bodies) -> Duplicates:
    """What is the same, without its places. Gives up a bucket after the other."""
    found = Duplicates()
    for number in range(BUCKETS):
        last: dict[bytes, int] = {}
        for hashed, line in bodies.bucket(number):
            if hashed in last:
                found._link(last[hashed], line, bodies.lines)
            last[hashed] = line
        bodies.forget(number)
    return found
