"""Dispatch: the requests of one batch, from the input file to the journal.

The way of a request, each step a method below:

    _read      parse a line of the input, find its route       (one task, ahead of the lanes)
    Pending    wait in the feed of a lane for a worker
    _call      take a slot, send, and look at what came back
    _conclude  done: journal it · again: wait in the heap · given up: journal the failure
    _on_durable  give the slot back once the group is synced
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from batchwright.blobs.base import Blobs, read_extents
from batchwright.domain.answers import BadAnswer, CheckedAnswer, check_answer, error_body
from batchwright.domain.batch import Batch
from batchwright.domain.errors import AnswerTooLarge, StorageError, TransportError
from batchwright.domain.file import Extent
from batchwright.domain.lines import LineSplitter
from batchwright.domain.request import Request, parse_request, with_model
from batchwright.domain.result import OK, Code, answer_line, failure_line, head_prefix, line_head
from batchwright.domain.segment import Segment
from batchwright.engine.account import MAYBE_PAID
from batchwright.engine.journal import Journal
from batchwright.engine.lane import FEED_LOW, Feed, Lane
from batchwright.engine.recovery import CRASHES_MAX, Recovered
from batchwright.engine.retry import Decision, decide
from batchwright.engine.routing import Route, Router, UnknownModel
from batchwright.engine.runtime import Runtime
from batchwright.engine.settings import EngineSettings
from batchwright.engine.slots import ENTRY_BYTES, SlotTable
from batchwright.providers.base import Answer

Outcome = Answer | TransportError | BadAnswer

FEED_MAX = 512  # requests read ahead for a lane
WAITING_MAX = 1024  # requests that wait to be tried again; above it nothing new is read
FILL_LINES = 2000  # lines written at a time for requests not run
RATE_WINDOW_S = 10.0


class Pending:
    """A request that has no result yet. It is the lane's job."""

    __slots__ = ("_batch_run", "attempts", "is_maybe_paid", "request", "route", "tokens", "tries")

    def __init__(self, request: Request, route: Route, batch_run: BatchRun) -> None:
        self.request = request
        self.route = route
        self.tokens = batch_run.estimate_tokens(request)
        self.attempts = 0  # those that count against `max_attempts`
        self.tries = 0  # all of them
        self.is_maybe_paid = False  # an answer was lost on the way
        self._batch_run = batch_run

    async def run(self) -> None:
        await self._batch_run.call(self)


