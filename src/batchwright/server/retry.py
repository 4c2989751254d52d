"""A new batch of the requests of an ended one that got no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import Conflict, NotFound, UsageError
from batchwright.domain.file import Extent, File
from batchwright.domain.order import ORDER, check_order
from batchwright.domain.segment import Segment
from batchwright.engine.account import ERROR
from batchwright.engine.input import input_lines
from batchwright.engine.line_set import LineSet
from batchwright.engine.recovery import read_records
from batchwright.server.context import Context
from batchwright.server.options import KEY, BatchOptions
from batchwright.server.progress import RETRY_OF


async def retry_batch(
    context: Context,
    batch_id: str,
    *,
    completion_window: str | None,
    metadata: Mapping[str, str] | None,
    options: BatchOptions,
) -> Batch:
    """Create the batch. What is not given is as it was in the one of `batch_id`.

    Raises `NotFound`, `Conflict` while the batch runs, `UsageError` where nothing failed.
    """
    engine, tenant = context.engine, context.tenant
    asked = f"retry {batch_id} {completion_window} {metadata} {options}"
    claim = context.idempotency(context.idempotency_key(), asked)
    earlier = await context.claimed_batch(claim)
    if earlier is not None:
        return earlier
    batch = await context.tenants.get_batch(tenant, batch_id)
    check_order(options.order or batch.order, batch.endpoint, param=f"{KEY}.{ORDER}")
    if not batch.is_terminal:
        raise Conflict(
            f"The batch {batch_id} is {batch.status}; it can be retried when it has ended."
        )
    engine.check_room()
    await context.services.open_batches.check(tenant)
    await context.check_stored()
    file = await _failed_requests(context, batch)
    try:
        made = await engine.create_batch(
            tenant,
            endpoint=batch.endpoint,
            input_file_id=file.id,
            completion_window=completion_window or batch.completion_window,
            metadata=batch.metadata if metadata is None else metadata,
            output_ttl_s=batch.output_ttl_s,
            options={**batch.options, **options.kept, RETRY_OF: batch.id},
            priority=options.priority or batch.priority,
            idempotency=claim,
        )
    except Exception:  # not where the task is cancelled: the batch may have been created
        await context.tenants.delete_file(tenant, file.id)
        raise
    if made.input_file_id != file.id:  # the same request came twice at a time
        await context.tenants.delete_file(tenant, file.id)
    else:
        context.services.count_batch(made)
    return made


async def _failed_requests(context: Context, batch: Batch) -> File:
    """A new input file of the requests that ended in the error file, byte for byte."""
    engine = context.engine
    if batch.status is Status.FAILED:
        raise UsageError(
            f"The input of the batch {batch.id} was refused, so none of its requests ran. Correct "
            "the lines that its `errors` name, upload the file again and create a new batch."
        )
    if batch.counts.failed == 0:
        raise UsageError(
            f"The batch {batch.id} is {batch.status}, and no request of it failed: there is "
            "nothing to retry."
        )
    lines = await _failed_lines(context, await engine.segments(batch.id))
    if len(lines) != batch.counts.failed:
        raise Conflict(f"The results of the batch {batch.id} are no longer kept.")
    extents = await _input_extents(context, batch)
    draft = engine.new_file(
        batch.tenant,
        purpose="batch",
        filename=f"{batch.id}_retry.jsonl",
        size_bytes=0,
        sha256=None,
    )
    blob = f"files/{draft.id}"
    writer = await engine.blobs.open_writer(blob)
    try:
        async with engine.reading(extents):
            async for content in _lines_of(context, extents, lines):
                await writer.write(content + b"\n")
        size_bytes, sha256 = await writer.finish()
    finally:
        await writer.abort()
    file = replace(draft, size_bytes=size_bytes, sha256=sha256)
    try:
        return await context.tenants.create_file(batch.tenant, file, [Extent(blob, 0, size_bytes)])
    except BaseException:
        await engine.blobs.delete(blob)
        raise


async def _failed_lines(context: Context, segments: Sequence[Segment]) -> LineSet:
    failed = LineSet()
    for segment in segments:
        async for record in read_records(segment, context.engine.blobs):
            if record.flags & ERROR:
                failed.add(record.line)
    return failed


async def _input_extents(context: Context, batch: Batch) -> tuple[Extent, ...]:
    try:
        now = context.engine.runtime.now()
        return await context.tenants.get_extents(batch.tenant, batch.input_file_id, now=now)
    except NotFound as error:
        raise Conflict(
            f"The input file {batch.input_file_id} was deleted or has expired; there is nothing "
            "to retry from."
        ) from error


async def _lines_of(
    context: Context, extents: Sequence[Extent], wanted: LineSet
) -> AsyncIterator[bytes]:
    async for lines in input_lines(context.engine.blobs, extents):
        for line in lines:
            if line.number in wanted and line.content is not None:
                yield line.content
