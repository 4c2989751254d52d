"""What the server adds to a Batch object under the key `batchwright`."""

from __future__ import annotations

from math import ceil

from batchwright.domain.batch import CACHE, Batch
from batchwright.domain.result import NOT_RUN
from batchwright.engine.engine import Engine
from batchwright.engine.holdup import Holdup, find, outlook
from batchwright.server.wire import Wire, batch_wire, seconds

RETRY_OF = "retry_of"  # an option of a batch: the id of the one whose failures it repeats
LINES_IN_LIST_MAX = 100


def live_batch_wire(batch: Batch, engine: Engine, *, is_listed: bool = False) -> Wire:
    """The Batch object of a batch as it is now, with our extension.

    In a list fewer of the lines that are possibly paid twice are named.
    """
    batch = engine.with_progress(batch)
    return batch_wire(batch, _extension(batch, engine, is_listed))


def _extension(batch: Batch, engine: Engine, is_listed: bool) -> Wire:
    closing = batch.closing
    lines = closing.possibly_paid_twice_lines
    rate = _rate_per_s(batch, engine)
    holdup = _holdup(batch, engine)
    return {
        "requests_per_s": None if rate is None else round(rate, 3),
        **_finish(batch, engine, holdup),
        "held_back_by": None if holdup is None else holdup.message,
        "limit": _limit(holdup),
        "problem": _problem(batch, engine),
        "failed_by_code": dict(closing.codes),
        "attempts": closing.attempts,
        "cost_usd": closing.cost_usd,
        "possibly_paid_twice": {
            "requests": closing.possibly_paid_twice,
            "lines": lines[:LINES_IN_LIST_MAX] if is_listed else lines,
        },
        "dedupe": batch.is_deduped,
        "cache": batch.options.get(CACHE),
        "savings": closing.savings.to_wire(),
        "priority": batch.priority.value,
        "order": batch.order.value,
        "paused_at": seconds(batch.paused_at),
        RETRY_OF: batch.options.get(RETRY_OF),
    }


def _rate_per_s(batch: Batch, engine: Engine) -> float | None:
    """Over the last seconds of a running batch, over all of an ended one."""
    if batch.is_terminal:
        return _mean_rate_per_s(batch)
    supervisor = engine.supervisor(batch.id)
    run = supervisor.current if supervisor else None
    return None if run is None else run.rate_per_s()


def _mean_rate_per_s(batch: Batch) -> float | None:
    """Of what was run: copies, and lines for requests that were not, are written much faster."""
    ended_at = batch.ended_at
    if ended_at is None or batch.in_progress_at is None or ended_at <= batch.in_progress_at:
        return None
    settled = batch.counts.completed + batch.counts.failed
    not_run = sum(batch.closing.codes.get(code.wire, 0) for code in NOT_RUN)
    copies = batch.closing.savings.requests
    return (settled - copies - not_run) / (ended_at - batch.in_progress_at)


def _finish(batch: Batch, engine: Engine, holdup: Holdup | None) -> Wire:
    """When it will have ended, and between which times it probably does. Whole Unix seconds."""
    supervisor = engine.supervisor(batch.id)
    run = supervisor.current if supervisor else None
    runtime = engine.runtime
    found = outlook(batch, run, holdup, runtime.monotonic()) if run else None
    if found is None:
        return {"expected_finish_at": None, "expected_finish_between": None}
    now = runtime.now()
    return {
        "expected_finish_at": ceil(now + found.expected_s),
        "expected_finish_between": [ceil(now + found.early_s), ceil(now + found.late_s)],
    }


def _holdup(batch: Batch, engine: Engine) -> Holdup | None:
    return find(
        batch,
        engine.supervisor(batch.id),
        unheard=engine.router.unheard,
        is_short_of_space=engine.is_short_of_space,
    )


def _limit(holdup: Holdup | None) -> Wire | None:
    """What holds it back as figures; `held_back_by` has the words."""
    if holdup is None:
        return None
    return {
        "what": holdup.what,
        "provider": holdup.provider,
        "unit": holdup.unit,
        "limit": holdup.limit,
        "span_s": holdup.span_s,
        "remaining": holdup.remaining,
        "wait_s": None if holdup.wait_s is None else round(holdup.wait_s, 3),
        "in_flight": holdup.in_flight,
        "within": holdup.within,
        "share": None if holdup.share is None else round(holdup.share, 4),
        "shared_with": holdup.shared_with,
    }


def _problem(batch: Batch, engine: Engine) -> str | None:
    """Why a batch stands still, in words for a person."""
    supervisor = engine.supervisor(batch.id)
    return None if supervisor is None else supervisor.problem
