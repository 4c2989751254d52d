"""The limits of one account: what may be sent now, and what is learned from each answer.

Plain functions over explicit state and a given clock (monotonic seconds). Four parts decide, and
the one that asks for the longest wait binds:

- known limits (`meter`): those declared in the configuration, and those told by headers;
- an unknown limit (`learning`): learned from refusals that say nothing;
- a wait that the provider asked for;
- how many calls may be in flight (`concurrency`).

No wait is ever longer than an hour.

What headers tell is a limit of the model that was called (OpenAI, Anthropic, Groq and Cerebras
count each for itself), or of several: models that tell the same amount per minute share a meter,
models that tell different ones have one each, and each has its own per hour or day. A model that
has told nothing yet counts with the others where they all share one, but for those per hour or day.
A wait that comes with a 429 is the model's; one that comes with an error of the server is for all.
Our own caps count the calls of all.

The way of a call: `delay_s`, then `reserve` when it is 0; at the end one of `on_answer` (any status
that is no refusal), `on_rate_limited` (429) and `on_overload` (503, a timeout, no connection);
`observe` with the limits in the headers; `settle` with the tokens used, or `give_back` where it
used none. What was reserved is handed to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from batchwright.domain.limits import DAY_S, HOUR_S, MINUTE_S, Cost, Kind, LimitSeen, Tokens
from batchwright.engine import concurrency as inflight
from batchwright.engine import learning
from batchwright.engine import meter as meters
from batchwright.engine.concurrency import Concurrency
from batchwright.engine.learned import Learned
from batchwright.engine.meter import Meter

__all__ = [
    "Binding",
    "Declared",
    "Limiter",
    "Reservation",
    "binding",
    "concerns",
    "delay_s",
    "give_back",
    "known_wait_s",
    "observe",
    "on_answer",
    "on_lost",
    "on_overload",
    "on_rate_limited",
    "pause",
    "reserve",
    "settle",
    "start",
]

WAIT_S_MAX = 3600.0
SHORT_WAIT_S = 5.0  # a told wait below it is that of a rate, above it that of a window
METERS_MAX = 64
MODELS_MAX = 256  # of a meter
NAMES_MAX = 1_024  # of models whose meters are known without looking
BOUND_FOR_S = 5.0  # how long what last bound is said to bind

What = Literal[
    "wait", "requests", "tokens", "input_tokens", "output_tokens", "cap", "concurrency", "capacity"
]


_NOTHING = Cost()


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """What a call in flight has taken, and what had been sent up to it, this call too."""

    cost: Cost
    at: float
    requests: int
    input_tokens: int
    output_tokens: int
    counted: tuple[tuple[Meter, float], ...] = ()  # by the meters that were known


@dataclass(frozen=True, slots=True)
class Declared:
    """What the configuration allows on an account. None: nothing is said."""

    requests_per_minute: float | None = None
    requests_per_day: float | None = None
    tokens_per_minute: float | None = None
    tokens_per_day: float | None = None
    input_tokens_per_minute: float | None = None
    input_tokens_per_day: float | None = None
    output_tokens_per_minute: float | None = None
    output_tokens_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """What holds an account back now."""

    what: What
    message: str  # for a person, with the figures
    limit: float | None = None  # per span
    span_s: float | None = None
    remaining: float | None = None  # as the provider last said
    wait_s: float | None = None


@dataclass(slots=True)
class Limiter:
    """The state of one account."""

    learned: Learned
    concurrency: Concurrency
    meters: tuple[Meter, ...] = ()
    by_model: dict[str, tuple[Meter, ...]] = field(default_factory=dict)  # found before
    counts_tokens: bool = False  # some limit of them is known
    tells_models_apart: bool = False  # some have limits of their own, or a wait
    paused_until: float = 0.0  # the provider asked to wait: the last of all such waits
    paused: dict[str | None, float] = field(default_factory=dict)  # of a model; None: of them all
    requests: int = 0  # ever sent
    input_tokens: int = 0
    output_tokens: int = 0
    bound_by: Meter | Learned | None = None  # what last made somebody wait
    bound_at: float = 0.0

    @property
    def allowed_in_flight(self) -> int:
        return self.concurrency.allowed


def start(now: float, *, max_concurrency: int, declared: Declared | None = None) -> Limiter:
    """A limiter that knows what is declared and nothing else."""
    limiter = Limiter(Learned.start(now), Concurrency.start(max_concurrency))
    for kind, span_s, amount in _amounts(declared or Declared()):
        if amount is not None:
            _keep(limiter, *limiter.meters, meters.declare(kind, span_s, amount, now))
    return limiter


def _amounts(declared: Declared) -> tuple[tuple[Kind, float, float | None], ...]:
    return (
        ("requests", MINUTE_S, declared.requests_per_minute),
        ("requests", DAY_S, declared.requests_per_day),
        ("tokens", MINUTE_S, declared.tokens_per_minute),
        ("tokens", DAY_S, declared.tokens_per_day),
        ("input_tokens", MINUTE_S, declared.input_tokens_per_minute),
        ("input_tokens", DAY_S, declared.input_tokens_per_day),
        ("output_tokens", MINUTE_S, declared.output_tokens_per_minute),
        ("output_tokens", DAY_S, declared.output_tokens_per_day),
    )


# Taking a job


def delay_s(limiter: Limiter, cost: Cost, now: float) -> float:
    """Seconds until a call of that cost may go; 0 if it may now, never more than an hour.

    How many may be in flight is not asked here: compare with `allowed_in_flight`.
    """
    is_free = limiter.learned.mode == "free"
    if is_free and not limiter.meters and now >= limiter.paused_until:
        return 0.0
    wait = _paused_s(limiter, cost.model, now)
    bound: Meter | Learned | None = None
    if not is_free:
        learned_wait = learning.delay_s(limiter.learned, now)
        if learned_wait > max(wait, 0.0):
            wait, bound = learned_wait, limiter.learned
    for meter in _meters_of(limiter, cost.model):
        meter_wait = meters.delay_s(meter, amount_of(meter.kind, cost), now)
        if meter_wait > max(wait, 0.0):
            meter_wait = min(meter_wait, meters.believed_s(meter, now))
            if meter_wait == 0:
                _forget(limiter, meter)
            if meter_wait > max(wait, 0.0):
                wait, bound = meter_wait, meter
    if wait <= 0:
        return 0.0
    limiter.bound_by, limiter.bound_at = bound, now
    return min(wait, WAIT_S_MAX)


def reserve(limiter: Limiter, cost: Cost, now: float, in_flight: int) -> Reservation:
    """Take what the call is expected to use; `in_flight` counts this call too."""
    limiter.requests += 1
    limiter.input_tokens += cost.input_tokens
    limiter.output_tokens += cost.output_tokens
    counted: tuple[tuple[Meter, float], ...] = ()
    if limiter.meters:
        known = _meters_of(limiter, cost.model)
        counted = tuple([(m, meters.use(m, amount_of(m.kind, cost), now)) for m in known])
    if limiter.learned.mode != "free":
        learning.note_sent(limiter.learned, now)
    inflight.note_sent(limiter.concurrency, now, in_flight)
    return Reservation(
        cost, now, limiter.requests, limiter.input_tokens, limiter.output_tokens, counted
    )


def amount_of(kind: Kind, cost: Tokens) -> int:
    """What a limit of that kind counts for a request."""
    if kind == "requests":
        return 1
    if kind == "tokens":
        return cost.input_tokens + cost.output_tokens
    return cost.input_tokens if kind == "input_tokens" else cost.output_tokens


# At the end of a call


def on_answer(limiter: Limiter, reserved: Reservation, now: float) -> None:
    """A call was answered, with any status but a refusal or an overload."""
    if limiter.meters:
        for meter in _meters_of(limiter, reserved.cost.model):
            if reserved.cost.model in meter.models:
                meter.answered_at = now
    learning.note_accepted(limiter.learned, reserved.at, now)
    inflight.note_answer(limiter.concurrency, reserved.at, now)


def settle(limiter: Limiter, reserved: Reservation, used: Tokens, now: float) -> None:
    """Put the tokens really used in the place of the estimate.

    Nothing is corrected where the answer reports none, or where the headers show that the provider
    keeps its reservation.
    """
    if limiter.meters and used.input_tokens > 0 and used.output_tokens >= 0:
        _correct(limiter, reserved, used, now)


def give_back(limiter: Limiter, reserved: Reservation, now: float) -> None:
    """The call used no tokens; it still was a request."""
    if limiter.meters:
        _correct(limiter, reserved, _NOTHING, now)


def _correct(limiter: Limiter, reserved: Reservation, used: Tokens, now: float) -> None:
    expected = reserved.cost
    for meter in _meters_of(limiter, expected.model):
        if meter.kind != "requests":
            meters.settle(meter, amount_of(meter.kind, expected), amount_of(meter.kind, used), now)


def observe(
    limiter: Limiter, reserved: Reservation, seen: tuple[LimitSeen, ...], now: float
) -> None:
    """Learn from the limits in the headers of an answer, also of a refusal."""
    for limit in seen:
        meter = _told(limiter, reserved.cost.model, limit, now)
        if meter is not None:
            sent = _sent_until(meter, reserved)
            meters.see(
                meter,
                limit,
                sent=sent + meter.corrected,
                unseen=meter.sent - sent,
                sent_at=reserved.at,
                now=now,
            )


def on_rate_limited(
    limiter: Limiter, reserved: Reservation, now: float, told_s: float | None
) -> None:
    """A call was answered 429; `told_s` is what `retry-after` asks for, None where it is silent.

    So it was no request either; its tokens are for `give_back`.
    """
    known = _meters_of(limiter, reserved.cost.model)
    for meter in known:
        meters.refuse(meter)
        # What is left of a day its own headers have just told.
        if meter.kind == "requests" and not (meter.is_allowance and meter.told_at == now):
            meters.settle(meter, 1, 0, now)
    inflight.note_lost(limiter.concurrency, reserved.at)
    if told_s is None or not told_s > 0:
        is_paced = any(not meter.is_allowance for meter in known)
        learning.note_refused(limiter.learned, reserved.at, now, is_explained=is_paced)
        return
    _pause(limiter, reserved.cost.model, told_s, now)
    if told_s < SHORT_WAIT_S:
        learning.note_refused(limiter.learned, reserved.at, now, is_explained=True)


def on_lost(limiter: Limiter, reserved: Reservation) -> None:
    """A call ended without telling anything: a refused key, or given up."""
    inflight.note_lost(limiter.concurrency, reserved.at)


def pause(limiter: Limiter, told_s: float, now: float) -> None:
    """The provider asked to wait, with an answer that tells nothing else."""
    _pause(limiter, None, told_s, now)


def known_wait_s(limiter: Limiter, cost: Cost, now: float) -> float:
    """Seconds until a call of that cost may go that nothing can shorten: left of a wait that the
    provider asked for, or of an hour or a day that is used up. 0 without.

    Tokens count as used up only where the provider said so: an estimate may be put right soon.
    """
    wait = _paused_s(limiter, cost.model, now)
    for meter in _meters_of(limiter, cost.model):
        is_used_up = meter.kind == "requests" or meter.remaining == 0
        if meter.is_allowance and is_used_up:
            meter_wait = meters.delay_s(meter, amount_of(meter.kind, cost), now)
            wait = max(wait, min(meter_wait, meters.believed_s(meter, now)))
    return max(wait, 0.0)


def _pause(limiter: Limiter, model: str | None, told_s: float, now: float) -> None:
    if len(limiter.paused) >= NAMES_MAX:
        limiter.paused.clear()
    until = now + min(told_s, WAIT_S_MAX)
    limiter.paused[model] = max(limiter.paused.get(model, 0.0), until)
    limiter.paused_until = max(limiter.paused_until, until)
    _tell_apart(limiter)


def _paused_s(limiter: Limiter, model: str, now: float) -> float:
    paused = limiter.paused
    if not paused:
        return 0.0
    if now >= limiter.paused_until:
        paused.clear()
        _tell_apart(limiter)
        return 0.0
    return max(paused.get(model, 0.0), paused.get(None, 0.0)) - now


def on_overload(
    limiter: Limiter, reserved: Reservation, now: float, told_s: float | None = None
) -> None:
    """The upstream could not take the call: 503, 529, a timeout, no connection."""
    inflight.note_signal(limiter.concurrency, reserved.at, now)
    if told_s is not None and told_s > 0:
        _pause(limiter, None, told_s, now)


def _sent(kind: Kind, until: Limiter | Reservation) -> int:
    if kind == "requests":
        return until.requests
    if kind == "tokens":
        return until.input_tokens + until.output_tokens
    return until.input_tokens if kind == "input_tokens" else until.output_tokens


def _sent_until(meter: Meter, reserved: Reservation) -> float:
    """What had been sent of what a meter counts, up to a call that it may not have counted."""
    for counted, sent in reserved.counted:
        if counted is meter:
            return sent
    return _sent(meter.kind, reserved) if reserved.at <= meter.began_at else meter.sent


# Which meters count the calls of a model


def _meters_of(limiter: Limiter, model: str) -> tuple[Meter, ...]:
    found = limiter.by_model.get(model)
    if found is None:
        if len(limiter.by_model) >= NAMES_MAX:
            limiter.by_model.clear()
        counting = [meter for meter in limiter.meters if _counts(limiter, meter, model)]
        found = limiter.by_model[model] = tuple(counting)
    return found


def _counts(limiter: Limiter, meter: Meter, model: str) -> bool:
    if meter.is_own or model in meter.models:
        return True
    # A day that another model has used up says nothing of this one: its first answer will.
    return not meter.is_allowance and len(_alike(limiter, meter)) == 1


def concerns(limiter: Limiter, bound: Meter | Learned, model: str) -> bool:
    """Whether what bound a call binds those of `model`, too."""
    if isinstance(bound, Learned):
        return True
    return any(meter is bound for meter in _meters_of(limiter, model))


def _alike(limiter: Limiter, limit: Meter | LimitSeen) -> list[Meter]:
    """The told limits of that kind and span: one, or those of several models."""
    what = limit.kind, limit.span_s
    return [each for each in limiter.meters if not each.is_own and (each.kind, each.span_s) == what]


def _told(limiter: Limiter, model: str, seen: LimitSeen, now: float) -> Meter | None:
    """The meter of a limit that an answer to a model told; made at its first sight."""
    alike = _alike(limiter, seen)
    own = next((meter for meter in alike if model in meter.models), None)
    if seen.limit is None or seen.limit < 1:
        return own or (alike[0] if len(alike) == 1 and not alike[0].is_allowance else None)
    if own is not None and own.limit == seen.limit:
        return own
    if own is not None and seen.limit > 1.05 * (own.limit or seen.limit):
        learning.forget(limiter.learned, now)  # the limit has grown: it says so
    shared = (each for each in alike if each.limit == seen.limit and not each.is_allowance)
    same = next(shared, None)
    if same is None and own is not None and len(own.models) == 1:
        return own  # its amount changes
    if own is not None:
        _leave(limiter, own, model)
    meter = same or _new_meter(limiter, seen, now)
    _join(limiter, meter, model)
    return meter


def _new_meter(limiter: Limiter, seen: LimitSeen, now: float) -> Meter:
    # The same header with another span: it was taken for one per minute until its reset told.
    for meter in limiter.meters:
        is_of_header = not meter.is_own and (meter.kind, meter.header) == (seen.kind, seen.header)
        if is_of_header and meter.span_s != seen.span_s:
            _forget(limiter, meter)
    told = [meter for meter in limiter.meters if not meter.is_own]
    if len(told) >= METERS_MAX - 8:  # as many caps of our own there may be
        _forget(limiter, min(told, key=lambda meter: meter.told_at))
    sent = _sent(seen.kind, limiter)
    meter = Meter(seen.kind, seen.span_s, header=seen.header, began_at=now, sent=sent)
    _keep(limiter, *limiter.meters, meter)
    return meter


def _join(limiter: Limiter, meter: Meter, model: str) -> None:
    if len(meter.models) >= MODELS_MAX:
        del meter.models[next(iter(meter.models))]
    meter.models[model] = None
    limiter.by_model.clear()


def _leave(limiter: Limiter, meter: Meter, model: str) -> None:
    del meter.models[model]
    limiter.by_model.clear()
    if not meter.models:
        _forget(limiter, meter)


def _forget(limiter: Limiter, gone: Meter) -> None:
    _keep(limiter, *[meter for meter in limiter.meters if meter is not gone])


def _keep(limiter: Limiter, *kept: Meter) -> None:
    limiter.meters = kept
    limiter.by_model.clear()
    limiter.counts_tokens = any(meter.kind != "requests" for meter in kept)
    _tell_apart(limiter)


def _tell_apart(limiter: Limiter) -> None:
    told = [meter for meter in limiter.meters if not meter.is_own]
    has_own = len(told) > len(dict.fromkeys((meter.kind, meter.span_s) for meter in told))
    has_own = has_own or any(meter.is_allowance for meter in told)
    limiter.tells_models_apart = has_own or any(model is not None for model in limiter.paused)


# What holds it back


def binding(
    limiter: Limiter, now: float, in_flight: int = 0, model: str | None = None
) -> Binding | None:
    """The limit that binds now, with figures; None if nothing does. Limits that do not count the
    calls of `model` are none to it."""
    if limiter.paused_until > now:
        left_s = limiter.paused_until - now if model is None else _paused_s(limiter, model, now)
        if left_s > 0:
            message = f"the provider asked to wait {left_s:,.0f} s more"
            last = max(limiter.paused, key=lambda each: limiter.paused[each])
            if model is None and last:
                message += f" for {last}"
            return Binding("wait", message, wait_s=left_s)
    bound = limiter.bound_by if now - limiter.bound_at <= BOUND_FOR_S else None
    if isinstance(bound, Learned):
        return _of_learned(bound, now)
    if bound is not None and (model is None or _counts(limiter, bound, model)):
        return _of_meter(bound, now, is_one_of_several=len(_alike(limiter, bound)) > 1)
    if in_flight >= limiter.concurrency.allowed:
        return _of_concurrency(limiter.concurrency, in_flight)
    return None


def _of_meter(meter: Meter, now: float, *, is_one_of_several: bool) -> Binding:
    what = meter.kind.replace("_", " ")
    figures = f"{meter.limit or 0:,.0f} {what} per {_span(meter.span_s)}"
    whose = "the configured cap" if meter.is_own else "the provider's limit"
    message = f"{whose} of {figures}"
    if is_one_of_several and meter.models:
        message += f" for {_named(list(meter.models))}"
    if meter.remaining is not None:
        message += f", {meter.remaining:,.0f} left"
    wait = meters.delay_s(meter, 1, now)
    return Binding(
        "cap" if meter.is_own else meter.kind,
        message,
        meter.limit,
        meter.span_s,
        meter.remaining,
        wait,
    )


def _named(models: list[str]) -> str:
    first, *others = models
    return first if not others else f"{first} and {len(others)} more"


def _of_learned(learned: Learned, now: float) -> Binding:
    rate = learned.rate_per_s
    wait = learning.delay_s(learned, now)
    if rate is None:
        message = "the provider refuses calls without saying why; probing"
        return Binding("requests", message, wait_s=wait)
    message = f"the provider refuses more than about {rate * 60:,.0f} requests per minute (learned)"
    return Binding("requests", message, rate * 60, MINUTE_S, wait_s=wait)


def _of_concurrency(state: Concurrency, in_flight: int) -> Binding:
    if state.allowed >= state.ceiling:
        message = f"{in_flight:,} calls in flight, the most that is configured"
        return Binding("concurrency", message, float(state.ceiling))
    reason = "the upstream slows down or refuses beyond that"
    if not state.is_held:
        reason = "and rising"
    message = f"{in_flight:,} calls in flight of {state.allowed:,}; {reason}"
    return Binding("capacity", message, float(state.allowed))


def _span(span_s: float) -> str:
    names = {1.0: "second", MINUTE_S: "minute", HOUR_S: "hour", DAY_S: "day"}
    return names.get(span_s, f"{span_s:g} s")
