"""The engine inside this process: a job from its first request to its output.

begin ─► run the batch ─► (retry the failures) ─► write the output
  ▲ where an earlier process stopped, it goes on: the batches in the state tell how far it was
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from batchwright.blobs.base import read_extents
from batchwright.config import Config
from batchwright.domain.batch import DEDUPE, NO_SAVINGS, Batch, Closing, Savings, Status
from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import Damaged, StorageError, UsageError
from batchwright.domain.key import DEFAULT_TENANT
from batchwright.domain.order import ORDER, Order
from batchwright.domain.usage import NO_USAGE, Usage
from batchwright.engine.results import ResultIndex, Stretch
from batchwright.engine.routing import ModelCheck
from batchwright.engine.supervisor import Supervisor
from batchwright.engine.validate import ValidationRules, Validator
from batchwright.local.errors import InvalidInput, Stalled, Stopped
from batchwright.local.job import Job
from batchwright.local.merge import failed_lines, pulled, windows
from batchwright.local.progress import Gauge, Observer
from batchwright.local.requests import Written, write_chosen, write_requests
from batchwright.local.state import FileMark, Manifest, RunState, mark_of
from batchwright.local.summary import Causes, Summary
from batchwright.wiring import Node, open_node

T = TypeVar("T")

OBSERVE_EVERY_S = 0.2
_BATCHES_PER_PAGE = 100

Deliver: TypeAlias = Callable[[Callable[[], Iterator[Stretch]], Causes], T]
"""Takes a function that reads every result in input order, as often as it is called, and notes
the errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """How a run is watched, and told to stop."""

    observer: Observer
    stop: asyncio.Event  # set: send nothing more, keep what comes back, leave all resumable


def settle_state(
    job: Job,
    state: RunState,
    *,
    restart: bool = False,
    force: bool = False,
    retry_failed: bool = False,
) -> Manifest:
    """Decide whether the job goes on, begins anew, or must not.

    A restart is saved only when it can send its first request: until then the earlier run stays.
    Raises `UsageError` where the state is of another run and answers of it may have been paid for,
    and where the output is a file that no run of ours has written, or that was changed since.
    """
    found = _earlier(state, restart=restart)
    if found is None or restart:
        return _anew(job, state, found, force=force)
    differences = job.identity.differences(found.identity)
    if not differences:
        return _as_asked(found, job, force=force, retry_failed=retry_failed)
    if found.is_sent:
        raise UsageError(_refusal(job, differences))
    return _anew(job, state, found, force=force)


def _earlier(state: RunState, *, restart: bool) -> Manifest | None:
    try:
        return state.load()
    except StorageError:  # damaged, or of another version
        if restart:
            return None
        raise


def _anew(job: Job, state: RunState, earlier: Manifest | None, *, force: bool) -> Manifest:
    # What a manifest that cannot be read says of the output is not known: the folder beside it is
    # ours, and so was the output.
    is_ours = force or (earlier is None and state.is_begun)
    outputs = _replaceable(job, {} if earlier is None else earlier.outputs, force=is_ours)
    manifest = Manifest(job.identity, prefix=job.prefix, outputs=outputs)
    if state.is_begun and (earlier is None or earlier.is_sent):
        return replace(manifest, engine=state.new_engine())
    state.save(manifest)
    return manifest


def _as_asked(found: Manifest, job: Job, *, force: bool, retry_failed: bool) -> Manifest:
    """The manifest; not finished where its output is gone or would look different."""
    is_there = job.paths[0].exists() and found.prefix == job.prefix
    manifest = replace(found, prefix=job.prefix, is_finished=found.is_finished and is_there)
    if manifest.is_finished and not (retry_failed and found.has_failures):
        return manifest  # nothing is written
    return replace(manifest, outputs=_replaceable(job, found.outputs, force=force))


def _refusal(job: Job, differences: list[str]) -> str:
    return (
        f"{job.paths[0]} belongs to another run, of which answers may have been paid for. "
        f"{' '.join(differences)} Name another output with -o, or begin anew with --restart."
    )


def _replaceable(job: Job, known: Mapping[str, FileMark], *, force: bool) -> Mapping[str, FileMark]:
    """The files in the place of the output. Raises `UsageError` for one that is not ours."""
    found = {path.name: mark_of(path) for path in job.paths if path.exists()}
    for path in job.paths:
        if force or path.name not in found or found[path.name] == known.get(path.name):
            continue
        why = "was changed after it was written" if path.name in known else "exists already"
        raise UsageError(
            f"{path} {why} and is not from a run of this input: name another output "
            "with -o, or overwrite it with --force"
        )
    return found


