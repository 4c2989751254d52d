"""Live calls: each goes through the lane of its route, one by one and before all batch work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from batchwright.domain.answers import told_usage
from batchwright.domain.errors import NotSent, TransportError
from batchwright.domain.limits import LimitSeen
from batchwright.domain.usage import Usage
from batchwright.engine.estimate import estimate, learn
from batchwright.engine.lane import LiveJob, LiveRun
from batchwright.engine.live_usage import Overheard
from batchwright.engine.retry import DONE, decide, said_of
from batchwright.engine.routing import Route
from batchwright.engine.runtime import Runtime
from batchwright.providers.base import Answer, Call, StreamedAnswer

log = structlog.get_logger()


class Gateway:
    """What hands live calls to the lanes. `open` before use."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._is_open = False
        self._asked: dict[asyncio.Future[Any], None] = {}  # what clients wait for, not sent yet

    def open(self) -> None:
        """Take calls from now on."""
        self._is_open = True

    def close(self) -> None:
        """Take no more, and tell whoever still waits for a turn that it does not come. Safe
        twice. What is under way goes on."""
        self._is_open = False
        for asked in self._asked:
            if not asked.done():
                asked.set_exception(NotSent("The server is stopping; nothing was sent."))
        self._asked.clear()

    async def call(self, route: Route, call: Call) -> Answer:
        """One call through the lane of a route, before all batch work. Raises `TransportError`.

        An error of ours is raised here as well: it costs no other call. Cancelled before its turn,
        it is never sent; after that it cannot be called back, and the cancellation waits for its
        end: until then its body is in memory.
        """
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        is_sent, ended = False, asyncio.Event()

        async def run() -> None:
            nonlocal is_sent
            if self._has_left(done):
                return
            is_sent = True
            try:
                answer = await self._send(route, job, call)
            except Exception as error:
                if not isinstance(error, TransportError):
                    log.error("live call failed by an error of batchwright", exc_info=error)
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(answer)
            finally:
                ended.set()

        job = self._queue_live(route, run, call, done)
        try:
            return await done
        except asyncio.CancelledError:
            if is_sent:
                await ended.wait()
            raise
        finally:
            self._drop_live(route, job, done)

    @asynccontextmanager
    async def stream(self, route: Route, call: Call) -> AsyncIterator[StreamedAnswer]:
        """As `call`, with the answer as it arrives; the lane's place is held until the end."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        closed = asyncio.Event()

        async def run() -> None:
            if not self._has_left(opened):
                opened.set_result(None)
                await closed.wait()

        job = self._queue_live(route, run, call, opened)
        overheard: Overheard | None = None
        try:
            await opened
            async with route.provider.transport.stream(call) as answer:
                self._note_live(route, job, Answer(answer.status, answer.headers, b""))
                if 200 <= answer.status < 300:
                    answer = overheard = Overheard(answer)
                yield answer
        except TransportError as error:
            self._note_live(route, job, error)
            raise
        finally:
            closed.set()
            if overheard is not None:
                _settle(route, job, call, overheard.usage())
            self._drop_live(route, job, opened)

    async def _send(self, route: Route, job: LiveJob, call: Call) -> Answer:
        """Make a call whose turn it is, and let the lane learn from it."""
        try:
            answer = await route.provider.transport.send(call)
        except TransportError as error:
            self._note_live(route, job, error)
            raise
        self._note_live(route, job, answer)
        if 200 <= answer.status < 300:
            _settle(route, job, call, told_usage(answer.body))
        return answer

    def _queue_live(
        self, route: Route, run: LiveRun, call: Call, asked: asyncio.Future[Any]
    ) -> LiveJob:
        """Queue a live call. `asked` is what its client waits for."""
        if not self._is_open:
            raise NotSent("The server is stopping; nothing was sent.")
        if reason := route.lane.refuses_live():
            raise NotSent(f"{reason}; nothing was sent.")
        expect = partial(estimate, route.tokens, len(call.body))
        if long_wait := route.lane.long_wait(expect()):
            raise long_wait
        self._asked[asked] = None
        job = LiveJob(run, expect, refuse=partial(self._refuse, asked))
        route.lane.submit_live(job)
        return job

    def _note_live(self, route: Route, job: LiveJob, outcome: Answer | TransportError) -> None:
        """Let the lane learn from a live call as from any other, but for a refused key: one page
        in the place of an answer is not to stop all the others."""
        lane, now = route.lane, self._runtime.now()
        decision = decide(
            outcome, attempt=1, max_attempts=1, random=self._runtime.random, now_s=now
        )
        is_refusal = decision.rule.cause == "rate_limited"
        seen: tuple[LimitSeen, ...] = ()
        if isinstance(outcome, Answer):
            seen = route.provider.read_limits(outcome.headers, now, is_refusal=is_refusal)
        if decision is DONE:
            lane.note_answer(job, seen, None)
        elif decision.rule.stops_credential:
            lane.give_back(job)
        else:
            lane.note_failure(job, decision, seen, said_of(outcome))

    def _drop_live(self, route: Route, job: LiveJob, asked: asyncio.Future[Any]) -> None:
        """Let go of a call that nobody waits for any more: sent or not."""
        route.lane.drop_live(job)
        self._asked.pop(asked, None)

    def _refuse(self, asked: asyncio.Future[Any], reason: NotSent) -> None:
        """Tell the client of a call whose turn has not come that it will not be sent."""
        self._asked.pop(asked, None)
        if not asked.done():
            asked.set_exception(reason)

    def _has_left(self, asked: asyncio.Future[Any]) -> bool:
        """Whether the client of a live call, whose turn it is now, waits no more."""
        self._asked.pop(asked, None)
        return asked.done()


def _settle(route: Route, job: LiveJob, call: Call, usage: Usage) -> None:
    """Put what an answer used in the place of what was expected. Where it does not tell, that is
    what such answers have used lately."""
    size_bytes = len(call.body)
    if usage.input_tokens > 0:
        learn(route.tokens, size_bytes, usage)
        route.lane.settle(job, usage)
    else:
        route.lane.settle(job, estimate(route.tokens, size_bytes))
