"""The running of a batch whose requests share calls: a `BatchRun` with packs between the two.

    offer          as ever, but a request joins an open pack, if there is one
    _call_pack     one slot of the lane, one slot of the table for each request, one call
    _conclude_pack done: each its own answer · again: the pack waits · split: its halves go, at once

A request that cannot be packed, and a suspect that goes through the gate, take the ordinary way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

import structlog

from batchwright.domain.answers import BadAnswer, CheckedAnswer
from batchwright.domain.batch import Batch
from batchwright.domain.errors import TransportError
from batchwright.domain.limits import Cost
from batchwright.domain.result import Code
from batchwright.engine.dispatch import (
    RATE_LIMITED,
    REFUSALS_MAX,
    BatchRun,
    LaneFlow,
    SlotToken,
    is_at_fault,
)
from batchwright.engine.estimate import learn
from batchwright.engine.packer import Pack, Packer, PackLimits, Step, halves, next_step
from batchwright.engine.packing import EMBEDDINGS_URL
from batchwright.engine.pending import Pending
from batchwright.engine.recorder import Outcome, code_of
from batchwright.engine.retry import Decision, decide
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Answer

LIMITS: Final = PackLimits()
REQUEST_BYTES = 1024  # what a request in a pack holds beside its body

log = structlog.get_logger()


def are_packed(batch: Batch, settings: EngineSettings) -> bool:
    """Whether the requests of a batch share calls."""
    return settings.pack_embeddings and batch.endpoint == EMBEDDINGS_URL


class PackedRun(BatchRun):
    """The running of one batch of embedding requests in one epoch."""

    READY_MAX = 128  # most of them packs

    def __init__(self, **given: Any) -> None:
        """As a `BatchRun`; its slot table needs `LIMITS.inputs_max` times as many slots."""
        super().__init__(**given)
        self._packer = Packer(LIMITS, self._call_pack)

    # Reading ahead

    def _put(self, pending: Pending, flow: LaneFlow) -> None:
        job = self._packer.add(pending)
        if isinstance(job, Pending):
            super()._put(job, flow)
            return
        self._budget.held_bytes += _held_bytes(pending)
        if job is not None:
            job.route.lane.put(flow, job)

    # One call

    async def _call_pack(self, pack: Pack) -> None:
        """Make one attempt for all. Runs in a worker of the lane, which took a slot for it."""
        self._packer.close(pack)
        lane, provider = pack.route.lane, pack.route.provider
        if not self._is_sending:
            lane.release_slots(1)
            return
        slot = self._take_slots(pack)
        self._in_flight[slot] = pack
        outcome: Outcome
        bug: Exception | None = None
        try:
            call = provider.prepare(EMBEDDINGS_URL, pack.body())
            call.room = self._budget
            outcome = await provider.transport.send(call)
        except TransportError as error:
            outcome = error
        except Exception as error:
            bug = error
        del self._in_flight[slot]
        if not self._in_flight:
            self._quiet.set()
        if self._is_abandoned or self._journal.failure is not None:
            lane.release_slots(1)
            return
        try:
            if bug is not None:
                raise bug
            self._conclude_pack(pack, slot, outcome)
        except Exception as error:
            self._end_pack_by_bug(pack, slot, error)

    def _take_slots(self, pack: Pack) -> int:
        """Write every request into the slot table; the slot of the first stands for all."""
        first, *others = pack.requests
        for pending in pack.requests:
            pending.tries += 1
        slot = self._slots.take(first.request.line, first.tries)
        for pending in others:
            self._slots.join(slot, pending.request.line, pending.tries)
        return slot

    def _conclude_pack(self, pack: Pack, slot: int, outcome: Outcome) -> None:
        """Decide what an attempt means, and act on it."""
        if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
            try:
                answers = pack.answers(outcome.body)
            except BadAnswer as error:
                outcome = error
            else:
                self._note_answers(pack, outcome, answers)
                self._record(pack, slot, outcome, answers)
                return
        decision = decide(
            outcome,
            attempt=pack.attempts + 1,
            max_attempts=pack.route.lane.limits.max_attempts or self._settings.max_attempts,
            random=self._runtime.random,
            now_s=self._runtime.now(),
            tries=pack.requests[0].tries,
            is_down=pack.route.lane.tripped is not None,
        )
        refusals = [self._count_refusal(each, pack, decision.rule) for each in pack.requests]
        self._tell_lane(pack, decision, outcome, refusals[0], len(refusals))
        match self._step(pack, outcome, decision):
            case Step.AGAIN:
                self._try_pack_again(pack, slot, decision, outcome)
            case Step.SPLIT:
                lost_as = code_of(outcome) if decision.rule.may_be_paid else None
                self._split(pack, slot, lost_as, may_be_size=not decision.rule.stops_credential)
            case Step.GIVE_UP:
                for pending, token in self._with_tokens(pack, self._pack_token(pack, slot, 0)):
                    self._recorder.failure(pending, outcome, token)

    def _note_answers(self, pack: Pack, answer: Answer, answers: Sequence[CheckedAnswer]) -> None:
        """Let the lane, the estimates and the packer learn from an answer that counts."""
        route = pack.route
        used = Cost(
            sum([each.usage.input_tokens for each in answers]),
            sum([each.usage.output_tokens for each in answers]),
        )
        seen = route.provider.read_limits(answer.headers, self._runtime.now())
        route.lane.note_answer(pack, seen, used)
        route.lane.note_packed(len(pack.requests))
        learn(pack.estimator, pack.body_bytes, used)
        self._packer.note_success(pack, len(answer.body))

    def _record(
        self, pack: Pack, slot: int, answer: Answer, answers: Sequence[CheckedAnswer]
    ) -> None:
        """Each request its line. One of ours that fails costs that line alone: the others must not
        be sent again."""
        whole = self._pack_token(pack, slot, sum([len(each.body) for each in answers]))
        for (pending, token), checked in zip(self._with_tokens(pack, whole), answers, strict=True):
            try:
                self._recorder.success(pending, answer, checked, token)
            except Exception as error:
                self._end_by_bug(pending, token, error)

    def _step(self, pack: Pack, outcome: Outcome, decision: Decision) -> Step:
        step = next_step(len(pack.requests), outcome, decision)
        if decision.rule.stops_credential and pack.route.lane.tripped_by == "credential":
            return Step.AGAIN  # its halves would tell no more than the lane knows
        if step is Step.AGAIN and len(pack.requests) == 1:
            return Step.GIVE_UP if is_at_fault(pack.requests[0]) else step
        pack.refusals += decision.rule.cause == RATE_LIMITED
        if step is Step.AGAIN and pack.refusals >= REFUSALS_MAX:
            return Step.SPLIT  # it may be more than the limit takes at once
        return step

    def _try_pack_again(self, pack: Pack, slot: int, decision: Decision, outcome: Outcome) -> None:
        """The same call once more, after a wait; it counts for each request."""
        for pending in pack.requests:
            pending.attempts += decision.uses_attempt
        self._give_slot_up(pack, slot, code_of(outcome) if decision.rule.may_be_paid else None)
        self._wait(pack, decision.wait_s)

    def _split(
        self, pack: Pack, slot: int, lost_as: int | None, *, may_be_size: bool = True
    ) -> None:
        """Its halves are next. A split uses up no attempt, and refusals of all together are one at
        most of each."""
        self._give_slot_up(pack, slot, lost_as)
        for pending in pack.requests:
            pending.refusals, pending.denials = 0, min(pending.denials, 1)
        if self._is_sending:
            for half in reversed(halves(pack, may_be_size=may_be_size)):
                self._put_first(half)

    def _give_slot_up(self, pack: Pack, slot: int, lost_as: int | None) -> None:
        """Free the slot; with the code of a loss that may have been paid for, once that is on
        record for each request, so that a crash cannot hide it."""
        whole: SlotToken = (pack.route.lane, slot, 0, 0)
        if lost_as is None:
            self._release((whole,))
            return
        for pending, token in self._with_tokens(pack, whole):
            pending.is_maybe_paid = True
            self._recorder.lost_attempt(pending, lost_as, token)

    def _pack_token(self, pack: Pack, slot: int, answer_bytes: int) -> SlotToken:
        body_bytes = sum([_held_bytes(pending) for pending in pack.requests])
        return self._token_of(pack.route.lane, slot, body_bytes, answer_bytes)

    def _with_tokens(self, pack: Pack, whole: SlotToken) -> zip[tuple[Pending, SlotToken | None]]:
        """The requests, the last of them with the token of all."""
        tokens = [*repeat(None, len(pack.requests) - 1), whole]
        return zip(pack.requests, tokens, strict=True)

    # Errors of ours

    def _end_pack_by_bug(self, pack: Pack, slot: int, error: Exception) -> None:
        """An error of ours ends the one request that meets it, which is found by halving."""
        if len(pack.requests) == 1:
            self._end_by_bug(pack.requests[0], self._pack_token(pack, slot, 0), error)
            return
        lines = [pending.request.line for pending in pack.requests]
        log.error(
            "packed call failed by an error of batchwright",
            batch=self._batch.id,
            lines=lines,
            exc_info=error,
        )
        try:
            self._split(pack, slot, Code.REQUEST_FAILED)
        except Exception as last:
            pack.route.lane.release_slots(1)
            self._fail_by_bug(last)


def _held_bytes(pending: Pending) -> int:
    return len(pending.request.body) + REQUEST_BYTES
