"""Suspects: requests that were in flight when the process died, and what is done with them.

    a crash ─► `judge`: how often, among how many ─► `Suspicion`, kept in the journal
    reading ─► fit: goes with the others · held: waits for the end of its batch · lost: is the cause
    the end ─► `Gate`: groups of at most half the crowd in which they were last seen

A request that kills the process halves its crowd at each crash, until it is sent alone; innocent
ones settle on the way. Only crashes of a request that was sent alone tell against it, so that any
number of deaths that no request caused hardly ever cost one. The state here is pure: what it is
fed are the slot tables of dead processes and the slots that come back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

from batchwright.engine.pending import Pending

CRASHES_FREE = 2  # one that was in flight at so many deaths is held back
GUILT_ALONE = 2  # a death with it as the only request in flight in the whole process
GUILT_AMONG_OTHERS = 1  # one with it as the only suspect in flight
GUILT_MAX = 4  # at which it ends as `worker_lost`

WORKER_LOST = (
    "The process ended again and again while this request was in flight, also when it was sent "
    "alone."
)


class Suspicion(NamedTuple):
    """What tells against a request without a result. The default is one that nothing does."""

    crashes: int = 0  # deaths of the process at which it was in flight
    crowd: int = 2**32 - 1  # the fewest among which one of these deaths had to find its cause
    guilt: int = 0  # what deaths while it was sent alone add up to
    epoch: int = -1  # the last one that was judged

    def packed(self) -> tuple[int, int, int]:
        """As the last three numbers of an account record."""
        return self.epoch, self.crowd, min(self.crashes, 0xFFFF) << 16 | min(self.guilt, 0xFFFF)

    @classmethod
    def unpacked(cls, words: tuple[int, ...]) -> Suspicion:
        """What `packed` made the words of."""
        epoch, crowd, counts = words
        return cls(counts >> 16, crowd, counts & 0xFFFF, epoch)

    @property
    def is_held(self) -> bool:
        """Whether it waits for the end of its batch."""
        return self.crashes >= CRASHES_FREE

    @property
    def is_cause(self) -> bool:
        """Whether it ends as `worker_lost`."""
        return self.guilt >= GUILT_MAX

    @property
    def group(self) -> int:
        """How many suspects may be in flight together with it, itself included."""
        return max(1, self.crowd // 2)


class Crowd(NamedTuple):
    """What was in flight in the whole process when it died."""

    suspects: int  # sent through the gate
    others: int


def judge(before: Suspicion, crowd: Crowd, *, was_gated: bool, epoch: int) -> Suspicion:
    """What a death of the process, in `epoch` of its batch, tells of a request in flight."""
    everything = crowd.suspects + crowd.others
    among, guilt = everything, 0
    if was_gated:
        among = crowd.suspects
        if everything == 1:
            guilt = GUILT_ALONE
        elif crowd.suspects == 1:
            guilt = GUILT_AMONG_OTHERS
    return Suspicion(before.crashes + 1, min(before.crowd, among), before.guilt + guilt, epoch)


_Key = tuple[str, int]  # batch, line


class Gate:
    """Lets the suspects of all batches of the process pass, the least suspicious first.

    Never are more of them out than the `group` of each of those that are out.
    """

    def __init__(self) -> None:
        self.process = 0  # what this process is called in its slot tables
        self.crowds: Mapping[int, Crowd] = {}  # by process: what the dead ones had in flight
        # Rank, arrival, key, group, and how it is sent.
        self._waiting: list[tuple[tuple[int, int, int], int, _Key, int, Callable[[], None]]] = []
        self.out: dict[_Key, int] = {}  # in flight, or about to be; with their groups
        self.is_open = False  # not before the suspects of every batch had time to come
        self._arrived = 0

    def add(self, key: _Key, suspicion: Suspicion, send: Callable[[], None]) -> None:
        """Queue a suspect; `send` is called when its turn comes, not before `let_pass`."""
        self._arrived += 1
        rank = (-suspicion.group, suspicion.guilt, suspicion.crashes)
        heapq.heappush(self._waiting, (rank, self._arrived, key, suspicion.group, send))

    def leave(self, key: _Key) -> None:
        """A suspect is in flight no more: the next may go. Safe twice."""
        if self.out.pop(key, None) is not None:
            self.let_pass()

    def withdraw(self, batch_id: str) -> None:
        """Forget the suspects of a batch, waiting or out."""
        self._waiting = [held for held in self._waiting if held[2][0] != batch_id]
        heapq.heapify(self._waiting)
        for key in [key for key in self.out if key[0] == batch_id]:
            del self.out[key]
        self.let_pass()

    def let_pass(self) -> None:
        """Send whatever may be sent now."""
        while self._waiting and self.is_open:
            _, _, key, group, send = self._waiting[0]
            if len(self.out) >= min(group, *self.out.values(), group):
                return
            heapq.heappop(self._waiting)
            self.out[key] = group
            send()


class Verdict(Enum):
    """What becomes of a request that is about to be sent."""

    FIT = auto()  # it goes with the others
    HELD = auto()  # it goes through the gate once its batch has nothing else left
    LOST = auto()  # it ends as `worker_lost`


class Suspects:
    """The suspects of one batch in one epoch. `send` puts one into its feed."""

    def __init__(
        self,
        batch_id: str,
        *,
        found: Mapping[int, Suspicion],
        gate: Gate,
        send: Callable[[Pending], None],
    ) -> None:
        self._batch_id = batch_id
        self._found = found  # the tally's: a line that is done is no suspect any more
        self._gate = gate
        self._send = send
        self._held: list[Pending] = []
        self._queued: dict[int, Pending] = {}  # at the gate, by line

    @property
    def are_out(self) -> bool:
        """Whether suspects, of any batch, are in flight or about to be."""
        return bool(self._gate.out)

    @property
    def are_held(self) -> bool:
        """Whether some wait for the end of the batch."""
        return bool(self._held)

    def judge(self, pending: Pending) -> Verdict:
        """Whether a request may go with the others; keeps it where it is held back."""
        suspicion = self._found.get(pending.request.line)
        if suspicion is None:
            return Verdict.FIT
        pending.is_maybe_paid = True
        if suspicion.is_cause:
            return Verdict.LOST
        if suspicion.is_held:
            self._held.append(pending)
            return Verdict.HELD
        return Verdict.FIT

    def send_held(self) -> None:
        """Nothing else is left: those held back queue at the gate."""
        held, self._held = self._held, []
        self.queue(*held)

    def hold(self, pending: Pending) -> None:
        """Keep a suspect that may not be sent now, until `send_held`."""
        self._held.append(pending)

    def queue(self, *pendings: Pending) -> None:
        """Let suspects wait for their turn at the gate."""
        for pending in pendings:
            line = pending.request.line
            self._queued[line] = pending
            self._gate.add((self._batch_id, line), self._found[line], partial(self._pass, line))
        self._gate.let_pass()

    def _pass(self, line: int) -> None:
        self._send(self._queued.pop(line))

    def is_held(self, line: int) -> bool:
        """Whether a request goes through the gate, each time that it is sent."""
        suspicion = self._found.get(line)
        return suspicion is not None and suspicion.is_held

    def may_go(self, line: int) -> bool:
        """Whether a suspect has passed the gate."""
        return (self._batch_id, line) in self._gate.out

    def came_back(self, line: int) -> None:
        """A request has given its slot back: done, or it waits to be tried again."""
        self._gate.leave((self._batch_id, line))

    def withdraw(self) -> None:
        """Let others pass: nothing of this batch is sent until `send_held`. Safe twice."""
        self._held += self._queued.values()
        self._queued.clear()
        self._gate.withdraw(self._batch_id)
