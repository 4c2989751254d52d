"""`/v1/batches`: create, look, list, cancel, and of ours results while running, retry, steering."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from batchwright.domain.batch import Batch
from batchwright.domain.errors import NotFound, UsageError
from batchwright.domain.order import ORDER, Order, check_order
from batchwright.domain.priority import Priority
from batchwright.domain.window import window_s
from batchwright.engine.results import RESULTS_PER_PAGE_MAX
from batchwright.server.context import Context, UserContext
from batchwright.server.fields import (
    metadata,
    page_limit,
    required,
    required_text,
    text,
    ttl_s,
    wrong_value,
)
from batchwright.server.files import visible_file
from batchwright.server.options import KEY, batch_options, priority_of
from batchwright.server.progress import live_batch_wire
from batchwright.server.retry import retry_batch
from batchwright.server.settings import ServerSettings
from batchwright.server.wire import list_wire, reply
from batchwright.store.base import Idempotency

BATCHES_PER_PAGE = 20
BATCHES_PER_PAGE_MAX = 100
RESULTS_PER_PAGE = 100
FILE_ID_LENGTH_MAX = 256  # one that is not there is kept with its batch all the same

router = APIRouter(prefix="/v1/batches")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the body of `POST /v1/batches` asks for, checked."""

    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    output_ttl_s: int | None
    priority: Priority
    options: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """What makes two of them the same request."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


@router.post("")
async def create_batch(context: UserContext) -> Response:
    """Create a batch and begin with it; it is durable when the answer goes out."""
    wanted = _wanted(await context.read_object(), context.settings)
    claim = context.idempotency(context.idempotency_key(), wanted.fingerprint)
    batch = await context.claimed_batch(claim)
    if batch is None:
        batch = await _created(context, wanted, claim)
    return reply(live_batch_wire(await _current(context, batch), context.engine))


async def _created(context: Context, wanted: Wanted, claim: Idempotency | None) -> Batch:
    context.engine.check_room()
    await _check_input_file(context, wanted.input_file_id)
    await context.services.open_batches.check(context.tenant)
    batch = await context.engine.create_batch(
        context.tenant,
        endpoint=wanted.endpoint,
        input_file_id=wanted.input_file_id,
        completion_window=wanted.completion_window,
        metadata=wanted.metadata,
        output_ttl_s=wanted.output_ttl_s,
        options=wanted.options,
        priority=wanted.priority,
        idempotency=claim,
    )
    context.services.count_batch(batch)
    return batch


@router.get("")
async def list_batches(
    context: UserContext, after: str | None = None, limit: int | None = None
) -> Response:
    """A page of batches, newest first."""
    page = await context.tenants.list_batches(
        context.tenant,
        after=after,
        limit=page_limit(limit, BATCHES_PER_PAGE, BATCHES_PER_PAGE_MAX),
    )
    batches = [await _current(context, batch) for batch in page.items]
    data = [live_batch_wire(batch, context.engine, is_listed=True) for batch in batches]
    return reply(list_wire(data, page.has_more))


@router.get("/{batch_id}")
async def get_batch(batch_id: str, context: UserContext) -> Response:
    batch = await context.tenants.get_batch(context.tenant, batch_id)
    return reply(live_batch_wire(await _current(context, batch), context.engine))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, context: UserContext) -> Response:
    """Accept a cancel; what is under way gets time to end."""
    batch = await context.engine.cancel_batch(context.tenant, batch_id)
    return reply(live_batch_wire(batch, context.engine))


@router.post("/{batch_id}/pause")
async def pause_batch(batch_id: str, context: UserContext) -> Response:
    """Send nothing more until it is resumed; what is in flight ends and is kept."""
    batch = await context.engine.pause_batch(context.tenant, batch_id)
    return reply(live_batch_wire(batch, context.engine))


@router.post("/{batch_id}/resume")
async def resume_batch(batch_id: str, context: UserContext) -> Response:
    """Go on after a pause."""
    batch = await context.engine.resume_batch(context.tenant, batch_id)
    return reply(live_batch_wire(batch, context.engine))


@router.post("/{batch_id}/priority")
async def set_priority(batch_id: str, context: UserContext) -> Response:
    """Give a batch another share from now on: `{"priority": "high"}`."""
    priority = priority_of(required(await context.read_object(), "priority"), "priority")
    batch = await context.engine.set_priority(context.tenant, batch_id, priority)
    return reply(live_batch_wire(batch, context.engine))


@router.get("/{batch_id}/results")
async def list_results(
    batch_id: str, context: UserContext, after: str | None = None, limit: int | None = None
) -> Response:
    """The result lines that are durable, also while the batch runs. `after` takes the `next` of
    an earlier page, now or later."""
    page = await context.engine.results(
        context.tenant,
        batch_id,
        cursor=after,
        limit=page_limit(limit, RESULTS_PER_PAGE, RESULTS_PER_PAGE_MAX),
    )
    body = b'{"object":"list","data":[%b],"next":%b,"has_more":%b}' % (
        b",".join(line.rstrip(b"\n") for line in page.lines),
        msgspec.json.encode(page.cursor),
        b"true" if page.has_more else b"false",
    )
    return Response(body, media_type="application/json")


@router.post("/{batch_id}/retry")
async def retry(batch_id: str, context: UserContext) -> Response:
    """A new batch of the requests of an ended one that have no answer."""
    body = await context.read_object()
    window = body.get("completion_window")
    if window is not None:
        window_s(text(window, "completion_window"))
    batch = await retry_batch(
        context,
        batch_id,
        completion_window=window,
        metadata=metadata(body),
        options=batch_options(body),
    )
    return reply(live_batch_wire(await _current(context, batch), context.engine))


async def _current(context: Context, batch: Batch) -> Batch:
    """The batch, read again where it may have ended since: the counts of one that runs are in
    its journal alone, so its row would seem to fall back to none."""
    supervisor = context.engine.supervisor(batch.id)
    if batch.is_terminal or (supervisor is not None and supervisor.current is not None):
        return batch
    return await context.tenants.get_batch(context.tenant, batch.id)


def _wanted(body: Mapping[str, Any], settings: ServerSettings) -> Wanted:
    for name in ("input_file_id", "endpoint", "completion_window"):
        required(body, name)
    window = required_text(body, "completion_window")
    endpoint, options = _endpoint(required_text(body, "endpoint"), settings), batch_options(body)
    wanted = Wanted(
        endpoint=endpoint,
        input_file_id=_file_id(required_text(body, "input_file_id")),
        completion_window=window,
        metadata=metadata(body),
        output_ttl_s=ttl_s(body.get("output_expires_after"), "output_expires_after"),
        priority=options.priority or Priority.NORMAL,
        options=options.kept,
    )
    check_order(options.order or Order.INPUT, endpoint, param=f"{KEY}.{ORDER}")
    window_s(window)
    return wanted


def _file_id(given: str) -> str:
    if len(given) > FILE_ID_LENGTH_MAX:
        raise UsageError(
            f"Invalid 'input_file_id': expected at most {FILE_ID_LENGTH_MAX} characters, but got "
            f"{len(given)}.",
            param="input_file_id",
            code="invalid_value",
        )
    return given


def _endpoint(given: str, settings: ServerSettings) -> str:
    """The endpoint by its full name: Azure's clients leave `/v1` out."""
    for name in (given, f"/v1{given}"):
        if name in settings.batch_endpoints:
            return name
    supported = ", ".join(f"'{name}'" for name in settings.batch_endpoints)
    raise wrong_value("endpoint", given, supported)


async def _check_input_file(context: Context, file_id: str) -> None:
    """Raises for a file of another purpose. One that is not there fails the batch instead."""
    try:
        file = await visible_file(context, file_id)
    except NotFound:
        return
    if file.purpose != "batch":
        raise UsageError(
            f"The file {file_id} has the purpose '{file.purpose}'; the input of a batch needs "
            "'batch'.",
            param="input_file_id",
            code="invalid_value",
        )
