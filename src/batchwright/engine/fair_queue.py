"""The fair queue: which batch's job is next on a lane.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) in two levels: tenants share a lane
alike, and the batches of a tenant share what it gets by their weights. A tenant gets no more by
having more batches, nor by calling them urgent. The measure is the estimated tokens of a job.

- Each sharer has a *start*, a point in virtual time. The one with the lowest is next; of two alike
  the one that has been there longer. A job of n tokens moves its sharer's start by n / weight.
- Virtual time is the start of what was taken last. A sharer that had nothing ready comes back at
  the virtual time of then, or at its own start if that is later: what it did not use is gone, what
  it owes is not. A new one begins at the virtual time, so it is served at once.
- A sharer that is alone owes nobody: its start stands still. So one batch on a lane costs next to
  nothing, which matters because every request comes through here.
- One whose next job may not go now, because its model is at a limit of its own, is passed over, and
  time stands still for it: it keeps what it owes to others that wait, and gains nothing.
- A batch that goes leaves what it still owes to all: virtual time moves by its tokens over the
  weight of all. Else a row of new batches of one request could hold an old one up for ever.

Over any span in which two sharers of a level have jobs ready, tokens / weight of the one and of the
other differ by at most one job of each. A job's tokens count only when it is taken, so the order
within a flow may change, and so may its weight: both act from the next job on.

It is plain state: no I/O, no clock. Calls at the provider may overlap as they like; what is shared
is the right to begin (as with SFQ(D): Jin, Chase and Kaur, SIGMETRICS 2004).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, Protocol, TypeVar

FLOW_LOW = 192
"""Jobs left in a flow at which it asks for more."""


class Weighed(Protocol):
    """What is queued: a job whose size is known, about."""

    @property
    def tokens(self) -> int: ...


J = TypeVar("J", bound=Weighed)


class _Sharer:
    """One of those that share a level."""

    __slots__ = ("number", "start", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.start = 0.0  # in virtual time: when its next job may begin
        self.number = 0  # in order of arrival


class Flow(_Sharer, Generic[J]):
    """The jobs of one batch on one lane that are ready to go.

    `on_low` is called when `FLOW_LOW` of them are left or fewer, so that more is read.
    Jobs are added through the queue, so that it knows of the first.
    """

    __slots__ = ("_is_listed", "_is_open", "is_held", "on_low", "ready", "tenant")

    def __init__(self, tenant: str, on_low: Callable[[], None], weight: float = 1.0) -> None:
        super().__init__(_checked(weight))
        self.tenant = tenant
        self.on_low = on_low
        self.ready: deque[J] = deque()
        self.is_held = False  # paused: nothing is taken from it
        self._is_open = False  # attached
        self._is_listed = False  # it has something to be taken


S = TypeVar("S", bound=_Sharer)


class _Level(Generic[S]):
    """The sharers of a level that have something ready, in a heap with the next on top."""

    __slots__ = ("_latest", "heap", "virtual")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, S]] = []  # start, number
        self.virtual = 0.0
        self._latest = 0.0  # the highest start of those that have left

    def enter(self, sharer: S) -> None:
        if len(self.heap) == 1:  # the one that was alone stood still, and with it the virtual time
            self.virtual = max(self.virtual, self.heap[0][0])
        sharer.start = max(sharer.start, self.virtual)
        heappush(self.heap, (sharer.start, sharer.number, sharer))

    def serve(self, tokens: int, *, has_more: bool) -> None:
        """Charge the top with a job; it leaves if it has no more."""
        start, number, top = self.heap[0]
        if len(self.heap) > 1:
            self.virtual = max(self.virtual, start)
            top.start = start + tokens / top.weight
        if has_more:
            heapreplace(self.heap, (top.start, number, top))
        else:
            heappop(self.heap)
            self._note_left(top)

    def serve_past(self, sharer: S, tokens: int, *, has_more: bool) -> None:
        """The same for one that is not on top. For those passed over time stands still: among
        themselves they owe what they owed, and what they could not use is gone."""
        if self.heap[0][2] is sharer:
            self.serve(tokens, has_more=has_more)
            return
        start = sharer.start
        ahead = [each for at, number, each in self.heap if (at, number) < (start, sharer.number)]
        stood = start - min(each.start for each in ahead)
        for each in ahead:
            each.start += stood
        self.virtual = max(self.virtual, start)
        sharer.start = start + tokens / sharer.weight
        stay = [each for _, _, each in self.heap if has_more or each is not sharer]
        self.heap = [(each.start, each.number, each) for each in stay]
        heapify(self.heap)
        if not has_more:
            self._note_left(sharer)

    def in_order(self) -> list[S]:
        return [sharer for _, _, sharer in sorted(self.heap)]

    def leave(self, sharer: S) -> None:
        """Take one out that need not be on top."""
        self.heap = [entry for entry in self.heap if entry[2] is not sharer]
        heapify(self.heap)
        self._note_left(sharer)

    def inherit(self, gone: S) -> None:
        """Spread what one that goes for good still owes over all."""
        owed = gone.start - self.virtual
        if owed > 0 and self.heap:
            weight = gone.weight + sum(sharer.weight for _, _, sharer in self.heap)
            latest = max(start for start, _, _ in self.heap)
            moved = self.virtual + owed * gone.weight / weight
            self.virtual = max(self.virtual, min(moved, latest))

    def _note_left(self, sharer: S) -> None:
        self._latest = max(self._latest, sharer.start)
        if not self.heap:  # nobody waits: old debts are settled
            self.virtual = max(self.virtual, self._latest)


class _Tenant(_Sharer, Generic[J]):
    """A tenant: one sharer of the lane, and the level of its flows."""

    __slots__ = ("attached", "flows", "numbers")

    def __init__(self) -> None:
        super().__init__(1.0)
        self.flows: _Level[Flow[J]] = _Level()
        self.attached = 0
        self.numbers = 0


class FairQueue(Generic[J]):
    """The jobs of all batches that wait for one lane.

    `peek` and `take` cost the same for any number of jobs, and little more for many flows.
    """

    __slots__ = ("_level", "_numbers", "_tenants")

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant[J]] = {}
        self._level: _Level[_Tenant[J]] = _Level()
        self._numbers = 0

    def __bool__(self) -> bool:
        """Whether there is a job to be taken."""
        return bool(self._level.heap)

    # Flows

    def attach(self, flow: Flow[J]) -> None:
        """Let a flow take part. Each flow is attached once."""
        tenant = self._tenants.get(flow.tenant) or self._new_tenant(flow.tenant)
        tenant.attached += 1
        tenant.numbers += 1
        flow.number = tenant.numbers
        flow._is_open = True
        if flow.ready:
            self._list(flow)

    def detach(self, flow: Flow[J]) -> None:
        """Forget a flow and what waits in it. Safe twice."""
        if flow._is_open:
            self._unlist(flow)
            flow._is_open = False
            tenant = self._tenants[flow.tenant]
            tenant.attached -= 1
            tenant.flows.inherit(flow)
        flow.ready.clear()

    def set_weight(self, flow: Flow[J], weight: float) -> None:
        """Give a flow another share of what its tenant gets, from its next job on.

        `weight` is above zero; only the ratio of two weights means something.
        """
        flow.weight = _checked(weight)

    def set_held(self, flow: Flow[J], is_held: bool) -> None:
        """Pause a flow, or let it go on. Its jobs stay, and more may be put. Safe twice."""
        flow.is_held = is_held
        if is_held:
            self._unlist(flow)
        elif flow.ready:
            self._list(flow)

    # Jobs

    def put(self, flow: Flow[J], job: J) -> None:
        """Add a job at the end of its flow."""
        flow.ready.append(job)
        if not flow._is_listed:
            self._list(flow)

    def put_front(self, flow: Flow[J], job: J) -> None:
        """Add a job that has waited before: it is the next of its flow."""
        flow.ready.appendleft(job)
        if not flow._is_listed:
            self._list(flow)

    def skip_third(self) -> None:
        """Put the first third of the flow that is next behind its other jobs."""
        heap = self._level.heap
        if heap:
            ready = heap[0][2].flows.heap[0][2].ready
            ready.rotate(-(len(ready) // 3))

    def peek(self) -> J | None:
        """The job that `take` would take."""
        heap = self._level.heap
        return heap[0][2].flows.heap[0][2].ready[0] if heap else None

    def take(self) -> J:
        """Take the next job out. Raises `IndexError` where there is none."""
        level = self._level
        tenant = level.heap[0][2]
        flows = tenant.flows
        flow = flows.heap[0][2]
        ready = flow.ready
        job = ready.popleft()
        left = len(ready)
        if left <= FLOW_LOW:
            flow.on_low()
        if left and len(flows.heap) == 1 == len(level.heap):
            return job  # alone: nothing changes
        tokens = max(job.tokens, 1)
        flow._is_listed = left > 0
        flows.serve(tokens, has_more=left > 0)
        level.serve(tokens, has_more=bool(flows.heap))
        return job

    def take_first(self, may_go: Callable[[J], bool]) -> J | None:
        """Take the next job that may go now, past flows whose next one may not; None if none may.

        It costs more the more flows there are, which `take` does not.
        """
        for tenant in self._level.in_order():
            for flow in tenant.flows.in_order():
                if may_go(flow.ready[0]):
                    return self._take_past(tenant, flow)
        return None

    # Steps of the above

    def _take_past(self, tenant: _Tenant[J], flow: Flow[J]) -> J:
        job = flow.ready.popleft()
        left = len(flow.ready)
        if left <= FLOW_LOW:
            flow.on_low()
        tokens = max(job.tokens, 1)
        flow._is_listed = left > 0
        tenant.flows.serve_past(flow, tokens, has_more=left > 0)
        self._level.serve_past(tenant, tokens, has_more=bool(tenant.flows.heap))
        return job

    def _new_tenant(self, name: str) -> _Tenant[J]:
        """A tenant that has gone is kept while it owes, or it would be rid of it by coming back."""
        self._tenants = {
            known: tenant
            for known, tenant in self._tenants.items()
            if tenant.attached or tenant.start > self._level.virtual
        }
        tenant = self._tenants[name] = _Tenant()
        self._numbers += 1
        tenant.number = self._numbers
        return tenant

    def _list(self, flow: Flow[J]) -> None:
        """Let a flow be taken from, if it may be."""
        if flow._is_listed or flow.is_held or not flow._is_open:
            return
        tenant = self._tenants[flow.tenant]
        was_idle = not tenant.flows.heap
        flow._is_listed = True
        tenant.flows.enter(flow)
        if was_idle:
            self._level.enter(tenant)

    def _unlist(self, flow: Flow[J]) -> None:
        if not flow._is_listed:
            return
        tenant = self._tenants[flow.tenant]
        flow._is_listed = False
        tenant.flows.leave(flow)
        if not tenant.flows.heap:
            self._level.leave(tenant)


def _checked(weight: float) -> float:
    if not weight > 0:
        raise ValueError(f"a weight is above zero, not {weight}")
    return weight
