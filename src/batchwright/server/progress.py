"""What the server adds to a Batch object under the key `batchwright`."""

from __future__ import annotations

from typing import Any

from batchwright.domain.batch import Batch
from batchwright.engine.engine import Engine
from batchwright.server.wire import batch_wire, seconds

RETRY_OF = "retry_of"  # an option of a batch: the id of the one whose failures it repeats
LINES_IN_LIST_MAX = 100


def live_batch_wire(batch: Batch, engine: Engine, *, is_listed: bool = False) -> dict[str, Any]:
    """The Batch object of a batch as it is now, with our extension.

    In a list fewer of the lines that are possibly paid twice are named.
    """
    batch = engine.with_progress(batch)
    return batch_wire(batch, _extension(batch, engine, is_listed))


def _extension(batch: Batch, engine: Engine, is_listed: bool) -> dict[str, Any]:
    closing = batch.closing
    lines = closing.possibly_paid_twice_lines
    rate = _rate_per_s(batch, engine)
    return {
        "requests_per_s": None if rate is None else round(rate, 3),
        "expected_finish_at": _expected_finish_at(batch, engine, rate),
        "held_back_by": _held_back_by(batch, engine),
        "problem": _problem(batch, engine),
        "failed_by_code": dict(closing.codes),
        "attempts": closing.attempts,
        "cost_usd": closing.cost_usd,
        "possibly_paid_twice": {
            "requests": closing.possibly_paid_twice,
            "lines": lines[:LINES_IN_LIST_MAX] if is_listed else lines,
        },
        "priority": batch.priority.value,
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
    ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at
    if ended_at is None or batch.in_progress_at is None or ended_at <= batch.in_progress_at:
        return None
    return (batch.counts.completed + batch.counts.failed) / (ended_at - batch.in_progress_at)


def _expected_finish_at(batch: Batch, engine: Engine, rate: float | None) -> int | None:
    if batch.is_terminal or batch.paused_at is not None or not rate:
        return None
    left = batch.counts.total - batch.counts.completed - batch.counts.failed
    return seconds(engine.runtime.now() + left / rate)


def _held_back_by(batch: Batch, engine: Engine) -> str | None:
    """What keeps a running batch from going faster, in words for a person."""
    if batch.paused_at is not None:
        return "it is paused"
    supervisor = engine.supervisor(batch.id)
    if batch.is_terminal or supervisor is None or supervisor.current is None:
        return None
    if engine.is_short_of_space:
        return "the disk is nearly full"
    reasons = (lane.holds_back() for lane in supervisor.current.lanes)
    return next((reason for reason in reasons if reason is not None), None)


def _problem(batch: Batch, engine: Engine) -> str | None:
    """Why a batch stands still, in words for a person."""
    supervisor = engine.supervisor(batch.id)
    return None if supervisor is None else supervisor.problem
