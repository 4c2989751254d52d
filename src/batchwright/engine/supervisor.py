"""The supervisor: takes one batch through its states, and is the only writer of its state.

    validate ─► run ─► publish
                 ▲ a new epoch each time: at the start, after a crash, after a full disk

Everything that can happen meanwhile (the last result, a cancel, the deadline, a failed disk, a
stop) sets one event; the supervisor looks what it was and decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from batchwright.blobs.base import Blobs, read_extents
from batchwright.domain.batch import Batch, Counts, Status, advance
from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import Conflict, Damaged, NoSpace, StorageError, Superseded
from batchwright.domain.priority import Priority
from batchwright.domain.result import Code
from batchwright.domain.segment import RESULT_LINES, Segment
from batchwright.engine.dispatch import BatchRun
from batchwright.engine.packed_run import LIMITS, PackedRun, are_packed
from batchwright.engine.recovery import (
    Recovered,
    create_segment,
    forget_in_flight,
    take_over,
)
from batchwright.engine.result_files import publishable
from batchwright.engine.routing import ModelCheck, Router
from batchwright.engine.runtime import Runtime, new_id
from batchwright.engine.settings import EngineSettings
from batchwright.engine.slots import SlotTable
from batchwright.engine.suspects import Gate
from batchwright.engine.tally import Tally
from batchwright.engine.urgency import CHECK_EVERY_S, Rival, Urgency
from batchwright.engine.validate import ValidationRules, Validator
from batchwright.store.base import EngineStore

PROBE_ROOM_S = 5.0  # how often a full disk is tried again, at first and at most
PROBE_ROOM_MAX_S = 60.0
ROOM_BYTES = 1 << 20  # the least that must be there

log = structlog.get_logger()


class Supervisor:
    """One batch on its way through the states."""

    def __init__(
        self,
        batch: Batch,
        *,
        store: EngineStore,
        blobs: Blobs,
        runtime: Runtime,
        router: Router,
        settings: EngineSettings,
        gate: Gate,
        rivals: Callable[[Supervisor], Sequence[Rival]],
    ) -> None:
        """`rivals` are the other batches of its tenant that want a lane of the one that runs."""
        self.batch = batch
        self.problem: str | None = None  # why it stands still, in words for a person
        self.current: BatchRun | None = None  # while requests are being run
        self.has_stopped = False  # its end is reached, or it stands still
        self.is_known = asyncio.Event()  # what is done is known again after a start
        self._store = store
        self._blobs = blobs
        self._runtime = runtime
        self._router = router
        self._settings = settings
        self._gate = gate
        self._rivals = rivals
        self._changing = asyncio.Lock()
        self._event = asyncio.Event()
        self._is_stopping = False
        self._deadline = _deadline(batch, runtime)
        self._recovered: Recovered
        self._slots: SlotTable | None = None  # of the epoch that is running
        self._closed: Segment | None = None  # what this process wrote before its disk was full
        self._tally: Tally | None = None  # of the last epoch: between two of them it stays known
        self._urgency: Urgency | None = None  # while requests are being sent towards a deadline

    async def run(self) -> None:
        """Take the batch to its end, or to where a stop or damage leaves it."""
        try:
            await self._take_to_its_end()
        finally:
            self.has_stopped = True
            self.is_known.set()

    async def _take_to_its_end(self) -> None:
        try:
            await self._with_room()
        except Superseded:
            self.problem = "another process has taken this batch over"
        except Damaged as error:
            self.problem = f"{error}; the batch stands still so that nothing is bought twice"
        if self.problem is not None:
            log.error("batch stopped", batch=self.batch.id, reason=self.problem)

    async def cancel(self) -> Batch:
        """Accept a cancel: durable when it returns. Raises `Conflict` in a terminal state."""
        async with self._changing:
            if self.batch.status not in (Status.CANCELLING, Status.CANCELLED):
                self._require("cancel", not self.batch.is_terminal)
                await self._save(Status.CANCELLING)
        self.signal()
        return self.batch

    async def pause(self) -> Batch:
        """Send nothing more until `resume`: durable when it returns. A second one is a no-op.

        Calls in flight end and are kept; the deadline stays. Raises `Conflict` in a state in which
        nothing is sent any more.
        """
        async with self._steering("pause"):
            if self.batch.paused_at is None:
                await self._save_fields(paused_at=self._runtime.now())
        return self.batch

    async def resume(self) -> Batch:
        """Go on after a pause; a no-op without one. Durable and raises as `pause`."""
        async with self._steering("resume"):
            if self.batch.paused_at is not None:
                await self._save_fields(paused_at=None)
        return self.batch

    async def set_priority(self, priority: Priority) -> Batch:
        """Change the share of the batch from now on. Durable and raises as `pause`."""
        async with self._steering("change the priority of"):
            if priority is not self.batch.priority:
                await self._save_fields(priority=priority)
        return self.batch

    @asynccontextmanager
    async def _steering(self, act: str) -> AsyncIterator[None]:
        """Change the batch while it sends, and let what runs follow."""
        async with self._changing:
            self._require(act, self.batch.is_sending)
            yield
            self._steer()
        self.signal()

    def _require(self, act: str, is_possible: bool) -> None:
        if not is_possible:
            raise Conflict(f"Cannot {act} a batch with status '{self.batch.status}'.")
        if self.problem is not None and self.has_stopped:
            raise Conflict(f"Cannot {act} this batch: {self.problem}.")

    def progress(self, batch: Batch) -> Batch:
        """`batch` with what its journal has made durable by now."""
        tally = self._tally
        if self.batch.is_terminal:
            return self.batch  # it ended while the caller read the row
        if tally is None:
            return batch
        total = self.batch.counts.total
        return replace(batch, counts=tally.counts(total), closing=tally.closing())

    @property
    def segments(self) -> list[Segment] | None:
        """The segments with the lengths that are durable now; None before the first epoch."""
        if self.current is not None:
            return self.current.segments
        return None if self._closed is None else [*self._recovered.segments, self._closed]

    def signal(self) -> None:
        """Look again: something happened."""
        self._event.set()

    def leave(self) -> None:
        """The process ends: from now on its death is held against no request."""
        if self._slots is not None:
            self._slots.leave()

    def stop(self) -> None:
        """Leave the batch where it is, resumable; `run` returns soon."""
        self._is_stopping = True
        self.signal()

    # Validation

    async def _validate(self) -> bool:
        """Validate the input file; returns whether there are requests to be run."""
        if self.batch.counts.total:
            return True
        self.is_known.set()
        errors, counts, model = await self._findings()
        if self._is_stopping:
            return False
        async with self._changing:
            if self.batch.status is Status.CANCELLING:
                if errors:
                    await self._publish(Status.CANCELLED, None, [])
                else:
                    await self._save_fields(counts=counts, model=model)
            elif errors:
                await self._save(Status.FAILED, errors=errors)
            else:
                await self._save(Status.IN_PROGRESS, counts=counts, model=model)
        return not errors

    async def _findings(self) -> tuple[tuple[BatchError, ...], Counts, str | None]:
        """Errors, counts and the one model of the input file."""
        batch, settings = self.batch, self._settings
        found = await self._store.engine_file(
            batch.tenant, batch.input_file_id, now=self._runtime.now()
        )
        if found is None:
            missing = f"Cannot find file {batch.input_file_id}, or it was deleted or has expired."
            return (BatchError("invalid_request", missing, "file_id"),), Counts(), None
        rules = ValidationRules(
            batch.endpoint,
            requests_max=settings.requests_per_batch,
            embedding_inputs_max=settings.embedding_inputs_per_batch,
            line_bytes_max=settings.line_bytes_max,
            one_model_per_file=settings.one_model_per_file,
        )
        validator = Validator(rules, ModelCheck(self._router))
        async for chunk in read_extents(self._blobs, found[1]):
            await self._blobs.offload(partial(validator.feed, chunk))
            if self._is_stopping:
                break
        report = await self._blobs.offload(validator.finish)
        return report.errors, Counts(report.total), report.model

    # Running

    async def _with_room(self) -> None:
        """Validate and run, and again whenever a full disk got in the way and has room again."""
        while not self._is_stopping:
            try:
                if await self._validate():
                    await self._run_epoch()
                return
            except NoSpace as error:
                await self._until_room(error)

    async def _until_room(self, error: NoSpace) -> None:
        """Wait until what may be under way at once can be stored, or for a stop."""
        delay_s = PROBE_ROOM_S
        log.error("batch waits for disk space", batch=self.batch.id, reason=str(error))
        self.is_known.set()  # as far as it can be: a start does not wait for room
        while not self._is_stopping:
            self.problem = f"waiting for disk space: {error}"
            await self._rest(delay_s)
            delay_s = min(2 * delay_s, PROBE_ROOM_MAX_S)
            try:
                await self._blobs.require_room(self._room_bytes())
            except NoSpace as again:
                error = again
            else:
                break
        self.problem = None

    def _room_bytes(self) -> int:
        return max(ROOM_BYTES, sum(lane.room_bytes for lane in self._router.lanes))

    async def _rest(self, delay_s: float) -> None:
        """For so long, or until a stop."""
        until = self._runtime.monotonic() + delay_s
        while not self._is_stopping and (left_s := until - self._runtime.monotonic()) > 0:
            await self._for_event(left_s)

    async def _run_epoch(self) -> None:
        async with self._epoch() as run:
            await run.note_unheard()
            await forget_in_flight(self._recovered, self._blobs)
            ended_as = await self._until_settled(run)
            if ended_as is not None:
                await self._conclude(run, ended_as)

    @asynccontextmanager
    async def _epoch(self) -> AsyncIterator[BatchRun]:
        """Take the batch over and run it; on the way out its segment is closed."""
        run = await self._open_run()
        try:
            yield run
        except StorageError as error:
            self.leave()  # what is out may be paid again, and no request is to blame for that
            if isinstance(error, NoSpace):  # nothing is sent a second time before it is back
                await run.stop_sending(self._settings.grace_s)
            raise
        finally:
            self.current = self._slots = None
            self._closed = await run.close()

    async def _open_run(self) -> BatchRun:
        batch = self.batch
        found = await self._store.engine_file(batch.tenant, batch.input_file_id, hidden=True)
        if found is None:
            raise Damaged(f"the input file {batch.input_file_id} is gone")
        async with self._changing:
            recovered = await take_over(
                self.batch,
                store=self._store,
                blobs=self._blobs,
                crowds=self._gate.crowds,
                closed=self._closed,
            )
            self.batch = recovered.batch
        self._recovered, self._tally = recovered, recovered.tally
        slots, run_of = sum(lane.slots for lane in self._router.lanes), BatchRun
        if are_packed(self.batch, self._settings):
            slots, run_of = slots * LIMITS.inputs_max, PackedRun
        self._slots = await create_segment(
            self.batch,
            self._blobs,
            slots=slots,
            process=self._gate.process,
        )
        self.current = run_of(
            batch=self.batch,
            recovered=recovered,
            slots=self._slots,
            gate=self._gate,
            extents=found[1],
            store=self._store,
            blobs=self._blobs,
            runtime=self._runtime,
            router=self._router,
            settings=self._settings,
            on_change=self.signal,
        )
        self.is_known.set()
        return self.current

    async def _until_settled(self, run: BatchRun) -> Status | None:
        """Run until something ends it: the state to end in, or None for a stop."""
        if self.batch.status is not Status.CANCELLING:
            self._steer()
            run.start()
        while True:
            if run.failure is not None:
                raise run.failure
            if self._is_stopping:
                return None
            if run.is_settled and self.batch.status is not Status.CANCELLING:
                return Status.COMPLETED
            if self.batch.status is Status.CANCELLING:
                return Status.CANCELLED
            if self._deadline is not None and self._runtime.monotonic() >= self._deadline:
                return Status.EXPIRED
            self._check_urgency(run)
            await self._wait()

    def _steer(self) -> None:
        """Let what runs follow the priority and the pause of the batch."""
        run, weight = self.current, self.batch.priority.weight
        self._urgency = None
        if run is None:
            return
        run.set_weight(weight)
        run.set_paused(self.batch.paused_at is not None)
        if self._deadline is not None and self.batch.paused_at is None:
            now = self._runtime.monotonic()
            self._urgency = Urgency(
                weight,
                now=now,
                settled=run.ran,
                left_s=self._deadline - now,
                rivals=lambda: self._rivals(self),
            )

    def _check_urgency(self, run: BatchRun) -> None:
        """Raise the weight of a batch that would not end in time, and lower it again."""
        if self._urgency is None or self._deadline is None:
            return
        now, before = self._runtime.monotonic(), self._urgency.weight
        left_s = self._deadline - now
        weight = self._urgency.check(now=now, settled=run.ran, left=run.left, left_s=left_s)
        if weight != before:
            run.set_weight(weight)

    async def _wait(self) -> None:
        """Until the next event, the deadline, or the next look at how near it is."""
        left_s = None
        if self._deadline is not None:
            left_s = max(0.0, self._deadline - self._runtime.monotonic())
            if self._urgency is not None:
                left_s = min(left_s, CHECK_EVERY_S)
        await self._for_event(left_s)

    async def _for_event(self, at_most_s: float | None) -> None:
        self._event.clear()
        try:
            async with asyncio.timeout(at_most_s):
                await self._event.wait()
        except TimeoutError:
            return

    async def _conclude(self, run: BatchRun, ended_as: Status) -> None:
        """Settle what is left, and publish."""
        if ended_as is not Status.COMPLETED:
            await run.stop_sending(self._settings.grace_s)
            code = Code.BATCH_EXPIRED if ended_as is Status.EXPIRED else Code.BATCH_CANCELLED
            await run.write_not_run(code, lambda: self._is_stopping)
            if self._is_stopping:
                return
        async with self._changing:
            if ended_as is Status.COMPLETED and self.batch.status is Status.IN_PROGRESS:
                await self._save(Status.FINALIZING)
            if self.batch.status is Status.CANCELLING:
                ended_as = Status.CANCELLED
            await self._publish(ended_as, await run.close(), [*self._recovered.segments], run)
        log.info(
            "batch ended",
            batch=self.batch.id,
            status=str(self.batch.status),
            total=self.batch.counts.total,
            completed=self.batch.counts.completed,
            failed=self.batch.counts.failed,
        )

    # Changes of state

    async def _save(self, to: Status, **changes: Any) -> None:
        after = advance(self.batch, to, self._runtime.now(), **changes)
        await self._store.save_batch(after, was=self.batch)
        self.batch = after

    async def _save_fields(self, **changes: Any) -> None:
        after = replace(self.batch, **changes)
        await self._store.save_batch(after, was=self.batch)
        self.batch = after

    async def _publish(
        self,
        to: Status,
        closed: Segment | None,
        segments: list[Segment],
        run: BatchRun | None = None,
    ) -> None:
        """One transaction: result files as extents of the segments, sums, state."""
        now = self._runtime.now()
        if closed is not None:
            segments.append(closed)
        output, error = (
            publishable(
                self.batch,
                which,
                segments,
                file_id=new_id(self._runtime, "file-"),
                now=now,
                ttl_s=self.batch.output_ttl_s or self._settings.result_ttl_s,
            )
            for which in RESULT_LINES
        )
        files = [made for made in (output, error) if made is not None]
        sums: dict[str, Any] = {}
        if run is not None:
            sums = {"counts": run.tally.counts(run.total), "closing": run.tally.closing()}
        after = advance(
            self.batch,
            to,
            now,
            output_file_id=output[0].id if output else None,
            error_file_id=error[0].id if error else None,
            **sums,
        )
        await self._store.publish(after, was=self.batch, closed=closed, files=files)
        self.batch = after


def _deadline(batch: Batch, runtime: Runtime) -> float | None:
    """`expires_at` on the monotonic clock: a step of the wall clock expires nothing."""
    if batch.expires_at is None:
        return None
    return runtime.monotonic() + batch.expires_at - runtime.now()
