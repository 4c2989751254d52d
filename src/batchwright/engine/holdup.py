"""What holds a batch back now: the one thing, with its figures; and when the batch so will end.

Asked from the outside inwards: the batch itself (paused), the machine (disk), what is read before
the first request goes out, then its lanes (a stopped one before one at its limit). A lane at its
limit that others want as well is shared: then it is their turn, too, that a batch waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from batchwright.domain.batch import Batch, Status
from batchwright.domain.limits import MINUTE_S, Kind
from batchwright.engine.dispatch import BatchRun
from batchwright.engine.fair_queue import Flow
from batchwright.engine.forecast import Ceiling, Forecast, forecast
from batchwright.engine.lane import Job, Lane, Stop
from batchwright.engine.limiter import What as Bound
from batchwright.engine.supervisor import Supervisor

What = Literal[Bound, Stop, "fairness", "paused", "disk", "preparing", "models"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdup:
    """What holds a batch back. Figures are None where they mean nothing."""

    what: What
    message: str  # for a person, with the figures that matter
    provider: str | None = None
    unit: Kind | Literal["calls"] | None = None  # what `limit` and `remaining` count
    limit: float | None = None  # per span; of calls in flight without one
    span_s: float | None = None
    remaining: float | None = None  # as the provider last said
    wait_s: float | None = None  # until something is sent again, or tried
    in_flight: int | None = None  # calls of the whole lane
    within: Bound | None = None  # with fairness: what bounds the lane that is shared
    share: float | None = None  # with fairness: what the batch has of the lane, 0 to 1
    shared_with: int | None = None  # with fairness: other batches that have something to send

    @property
    def stands_still(self) -> bool:
        """Whether nothing is sent until something changes, nobody knows when."""
        return self.what in ("paused", "disk", "models", "credential", "outage")


def find(
    batch: Batch,
    supervisor: Supervisor | None,
    *,
    unheard: Sequence[str],
    is_short_of_space: bool,
) -> Holdup | None:
    """What holds `batch` back; None where nothing does, or nothing is being sent.

    `unheard` are the providers that have not said yet what they serve.
    """
    if batch.is_terminal or supervisor is None:
        return None
    if batch.paused_at is not None:
        return Holdup(what="paused", message="it is paused")
    if supervisor.problem is not None and not supervisor.has_stopped:
        return Holdup(what="disk", message=supervisor.problem)
    run = supervisor.current
    if run is None:
        return None
    if is_short_of_space:
        return Holdup(what="disk", message="the disk is nearly full")
    if (preparing := run.preparation.message) is not None:
        return Holdup(what="preparing", message=preparing)
    return _of_lanes(run) or _of_models(run, unheard)


def _of_lanes(run: BatchRun) -> Holdup | None:
    found = [holdup for lane in run.lanes if (holdup := _of_lane(lane, run)) is not None]
    stopped = (holdup for holdup in found if holdup.stands_still)
    return next(stopped, found[0] if found else None)


def _of_lane(lane: Lane, run: BatchRun) -> Holdup | None:
    flow = run.flow_on(lane)
    stop, message = lane.tripped_by, lane.holds_back(flow)
    if message is None:
        return None
    if stop is not None:
        return Holdup(what=stop, message=message, provider=lane.name, wait_s=lane.probe_in_s)
    binding = lane.binding(flow)
    if binding is None:
        return None
    holdup = Holdup(
        what=binding.what,
        message=message,
        provider=lane.name,
        unit=_unit(lane, binding.what),
        limit=binding.limit,
        span_s=binding.span_s,
        remaining=binding.remaining,
        wait_s=binding.wait_s,
        in_flight=lane.in_flight,
    )
    return _shared(holdup, binding.what, binding.message, flow, lane.contenders)


def _unit(lane: Lane, what: Bound) -> Kind | Literal["calls"] | None:
    if what == "wait":
        return None
    if what in ("concurrency", "capacity"):
        return "calls"
    return lane.bound_kind or "requests"  # what is learned from refusals counts requests


def _shared(
    holdup: Holdup, what: Bound, said: str, own: Flow[Job], contenders: Sequence[Flow[Job]]
) -> Holdup:
    """The same as a matter of fairness, where others have something to send as well."""
    others = [flow for flow in contenders if flow is not own]
    if not others or what == "wait":
        return holdup
    part = share(own, others)
    batches = "1 other batch" if len(others) == 1 else f"{len(others):,} other batches"
    message = f"shares {holdup.provider} with {batches}, {100 * part:.0f} % of it; {said}"
    return replace(
        holdup,
        what="fairness",
        message=message,
        within=what,
        share=part,
        shared_with=len(others),
    )


def share(own: Flow[Job], others: Sequence[Flow[Job]]) -> float:
    """What a flow gets of its lane: tenants share it alike, flows of a tenant by weight."""
    tenants = dict.fromkeys([own.tenant, *(flow.tenant for flow in others)])
    weights = sum(flow.weight for flow in others if flow.tenant == own.tenant)
    return own.weight / (own.weight + weights) / len(tenants)


def _of_models(run: BatchRun, unheard: Sequence[str]) -> Holdup | None:
    """Nothing is sent, and there are providers of whom it is not known what they serve."""
    if not unheard or any(lane.in_flight or run.flow_on(lane).ready for lane in run.lanes):
        return None
    names = ", ".join(unheard)
    return Holdup(
        what="models",
        message=f"waiting for {names} to say which models it serves",
        provider=names if len(unheard) == 1 else None,
    )


# When it will end


def outlook(batch: Batch, run: BatchRun, holdup: Holdup | None, now: float) -> Forecast | None:
    """When a batch will have ended, at the monotonic time `now`; None where nothing tells."""
    if batch.status is not Status.IN_PROGRESS or (holdup is not None and holdup.stands_still):
        return None
    spans_per_s, span_s = run.spans_per_s(now)
    return forecast(
        run.left,
        spans_per_s,
        span_s,
        share=holdup.share or 1.0 if holdup else 1.0,
        wait_s=_stop_s(holdup) if len(run.lanes) == 1 else 0.0,
        ceiling=_ceiling(run, holdup),
    )


def _stop_s(holdup: Holdup | None) -> float:
    """For how long nothing at all is sent: waits between two calls of a rate are none."""
    if holdup is None or not (holdup.what == "wait" or _is_allowance(holdup)):
        return 0.0
    return holdup.wait_s or 0.0


def _is_allowance(holdup: Holdup) -> bool:
    return holdup.span_s is not None and holdup.span_s > MINUTE_S


def _ceiling(run: BatchRun, holdup: Holdup | None) -> Ceiling | None:
    """What the limit lets through of this batch, if it had it alone.

    With several lanes no one limit bounds the batch.
    """
    if holdup is None or not holdup.limit or not holdup.span_s or len(run.lanes) != 1:
        return None
    each = _used_by_each(run, holdup.unit)
    if not each:
        return None
    return Ceiling(
        holdup.limit / each,
        holdup.span_s,
        stock=(holdup.remaining or 0.0) / each,
        is_allowance=_is_allowance(holdup),
    )


def _used_by_each(run: BatchRun, unit: str | None) -> float:
    """What a request that was run has used of a limit, on average; 0 while it is not known."""
    tally = run.tally
    used = {
        "requests": tally.attempts,
        "tokens": tally.usage.total_tokens,
        "input_tokens": tally.usage.input_tokens,
        "output_tokens": tally.usage.output_tokens,
    }
    return used.get(unit or "", 0) / run.ran if run.ran else 0.0
