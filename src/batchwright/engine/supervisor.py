"""The supervisor: takes one batch through its states, and is the only writer of its state.

    validate ─► run ─► publish
                 ▲ a new epoch each time: at the start, after a crash, after a full disk

Everything that can happen meanwhile (the last result, a cancel, the deadline, a failed disk, a
stop) sets one event; the supervisor looks what it was and decides.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import structlog

from batchwright.blobs.base import Blobs, read_extents
from batchwright.domain.batch import Batch, Counts, Status, advance
from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import Conflict, Damaged, NoSpace, Superseded
from batchwright.domain.file import RESULT_PURPOSE, Extent, File
from batchwright.domain.result import Code
from batchwright.engine.dispatch import BatchRun
from batchwright.engine.journal import SegmentKeys
from batchwright.engine.recovery import forget_in_flight, take_over
from batchwright.engine.routing import Router
from batchwright.engine.runtime import Runtime, new_id
from batchwright.engine.settings import EngineSettings
from batchwright.engine.validate import ValidationReport, Validator
from batchwright.store.base import EngineStore, Segment

RETRY_STORAGE_S = 5.0

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
    ) -> None:
        self.batch = batch
        self.problem: str | None = None  # why it stands still, in words for a person
        self.current: BatchRun | None = None  # while requests are being run
        self._store = store
        self._blobs = blobs
        self._runtime = runtime
        self._router = router
        self._settings = settings
        self._changing = asyncio.Lock()
        self._event = asyncio.Event()
        self._is_stopping = False
        self._deadline = _deadline(batch, runtime)

    async def run(self) -> None:
        """Take the batch to its end, or to where a stop or damage leaves it."""
        try:
            if await self._validate():
                await self._run_requests()
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
                if self.batch.is_terminal:
                    raise Conflict(f"Cannot cancel a batch with status '{self.batch.status}'.")
                await self._save(Status.CANCELLING)
        self.signal()
        return self.batch

    def signal(self) -> None:
        """Look again: something happened."""
        self._event.set()

    def stop(self) -> None:
        """Leave the batch where it is, resumable; `run` returns soon."""
        self._is_stopping = True
        self.signal()

    # Validation

    async def _validate(self) -> bool:
        """Validate the input file; returns whether there are requests to be run."""
        if self.batch.in_progress_at is not None or self.batch.counts.total:
            return True
        report = await self._validation_report()
        if report is None:
            return False
        async with self._changing:
            was_cancelled = self.batch.status is Status.CANCELLING
            if report.errors and not was_cancelled:
                await self._save(Status.FAILED, errors=tuple(report.errors))
            elif report.errors:
                await self._publish(Status.CANCELLED, None, [])
            elif was_cancelled:
                await self._save_fields(counts=Counts(report.total), model=report.model)
            else:
                counts = Counts(report.total)
                await self._save(Status.IN_PROGRESS, counts=counts, model=report.model)
        return not report.errors

    async def _validation_report(self) -> ValidationReport | None:
        """None if a stop came first."""
        batch = self.batch
        found = await self._store.engine_file(batch.tenant, batch.input_file_id)
        if found is None:
            missing = f"Cannot find file {batch.input_file_id}."
            return ValidationReport.of_error(BatchError("invalid_request", missing, "file_id"))
        validator = Validator(
            batch.endpoint,
            resolve_model=lambda model, endpoint: self._router.explain(model),
            requests_max=self._settings.requests_per_batch,
            embedding_inputs_max=self._settings.embedding_inputs_per_batch,
            line_bytes_max=self._settings.line_bytes_max,
            one_model_per_file=self._settings.one_model_per_file,
        )
        async for chunk in read_extents(self._blobs, found[1]):
            await self._blobs.offload(lambda chunk=chunk: validator.feed(chunk))
            if self._is_stopping:
                return None
        return await self._blobs.offload(validator.finish)

    # Running

    async def _run_requests(self) -> None:
        while not self._is_stopping:
            run = await self._open_run()
            try:
                ended_as = await self._until_settled(run)
                if ended_as is not None:
                    await self._conclude(run, ended_as)
                    return
            except NoSpace as error:
                self.problem = f"the disk is full: {error}"
                log.error("batch waits for space", batch=self.batch.id)
            finally:
                self.current = None
                await run.close()
            if not self._is_stopping:
                await self._runtime.sleep(RETRY_STORAGE_S)
                self.problem = None

    async def _open_run(self) -> BatchRun:
        batch = self.batch
        found = await self._store.engine_file(batch.tenant, batch.input_file_id)
        if found is None:
            raise Damaged(f"the input file {batch.input_file_id} is gone")
        async with self._changing:
            recovered = await take_over(self.batch, store=self._store, blobs=self._blobs)
            self.batch = recovered.batch
        self._segments = recovered.segments
        run = BatchRun(
            batch=self.batch,
            recovered=recovered,
            extents=found[1],
            blobs=self._blobs,
            runtime=self._runtime,
            router=self._router,
            settings=self._settings,
            on_change=self.signal,
        )
        await run.note_suspects()
        await forget_in_flight(recovered, self._blobs)
        self.current = run
        return run

    async def _until_settled(self, run: BatchRun) -> Status | None:
        """Run until something ends it: the state to end in, or None for a stop."""
        if self.batch.status is not Status.CANCELLING:
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
            await self._wait()

    async def _wait(self) -> None:
        """Until the next event or the deadline."""
        self._event.clear()
        left = None
        if self._deadline is not None:
            left = max(0.0, self._deadline - self._runtime.monotonic())
        try:
            async with asyncio.timeout(left):
                await self._event.wait()
        except TimeoutError:
            return

    async def _conclude(self, run: BatchRun, ended_as: Status) -> None:
        """Settle what is left, and publish."""
        if ended_as is not Status.COMPLETED:
            await run.stop_sending(self._settings.grace_s)
            code = Code.BATCH_EXPIRED if ended_as is Status.EXPIRED else Code.BATCH_CANCELLED
            await run.fill(code, until=lambda: self._is_stopping)
            if self._is_stopping:
                return
        async with self._changing:
            if ended_as is Status.COMPLETED and self.batch.status is Status.IN_PROGRESS:
                await self._save(Status.FINALIZING)
            if self.batch.status is Status.CANCELLING:
                ended_as = Status.CANCELLED
            await self._publish(ended_as, await run.close(), [*self._segments], run)
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
        output = self._result_file("output", segments, now)
        error = self._result_file("error", segments, now)
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

    def _result_file(
        self, which: str, segments: list[Segment], now: float
    ) -> tuple[File, list[Extent]] | None:
        """A result file over the segments; None where it would be empty."""
        extents = [
            Extent(getattr(SegmentKeys.of(segment.batch_id, segment.epoch), which), 0, length)
            for segment in segments
            if (length := getattr(segment.lengths, which))
        ]
        if not extents:
            return None
        ttl_s = self.batch.output_ttl_s or self._settings.result_ttl_s
        file = File(
            id=new_id(self._runtime, "file-"),
            tenant=self.batch.tenant,
            purpose=RESULT_PURPOSE,
            filename=f"{self.batch.id}_{which}.jsonl",
            size_bytes=sum(extent.length for extent in extents),
            created_at=now,
            expires_at=None if ttl_s is None else now + ttl_s,
            sha256=None,
        )
        return file, extents


def _deadline(batch: Batch, runtime: Runtime) -> float | None:
    """`expires_at` on the monotonic clock: a step of the wall clock expires nothing."""
    if batch.expires_at is None:
        return None
    return runtime.monotonic() + batch.expires_at - runtime.now()


