"""Packs: requests of one batch that share a call, how they come together and come apart again.

A pack stands in the feed of its lane while it is still open: further requests join it until it is
full or a worker takes it. So nothing waits for company; the longer the queue, the fuller the packs.

A call that fails for what is in it is split in halves, down to the one request that is at fault.
Where both halves of a call succeed and none of its size ever has, it was too large: from then on
the packs of the lane are no larger than its half. Packs are bounded by the size of their answers
too, learned as they come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from batchwright.domain.answers import BadAnswer, CheckedAnswer, check_answer
from batchwright.domain.errors import NotSent, TransportError
from batchwright.domain.limits import Cost
from batchwright.engine.estimate import Estimator, estimate
from batchwright.engine.lane import Lane
from batchwright.engine.limiter import Reservation
from batchwright.engine.packing import EMBEDDINGS_URL, Part, PartReader, packed_body, vector_bytes
from batchwright.engine.pending import Pending
from batchwright.engine.retry import Decision
from batchwright.engine.routing import Route
from batchwright.engine.unpacking import unpack
from batchwright.providers.base import LARGE_ANSWER_BYTES, Answer

OPEN_MAX = 64  # packs that may be joined, of different keys
INPUT_ANSWER_BYTES = 64 * 2**10  # where nothing is seen nor said: 3,072 floats of 21 characters
ITEM_BYTES = 128  # of an answer, beside its vector
LENGTHS_MAX = 64  # of vectors that are told apart
_FORGETTING = 0.9  # how much of the largest size seen is kept with each answer


@dataclass(frozen=True, slots=True)
class PackLimits:
    """How large one call may be. A request that is over it alone is sent as it is."""

    # OpenAI takes 2,048 inputs and 300,000 tokens in all. A token has at least one byte, so that
    # this many bytes are within it whatever the text (api-reference/embeddings/create).
    inputs_max: int = 256
    bytes_max: int = 256 * 2**10
    # Expected. Larger ones would wait for room in memory, and take more of the disk in reserve.
    answer_bytes_max: int = LARGE_ANSWER_BYTES


@dataclass(slots=True, eq=False)
class Split:
    """A call that was split, to tell whether it was too large or one of its requests at fault."""

    inputs: int
    half_inputs: int  # of its larger half
    succeeded: int = 0  # halves


@dataclass(slots=True, eq=False)
class Pack:
    """Requests that are sent as one call. It is the job that a lane runs."""

    requests: list[Pending]
    parts: list[Part]
    call: Callable[[Pack], Awaitable[None]]
    inputs: int
    size_bytes: int
    cost: Cost  # estimated, for the limits of the lane
    reserved: Reservation | None = None  # what the lane took for the attempt under way
    is_noted: bool = False  # the lane was told how that attempt ended
    origin: Split | None = None  # the call that it is a half of
    refusals: int = 0  # answers 429 to all of it

    @property
    def tokens(self) -> int:
        """The estimate as one number, for the fair queue."""
        return self.cost.input_tokens + self.cost.output_tokens

    def estimate(self) -> None:
        self.cost = estimate(self.estimator, self.body_bytes)

    def run(self) -> Awaitable[None]:
        return self.call(self)

    @property
    def estimator(self) -> Estimator:
        return self.requests[0].estimator

    @property
    def body_bytes(self) -> int:
        """Of its requests as they came."""
        return sum([len(pending.request.body) for pending in self.requests])

    @property
    def route(self) -> Route:
        return self.requests[0].route

    @property
    def attempts(self) -> int:
        """Attempts used up by the request that has used the most."""
        return max(pending.attempts for pending in self.requests)

    @property
    def was_denied(self) -> bool:
        """Whether its credential was refused before."""
        return self.requests[0].was_denied

    def body(self) -> bytes:
        """The body of the call; that of a single request as it came."""
        return self.requests[0].request.body if len(self.parts) == 1 else packed_body(self.parts)

    def answers(self, body: bytes) -> list[CheckedAnswer]:
        """The answers of the requests, in their order, from the body of a 200.

        Raises `BadAnswer`.
        """
        if len(self.parts) == 1:
            return [check_answer(EMBEDDINGS_URL, body)]
        return unpack(body, self.parts)


def halves(pack: Pack, *, may_be_size: bool = True) -> tuple[Pack, Pack]:
    """The two packs that a pack of two or more requests is split into, with half of them each.
    `may_be_size`: the call may have failed because it was too large."""
    middle = len(pack.requests) // 2
    first = _pack(pack.requests[:middle], pack.parts[:middle], pack.call)
    second = _pack(pack.requests[middle:], pack.parts[middle:], pack.call)
    if may_be_size:
        first.origin = second.origin = Split(pack.inputs, max(first.inputs, second.inputs))
    return first, second


def _pack(
    requests: list[Pending], parts: list[Part], call: Callable[[Pack], Awaitable[None]]
) -> Pack:
    return Pack(
        requests=requests,
        parts=parts,
        call=call,
        inputs=sum([part.inputs for part in parts]),
        size_bytes=sum([len(part.items) for part in parts]),
        cost=Cost(
            sum([pending.cost.input_tokens for pending in requests]),
            sum([pending.cost.output_tokens for pending in requests]),
            requests[0].cost.model,
        ),
    )


class Step(Enum):
    """What is done with a pack whose call failed."""

    AGAIN = auto()  # the same call, after the wait of the decision
    SPLIT = auto()  # its halves, at once
    GIVE_UP = auto()  # each of its requests ends with this failure


# Said of the call and not of its inputs: redirects, no such model or path, not implemented.
_SAME_FOR_ALL = frozenset({404, 405, 410, 501, 505})


def next_step(
    requests: int, outcome: Answer | TransportError | BadAnswer, decision: Decision
) -> Step:
    """What follows for a pack of so many requests; `decision` is that of the retry table.

    An answer that cannot be taken apart, or that is too large, is not asked for again as it was.
    Where the credential is refused, its halves tell whether that is because of one of them.
    What may pass by itself is tried again as a whole, and split only once its attempts are used up.
    """
    is_single = requests == 1
    is_about_whole = not (isinstance(outcome, BadAnswer) or decision.rule.stops_credential)
    if decision.retry and (is_single or is_about_whole):
        return Step.AGAIN
    return Step.GIVE_UP if is_single or _is_same_for_all(outcome) else Step.SPLIT


def _is_same_for_all(outcome: Answer | TransportError | BadAnswer) -> bool:
    if isinstance(outcome, Answer):
        return outcome.status < 400 or outcome.status in _SAME_FOR_ALL
    return isinstance(outcome, NotSent)


@dataclass(slots=True)
class _Learned:
    """What the answers of a lane have shown."""

    inputs_max: int
    inputs_seen: int = 0  # the most that a call has had with success
    # Of one input, by the length of vector that its call asks for.
    answer_bytes: dict[int | None, float] = field(default_factory=dict)

    def expected_bytes(self, key: bytes) -> float:
        """Of the answer to one input of a call with this key."""
        said = vector_bytes(key)
        seen = self.answer_bytes.get(said)
        if seen is not None:
            return seen
        return INPUT_ANSWER_BYTES if said is None else said + ITEM_BYTES

    def note_answer(self, key: bytes, size_bytes: float) -> None:
        """An answer to a call with this key had so many bytes for each input."""
        kept = self.expected_bytes(key) * _FORGETTING + size_bytes * (1 - _FORGETTING)
        if len(self.answer_bytes) >= LENGTHS_MAX:
            self.answer_bytes.clear()
        self.answer_bytes[vector_bytes(key)] = max(size_bytes, kept)


class Packer:
    """Brings the requests of one batch together. `call` is what a lane is to run for a pack."""

    def __init__(self, limits: PackLimits, call: Callable[[Pack], Awaitable[None]]) -> None:
        self._limits = limits
        self._call = call
        self._parts = PartReader()
        self._open: dict[tuple[Lane, bytes], Pack] = {}
        self._learned: dict[Lane, _Learned] = {}

    def add(self, pending: Pending) -> Pack | Pending | None:
        """Let a request to `/v1/embeddings` join an open pack; else return the job to be queued.

        That is a new pack with this request in it, or the request itself where it is to be sent
        alone.
        """
        part, lane = self._parts.read(pending.request.body), pending.route.lane
        if part is None:
            return pending
        key = (lane, part.key)
        pack = self._open.get(key)
        if pack is not None and self._has_room(pack.inputs, pack.size_bytes, part, lane):
            _join(pack, pending, part)
            return None
        if not self._has_room(0, 0, part, lane):
            return pending
        if pack is None and len(self._open) >= OPEN_MAX:
            del self._open[next(iter(self._open))]  # the oldest; it stays queued
        pack = self._open[key] = _pack([pending], [part], self._call)
        return pack

    def close(self, pack: Pack) -> None:
        """Let nothing join any more: the pack is about to be sent. Safe twice."""
        key = (pack.route.lane, pack.parts[0].key)
        if self._open.get(key) is pack:
            del self._open[key]

    def note_success(self, pack: Pack, answer_bytes: int) -> None:
        """Learn how large the calls of a lane may be."""
        learned = self._of(pack.route.lane)
        learned.note_answer(pack.parts[0].key, answer_bytes / pack.inputs)
        learned.inputs_seen = max(learned.inputs_seen, pack.inputs)
        if (whole := pack.origin) is None:
            return
        whole.succeeded += 1
        if whole.succeeded == 2 and whole.inputs > learned.inputs_seen:
            fitting = max(whole.half_inputs, learned.inputs_seen)
            learned.inputs_max = min(learned.inputs_max, fitting)

    def _has_room(self, inputs: int, size_bytes: int, part: Part, lane: Lane) -> bool:
        learned = self._of(lane)
        inputs += part.inputs
        return (
            inputs <= learned.inputs_max
            and size_bytes + len(part.items) <= self._limits.bytes_max
            and inputs * learned.expected_bytes(part.key) <= self._limits.answer_bytes_max
        )

    def _of(self, lane: Lane) -> _Learned:
        learned = self._learned.get(lane)
        if learned is None:
            learned = self._learned[lane] = _Learned(self._limits.inputs_max)
        return learned


def _join(pack: Pack, pending: Pending, part: Part) -> None:
    pack.requests.append(pending)
    pack.parts.append(part)
    pack.inputs += part.inputs
    pack.size_bytes += len(part.items)
    pack.cost = Cost(
        pack.cost.input_tokens + pending.cost.input_tokens,
        pack.cost.output_tokens + pending.cost.output_tokens,
        pack.cost.model,
    )
