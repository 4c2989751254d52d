"""Dispatch: the requests of one batch, from the input file to the journal.

The way of a request, each step a method below:

    Reader       parse a line of the input, find its route       (ahead of the lanes)
    offer        wait in the flow of a lane for a worker
    call         take a slot, send, and look at what came back
    _conclude    done: record it · again: wait in the heap · given up: record the failure
    _on_durable  give the slot back once the group is synced
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from batchwright.blobs.base import Blobs
from batchwright.domain.answers import BadAnswer, check_answer
from batchwright.domain.batch import Batch
from batchwright.domain.errors import Ambiguous, Damaged, StorageError, TransportError
from batchwright.domain.file import Extent
from batchwright.domain.limits import LimitSeen
from batchwright.domain.request import Request, with_model
from batchwright.domain.result import Code
from batchwright.domain.segment import Segment
from batchwright.domain.usage import Usage
from batchwright.engine.account import MAYBE_PAID
from batchwright.engine.budget import Budget
from batchwright.engine.concurrency import START
from batchwright.engine.copier import Copier, make_copier
from batchwright.engine.credential import Refusal
from batchwright.engine.estimate import Estimator, estimate, for_batch, learn
from batchwright.engine.fair_queue import Flow
from batchwright.engine.journal import Journal
from batchwright.engine.lane import Job, Lane
from batchwright.engine.line_source import line_source
from batchwright.engine.not_run import write_not_run
from batchwright.engine.pace import Pace
from batchwright.engine.packer import Pack
from batchwright.engine.pending import Pending, Waiting
from batchwright.engine.preparation import Preparation
from batchwright.engine.reader import Reader
from batchwright.engine.recorder import Outcome, Recorder, code_of
from batchwright.engine.recovery import Recovered
from batchwright.engine.retry import Decision, Rule, decide, said_of
from batchwright.engine.routing import Route, Router
from batchwright.engine.runtime import Runtime
from batchwright.engine.settings import EngineSettings
from batchwright.engine.slots import SlotTable
from batchwright.engine.suspects import WORKER_LOST, Gate, Suspects, Verdict
from batchwright.providers.base import Answer
from batchwright.store.base import EngineStore

WAITING_MAX = 1024  # of a lane, waiting to be tried again; above it nothing new is read for it
REFUSALS_MAX = 100  # of one request while others are let in: then it is not the pace of the lane
DENIALS_MAX = 3  # of one request that tell against it, and not against the credential
RATE_LIMITED = "rate_limited"  # the cause of the rule for a 429
LEAD = 2  # in calls in flight: so far ahead the first request with a prefix goes out
BUGS_MAX = 10  # errors of ours that cost a request each; the next one stops its batch

log = structlog.get_logger()

SlotToken = tuple[Lane, int, int, int]
"""What a durable group gives back: lane, slot, bytes of the request and of the answer."""


class LaneFlow(Flow[Job]):
    """What a batch has ready for a lane, and how much of it waits to be tried again."""

    waiting = 0


class BatchRun:
    """The running of one batch in one epoch, until a stop or its last result."""

    READY_MAX = 512  # requests read ahead for a lane

    def __init__(
        self,
        *,
        batch: Batch,
        recovered: Recovered,
        slots: SlotTable,
        gate: Gate,
        extents: Sequence[Extent],
        store: EngineStore,
        blobs: Blobs,
        runtime: Runtime,
        router: Router,
        settings: EngineSettings,
        on_change: Callable[[], None],
    ) -> None:
        self.total = batch.counts.total
        self.tally = recovered.tally
        self.failure: StorageError | None = None
        self.preparation = Preparation()
        self._batch = batch
        self._recovered = recovered
        self._extents = extents
        self._blobs = blobs
        self._runtime = runtime
        self._router = router
        self._settings = settings
        self._on_change = on_change
        self._journal = Journal(
            batch_id=batch.id,
            epoch=batch.epoch,
            blobs=blobs,
            tally=recovered.tally,
            now=runtime.now,
            on_durable=self._on_durable,
            on_failed=self._on_failed_journal,
        )
        self._recorder = Recorder(self._journal, batch.id)
        self._copier: Copier | None = None
        if batch.may_have_copies:
            self._copier = make_copier(
                batch,
                extents=extents,
                store=store,
                blobs=blobs,
                runtime=runtime,
                router=router,
                journal=self._journal,
                recorder=self._recorder,
                earlier=recovered.segments,
                preparation=self.preparation,
                on_end=self._on_copied,
            )
        self._slots = slots
        self._flows: dict[Lane, LaneFlow] = {}
        is_done = self._skipped()
        self._reader = Reader(
            batch,
            source=line_source(
                batch,
                extents=extents,
                blobs=blobs,
                is_done=is_done,
                lead=self._lead,
                preparation=self.preparation,
            ),
            runtime=runtime,
            router=router,
            is_done=is_done,
            sink=self,
            on_end=self._on_read,
        )
        self._waiting = Waiting[Pending | Pack](
            monotonic=runtime.monotonic, on_due=self._send_again
        )
        self._suspects = Suspects(
            batch.id, found=self.tally.suspicions, gate=gate, send=self._put_first
        )
        self._in_flight: dict[int, Pending | Pack] = {}  # by slot
        self._quiet = asyncio.Event()  # nothing is in flight
        self._budget = Budget(settings.held_bytes_max)
        self._bugs = 0  # errors of ours that were met so far
        self._is_sending = False
        self._is_paused = False
        self._is_abandoned = False
        self._closed: Segment | None = None
        self._estimators: dict[str, Estimator] = {}  # of tokens, by model
        self._pace = Pace()
        self._weight = batch.priority.weight  # among the batches of its tenant

    def _skipped(self) -> Callable[[int], bool] | None:
        """Which lines are not read for sending; None where none can be.

        What this epoch does to a line, but for copies, it does after reading it: where no earlier
        epoch did anything, no line is done.
        """
        is_done, copier = self.tally.is_done, self._copier
        if copier is not None:
            return lambda line: is_done(line) or copier.is_follower(line)
        return is_done if self.tally.settled else None

    def _lead(self) -> int:
        """How many requests go out while the answer to one is awaited, and some more."""
        lanes, model = list(self._flows), self._batch.model
        if not lanes and model and self._router.explain(model, with_nearest=False) is None:
            lanes = [self._router.find(model).lane]
        return LEAD * max([lane.allowed_in_flight for lane in lanes], default=START)

    # What others ask

    @property
    def is_settled(self) -> bool:
        return self.tally.settled >= self.total

    @property
    def ran(self) -> int:
        """Requests that are settled and were run: copies come much faster."""
        return self.tally.settled - self.tally.copies

    @property
    def left(self) -> int:
        """Requests that are still to be run: followers are not, they end with their leaders."""
        owed = 0 if self._copier is None else self._copier.owed
        return self.total - self.tally.settled - owed

    @property
    def segments(self) -> list[Segment]:
        """The segments as far as they are durable: what may be read while it runs."""
        synced = Segment(self._batch.id, self._batch.epoch, self._journal.synced)
        return [*self._recovered.segments, synced]

    @property
    def lanes(self) -> list[Lane]:
        return list(self._flows)

    def flow_on(self, lane: Lane) -> Flow[Job]:
        """What it has to send on one of its `lanes`."""
        return self._flows[lane]

    def spans_per_s(self, now: float) -> tuple[list[float], float]:
        """As `Pace.spans_per_s`."""
        return self._pace.spans_per_s(now, self.ran)

    def rate_per_s(self) -> float:
        """Requests run per second, over the last seconds."""
        return self._pace.per_s(self._runtime.monotonic(), self.ran)

    # Life

    async def note_unheard(self) -> None:
        """Journal what was in flight when the last writer ended, before anything is sent again."""
        for one in self._recovered.unheard:
            if one.suspicion is None:
                lost = (one.line, 0, Code.LOST_IN_CRASH, MAYBE_PAID, one.tries)
                self._journal.add_attempt(lost)
            else:
                self._journal.add_crash(one.line, one.tries, one.suspicion)
        await self._journal.flush()

    def start(self) -> None:
        """Begin to read and to send."""
        self._is_sending = True
        if self._copier is None:
            self._reader.start()
        else:
            self._copier.start(self._reader.start)

    def set_paused(self, is_paused: bool) -> None:
        """Let nothing more be taken from the flows, or go on. Safe twice."""
        if is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if is_paused:
            self._suspects.withdraw()
        else:
            self._send_held()
        for lane, flow in self._flows.items():
            lane.set_paused(flow, is_paused)

    def set_weight(self, weight: float) -> None:
        """Take another share of what the tenant has of the lanes, from now on."""
        self._weight = weight
        for lane, flow in self._flows.items():
            lane.set_weight(flow, weight)

    async def stop_sending(self, grace_s: float) -> None:
        """Send nothing more; wait for the calls in flight, at most `grace_s`.

        A call that has not come back by then is noted as possibly paid, and its answer dropped.
        """
        self._is_sending = False
        self._reader.stop()
        self._waiting.stop()
        self._suspects.withdraw()
        for lane, flow in self._flows.items():
            lane.detach(flow)
        if self._copier is not None:
            await self._copier.stop()
        if self._in_flight:
            self._quiet.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._quiet.wait()
            except TimeoutError:
                await self._abandon()
        if self.failure is None:
            await self._journal.flush()

    async def _abandon(self) -> None:
        """Take the answers that are still out for lost; that is no crash of theirs."""
        self._is_abandoned = True
        self._budget.open()
        abandoned = list(self._in_flight.items())
        for _, job in abandoned:
            for pending in job.requests if isinstance(job, Pack) else (job,):
                self._recorder.lost_attempt(pending, Code.REQUEST_FAILED, None)
        if self.failure is None:
            await self._journal.flush()
            self._slots.give_back([slot for slot, _ in abandoned])

    async def write_not_run(self, code: Code, is_stopping: Callable[[], bool]) -> None:
        """Give each request without a result a line with `code`, and first copy what can be."""
        if self._copier is not None:
            await self._copier.finish(is_stopping)
            if is_stopping():
                return
        await write_not_run(
            code,
            extents=self._extents,
            blobs=self._blobs,
            journal=self._journal,
            recorder=self._recorder,
            endpoint=self._batch.endpoint,
            is_stopping=is_stopping,
        )

    async def close(self) -> Segment:
        """End this epoch; what is durable is its segment. Safe twice."""
        if self._closed is None:
            if not self._is_abandoned:  # also after a failure: the reader and the flows go
                await self.stop_sending(0)
            self._closed = await self._journal.close()
            self._slots.close()
            self._blobs.unmap(self._journal.keys.slots)
        return self._closed

    # Reading ahead

    def offer(self, request: Request, route: Route) -> bool:
        """Put a request into the flow of its lane; False if that is full. See `Sink`."""
        flow = self._flows.get(route.lane) or self._open_flow(route.lane)
        ready, budget = len(flow.ready), self._budget
        if (
            ready >= self.READY_MAX
            or (ready and budget.held_bytes >= budget.bytes_max)
            or flow.waiting >= WAITING_MAX
        ):
            return False
        pending = self._pending(request, route)
        if not self.tally.suspicions or self._is_fit(pending):
            self._put(pending, flow)
        return True

    def refuse(self, request: Request, message: str) -> None:
        """End a request that nobody serves. See `Sink`."""
        self._recorder.not_sent(request, Code.MODEL_NOT_FOUND, message)

    def _on_copied(self, error: BaseException | None) -> None:
        """The copier was stopped, or has failed."""
        if error is not None:
            self._on_read(error)

    def _on_read(self, error: BaseException | None) -> None:
        """All is read, or the reader has failed."""
        if error is None:
            self._send_held()
        elif isinstance(error, StorageError):
            self._fail(error)
        else:
            self._fail_by_bug(error)

    def _pending(self, request: Request, route: Route) -> Pending:
        """The request with the name that its model has at the provider."""
        if request.model != route.model:
            body = with_model(request.body, request.model, route.model)
            request = Request(request.line, request.custom_id, request.url, body, route.model)
        estimator = self._estimators.get(route.model)
        if estimator is None:
            estimator = self._estimators[route.model] = for_batch(route.tokens)
        cost = estimate(estimator, len(request.body))
        tries = self.tally.tries.get(request.line, 0) if self.tally.tries else 0
        return Pending(request, route, estimator, cost, self.call, tries=tries)

    def _open_flow(self, lane: Lane) -> LaneFlow:
        flow = self._flows[lane] = LaneFlow(
            self._batch.tenant, self._reader.go_on, weight=self._weight
        )
        flow.is_held = self._is_paused
        lane.attach(flow)
        return flow

    def _put(self, pending: Pending, flow: LaneFlow) -> None:
        self._budget.held_bytes += len(pending.request.body)
        pending.route.lane.put(flow, pending)

    def _is_fit(self, pending: Pending) -> bool:
        """Whether it may go with the others; deals with it if not."""
        verdict = self._suspects.judge(pending)
        if verdict is Verdict.HELD:
            self._budget.held_bytes += len(pending.request.body)
        elif verdict is Verdict.LOST:
            self._recorder.not_sent(
                pending.request, Code.WORKER_LOST, WORKER_LOST, is_maybe_paid=True
            )
        return verdict is Verdict.FIT

    def _send_held(self) -> None:
        """Once nothing else is left: the suspects held back, through the gate."""
        if not self._is_sending or self._is_paused or not self._reader.has_ended:
            return
        if not self._in_flight and not self._waiting and not self._has_ready():
            self._suspects.send_held()

    def _has_ready(self) -> bool:
        return any(flow.ready for flow in self._flows.values())

    # One call

    async def call(self, pending: Pending) -> None:
        """Make one attempt. Runs in a worker of the lane, which took a slot for it."""
        request, route = pending.request, pending.route
        if not self._is_sending:
            route.lane.release_slots(1)
            return
        is_suspected = bool(self.tally.suspicions) and self._suspects.is_held(request.line)
        if is_suspected and not self._suspects.may_go(request.line):  # it was paused on its way
            self._queue_suspect(pending)
            route.lane.release_slots(1)
            return
        pending.tries += 1
        slot = self._slots.take(request.line, pending.tries, is_gated=is_suspected)
        self._in_flight[slot] = pending
        outcome: Outcome
        bug: Exception | None = None
        try:
            call = route.provider.prepare(request.url, request.body)
            call.room = self._budget
            outcome = await route.provider.transport.send(call)
        except TransportError as error:
            outcome = error
        except Exception as error:
            bug = error
        del self._in_flight[slot]
        if not self._in_flight:
            self._quiet.set()
        if self._is_abandoned or self._journal.failure is not None:
            route.lane.release_slots(1)
            return
        try:
            if bug is not None:
                raise bug
            self._conclude(pending, slot, outcome)
        except Exception as error:
            self._end_by_bug(pending, self._token(pending, slot, 0), error)

    def _conclude(self, pending: Pending, slot: int, outcome: Outcome) -> None:
        """Decide what an attempt means, and act on it."""
        if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
            try:
                checked = check_answer(pending.request.url, outcome.body)
            except BadAnswer as error:
                outcome = error
            else:
                self._note_answer(pending, outcome, checked.usage)
                lane, body_bytes = pending.route.lane, len(pending.request.body)
                token = self._token_of(lane, slot, body_bytes, len(outcome.body))
                self._recorder.success(pending, outcome, checked, token)
                return
        decision = decide(
            outcome,
            attempt=pending.attempts + 1,
            max_attempts=pending.route.lane.limits.max_attempts or self._settings.max_attempts,
            random=self._runtime.random,
            now_s=self._runtime.now(),
            tries=pending.tries,
            is_down=pending.route.lane.tripped is not None,
        )
        self._note_failure(pending, decision, outcome)
        if decision.retry and not is_at_fault(pending):
            self._try_again(pending, slot, decision, outcome)
        else:
            self._recorder.failure(pending, outcome, self._token(pending, slot, 0))

    def _token(self, pending: Pending, slot: int, answer_bytes: int) -> SlotToken:
        """Bytes stay counted until they are durable, and come off the budget with the slot."""
        return self._token_of(pending.route.lane, slot, len(pending.request.body), answer_bytes)

    def _token_of(self, lane: Lane, slot: int, body_bytes: int, answer_bytes: int) -> SlotToken:
        self._budget.keep(answer_bytes)
        if answer_bytes > lane.largest_answer_bytes:
            lane.largest_answer_bytes = answer_bytes
        return lane, slot, body_bytes, answer_bytes

    def _note_answer(self, pending: Pending, answer: Answer, usage: Usage) -> None:
        """Let the lane, and the estimates, learn from an answer that counts."""
        route = pending.route
        seen = route.provider.read_limits(answer.headers, self._runtime.now())
        route.lane.note_answer(pending, seen, usage)
        learn(pending.estimator, len(pending.request.body), usage)

    def _note_failure(self, pending: Pending, decision: Decision, outcome: Outcome) -> None:
        """Let the lane learn from a failure, and count what counts against the request."""
        refusal = self._count_refusal(pending, pending, decision.rule)
        self._tell_lane(pending, decision, outcome, refusal)
        pending.attempts += decision.uses_attempt
        if decision.rule.may_be_paid and decision.retry:
            pending.is_maybe_paid = True

    def _count_refusal(self, pending: Pending, job: Pending | Pack, rule: Rule) -> Refusal:
        """Hold a refusal of `job`, in which it was, against a request if that is what the other
        calls of the lane say."""
        lane, number = job.route.lane, job.reserved.requests if job.reserved else 0
        if rule.cause == RATE_LIMITED:
            is_held = lane.let_in_after(pending.refused_at)
            pending.refusals += is_held
            if is_held or not pending.refused_at:
                pending.refused_at = number
        elif rule.stops_credential:
            refusal = lane.judge_denial(pending.denied_at, pending.denials)
            if refusal is not Refusal.AGAIN:
                pending.denied_at = number
                pending.denials = pending.denials + 1 if refusal is Refusal.HELD_AGAINST else 0
            return refusal
        return Refusal.FIRST

    def _tell_lane(
        self,
        job: Pending | Pack,
        decision: Decision,
        outcome: Outcome,
        refusal: Refusal,
        requests: int = 1,
    ) -> None:
        route, seen = job.route, tuple[LimitSeen, ...]()
        if isinstance(outcome, Answer):
            is_refusal = decision.rule.cause == RATE_LIMITED
            now = self._runtime.now()
            seen = route.provider.read_limits(outcome.headers, now, is_refusal=is_refusal)
        said = said_of(outcome)
        route.lane.note_failure(job, decision, seen, said, refusal=refusal, requests=requests)

    def _try_again(self, pending: Pending, slot: int, decision: Decision, outcome: Outcome) -> None:
        """Give up the slot and wait for the next attempt in the heap."""
        token = (pending.route.lane, slot, 0, 0)
        if decision.rule.may_be_paid:
            # The slot is held until the loss is on record, so that a crash cannot hide it.
            self._recorder.lost_attempt(pending, code_of(outcome), token)
        else:
            self._release((token,))
        self._wait(pending, decision.wait_s)

    def _wait(self, job: Pending | Pack, delay_s: float) -> None:
        if self._is_sending:
            self._flows[job.route.lane].waiting += 1
            self._waiting.add(job, delay_s)

    def _send_again(self, job: Pending | Pack) -> None:
        flow = self._flows[job.route.lane]
        flow.waiting -= 1
        if isinstance(job, Pending) and self._is_suspected(job):
            self._queue_suspect(job)
        elif job.was_denied:  # behind the others, which tell whether it is at fault
            job.route.lane.put(flow, job)
        else:
            self._put_first(job)
        self._reader.go_on()

    def _queue_suspect(self, pending: Pending) -> None:
        """Back to the gate; one of a paused batch would hold it up for all others."""
        if self._is_paused:
            self._suspects.hold(pending)
        else:
            self._suspects.queue(pending)

    def _is_suspected(self, pending: Pending) -> bool:
        return bool(self.tally.suspicions) and self._suspects.is_held(pending.request.line)

    def _put_first(self, job: Pending | Pack) -> None:
        lane = job.route.lane
        lane.put_front(self._flows[lane], job)

    # Errors of ours

    def _end_by_bug(self, pending: Pending, token: SlotToken | None, error: Exception) -> None:
        """An error of ours costs its request, and not the engine. Many cost no more requests:
        they stop the batch. `token` is None where another request has that of the call."""
        self._bugs += 1
        log.error(
            "call failed by an error of batchwright",
            batch=self._batch.id,
            line=pending.request.line,
            exc_info=error,
        )
        pending.is_maybe_paid = True
        try:
            if self._bugs > BUGS_MAX:
                self._recorder.lost_attempt(pending, Code.REQUEST_FAILED, token)
                self._fail_by_bug(error)
            else:
                self._recorder.failure(pending, Ambiguous(_bug_said(error)), token)
        except Exception as last:
            if token is not None:
                token[0].release_slots(1)
            self._fail_by_bug(last)

    def _fail_by_bug(self, error: BaseException) -> None:
        log.error("batch stopped by an error of batchwright", batch=self._batch.id, exc_info=error)
        self._fail(Damaged(_bug_said(error)))

    def _fail(self, failure: StorageError) -> None:
        """Let the batch stop with `failure`."""
        self.failure = self.failure or failure
        self._is_sending = False
        self._on_change()

    # Durable

    def _on_durable(self, tokens: Sequence[SlotToken | None]) -> None:
        """A group is synced: its slots are free."""
        self._release([token for token in tokens if token is not None])
        if ran := self.ran:  # before, copies are made and nothing is sent
            self._pace.note(self._runtime.monotonic(), ran)
        if self._budget.held_bytes < self._budget.bytes_max:
            self._reader.go_on()
        if self._suspects.are_held:
            self._send_held()
        if self._copier is not None:
            self._copier.go_on()
        if self.is_settled:
            self._on_change()

    def _on_failed_journal(self, tokens: Sequence[SlotToken | None]) -> None:
        """The lanes get their slots back; the slot table keeps them, for the next epoch to list."""
        for token in tokens:
            if token is not None:
                token[0].release_slots(1)
        self._budget.open()
        if self._copier is not None:
            self._copier.go_on()
        if self._journal.failure is not None:
            self._fail(self._journal.failure)

    def _release(self, tokens: Sequence[SlotToken]) -> None:
        if not tokens:
            return
        lanes, slots, bodies_bytes, answers_bytes = zip(*tokens, strict=True)
        lines = self._slots.give_back(slots)
        if self._suspects.are_out:
            for line in lines:
                self._suspects.came_back(line)
        self._budget.drop(bodies_bytes, answers_bytes)
        for lane, count in Counter(lanes).items():
            lane.release_slots(count)


def is_at_fault(pending: Pending) -> bool:
    """Whether a request was refused too often while others were not."""
    return pending.refusals >= REFUSALS_MAX or pending.denials >= DENIALS_MAX


def _bug_said(error: BaseException) -> str:
    return f"An error of batchwright itself ({type(error).__name__}); its log says more."
