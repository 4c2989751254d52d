"""The engine: what the edges call. One `Engine` owns a data directory and its batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from batchwright.blobs.base import Blobs
from batchwright.domain.batch import Batch
from batchwright.domain.errors import NoSpace, StorageError, TransportError
from batchwright.domain.file import FILE_TTL_S, Extent, File
from batchwright.domain.priority import Priority
from batchwright.domain.segment import Segment, SegmentKeys
from batchwright.domain.window import window_s
from batchwright.engine.account import ERROR, OUTPUT
from batchwright.engine.gateway import Gateway
from batchwright.engine.lane import Lane
from batchwright.engine.pruner import Pruner
from batchwright.engine.recovery import count_crowds
from batchwright.engine.result_files import read_result_extent
from batchwright.engine.results import ResultsPage, results_page
from batchwright.engine.routing import Account, Router
from batchwright.engine.runtime import Runtime, new_id
from batchwright.engine.settings import EngineSettings
from batchwright.engine.supervisor import Supervisor
from batchwright.engine.suspects import Gate
from batchwright.engine.urgency import Rival
from batchwright.store.base import EngineStore, Idempotency, TenantStore

SPACE_CHECK_EVERY_S = 1.0
GATE_OPENS_AFTER_S = 1.0  # for the suspects of all batches to come to it
ASK_MODELS_EVERY_S = 300.0
ASK_UNHEARD_EVERY_S = 10.0

log = structlog.get_logger()


class Engine:
    """Runs batches: recovers them at the start, supervises them, and answers what they are at.

    `start` before use; `stop` leaves everything resumable. Both are safe twice.
    """

    def __init__(
        self,
        *,
        tenants: TenantStore,
        store: EngineStore,
        blobs: Blobs,
        runtime: Runtime,
        router: Router,
        settings: EngineSettings,
    ) -> None:
        self.router = router
        self.settings = settings
        self.runtime = runtime
        self.blobs = blobs
        self.failed = asyncio.Event()  # set when the disk failed in a way only a restart can cure
        self.failure: BaseException | None = None
        self.readers: dict[str, int] = {}  # blob key → open downloads
        self.gateway = Gateway(runtime)
        self.is_short_of_space = False
        self._tenants = tenants
        self._store = store
        self._supervisors: dict[str, Supervisor] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._gate = Gate()
        self._mute: dict[str, str] = {}  # why a provider did not list its models, when last asked
        self._is_started = False

    # Life

    async def start(self) -> None:
        """Recover every unfinished batch and go on with it."""
        if self._is_started:
            return
        self._is_started = True
        self.gateway.open()
        for lane in self.router.lanes:
            lane.on_bug = self._fail
        await self.ask_models()
        self._check_space()
        batches = await self._store.unfinished_batches()
        self._gate.crowds = await count_crowds(batches, store=self._store, blobs=self.blobs)
        self._gate.process = int.from_bytes(self.runtime.token(8))
        for batch in batches:
            self._supervise(batch)
        # Nobody shall see counts from before their journals are read: counts never go down.
        for supervisor in list(self._supervisors.values()):
            await supervisor.is_known.wait()
        pruner = Pruner(
            store=self._store,
            blobs=self.blobs,
            runtime=self.runtime,
            readers=self.readers,
            every_s=self.settings.prune_every_s,
        )
        await pruner.sweep()
        self._own(pruner.run())
        self._own(self._open_gate())
        self._own(self._watch_space())
        self._own(self._watch_models())

    async def stop(self) -> None:
        """Send nothing more, keep what comes back within the grace, leave all resumable."""
        if not self._is_started:
            return
        self._is_started = False
        for supervisor in self._supervisors.values():
            supervisor.leave()  # also if the process is killed before this has ended
        self.gateway.close()
        await asyncio.gather(*(lane.drain(self.settings.grace_s) for lane in self.router.lanes))
        running = [task for task in self._tasks if task.get_name() in self._supervisors]
        for supervisor in self._supervisors.values():
            supervisor.stop()
        if running:
            await asyncio.wait(running)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _own(self, work: Any, name: str | None = None) -> None:
        """Every task has an owner; one that fails is the engine's failure."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task)
        supervisor = self._supervisors.get(task.get_name())
        if supervisor is not None and supervisor.batch.is_terminal:
            del self._supervisors[task.get_name()]  # one that stands still is asked for its problem
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.error("engine failed", reason=str(error), exc_info=error)
        self.failure = error
        self.failed.set()

    # Batches

    async def create_batch(
        self,
        tenant: str,
        *,
        endpoint: str,
        input_file_id: str,
        completion_window: str | None,
        metadata: Mapping[str, str] | None = None,
        output_ttl_s: int | None = None,
        options: Mapping[str, Any] | None = None,
        priority: Priority = Priority.NORMAL,
        idempotency: Idempotency | None = None,
    ) -> Batch:
        """Create a batch and begin with it; durable when it returns.

        `completion_window` None has no deadline.
        """
        now = self.runtime.now()
        window = completion_window
        made = Batch(
            id=new_id(self.runtime, "batch_"),
            tenant=tenant,
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=window or "none",
            created_at=now,
            expires_at=None if window is None else now + window_s(window),
            metadata=metadata,
            output_ttl_s=output_ttl_s,
            options=options or {},
            priority=priority,
        )
        batch = await self._tenants.create_batch(tenant, made, idempotency)
        if batch.id == made.id:
            self._supervise(batch)
        return batch

    async def cancel_batch(self, tenant: str, batch_id: str) -> Batch:
        """Raises `NotFound`, or `Conflict` in a terminal state but `cancelled`."""
        return await (await self._acting_supervisor(tenant, batch_id)).cancel()

    async def pause_batch(self, tenant: str, batch_id: str) -> Batch:
        """Send nothing more of a batch until it is resumed. Pausing twice is pausing once.

        Raises `NotFound`, or `Conflict` where nothing is sent any more.
        """
        return await (await self._acting_supervisor(tenant, batch_id)).pause()

    async def resume_batch(self, tenant: str, batch_id: str) -> Batch:
        """Go on with a batch, paused or not. Raises as `pause_batch`."""
        return await (await self._acting_supervisor(tenant, batch_id)).resume()

    async def set_priority(self, tenant: str, batch_id: str, priority: Priority) -> Batch:
        """Give a batch another share from now on. Raises as `pause_batch`."""
        return await (await self._acting_supervisor(tenant, batch_id)).set_priority(priority)

    async def _acting_supervisor(self, tenant: str, batch_id: str) -> Supervisor:
        """One that takes or refuses what is asked of a batch in any state."""
        await self._tenants.get_batch(tenant, batch_id)
        supervisor = self._supervisors.get(batch_id)
        if supervisor is None:  # it has ended, perhaps while its row was being read
            supervisor = self._supervisor(await self._tenants.get_batch(tenant, batch_id))
        return supervisor

    def supervisor(self, batch_id: str) -> Supervisor | None:
        """The supervisor of a batch that is not terminal; None for any other."""
        return self._supervisors.get(batch_id)

    async def get_batch(self, tenant: str, batch_id: str) -> Batch:
        """A batch as it is: with the live counts of a running one. Raises `NotFound`."""
        supervisor = self._supervisors.get(batch_id)  # before the read: it may end meanwhile
        batch = await self._tenants.get_batch(tenant, batch_id)
        return batch if supervisor is None else supervisor.progress(batch)

    def with_progress(self, batch: Batch) -> Batch:
        """`batch` with what its journal has made durable by now."""
        supervisor = self._supervisors.get(batch.id)
        return batch if supervisor is None else supervisor.progress(batch)

    async def results(
        self, tenant: str, batch_id: str, *, cursor: str | None, limit: int
    ) -> ResultsPage:
        """Durable results of a batch, running or ended, after an opaque cursor.

        Those of a result file that was deleted, or has expired, are gone with it.
        """
        batch = await self._tenants.get_batch(tenant, batch_id)
        kinds, extents = await self._kept_results(batch)
        async with self.reading(extents):
            segments = await self.segments(batch.id) if kinds else []
            return await results_page(segments, self.blobs, cursor=cursor, limit=limit, kinds=kinds)

    async def _kept_results(self, batch: Batch) -> tuple[int, list[Extent]]:
        """The kinds of result lines that are not deleted, and where those of an ended batch lie."""
        kinds, extents = OUTPUT | ERROR, list[Extent]()
        for kind, file_id in ((OUTPUT, batch.output_file_id), (ERROR, batch.error_file_id)):
            if file_id is None:
                continue
            found = await self._store.engine_file(batch.tenant, file_id, now=self.runtime.now())
            if found is None:
                kinds &= ~kind
            else:
                extents += found[1]
        return kinds, extents

    async def segments(self, batch_id: str) -> list[Segment]:
        """The segments of a batch with the lengths that are durable now."""
        supervisor = self._supervisors.get(batch_id)
        if supervisor is not None and supervisor.segments is not None:
            return supervisor.segments
        kept = await self._store.segments(batch_id)
        return [segment for segment in kept if segment.lengths is not None]

    async def read_file(self, extents: Sequence[Extent]) -> AsyncIterator[bytes]:
        """The bytes of a file, in order. Raises `Damaged` before a result that is not what was
        written."""
        for extent in extents:
            segment = await self._segment_of(extent.key)
            pieces = (
                self.blobs.read(extent.key, extent.offset, extent.length)
                if segment is None
                else read_result_extent(extent, segment, self.blobs)
            )
            async for piece in pieces:
                yield piece

    async def _segment_of(self, key: str) -> Segment | None:
        """The segment whose results a published blob holds; None for an uploaded one."""
        place = SegmentKeys.place_of(key)
        if place is None:
            return None
        batch_id, epoch = place
        kept = await self._store.segments(batch_id)
        return next(segment for segment in kept if segment.epoch == epoch)

    async def wait(self, batch_id: str) -> None:
        """Until a batch is terminal or stands still."""
        for task in list(self._tasks):
            if task.get_name() == batch_id:
                await asyncio.wait([task])

    def _supervise(self, batch: Batch) -> None:
        supervisor = self._supervisors[batch.id] = self._supervisor(batch)
        self._own(supervisor.run(), batch.id)

    def _supervisor(self, batch: Batch) -> Supervisor:
        return Supervisor(
            batch,
            store=self._store,
            blobs=self.blobs,
            runtime=self.runtime,
            router=self.router,
            settings=self.settings,
            gate=self._gate,
            rivals=self._rivals,
        )

    def _rivals(self, of: Supervisor) -> list[Rival]:
        """The other batches of its tenant that want a lane of the one that runs."""
        lanes = [] if of.current is None else of.current.lanes
        found = []
        for other in self._supervisors.values():
            run, batch = other.current, other.batch
            if run is None or other is of or batch.tenant != of.batch.tenant:
                continue
            if run.left and batch.paused_at is None and any(lane in lanes for lane in run.lanes):
                found.append(Rival(run.left, run.rate_per_s()))
        return found

    # Files

    def new_file(
        self,
        tenant: str,
        *,
        purpose: str,
        filename: str,
        size_bytes: int,
        sha256: str | None,
        ttl_s: int | None = None,
    ) -> File:
        """A File value with its id and times; files for batches expire after 30 days."""
        now = self.runtime.now()
        if ttl_s is None and purpose == "batch":
            ttl_s = FILE_TTL_S
        return File(
            id=new_id(self.runtime, "file-"),
            tenant=tenant,
            purpose=purpose,
            filename=filename,
            size_bytes=size_bytes,
            created_at=now,
            expires_at=None if ttl_s is None else now + ttl_s,
            sha256=sha256,
        )

    @asynccontextmanager
    async def reading(self, extents: Sequence[Extent]) -> AsyncIterator[None]:
        """Keep the bytes of a file while it is downloaded, even if it is deleted meanwhile."""
        held = [key for extent in extents for key in _keys_read(extent)]
        for key in held:
            self.readers[key] = self.readers.get(key, 0) + 1
        try:
            yield
        finally:
            for key in held:
                self.readers[key] -= 1
                if not self.readers[key]:
                    del self.readers[key]

    def check_room(self) -> None:
        """Raises `NoSpace` below the reserve: nothing more is taken in."""
        if self.is_short_of_space:
            raise NoSpace("The disk is nearly full; nothing more is accepted until there is room.")

    # Watching

    async def ask_models(self) -> None:
        """Ask the accounts whose models the configuration does not name what they serve."""
        await asyncio.gather(*map(self._ask, self.router.accounts_to_ask()))

    async def _ask(self, account: Account) -> None:
        name = account.provider.name
        try:
            models = await account.provider.list_models()
        except TransportError as error:
            reason = str(error)
            if self._mute.get(name) != reason:  # told once, not every ten seconds
                self._mute[name] = reason
                log.warning("provider did not list its models", provider=name, reason=reason)
        else:
            self._mute.pop(name, None)
            self.router.learn(name, models)

    async def _watch_models(self) -> None:
        while True:
            is_heard = not self.router.unheard
            await self.runtime.sleep(ASK_MODELS_EVERY_S if is_heard else ASK_UNHEARD_EVERY_S)
            await self.ask_models()

    async def _open_gate(self) -> None:
        await self.runtime.sleep(GATE_OPENS_AFTER_S)
        self._gate.is_open = True
        self._gate.let_pass()

    async def _watch_space(self) -> None:
        while True:
            await self.runtime.sleep(SPACE_CHECK_EVERY_S)
            self._check_space()

    def _check_space(self) -> None:
        for lane in self.router.lanes:
            lane.forget_sizes()
        try:
            is_short = self.blobs.free_bytes() < self._reserve_bytes()
        except StorageError:
            is_short = True
        if is_short != self.is_short_of_space:
            log.warning("disk nearly full, sending stops" if is_short else "disk has room again")
        self.is_short_of_space = is_short
        for lane in self.router.lanes:
            hold(lane, is_short)

    def _reserve_bytes(self) -> int:
        """Room for every answer that is under way: an answer that is paid for can be stored."""
        answers = [lane.room_bytes for lane in self.router.lanes]
        return max(self.settings.reserve_bytes, *answers, 0)


def _keys_read(extent: Extent) -> list[str]:
    """The blobs that `Engine.read_file` reads for an extent."""
    place = SegmentKeys.place_of(extent.key)
    return [extent.key] if place is None else [extent.key, SegmentKeys.of(*place).account]


def hold(lane: Lane, is_held: bool) -> None:
    """Stop or resume batch work on a lane."""
    was_held, lane.is_held = lane.is_held, is_held
    if was_held and not is_held:
        lane.wake()