def config_for_run(config: Config, data_dir: Path, *, concurrency: int | None = None) -> Config:
    """The configuration of the engine of a run: its own folder, and no limit on size or time."""
    providers = config.providers
    if concurrency is not None:
        if concurrency < 1:
            raise UsageError(f"concurrency: expected 1 or more, got {concurrency}")
        providers = {
            name: replace(provider, max_concurrency=concurrency)
            for name, provider in providers.items()
        }
    limits = replace(
        config.limits,
        requests_per_batch=None,
        embedding_inputs_per_batch=None,
        one_model_per_file=False,
        result_days=None,
    )
    return replace(config, data_dir=data_dir, limits=limits, providers=providers)


async def run_job(
    job: Job,
    state: RunState,
    manifest: Manifest,
    deliver: Deliver[T],
    *,
    config: Config,
    controls: Controls,
    retry_failed: bool = False,
    order: Order = Order.INPUT,
) -> tuple[Summary, T]:
    """Do the job, or what is left of it, and hand its results to `deliver`, in a thread.

    `manifest` is that of `settle_state`, `config` that of `config_for_run`. `order` is that of
    what is left to be sent. Returns the summary and what `deliver` returned.
    Raises `InvalidInput` with nothing sent, `Stopped` and `Stalled` where it can be resumed, and
    `StorageError` where the state or the disk does not allow to go on.
    """
    if not manifest.is_sent:
        state.clear_engine(manifest)  # what a process left that ended before it sent anything
    if state.is_saved(manifest):
        state.clear_other_engines(manifest)  # of a restart that ended half way
    try:
        async with open_node(config) as node:
            run = LocalRun(node, job, state, manifest, controls, order)
            try:
                await run.finish_batches(retry_failed=retry_failed)
                return await run.deliver(deliver)
            finally:
                await run.stop()
    except InvalidInput:
        if state.is_saved(manifest) and not any(path.exists() for path in job.paths):
            state.remove()  # nothing was paid, and there is no output to be known as ours
        raise
    finally:
        if not state.is_saved(manifest):
            state.clear_engine(manifest)  # a restart that was not begun: the run before it stays


