"""Which lines of a batch have prompts that begin alike, and the order that puts these together.

A provider's prompt cache keeps what it computed for the beginning of a prompt, in blocks: OpenAI
from 1,024 tokens on in steps of 128 (developers.openai.com, "Prompt caching"), vLLM in blocks of
16 (docs.vllm.ai, "Automatic prefix caching"). Here a prompt is bytes, and a token about four:

- A prompt is cut into a first block of `FIRST_BYTES` and further ones of `STEP_BYTES`; what does
  not fill a block is its own. Two prompts share a prefix where the blocks up to there are equal.
- Prefixes that came twice make a tree of *groups*. A line goes down it as far as its blocks lead,
  and each line makes it at most one block deeper. So the tree grows only where lines come again,
  and a file of a million lines that share nothing makes none.
- The order is that of the tree, by first line: a group stands where its first line stands, and in
  it in the same way its lines and its smaller groups. What shares nothing keeps its place.

Nothing of it is stored: each start finds it again from the input. It takes 24 bytes a line, and
at most about 60 MB for the prefixes that are told apart.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import NamedTuple

FIRST_BYTES = 1024  # less in common is no long prefix
STEP_BYTES = 512
PREFIX_BYTES_MAX = 2**16  # what lies behind is not compared
GROUPS_MAX = 100_000
SEEN_MAX = 100_000  # prefixes that came once, the oldest of which are forgotten

_ROOT = 0  # the group of all lines


class Prefixes:
    """Sorts prompts into groups, one line after the other."""

    def __init__(self, *, groups_max: int = GROUPS_MAX, seen_max: int = SEEN_MAX) -> None:
        self._groups_max = groups_max
        self._seen_max = seen_max
        self._seen = OrderedDict[bytes, int]()  # by hash of a prefix: the one line that has it
        self._groups: dict[bytes, int] = {}  # by hash of a prefix
        self._parents = array("I", [_ROOT])  # by group; a parent is older than its children
        self._group_of = array("I")  # by line

    def add(self, kind: bytes, prompt: bytes) -> None:
        """Note the prompt of the next line. Only lines of one `kind` (a model) share prefixes."""
        line, group = len(self._group_of), _ROOT
        for prefix in _prefixes(kind, prompt):
            known = self._groups.get(prefix)
            if known is not None:
                group = known
                continue
            first = self._seen.pop(prefix, None)
            if first is None or len(self._groups) >= self._groups_max:
                self._see(prefix, line)
                break
            group = self._found(prefix, group)
            self._group_of[first] = group
        self._group_of.append(group)

    def _see(self, prefix: bytes, line: int) -> None:
        self._seen[prefix] = line
        if len(self._seen) > self._seen_max:
            self._seen.popitem(last=False)

    def _found(self, prefix: bytes, parent: int) -> int:
        group = self._groups[prefix] = len(self._parents)
        self._parents.append(parent)
        return group

    def arrange(self) -> Arrangement:
        """The order of the lines so far, as indices from 0. Gives up what it was found from."""
        self._seen.clear()
        self._groups.clear()
        parents, sizes = self._parents, self._sizes()
        next_place = array("I", [0]) * len(parents)
        is_open = bytearray(len(parents))
        is_open[_ROOT] = True
        order = array("I", [0]) * len(self._group_of)

        def open_group(group: int) -> None:
            """Give a group its place: behind what its parent has so far."""
            closed = []
            while not is_open[group]:
                closed.append(group)
                group = parents[group]
            for child in reversed(closed):
                parent = parents[child]
                next_place[child] = next_place[parent]
                next_place[parent] += sizes[child]
                is_open[child] = True

        for line, group in enumerate(self._group_of):
            if not is_open[group]:
                open_group(group)
            order[next_place[group]] = line
            next_place[group] += 1
        del self._group_of[:]
        # Each is full now, so its next place is its end.
        return Arrangement(order, *self._heads(sizes, next_place))

    def _sizes(self) -> array[int]:
        """How many lines are in each group, with those in the groups within it."""
        sizes = array("I", [0]) * len(self._parents)
        for group in self._group_of:
            sizes[group] += 1
        for group in range(len(sizes) - 1, _ROOT, -1):
            sizes[self._parents[group]] += sizes[group]
        return sizes

    def _heads(self, sizes: array[int], ends: array[int]) -> tuple[array[int], array[int]]:
        """Where the groups begin that part from others, and where they end.

        One that is alone in its parent only goes on with the prefix of that.
        """
        children = array("I", [0]) * len(self._parents)
        for parent in self._parents[1:]:
            children[parent] += 1
        found: dict[int, int] = {}
        for group in range(1, len(sizes)):
            parent = self._parents[group]
            if parent == _ROOT or children[parent] > 1:
                found.setdefault(ends[group] - sizes[group], ends[group])
        starts = sorted(found)
        return array("I", starts), array("I", [found[start] for start in starts])


def _prefixes(kind: bytes, prompt: bytes) -> Iterator[bytes]:
    """The hash of each prefix of whole blocks, the shortest first.

    With 8 bytes each, two of a million that differ are taken for one with a chance of 10⁻⁷; then
    a line goes out beside others than its own.
    """
    if len(prompt) < FIRST_BYTES:
        return
    hashed = blake2b(kind, digest_size=8)
    start, end, view = 0, FIRST_BYTES, memoryview(prompt)
    while end <= len(prompt):
        hashed.update(view[start:end])
        yield hashed.digest()
        start, end = end, end + STEP_BYTES


class Arrangement(NamedTuple):
    """Lines in the order of sending, each an index from 0 in the order of the input."""

    order: array[int]
    heads: array[int]  # the places in `order` at which groups begin
    ends: array[int]  # where these groups end

    @property
    def says_nothing(self) -> bool:
        """Whether to read the input from its beginning to its end is the same."""
        is_one = len(self.heads) < 2
        return is_one and all(place == line for place, line in enumerate(self.order))


class Walk(Iterator[int]):
    """Goes through an arrangement, with the first of each group ahead of its place.

    A prefix can be had from the cache once the first request with it is answered. So that one, the
    *forerunner*, goes out early: before that many others as are sent until its answer is there.
    """

    def __init__(
        self, arrangement: Arrangement, *, is_done: Callable[[int], bool] = lambda _: False
    ) -> None:
        """Lines that are done are left out; they may become so on the way."""
        self.lead = 0  # how far ahead a forerunner goes out; may be set at any time
        self._arrangement = arrangement
        self._is_done = is_done
        self._at = 0  # the place that is next
        self._next_head = 0
        self._until = 0  # up to this place groups have sent their forerunners
        self._ahead: dict[int, None] = {}  # went out, and their places are still to come

    def copy(self) -> Walk:
        """Another walk, which goes on from here as this one does."""
        other = Walk(self._arrangement, is_done=self._is_done)
        other.lead, other._until = self.lead, self._until
        other._at, other._next_head = self._at, self._next_head
        other._ahead = dict(self._ahead)
        return other

    def __next__(self) -> int:
        order, heads, _ = self._arrangement
        while True:
            if self._next_head < len(heads) and heads[self._next_head] < self._until:
                self._next_head += 1
                if (line := self._forerunner(self._next_head - 1)) is not None:
                    return line
                continue
            if self._at == len(order):
                raise StopIteration
            line = order[self._at]
            self._at += 1
            self._until = self._at + self.lead
            if line in self._ahead:
                del self._ahead[line]
            elif not self._is_done(line):
                return line

    def _forerunner(self, head: int) -> int | None:
        """The first of a group that is not done."""
        order, heads, ends = self._arrangement
        if heads[head] <= self._at:  # its turn has come
            return None
        for place in range(heads[head], ends[head]):
            line = order[place]
            if line not in self._ahead and not self._is_done(line):
                self._ahead[line] = None
                return line
        return None
