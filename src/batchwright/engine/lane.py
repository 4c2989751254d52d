"""A lane: what stands between the requests that wait and one account at a provider.

Workers, at most `max_concurrency` of them, take the next job as soon as there is one and the limits
let it pass. Live calls go first, then the feeds of the running batches in turn. A batch request
holds a slot from here until its result is durable; there are 256 more slots than workers, so that
a worker need not wait for the disk.

A lane can be *paused* (the provider said how long to wait) and *tripped* (it refuses our credential
or is down): then one request at a time probes until one passes, and failures are not held
against the requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from batchwright.engine.limiter import Bucket, take, wait_s
from batchwright.engine.runtime import Runtime

CONCURRENCY_DEFAULT = 50
SPARE_SLOTS = 256
TROUBLES_BEFORE_TRIP = 20  # in a row, over all requests of the lane
PROBE_EVERY_S = 30.0


class Job(Protocol):
    """One call to be made on a lane."""

    @property
    def tokens(self) -> int:
        """The tokens that it will probably use, for the token limit."""
        ...

    def run(self) -> Awaitable[None]:
        """Make the call and deal with whatever comes of it. Never raises."""
        ...


class Feed:
    """The jobs of one batch on one lane that are ready to go.

    `on_low` is called when the feed runs low, so that more is read.
    """

    def __init__(self, on_low: Callable[[], None]) -> None:
        self.ready: deque[Job] = deque()
        self.on_low = on_low


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """What the configuration allows on an account."""

    max_concurrency: int = CONCURRENCY_DEFAULT
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_attempts: int | None = None  # None: the engine's


class Lane:
    """The calls to one account at a provider, in one mode."""

    def __init__(self, name: str, *, limits: LaneLimits, runtime: Runtime) -> None:
        self.name = name
        self.tag = crc32(name.encode())  # what account records call the lane
        self.limits = limits
        self.slots = limits.max_concurrency + SPARE_SLOTS
        self.in_flight = 0
        self.largest_answer_bytes = 0  # seen so far: what room each slot may need on the disk
        self.tripped: str | None = None  # the reason, in words for a person
        self.on_bug: Callable[[BaseException], None] = _raise  # a job raised: a bug of ours
        self.is_held = False  # the engine sends nothing at the moment (disk full, stopping)
        self._runtime = runtime
        self._free_slots = self.slots
        self._feeds: deque[Feed] = deque()
        self._live: deque[Job] = deque()
        self._parked: deque[asyncio.Future[None]] = deque()
        self._workers: dict[asyncio.Task[None], None] = {}
        self._is_closed = False
        self._paused_until = 0.0  # the provider said so
        self._probe_at = 0.0  # while tripped
        self._timer: asyncio.TimerHandle | None = None
        self._troubles = 0
        now = runtime.monotonic()
        self._requests = _bucket(limits.requests_per_minute, now)
        self._tokens = _bucket(limits.tokens_per_minute, now)
        self._is_metered = self._requests is not None or self._tokens is not None

    # Feeds and live calls

    def attach(self, feed: Feed) -> None:
        self._feeds.append(feed)

    def detach(self, feed: Feed) -> None:
        """Forget a feed and what waits in it. Safe twice."""
        if feed in self._feeds:
            self._feeds.remove(feed)
        feed.ready.clear()

    def submit_live(self, job: Job) -> None:
        """Queue a call that somebody waits for; it goes before all batch work."""
        self._live.append(job)
        self.wake()

    def release_slot(self) -> None:
        """Give back the slot of a batch request: its result is durable, or it waits again."""
        self._free_slots += 1
        if self._parked:
            self.wake()

    # Signals

    def pause(self, delay_s: float) -> None:
        """Send nothing for so long: the provider said so."""
        until = self._runtime.monotonic() + delay_s
        self._paused_until = max(self._paused_until, until)

    def report_success(self, reserved: int = 0, used: int = 0) -> None:
        """Note an answer; `used` tokens were used where `reserved` had been taken for it."""
        self._troubles = 0
        if self._tokens is not None:
            take(self._tokens, used - reserved, self._runtime.monotonic())
        if self.tripped is not None:
            self.tripped = None
            self._probe_at = 0.0
            self.wake()

    def report_trouble(self, reason: str) -> bool:
        """Note a failure that is the provider's; returns whether the lane is tripped now."""
        self._troubles += 1
        if self._troubles >= TROUBLES_BEFORE_TRIP:
            self.trip(reason)
        return self.tripped is not None

    def trip(self, reason: str) -> None:
        """Stop sending but for a probe each `PROBE_EVERY_S`, until one passes."""
        self.tripped = reason
        self._probe_at = self._runtime.monotonic() + PROBE_EVERY_S

    def holds_back(self) -> str | None:
        """What keeps this lane from sending now, in words for a person; None if nothing does."""
        now = self._runtime.monotonic()
        if self.tripped is not None:
            return self.tripped
        if self._paused_until > now:
            return f"{self.name} asked to wait {self._paused_until - now:.0f} s more"
        if self.in_flight >= self.limits.max_concurrency:
            return f"{self.name}: {self.in_flight} calls in flight, the most allowed"
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket is not None and wait_s(bucket, 1, now) > 0:
                return f"{self.name}: {bucket.rate_per_s * 60:.0f} {what} per minute"
        return None

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
            if self._parked or len(self._workers) < self.limits.max_concurrency:
                self._wake_for_more()
            self.in_flight += 1
            try:
                await job.run()
            finally:
                self.in_flight -= 1

    def _on_worker_done(self, task: asyncio.Task[None]) -> None:
        del self._workers[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_bug(error)

    def _wake_for_more(self) -> None:
        if self._live or any(feed.ready for feed in self._feeds):
            self.wake()

    def _next(self) -> Job | None:
        """Take the next job if everything lets it pass; else arrange to be woken."""
        source = self._source()
        if source is None:
            return None
        if (self._is_metered or self._paused_until or self._probe_at) and not self._passes(
            source[0]
        ):
            return None
        if source is not self._live:
            self._free_slots -= 1
            if len(self._feeds) > 1:
                self._feeds.rotate(-1)  # the next feed's turn
        return source.popleft()

    def _passes(self, job: Job) -> bool:
        """Take what the job needs of the rates; False, and a timer, if it has to wait."""
        now = self._runtime.monotonic()
        wait = self._wait_s(job.tokens, now)
        if wait > 0:
            self._wake_in(wait)
            return False
        if self._requests is not None:
            take(self._requests, 1, now)
        if self._tokens is not None:
            take(self._tokens, job.tokens, now)
        return True

    def _source(self) -> deque[Job] | None:
        """The queue whose head is next."""
        if self.tripped is not None and self.in_flight:
            return None  # one probe at a time
        if self._live:
            return self._live
        if self.is_held or not self._free_slots:
            return None
        for _ in range(len(self._feeds)):
            feed = self._feeds[0]
            if len(feed.ready) <= FEED_LOW:
                feed.on_low()
            if feed.ready:
                return feed.ready
            self._feeds.rotate(-1)
        return None

    def _wait_s(self, tokens: int, now: float) -> float:
        wait = max(self._paused_until, self._probe_at) - now
        if self._requests is not None:
            wait = max(wait, wait_s(self._requests, 1, now))
        if self._tokens is not None:
            wait = max(wait, wait_s(self._tokens, tokens, now))
        return wait

    def _wake_in(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()


FEED_LOW = 64
"""Jobs left in a feed at which it asks for more."""


def _raise(error: BaseException) -> None:
    raise error


def _bucket(per_minute: float | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket.per_minute(per_minute, now)


LiveRun = Callable[[], Awaitable[None]]


class LiveJob:
    """A call that a client waits for: it holds a worker while it runs.

    Cancelled before its turn it sends nothing, needs no tokens and holds no body.
    """

    def __init__(self, run: LiveRun, tokens: int) -> None:
        self.tokens = tokens
        self._run: LiveRun | None = run

    @property
    def is_cancelled(self) -> bool:
        return self._run is None

    def cancel(self) -> None:
        """Nobody waits for it any more. Harmless once it runs."""
        self.tokens = 0
        self._run = None

    async def run(self) -> None:
        if self._run is not None:
            await self._run()
