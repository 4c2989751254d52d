"""A lane: what stands between the requests that wait and one account at a provider.

Workers take the next job as soon as there is one and the limiter lets it pass. Live calls go first,
and batch work leaves them room; then the fair queue decides between the running batches. A batch
request holds a slot from here until its result is durable; there are 256 more slots than calls may
be in flight, so that a worker need not wait for the disk.

How many workers there are, and how fast they go, the limiter decides: it is told what became of
each call, and learns.

A lane can be *tripped* (it refuses our credential, or is down): then one request at a time probes
until one passes, and failures are not held against the requests. Before that, a refused credential
is checked with other requests, at once and from different places of what waits: the refused ones
may have been at fault themselves, and such requests often stand together.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol
from zlib import crc32

from batchwright.domain.errors import LongWait, NotSent
from batchwright.domain.limits import Cost, Kind, LimitSeen, Tokens
from batchwright.engine import credential as credentials
from batchwright.engine import limiter as limits_of
from batchwright.engine.credential import CHECKS, Credential, Refusal
from batchwright.engine.fair_queue import FairQueue, Flow
from batchwright.engine.learned import Learned
from batchwright.engine.limiter import Binding, Declared, Reservation
from batchwright.engine.live_room import LiveRoom
from batchwright.engine.meter import Meter
from batchwright.engine.retry import Decision
from batchwright.engine.runtime import Runtime

CONCURRENCY_MAX = 2_000  # where the configuration names no ceiling
SPARE_SLOTS = 256
TROUBLES_BEFORE_TRIP = 20  # in a row, over all requests of the lane
PROBE_EVERY_S = 30.0
SKIP_EVERY = 4  # one check in so many is taken from further behind
LARGEST_SPAN_S = 1800.0  # the largest answer is that of the last one or two of these
LIVE_WAIT_S_MAX = 30.0  # a longer wait that is known beforehand is told to its client

Stop = Literal["credential", "outage"]
"""Why a lane is tripped: it refuses our credential, or is down."""


class Job(Protocol):
    """One call to be made on a lane."""

    reserved: Reservation | None  # what the limiter took for it, once it runs
    is_noted: bool  # the limiter was told how it ended

    @property
    def cost(self) -> Cost:
        """What it will probably use."""
        ...

    @property
    def tokens(self) -> int:
        """The same as one number, for the fair queue."""
        ...

    def estimate(self) -> None:
        """Expect what the answers that came since it was queued make likely."""
        ...

    def run(self) -> Awaitable[None]:
        """Make the call and deal with whatever comes of it. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """What the configuration allows on an account."""

    max_concurrency: int = CONCURRENCY_MAX  # a ceiling
    declared: Declared = field(default_factory=Declared)
    max_attempts: int | None = None  # None: the engine's