class BatchRun:
    """The running of one batch in one epoch, until a stop or its last result."""

    def __init__(
        self,
        *,
        batch: Batch,
        recovered: Recovered,
        extents: Sequence[Extent],
        blobs: Blobs,
        runtime: Runtime,
        router: Router,
        settings: EngineSettings,
        on_change: Callable[[], None],
    ) -> None:
        self.total = batch.counts.total
        self.tally = recovered.tally
        self.failure: StorageError | None = None
        self._batch = batch
        self._recovered = recovered
        self._extents = extents
        self._blobs = blobs
        self._runtime = runtime
        self._router = router
        self._settings = settings
        self._on_change = on_change
        self._prefix = head_prefix(batch.id)
        self._journal = Journal(
            batch_id=batch.id,
            epoch=batch.epoch,
            blobs=blobs,
            tally=recovered.tally,
            now=runtime.now,
            on_durable=self._on_durable,
        )
        slots = sum(lane.slots for lane in router.lanes)
        self._slots = SlotTable(blobs.map(self._journal.keys.slots, slots * ENTRY_BYTES))
        self._feeds: dict[Lane, Feed] = {}
        self._low = asyncio.Event()  # a feed runs low, or a request waits no more
        self._waiting: list[tuple[float, int, Pending]] = []  # a heap by due time
        self._waits = 0
        self._timer: asyncio.TimerHandle | None = None
        self._alone: deque[Pending] = deque()  # in flight at two crashes: sent one at a time
        self._in_flight: dict[Pending, None] = {}
        self._quiet = asyncio.Event()
        self._held_bytes = 0
        self._is_sending = False
        self._is_abandoned = False
        self._is_read = False
        self._tasks: list[asyncio.Task[None]] = []
        self._closed: Segment | None = None
        self._completion_tokens = 0.0  # observed mean, for the token limit
        self._recent: deque[tuple[float, int]] = deque()  # (monotonic time, settled)

    # What others ask

    @property
    def is_settled(self) -> bool:
        return self.tally.settled >= self.total

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def synced(self) -> Segment:
        """The open segment as far as it is durable: what may be read while it runs."""
        return Segment(self._batch.id, self._batch.epoch, self._journal.synced)

    @property
    def segments(self) -> list[Segment]:
        return [*self._recovered.segments, self.synced]

    @property
    def lanes(self) -> list[Lane]:
        return list(self._feeds)

    def rate_per_s(self) -> float:
        """Requests settled per second, over the last seconds."""
        if len(self._recent) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._recent[0], self._recent[-1]
        elapsed = max(self._runtime.monotonic(), last_at) - first_at
        return (last - first) / elapsed if elapsed > 0 else 0.0

    def estimate_tokens(self, request: Request) -> int:
        """About four bytes make a token; the completion is taken from those seen so far."""
        return len(request.body) // 4 + int(self._completion_tokens)

    # Life

    async def note_suspects(self) -> None:
        """Journal what was in flight at the last crash, before anything is sent again."""
        for suspect in self._recovered.suspects:
            self._journal.add_crash(suspect.line, crashes=suspect.crashes, epoch=suspect.epoch)
        await self._journal.flush()

    def start(self) -> None:
        """Begin to read and to send."""
        self._is_sending = True
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._read()))
        self._tasks[-1].add_done_callback(self._on_read)

    async def stop_sending(self, grace_s: float) -> None:
        """Send nothing more; wait for the calls in flight, at most `grace_s`.

        A call that has not come back by then is noted as possibly paid, and its answer dropped.
        """
        self._is_sending = False
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for lane, feed in self._feeds.items():
            lane.detach(feed)
        if self._in_flight:
            try:
                async with asyncio.timeout(grace_s):
                    await self._quiet.wait()
            except TimeoutError:
                self._abandon()
        if self.failure is None:
            await self._journal.flush()

    def _abandon(self) -> None:
        self._is_abandoned = True
        for pending in self._in_flight:
            self._journal.add_attempt(
                pending.request.line,
                lane=pending.route.lane.tag,
                code=Code.REQUEST_FAILED,
                flags=MAYBE_PAID,
                attempts=pending.tries,
            )

    async def close(self) -> Segment:
        """End this epoch; what is durable is its segment. Safe twice."""
        if self._closed is None:
            if self._is_sending or self._in_flight:
                await self.stop_sending(0)
            self._closed = await self._journal.close()
        return self._closed

    # Reading ahead

    async def _read(self) -> None:
        """Read the input and put each request that is not done into the feed of its lane."""
        splitter = LineSplitter(line_bytes_max=self._settings.line_bytes_max)
        async for chunk in read_extents(self._blobs, self._extents):
            for line in splitter.feed(chunk):
                if not self.tally.is_done(line.number):
                    await self._admit(line.number, line.content or b"")
        for line in splitter.finish():
            if not self.tally.is_done(line.number):
                await self._admit(line.number, line.content or b"")
        self._is_read = True
        self._send_one_alone()

    def _on_read(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = error if isinstance(error, StorageError) else StorageError(str(error))
            self._on_change()

    async def _admit(self, number: int, content: bytes) -> None:
        request = parse_request(number, content)
        try:
            route = self._router.find(request.model)
        except UnknownModel as error:
            self._give_up(request, None, 0, False, Code.MODEL_NOT_FOUND, str(error), None)
            return
        body = with_model(request.body, request.model, route.model)
        if body is not request.body:
            request = Request(number, request.custom_id, request.url, body, route.model)
        pending = Pending(request, route, self)
        crashes = self.tally.crashes.get(number)
        if crashes is not None:
            pending.is_maybe_paid = True
            if number in self._lost_lines():
                self._give_up(request, route, 0, True, Code.WORKER_LOST, _WORKER_LOST, None)
                return
            if crashes.in_a_row >= CRASHES_MAX:
                self._alone.append(pending)
                return
        feed = self._feed(route.lane)
        self._held_bytes += len(body)
        feed.ready.append(pending)
        if len(feed.ready) <= FEED_LOW or route.lane.in_flight < route.lane.limits.max_concurrency:
            route.lane.wake()
        while self._is_full(feed):
            self._low.clear()
            await self._low.wait()

    def _lost_lines(self) -> tuple[int, ...]:
        return tuple(s.line for s in self._recovered.suspects if s.is_cause)

    def _feed(self, lane: Lane) -> Feed:
        feed = self._feeds.get(lane)
        if feed is None:
            feed = self._feeds[lane] = Feed(self._low.set)
            lane.attach(feed)
        return feed

    def _is_full(self, feed: Feed) -> bool:
        return (
            len(feed.ready) >= FEED_MAX
            or len(self._waiting) >= WAITING_MAX
            or (self._held_bytes >= self._settings.held_bytes_max and len(feed.ready) > 0)
        )

    def _send_one_alone(self) -> None:
        """Once nothing else is left: the suspects of two crashes, one at a time."""
        if not self._alone or not self._is_read or self._in_flight or self._waiting:
            return
        if any(feed.ready for feed in self._feeds.values()):
            return
        pending = self._alone.popleft()
        self._held_bytes += len(pending.request.body)
        self._feed(pending.route.lane).ready.append(pending)
        pending.route.lane.wake()

    # One call

    async def call(self, pending: Pending) -> None:
        """Make one attempt. Runs in a worker of the lane, which took a slot for it."""
        request, route = pending.request, pending.route
        if not self._is_sending:
            route.lane.release_slot()
            return
        pending.tries += 1
        slot = self._slots.take(request.line, pending.tries)
        self._in_flight[pending] = None
        outcome: Outcome
        try:
            outcome = await route.provider.transport.send(
                route.provider.prepare(request.url, request.body)
            )
        except TransportError as error:
            outcome = error
        del self._in_flight[pending]
        if not self._in_flight:
            self._quiet.set()
        if self._is_abandoned or self._journal.failure is not None:
            route.lane.release_slot()
            return
        self._conclude(pending, slot, outcome)

    def _conclude(self, pending: Pending, slot: int, outcome: Outcome) -> None:
        """Decide what an attempt means, and act on it."""
        if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
            try:
                checked = check_answer(pending.request.url, outcome.body)
            except BadAnswer as error:
                outcome = error
            else:
                self._succeed(pending, slot, outcome, checked)
                return
        decision = decide(
            outcome,
            attempt=pending.attempts + 1,
            max_attempts=self._settings.max_attempts,
            random=self._runtime.random,
            now_s=self._runtime.now(),
        )
        lane, rule = pending.route.lane, decision.rule
        self._tell_lane(lane, decision, outcome)
        is_outage = lane.tripped is not None and rule.slows_lane
        if rule.uses_attempt and not is_outage:
            pending.attempts += 1
        pending.is_maybe_paid = pending.is_maybe_paid or (rule.may_be_paid and decision.retry)
        if decision.retry:
            self._try_again(pending, slot, decision, outcome)
        else:
            self._fail(pending, slot, outcome)

    def _tell_lane(self, lane: Lane, decision: Decision, outcome: Outcome) -> None:
        """Let the lane learn from a failure: a wait, a stopped credential, an outage."""
        rule = decision.rule
        if rule.stops_credential:
            lane.trip(f"{lane.name}: {rule.cause.replace('_', ' ')} ({_said(outcome)})")
        elif decision.stops_lane_s:
            lane.pause(decision.stops_lane_s)
        elif rule.slows_lane and rule.cause != "rate_limited":
            lane.report_trouble(f"{lane.name} does not answer: {_said(outcome)}")
        else:
            lane.report_success()

    def _succeed(self, pending: Pending, slot: int, answer: Answer, checked: CheckedAnswer) -> None:
        request, route, usage = pending.request, pending.route, checked.usage
        route.lane.report_success()
        route.lane.settle_tokens(pending.tokens, usage.total_tokens)
        self._completion_tokens += (usage.output_tokens - self._completion_tokens) / 50
        rates = route.rates
        cost_nano = rates.cost_nano(usage) if rates is not None else 0
        text = answer_line(
            line_head(self._prefix, request.line),
            request.custom_id,
            OK,
            answer.headers.get("x-request-id") or f"req_{self._batch.id[6:]}_{request.line}",
            checked.body,
            _ours(route, pending.tries, cost_nano if rates is not None else None),
        )
        self._held_bytes += len(text)
        self._journal.add_result(
            request.line,
            is_output=True,
            text=text,
            lane=route.lane.tag,
            code=OK,
            flags=MAYBE_PAID if pending.is_maybe_paid else 0,
            attempts=pending.tries,
            tokens=(
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
            ),
            cost_nano=cost_nano,
            charge_nano=cost_nano,
            token=(route.lane, slot, len(text) + len(request.body)),
        )

    def _try_again(self, pending: Pending, slot: int, decision: Decision, outcome: Outcome) -> None:
        """Give up the slot and wait for the next attempt in the heap."""
        token = (pending.route.lane, slot, 0)
        if decision.rule.may_be_paid:
            # The slot is held until the loss is on record, so that a crash cannot hide it.
            self._journal.add_attempt(
                pending.request.line,
                lane=pending.route.lane.tag,
                code=_code(outcome),
                flags=MAYBE_PAID,
                attempts=pending.tries,
                token=token,
            )
        else:
            self._release(token)
        due = self._runtime.monotonic() + decision.wait_s
        self._waits += 1
        heapq.heappush(self._waiting, (due, self._waits, pending))
        self._set_timer()

    def _set_timer(self) -> None:
        """Arrange that the first request of the heap goes back to its feed when it is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._is_sending:
            delay = max(0.0, self._waiting[0][0] - self._runtime.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_due)

    def _on_due(self) -> None:
        now = self._runtime.monotonic()
        self._timer = None
        while self._waiting and self._waiting[0][0] <= now + 1e-6:
            _, _, pending = heapq.heappop(self._waiting)
            self._feed(pending.route.lane).ready.appendleft(pending)
            pending.route.lane.wake()
        self._low.set()
        self._set_timer()

    def _fail(self, pending: Pending, slot: int, outcome: Outcome) -> None:
        """The request ends without success."""
        token = (pending.route.lane, slot, len(pending.request.body))
        tries, is_maybe_paid = pending.tries, pending.is_maybe_paid
        if isinstance(outcome, Answer):
            text = answer_line(
                line_head(self._prefix, pending.request.line),
                pending.request.custom_id,
                outcome.status,
                outcome.headers.get("x-request-id")
                or f"req_{self._batch.id[6:]}_{pending.request.line}",
                error_body(outcome.status, outcome.body),
                _ours(pending.route, tries, None),
            )
            self._add_error(pending.request.line, text, outcome.status, pending, token)
            return
        self._give_up(
            pending.request,
            pending.route,
            tries,
            is_maybe_paid,
            Code(_code(outcome)),
            str(outcome),
            token,
        )

    def _give_up(
        self,
        request: Request,
        route: Route | None,
        tries: int,
        is_maybe_paid: bool,
        code: Code,
        message: str,
        token: tuple[Lane, int, int] | None,
    ) -> None:
        text = failure_line(
            line_head(self._prefix, request.line),
            request.custom_id,
            code,
            message,
            _ours(route, tries, None),
        )
        self._journal.add_result(
            request.line,
            is_output=False,
            text=text,
            lane=route.lane.tag if route is not None else 0,
            code=code,
            flags=MAYBE_PAID if is_maybe_paid else 0,
            attempts=tries,
            tokens=_NO_TOKENS,
            cost_nano=0,
            charge_nano=0,
            token=token,
        )

    def _add_error(
        self, line: int, text: bytes, status: int, pending: Pending, token: tuple[Lane, int, int]
    ) -> None:
        self._journal.add_result(
            line,
            is_output=False,
            text=text,
            lane=pending.route.lane.tag,
            code=status,
            flags=MAYBE_PAID if pending.is_maybe_paid else 0,
            attempts=pending.tries,
            tokens=_NO_TOKENS,
            cost_nano=0,
            charge_nano=0,
            token=token,
        )

    # Durable

    def _on_durable(self, tokens: Sequence[tuple[Lane, int, int] | None]) -> None:
        """A group is synced: its slots are free. Or the journal has failed."""
        if self._journal.failure is not None:
            self.failure = self._journal.failure
            self._is_sending = False
            self._on_change()
            return
        for token in tokens:
            if token is not None:
                self._release(token)
        self._note_rate()
        if self._held_bytes < self._settings.held_bytes_max:
            self._low.set()
        if self._alone:
            self._send_one_alone()
        if self.is_settled:
            self._on_change()

    def _release(self, token: tuple[Lane, int, int]) -> None:
        lane, slot, held = token
        self._slots.give_back(slot)
        self._held_bytes -= held
        lane.release_slot()

    def _note_rate(self) -> None:
        now = self._runtime.monotonic()
        recent = self._recent
        if recent and now - recent[-1][0] < RATE_WINDOW_S / 20:
            return
        recent.append((now, self.tally.settled))
        while now - recent[0][0] > RATE_WINDOW_S:
            recent.popleft()

    # Requests that are not run

    async def fill(self, code: Code, *, until: Callable[[], bool]) -> None:
        """Write an error line for each request without a result, streaming the input once.

        In slices, off the event loop; a crash in between resumes where it was. `until` is asked
        between slices whether to leave early.
        """
        splitter = LineSplitter(line_bytes_max=self._settings.line_bytes_max)
        undone: list[tuple[int, bytes]] = []
        async for chunk in read_extents(self._blobs, self._extents):
            lines = await self._blobs.offload(partial(self._undone, splitter, chunk))
            undone += lines
            if len(undone) >= FILL_LINES:
                await self._fill_slice(undone, code)
                undone = []
            if until():
                return
        undone += [(line.number, line.content or b"") for line in splitter.finish()]
        undone = [(n, content) for n, content in undone if not self.tally.is_done(n)]
        await self._fill_slice(undone, code)

    def _undone(self, splitter: LineSplitter, chunk: bytes) -> list[tuple[int, bytes]]:
        is_done = self.tally.is_done
        return [
            (line.number, line.content or b"")
            for line in splitter.feed(chunk)
            if not is_done(line.number)
        ]

    async def _fill_slice(self, undone: list[tuple[int, bytes]], code: Code) -> None:
        render = partial(self._render_not_run, undone, code)
        for number, text in await self._blobs.offload(render):
            self._journal.add_result(
                number,
                is_output=False,
                text=text,
                lane=0,
                code=code,
                flags=0,
                attempts=0,
                tokens=_NO_TOKENS,
                cost_nano=0,
                charge_nano=0,
            )
        await self._journal.flush()

    def _render_not_run(
        self, undone: list[tuple[int, bytes]], code: Code
    ) -> list[tuple[int, bytes]]:
        message = _NOT_RUN[code]
        return [
            (
                number,
                failure_line(
                    line_head(self._prefix, number),
                    parse_request(number, content).custom_id,
                    code,
                    message,
                    _ours(None, 0, None),
                ),
            )
            for number, content in undone
        ]


_NO_TOKENS = (0, 0, 0, 0)

_WORKER_LOST = "The process ended three times in a row while this request was in flight."

_NOT_RUN = {
    Code.BATCH_EXPIRED: (
        "This request could not be executed before the completion window expired."
    ),
    Code.BATCH_CANCELLED: "This request was not executed because the batch was cancelled.",
}


def _code(outcome: Outcome) -> int:
    """The code of an outcome in account records."""
    match outcome:
        case Answer():
            return outcome.status
        case AnswerTooLarge():
            return Code.RESPONSE_TOO_LARGE
        case BadAnswer():
            return Code.INVALID_RESPONSE
        case _:
            return Code.REQUEST_FAILED


def _said(outcome: Outcome) -> str:
    """What went wrong, short and without data, for the operator."""
    return f"HTTP {outcome.status}" if isinstance(outcome, Answer) else str(outcome)


def _ours(route: Route | None, tries: int, cost_nano: int | None) -> bytes:
    """The object under `batchwright` on a result line; `cost` in dollars, null if unknown."""
    if route is None:
        return b'{"route":null,"mode":null,"attempts":0,"cost":null}'
    cost = b"null" if cost_nano is None else _number(cost_nano)
    return b'{"route":%b,"mode":"realtime","attempts":%d,"cost":%b}' % (
        msgspec.json.encode(route.name),
        tries,
        cost,
    )


def _number(cost_nano: int) -> bytes:
    return b"0" if cost_nano == 0 else msgspec.json.encode(cost_nano / 1e9)