class LocalRun:
    """One job over one node. Made by `run_job`."""

    def __init__(
        self,
        node: Node,
        job: Job,
        state: RunState,
        manifest: Manifest,
        controls: Controls,
        order: Order,
    ) -> None:
        self._node = node
        self._engine = node.engine
        self._job = job
        self._state = state
        self._manifest = manifest
        self._controls = controls
        self._order = order
        self._started_at = monotonic()
        self._batches: list[Batch] = []  # the first one, then one for each retry
        self._gauge = Gauge(node.engine, controls.observer)
        self._offload = node.blobs.offload  # to a thread

    async def finish_batches(self, *, retry_failed: bool) -> None:
        """Take the job to where every request has its result."""
        self._gauge.show("preparing")
        self._batches = await self._find_batches()
        self._require_first_batch()
        await self._require_models()
        await self._reorder()
        await self._engine.start()
        if not self._batches:
            await self._begin()
        is_retrying = len(self._batches) > 1 and not self._batches[-1].is_terminal
        await self._until_settled()
        if retry_failed and not is_retrying:
            await self._retry()

    async def deliver(self, deliver: Deliver[T]) -> tuple[Summary, T]:
        """Hand the results over, in input order, and finish."""
        self._gauge.show("writing")
        index = await self._build_index()
        causes = Causes()
        read = partial(self._read, index, asyncio.get_running_loop())
        delivered = await _to_the_end(asyncio.to_thread(deliver, read, causes))
        summary = self._summary(causes)
        if not self._manifest.is_finished:
            outputs = await self._offload(self._marks)
            finished = replace(self._manifest, is_finished=True, outputs=outputs)
            await self._save(replace(finished, summary=summary.to_json()))
        return summary, delivered

    def _marks(self) -> Mapping[str, FileMark]:
        return {path.name: mark_of(path) for path in self._job.paths if path.exists()}

    async def stop(self) -> None:
        """Stop the engine gracefully, showing how far that is. Safe twice."""
        stopping = asyncio.ensure_future(self._engine.stop())
        await _wait_a_little(stopping)
        while not stopping.done():
            self._gauge.show("stopping")
            await _wait_a_little(stopping)
        await stopping

    # Batches

    async def _find_batches(self) -> list[Batch]:
        found: list[Batch] = []
        has_more = True
        while has_more:
            page = await self._node.store.list_batches(
                DEFAULT_TENANT, after=found[-1].id if found else None, limit=_BATCHES_PER_PAGE
            )
            found += page.items
            has_more = page.has_more
        # A retry that was refused has sent nothing and has no results.
        return [
            batch
            for place, batch in enumerate(reversed(found))
            if place == 0 or batch.status is not Status.FAILED
        ]

    def _require_first_batch(self) -> None:
        """What is lost is told, and not bought again in silence."""
        if self._manifest.batch_id not in (None, *(batch.id for batch in self._batches)):
            folder = self._state.data_dir(self._manifest)
            raise Damaged(
                f"{folder} does not have the answers of this run any more: "
                "restore it, or begin anew with --restart"
            )

    async def _require_models(self) -> None:
        """What is left must not fail because its provider does not answer just now."""
        models = [batch.model for batch in self._batches if batch.model and not batch.is_terminal]
        if models:
            await self._engine.ask_models()
        for model in models:
            if (problem := self._engine.router.explain(model)) is not None:
                raise Stalled(f"{problem} Nothing was sent; the same command goes on from here.")

    async def _reorder(self) -> None:
        """What is left goes out in the order that is asked for now: each start finds it anew."""
        for place, batch in enumerate(self._batches):
            if not batch.is_terminal and batch.order is not self._order:
                ordered = replace(batch, options={**batch.options, ORDER: self._order.value})
                await self._node.store.save_batch(ordered, was=batch)
                self._batches[place] = ordered

    def _require_served(self) -> None:
        """A model that all requests share is looked up once, before they are written."""
        model, unit = self._job.model, self._job.unit
        problem = None if model is None else self._engine.router.explain(model)
        if problem is not None:
            message = f"{problem} Every {unit} asks for it"
            raise InvalidInput((BatchError("model_not_found", message, "body.model"),), unit=unit)

    async def _begin(self) -> None:
        self._require_served()
        written = await write_requests(self._node, self._job.request_lines())
        if not await self._offload(partial(self._state.is_saved, self._manifest)):
            await self._require_valid(written)
        if self._controls.stop.is_set():
            raise Stopped("Stopped. Nothing was sent.")
        await self._save(replace(self._manifest, is_sent=True, lines=written.lines))
        batch = await self._add_batch(written)
        await self._save(replace(self._manifest, batch_id=batch.id))
        await self._offload(partial(self._state.clear_other_engines, self._manifest))

    async def _require_valid(self, written: Written) -> None:
        """Before an earlier run is given up: what the batch would be refused for."""
        validator = Validator(
            ValidationRules(
                self._job.url,
                requests_max=None,
                embedding_inputs_max=None,
                line_bytes_max=self._engine.settings.line_bytes_max,
            ),
            ModelCheck(self._engine.router),
        )
        extents = await self._node.store.get_extents(DEFAULT_TENANT, written.file.id)
        async for chunk in read_extents(self._node.blobs, extents):
            await self._offload(partial(validator.feed, chunk))
        report = await self._offload(validator.finish)
        if report.errors:
            raise InvalidInput(report.errors, unit=self._job.unit)

    async def _add_batch(self, written: Written) -> Batch:
        batch = await self._engine.create_batch(
            DEFAULT_TENANT,
            endpoint=self._job.url,
            input_file_id=written.file.id,
            completion_window=None,
            options=self._options(),
        )
        self._batches.append(batch)
        return batch

    def _options(self) -> Mapping[str, Any]:
        options: dict[str, Any] = {DEDUPE: True} if self._job.identity.dedupe else {}
        if self._order is not Order.INPUT:
            options[ORDER] = self._order.value
        return options

    async def _retry(self) -> None:
        """Run the failed requests again, as a further batch."""
        failed = await failed_lines(await self._build_index())
        if not any(failed):
            return
        first = self._batches[0].input_file_id
        written = await write_chosen(self._node, first, lambda number: bool(failed[number]))
        await self._save(replace(self._manifest, is_finished=False))
        await self._add_batch(written)
        await self._until_settled()

    async def _save(self, manifest: Manifest) -> None:
        self._manifest = manifest
        await self._offload(partial(self._state.save, manifest))

    # Running

    async def _until_settled(self) -> None:
        """Until the last batch has ended. Raises what keeps it from ending."""
        batch_id = self._batches[-1].id
        supervisor = self._engine.supervisor(batch_id)
        if supervisor is not None:
            await self._watch(batch_id, supervisor)
        batch = self._batches[-1] = await self._engine.get_batch(DEFAULT_TENANT, batch_id)
        if batch.status is Status.FAILED:
            await self._refuse(batch)
        if not batch.is_terminal:
            problem = None if supervisor is None else supervisor.problem
            raise StorageError(problem or f"batch {batch_id} stands still")

    async def _watch(self, batch_id: str, supervisor: Supervisor) -> None:
        ended = asyncio.ensure_future(self._engine.wait(batch_id))
        stopped = asyncio.ensure_future(self._controls.stop.wait())
        failed = asyncio.ensure_future(self._engine.failed.wait())
        try:
            while not ended.done():
                self._gauge.watch(supervisor)
                await _wait_a_little(ended, stopped, failed)
                if failed.done():
                    raise StorageError(f"the engine stopped: {self._engine.failure}")
                if stopped.done() and not ended.done():
                    await self._stop_early(batch_id)
                if reason := self._gauge.stalled():
                    raise Stalled(f"{reason}. Nothing was answered; run the same command again.")
        finally:
            for waiting in (ended, stopped, failed):
                waiting.cancel()

    async def _stop_early(self, batch_id: str) -> None:
        await self.stop()
        batch = await self._engine.get_batch(DEFAULT_TENANT, batch_id)
        if batch.status is Status.VALIDATING and len(self._batches) == 1:
            await self._save(replace(self._manifest, is_sent=False, batch_id=None))
            raise Stopped("Stopped. Nothing was sent.")
        done, total = self._gauge.settled, batch.counts.total
        raise Stopped(f"Stopped at {done:,} of {total:,}. Nothing that was answered is lost.")

    async def _refuse(self, batch: Batch) -> None:
        """The requests are wrong: nothing was sent, and nothing stands in the way of others."""
        refused = InvalidInput(batch.errors, unit=self._job.unit)
        if len(self._batches) > 1:  # of a retry: the answers that there are stay
            raise UsageError(f"those that failed cannot be run again: {refused}")
        await self._save(replace(self._manifest, is_sent=False, batch_id=None))
        raise refused

    # Results

    async def _build_index(self) -> ResultIndex:
        segments = [
            segment for batch in self._batches for segment in await self._engine.segments(batch.id)
        ]
        return await ResultIndex.build(segments, self._node.blobs, self._manifest.lines)

    def _read(self, index: ResultIndex, loop: asyncio.AbstractEventLoop) -> Iterator[Stretch]:
        """Every result in input order, for a thread."""
        count, total = 0, self._batches[0].counts.total
        for stretch in pulled(windows(index, self._node.blobs), loop):
            yield stretch
            count += stretch.lines
        if count != total:
            raise Damaged(f"{self._state.folder} has {count:,} results for {total:,} requests")

    def _summary(self, causes: Causes) -> Summary:
        total = self._batches[0].counts.total
        sums = [batch.closing for batch in self._batches]
        output, *others = self._job.paths
        return Summary(
            total=total,
            completed=total - causes.failed,
            failed=causes.failed,
            unanswered=causes.unanswered,
            usage=reduce(Usage.add, (each.usage for each in sums), NO_USAGE),
            cost=_cost_of(sums),
            savings=reduce(Savings.add, (each.savings for each in sums), NO_SAVINGS),
            possibly_paid_twice=sum(each.possibly_paid_twice for each in sums),
            elapsed_s=monotonic() - self._started_at,
            output=output,
            errors=next((path for path in others if path.exists()), None),
            state=self._state.folder,
            unit=self._job.unit,
            causes=tuple(causes),
        )


def _cost_of(sums: list[Closing]) -> float | None:
    """Dollars; None where the price of an answer is not known."""
    is_known = not any(each.unpriced for each in sums)
    return sum(each.cost_nano for each in sums) / 1e9 if is_known else None


async def _wait_a_little(*waits: asyncio.Future[Any]) -> None:
    """Until one of them is done, or it is time to show how far it is."""
    await asyncio.wait(waits, timeout=OBSERVE_EVERY_S, return_when=asyncio.FIRST_COMPLETED)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; a cancelled caller leaves only when its thread has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise
