"""The limiter against the sandbox's limiter, event by event, under a virtual clock.

A client that always has another request sends as fast as the limiter under test lets it; the
upstream is the sandbox's own `Limiter`, or a number of servers with a queue before them. One seed
gives one history.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from batchwright.domain.limits import Cost
from batchwright.engine import limiter as account
from batchwright.engine.estimate import Estimator, estimate, learn
from batchwright.engine.limiter import Declared, Limiter, Reservation
from batchwright.providers.rate_limits import RateLimitReader
from batchwright.sandbox.limiter import Bucket
from batchwright.sandbox.limiter import Limiter as Upstream

WALL_S = 1_750_000_000.0  # Unix time at the start
SEND_S = 0.0001  # what the client needs to send one call
READ_AHEAD = 512  # requests that wait; what they will use is estimated as they are read
IDLE_S = 2.0  # before the first call the input is checked


@dataclass(frozen=True, slots=True)
class Size:
    """The tokens of a request."""

    size_bytes: int
    input_tokens: int
    output_tokens: int
    reserved_tokens: int  # what the upstream counts at first: prompt and cap on the answer


@dataclass(frozen=True, slots=True)
class Reply:
    """What the upstream says, and the call that it says it to."""

    reserved: Reservation
    size: Size
    status: int
    headers: dict[str, str]


@dataclass(slots=True)
class Tally:
    """What the upstream let in and refused, by second."""

    accepted: list[tuple[float, int]] = field(default_factory=list)  # (time, tokens)
    refused: list[float] = field(default_factory=list)
    most_in_flight: int = 0

    def used(self, start: float, end: float, *, tokens: bool = False) -> float:
        return sum(amount if tokens else 1 for time, amount in self.accepted if start <= time < end)

    def refused_share(self, start: float, end: float) -> float:
        refused = sum(1 for time in self.refused if start <= time < end)
        return refused / max(refused + self.used(start, end), 1)


@dataclass(slots=True)
class Simulation:
    """A client, a network with a latency, and an upstream with limits."""

    upstream: Upstream
    seed: int = 0
    declared: Declared | None = None
    max_concurrency: int = 1000
    latency_s: float = 0.2
    refusal_s: float = 0.05  # needs no model, only the way there and back
    has_headers: bool = False  # x-ratelimit-* on every answer
    has_retry_after: bool = False
    counts_usage: bool = False  # the upstream settles; what counts as used is the real usage
    size: Callable[[Random], Size] = lambda random: Size(400, 100, 50, 150)
    read_ahead: int = READ_AHEAD
    start_s: float = 1_000.0  # of the monotonic clock: where in a window it starts
    steps: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)  # from and until: it hangs
    tally: Tally = field(default_factory=Tally)

    def run(self, span_s: float) -> Tally:
        """Run for so long; times in the tally count from the start."""
        random = Random(self.seed)
        now = self.start_s
        limiter = account.start(
            now - IDLE_S, max_concurrency=self.max_concurrency, declared=self.declared
        )
        reader, estimator = RateLimitReader(), Estimator()
        replies: list[tuple[float, int, Reply]] = []
        steps = sorted(((self.start_s + at, step) for at, step in self.steps), key=lambda s: s[0])
        stalls = sorted(self.stalls)
        count = 0
        waiting: deque[tuple[Size, Cost]] = deque()
        while now < self.start_s + span_s:
            while stalls and stalls[0][0] <= now - self.start_s:
                now = max(now, self.start_s + stalls.pop(0)[1])
            while steps and steps[0][0] <= now:
                steps.pop(0)[1]()
            while replies and replies[0][0] <= now:
                self._take(limiter, reader, estimator, heapq.heappop(replies)[2], now)
            wait = math.inf
            if len(replies) < limiter.allowed_in_flight:
                while len(waiting) < self.read_ahead:
                    size = self.size(random)
                    waiting.append((size, estimate(estimator, size.size_bytes)))
                size, cost = waiting[0]
                wait = account.delay_s(limiter, cost, now)
                assert 0 <= wait <= 3600
                if wait == 0:
                    reserved = account.reserve(limiter, cost, now, len(replies) + 1)
                    reply, latency_s = self._ask(reserved, size, random, now)
                    count += 1
                    heapq.heappush(replies, (now + latency_s, count, reply))
                    self.tally.most_in_flight = max(self.tally.most_in_flight, len(replies))
                    waiting.popleft()
                    wait = SEND_S
            answered_at = replies[0][0] if replies else math.inf
            now = max(min(now + max(wait, 1e-4), max(answered_at, now)), now + 1e-7)
        return self.tally

    def _ask(
        self, reserved: Reservation, size: Size, random: Random, now: float
    ) -> tuple[Reply, float]:
        refusal = self.upstream.admit(now, "m", size.reserved_tokens)
        headers = self.upstream.headers(now) if self.has_headers else {}
        latency_s = self.latency_s * random.uniform(0.8, 1.2)
        if refusal is None:
            real = size.input_tokens + size.output_tokens
            tokens = real if self.counts_usage else size.reserved_tokens
            self.tally.accepted.append((now - self.start_s, tokens))
            return Reply(reserved, size, 200, headers), latency_s
        self.tally.refused.append(now - self.start_s)
        if self.has_retry_after and refusal.retry_after_s is not None:
            headers["retry-after-ms"] = str(int(refusal.retry_after_s * 1000) + 1)
        return Reply(reserved, size, 429, headers), min(latency_s, self.refusal_s)

    def _take(
        self,
        limiter: Limiter,
        reader: RateLimitReader,
        estimator: Estimator,
        reply: Reply,
        now: float,
    ) -> None:
        is_refusal = reply.status == 429
        wall = WALL_S + now - self.start_s
        seen = reader.read(reply.headers, wall, is_refusal=is_refusal)
        if seen:
            account.observe(limiter, reply.reserved, seen, now)
        if is_refusal:
            told = reply.headers.get("retry-after-ms")
            told_s = None if told is None else int(told) / 1000
            account.give_back(limiter, reply.reserved, now)
            account.on_rate_limited(limiter, reply.reserved, now, told_s)
            return
        size = reply.size
        used = Cost(size.input_tokens, size.output_tokens)
        self.upstream.settle(now, size.reserved_tokens, used.input_tokens + used.output_tokens)
        account.on_answer(limiter, reply.reserved, now)
        account.settle(limiter, reply.reserved, used, now)
        learn(estimator, size.size_bytes, used)


def rescale(upstream: Upstream, factor: float) -> None:
    """Let the upstream's limits step to `factor` of what they are, from now on."""
    for index, limit in enumerate(upstream._limits):
        meter = limit.meter
        meter.capacity *= factor
        if isinstance(meter, Bucket):
            meter._rate *= factor
            meter._level = min(meter._level, meter.capacity)
        per_minute = round(limit.per_minute * factor)
        upstream._limits[index] = replace(limit, per_minute=per_minute)