class Lane:
    """The calls to one account at a provider, in one mode."""

    def __init__(
        self, name: str, *, limits: LaneLimits, runtime: Runtime, upstream: str = ""
    ) -> None:
        """`upstream` tells where the account is: another place is another lane to the records."""
        self.name = name
        self.tag = crc32(f"{name} {upstream}".encode())  # what account records call the lane
        self.limits = limits
        self.slots = limits.max_concurrency + SPARE_SLOTS
        self.in_flight = 0
        self.largest_answer_bytes = 0  # of this span: what room each slot may need on the disk
        self._largest_before = 0  # of the span before
        self._span_ends_at = runtime.monotonic() + LARGEST_SPAN_S
        self.tripped: str | None = None  # the reason, in words for a person
        self.tripped_by: Stop | None = None
        self.on_bug: Callable[[BaseException], None] = _raise  # a job raised: a bug of ours
        self.is_held = False  # the engine sends nothing at the moment (disk full, stopping)
        self._runtime = runtime
        self._slots_taken = 0
        self._queue: FairQueue[Job] = FairQueue()
        self._flows: dict[Flow[Job], None] = {}  # attached
        self._live: dict[LiveJob, None] = {}  # whose turn has not come, the first first
        self._live_in_flight: dict[Job, None] = {}
        self._live_room = LiveRoom()
        self._parked: deque[asyncio.Future[None]] = deque()
        self._workers: dict[asyncio.Task[None], None] = {}
        self._is_closed = False
        self._probe_at = 0.0  # while tripped
        self._credential = Credential()
        self._check: Job | None = None  # of the credential: the one that is out
        self._denied = ""  # what a refused credential was answered, for a person
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._troubles = 0
        self._limiter = limits_of.start(
            runtime.monotonic(),
            max_concurrency=limits.max_concurrency,
            declared=limits.declared,
        )

    @property
    def allowed_in_flight(self) -> int:
        """How many calls may be in flight now."""
        return self._limiter.concurrency.allowed

    @property
    def contenders(self) -> list[Flow[Job]]:
        """The flows that have something to send now: what share this lane."""
        return [flow for flow in self._flows if flow.ready and not flow.is_held]

    @property
    def bound_kind(self) -> Kind | None:
        """What the limit that last bound counts; None where it is none that was told."""
        bound = self._limiter.bound_by
        return bound.kind if isinstance(bound, Meter) else None

    @property
    def probe_in_s(self) -> float:
        """Seconds until the next probe of a tripped lane; 0 if one may go or is out."""
        return max(self._probe_at - self._runtime.monotonic(), 0.0)

    @property
    def room_bytes(self) -> int:
        """What the answers under way, and those that may be soon, can take on the disk."""
        largest_bytes = max(self.largest_answer_bytes, self._largest_before)
        return (self.allowed_in_flight + SPARE_SLOTS) * largest_bytes

    def forget_sizes(self) -> None:
        """Forget the answers of the span before last. To be called now and then."""
        now = self._runtime.monotonic()
        if now >= self._span_ends_at:
            self._largest_before, self.largest_answer_bytes = self.largest_answer_bytes, 0
            self._span_ends_at = now + LARGEST_SPAN_S

    # Flows and live calls

    def attach(self, flow: Flow[Job]) -> None:
        """Let the jobs of a batch take part."""
        self._queue.attach(flow)
        self._flows[flow] = None

    def detach(self, flow: Flow[Job]) -> None:
        """Forget a flow and what waits in it. Safe twice."""
        self._queue.detach(flow)
        self._flows.pop(flow, None)
        self._look_again()

    def put(self, flow: Flow[Job], job: Job) -> None:
        """Queue a job behind those of its batch."""
        has_place = self.in_flight < self._limiter.concurrency.allowed
        has_place = has_place and (self._timer is None or not self._queue or not flow.ready)
        self._queue.put(flow, job)
        if has_place:
            self.wake()

    def put_front(self, flow: Flow[Job], job: Job) -> None:
        """Queue a job that has waited before: the next of its batch."""
        self._queue.put_front(flow, job)
        self.wake()

    def set_weight(self, flow: Flow[Job], weight: float) -> None:
        """Give a batch another share of what its tenant gets."""
        self._queue.set_weight(flow, weight)

    def set_paused(self, flow: Flow[Job], is_paused: bool) -> None:
        """Send nothing of a batch, or go on."""
        self._queue.set_held(flow, is_paused)
        self.wake()

    def submit_live(self, job: LiveJob) -> None:
        """Queue a call that somebody waits for; it goes before all batch work."""
        self._live[job] = None
        at_once = len(self._live) + len(self._live_in_flight)
        self._live_room.note(at_once, self._runtime.monotonic())
        self.wake()

    def drop_live(self, job: LiveJob) -> None:
        """Forget a live call whose client has left before its turn. Harmless once it runs."""
        if job in self._live:
            del self._live[job]
            self._look_again()

    def long_wait(self, cost: Cost) -> LongWait | None:
        """The wait that is known to lie before a call, where that is longer than a live one should
        hang: one that the provider asked for, or until a used-up hour or day is over."""
        left_s = limits_of.known_wait_s(self._limiter, cost, self._runtime.monotonic())
        return LongWait(self.name, left_s) if left_s > LIVE_WAIT_S_MAX else None

    def refuses_live(self) -> str | None:
        """Why a live call need not wait here: the lane is down, and it is no time to probe it."""
        if self.tripped is None or self._runtime.monotonic() >= self._probe_at:
            return None
        return self.tripped

    def release_slots(self, count: int) -> None:
        """Give back slots of batch requests: their results are durable, or they wait again."""
        was_full = self._slots_taken >= self._limiter.concurrency.allowed + SPARE_SLOTS
        self._slots_taken -= count
        if was_full and self._parked:
            self.wake()

    # What became of a call

    def note_answer(
        self,
        job: Job,
        seen: tuple[LimitSeen, ...],
        used: Tokens | None,
        *,
        is_success: bool = True,
    ) -> None:
        """The provider took the call: it answered it, well or not. `seen` are the limits in the
        headers, `used` the tokens that it reports."""
        reserved = job.reserved
        job.is_noted = True
        if reserved is not None:
            limiter, now = self._limiter, self._runtime.monotonic()
            if seen:
                limits_of.observe(limiter, reserved, seen, now)
            limits_of.on_answer(limiter, reserved, now)
            if used is not None:
                limits_of.settle(limiter, reserved, used, now)
            credential = self._credential
            if is_success and reserved.requests > credential.accepted:
                credential.accepted, credential.accepted_at = reserved.requests, now
            if is_success and credential.doubtful:
                self._note_accepted(reserved.requests, now)
        self._troubles = 0
        if self.tripped_by == "outage":
            self._end_stop()

    def note_failure(
        self,
        job: Job,
        decision: Decision,
        seen: tuple[LimitSeen, ...],
        said: str,
        *,
        refusal: Refusal = Refusal.FIRST,
        requests: int = 1,
    ) -> None:
        """The call failed. `said` tells an operator how, short and without data; `refusal` is what
        a refused credential is to its requests, and `requests` how many they are."""
        rule, told_s = decision.rule, decision.stops_lane_s or None
        job.is_noted = True
        if not rule.may_be_paid:
            self.give_back(job)
        if rule.stops_credential:
            if job.reserved is not None:
                limits_of.on_lost(self._limiter, job.reserved)
            self._denied = f"{self.name}: {rule.cause.replace('_', ' ')} ({said})"
            self._note_denied(job, refusal, requests)
        elif not rule.slows_lane:
            self.note_answer(job, seen, None, is_success=False)
            if told_s is not None:
                limits_of.pause(self._limiter, told_s, self._runtime.monotonic())
        elif job.reserved is not None:
            limiter, now = self._limiter, self._runtime.monotonic()
            if seen:
                limits_of.observe(limiter, job.reserved, seen, now)
            if rule.cause == "rate_limited":
                limits_of.on_rate_limited(limiter, job.reserved, now, told_s)
                self._troubles = 0
            else:
                limits_of.on_overload(limiter, job.reserved, now, told_s)
                self._note_trouble(f"{self.name} does not answer: {said}", is_told=bool(told_s))
        if self._live and told_s is not None:
            self._refuse_long_waits()

    def _refuse_long_waits(self) -> None:
        """Send none of the live calls that would have to wait for long."""
        for job in list(self._live):
            if long_wait := self.long_wait(job.cost):
                del self._live[job]
                job.refuse(long_wait)

    def settle(self, job: Job, used: Tokens) -> None:
        """What a call used became known after its end was noted."""
        if job.reserved is not None:
            limits_of.settle(self._limiter, job.reserved, used, self._runtime.monotonic())

    def give_back(self, job: Job) -> None:
        """The call has used no tokens: the provider refused it, or never had it."""
        if job.reserved is not None:
            limits_of.give_back(self._limiter, job.reserved, self._runtime.monotonic())

    def _note_trouble(self, reason: str, *, is_told: bool) -> None:
        self._troubles += 0 if is_told else 1
        if self._troubles >= TROUBLES_BEFORE_TRIP:
            self._trip(reason, "outage")

    def _note_denied(self, job: Job, refusal: Refusal, requests: int) -> None:
        state = self._credential
        if job.reserved is not None:
            now = self._runtime.monotonic()
            number = job.reserved.requests
            credentials.note_refused(state, refusal, number, now, requests=requests)
        if state.is_stopped and job is self._check:
            state.checked += 1
            if state.is_refused:
                self._trip(self._denied, "credential")

    def _note_accepted(self, number: int, now: float) -> None:
        was_stopped = self._credential.is_stopped
        credentials.note_accepted(self._credential, number, now)
        if was_stopped and not self._credential.is_stopped:
            self._check = None
            self._end_stop()

    def note_packed(self, requests: int) -> None:
        """A call that succeeded was one of so many requests."""
        self._credential.packed += requests - 1

    def let_in_after(self, number: int) -> bool:
        """Whether a call has succeeded that was sent after the one with `number`; False for 0."""
        return self._credential.is_after(number)

    def judge_denial(self, before: int, times: int) -> Refusal:
        """What a refused credential is to its request: see `credential.judge`."""
        return credentials.judge(self._credential, before, times, self._runtime.monotonic())

    def _trip(self, reason: str, by: Stop) -> None:
        """Stop sending but for a probe each `PROBE_EVERY_S`, until one passes."""
        self.tripped, self.tripped_by = reason, by
        self._probe_at = self._runtime.monotonic() + PROBE_EVERY_S

    def _end_stop(self) -> None:
        self.tripped = self.tripped_by = None
        self._probe_at = 0.0
        self.wake()

    def binding(self, flow: Flow[Job] | None = None) -> Binding | None:
        """The limit that binds now, with its figures; None if nothing does. Of a flow: the one
        that binds its next job."""
        limiter, now = self._limiter, self._runtime.monotonic()
        job = flow.ready[0] if flow is not None and flow.ready else self._queue.peek()
        if job is not None and (self._timer is not None or limiter.tells_models_apart):
            limits_of.delay_s(limiter, job.cost, now)  # asleep for long: does it still bind?
        model = None if flow is None or job is None else job.cost.model
        return limits_of.binding(limiter, now, self.in_flight + self._kept_for_live(now), model)

    def holds_back(self, flow: Flow[Job] | None = None) -> str | None:
        """What keeps this lane, or a flow of it, from sending now, in words for a person; None if
        nothing does."""
        if self.tripped is not None:
            return self.tripped
        binding = self.binding(flow)
        return None if binding is None else f"{self.name}: {binding.message}"

    # Workers

    def wake(self) -> None:
        """Let a worker look for a job: something may have become possible."""
        while self._parked:
            waiter = self._parked.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._workers) < self.limits.max_concurrency and not self._is_closed:
            task = asyncio.get_running_loop().create_task(self._work())
            self._workers[task] = None
            task.add_done_callback(self._on_worker_done)

    async def drain(self, grace_s: float) -> bool:
        """Send nothing more; wait for the calls in flight, at most `grace_s`.

        Returns whether all ended.
        """
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._parked:
            waiter = self._parked.pop()
            if not waiter.done():
                waiter.set_result(None)
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=grace_s)
        return not self._workers

    async def _work(self) -> None:
        while not self._is_closed:
            job = self._next()
            if job is None:
                waiter = asyncio.get_running_loop().create_future()
                self._parked.append(waiter)
                await waiter
                continue
            self.in_flight += 1
            has_place = self.in_flight < self._limiter.concurrency.allowed
            if has_place and (self._live or self._queue):
                self.wake()
            reserved = job.reserved
            try:
                await job.run()
            finally:
                self.in_flight -= 1
                if not job.is_noted and reserved is not None and job.reserved is reserved:
                    limits_of.on_lost(self._limiter, reserved)  # abandoned, or a bug of ours
                if self._check is job:
                    self._check = None
                if self._live_in_flight:
                    self._live_in_flight.pop(job, None)

    def _on_worker_done(self, task: asyncio.Task[None]) -> None:
        del self._workers[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_bug(error)

    def _next(self) -> Job | None:
        """Take the next job if everything lets it pass; else arrange to be woken."""
        limiter, in_flight = self._limiter, self.in_flight
        allowed = limiter.concurrency.allowed
        if in_flight >= allowed:
            return None  # the next call that ends looks again
        if self.tripped is not None and in_flight:
            return None  # one probe at a time
        live = next(iter(self._live)) if self._live else None
        now = self._runtime.monotonic()
        if live is not None:
            job: Job | None = live
        elif not self._has_room_for_batches(now):
            return None
        elif self._credential.is_stopped:
            job = self._next_check()
        else:
            job = self._queue.peek()
        if job is None:
            return None
        if limiter.counts_tokens:
            job.estimate()
        wait = limits_of.delay_s(limiter, job.cost, now)
        if live is not None and wait > LIVE_WAIT_S_MAX and self.long_wait(live.cost):
            self._refuse_long_waits()
            return self._next()
        if wait > 0 and limiter.tells_models_apart and self._probe_at <= now:
            job, wait = self._take_past_limits(now)
        elif wait <= 0 and self._probe_at <= now:
            job = self._queue.take() if live is None else self._take_live(live)
        if job is None or wait > 0 or self._probe_at > now:
            self._wake_in(max(wait, self._probe_at - now))
            return None
        if job not in self._live_in_flight:
            if self._live_room.peak:
                in_flight += self._kept_for_live(now)
            self._slots_taken += 1
            if self._credential.is_stopped:
                self._check = job
        job.reserved = limits_of.reserve(limiter, job.cost, now, in_flight + 1)
        job.is_noted = False
        return job

    def _has_room_for_batches(self, now: float) -> bool:
        """Whether a job of a batch finds a slot, and a place that is not kept for live calls."""
        allowed = self._limiter.concurrency.allowed
        if self.is_held or self._slots_taken >= allowed + SPARE_SLOTS:
            return False
        return not self._live_room.peak or self.in_flight + self._kept_for_live(now) < allowed

    def _take_live(self, job: LiveJob) -> LiveJob:
        del self._live[job]
        self._live_in_flight[job] = None
        return job

    def _take_past_limits(self, now: float) -> tuple[Job | None, float]:
        """Take the next job whose model is not at its limit; and in how many seconds there is one.

        Only live calls and batches of other models pass, and only a limit that does not count
        them: else many small calls would keep a large one waiting for ever. For one model, and
        within a batch, the order holds.
        """
        limiter = self._limiter
        waits: dict[str, float] = {}
        bounds: list[Meter | Learned] = []  # of those that wait

        def may_go(job: Job) -> bool:
            model = job.cost.model
            if model in waits:
                return False
            if any(limits_of.concerns(limiter, bound, model) for bound in bounds):
                waits[model] = math.inf
                return False
            job.estimate()
            wait = waits[model] = limits_of.delay_s(limiter, job.cost, now)
            if wait > 0 and limiter.bound_by is not None:
                bounds.append(limiter.bound_by)
            return wait == 0

        for live in self._live:
            if may_go(live):
                return self._take_live(live), 0.0
        job: Job | None = None
        if not self._live or (not self._credential.is_stopped and self._has_room_for_batches(now)):
            job = self._queue.take_first(may_go)
        return job, min(waits.values())

    def _next_check(self) -> Job | None:
        """What the credential is checked with, one at a time, while it is in doubt."""
        if self._check is not None:
            return None
        if not self._queue:
            if not self.in_flight and self.tripped is None:  # nothing is left that could tell
                self._credential.checked = CHECKS
                self._trip(self._denied, "credential")
            return None
        is_now = self._runtime.monotonic() >= self._probe_at
        if is_now and self._credential.checked % SKIP_EVERY == 0:
            self._queue.skip_third()
        return self._queue.peek()

    def _kept_for_live(self, now: float) -> int:
        """How many calls that may be in flight batch work leaves to live calls."""
        return self._live_room.kept(len(self._live_in_flight), self.allowed_in_flight, now)

    def _wake_in(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        # For less than half a millisecond uvloop gives a handle that knows no time.
        self._timer, self._timer_at = loop.call_later(delay_s, self._on_timer), due

    def _look_again(self) -> None:
        """A job has gone that the lane may have been asleep for: another need not wait as long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.wake()

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()


def _raise(error: BaseException) -> None:
    raise error


LiveRun = Callable[[], Awaitable[None]]


class LiveJob:
    """A call that a client waits for: it holds a worker while it runs."""

    def __init__(
        self,
        run: LiveRun,
        expect: Callable[[], Cost],
        *,
        refuse: Callable[[NotSent], None] = _raise,
    ) -> None:
        """`refuse` is called in the place of `run` where it is not to be sent."""
        self.refuse = refuse
        self.cost = expect()
        self.reserved: Reservation | None = None
        self.is_noted = False
        self._expect = expect
        self._run = run

    @property
    def tokens(self) -> int:
        return self.cost.input_tokens + self.cost.output_tokens

    def estimate(self) -> None:
        self.cost = self._expect()

    async def run(self) -> None:
        await self._run()
