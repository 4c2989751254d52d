"""How far a run is, several times a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from batchwright.domain.batch import Status
from batchwright.engine.dispatch import BatchRun
from batchwright.engine.engine import Engine
from batchwright.engine.supervisor import Supervisor

RATE_WINDOW_S = 10.0

Phase = Literal["preparing", "validating", "running", "stopping", "writing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a run stands at one moment."""

    phase: Phase
    total: int = 0
    completed: int = 0
    failed: int = 0
    in_flight: int = 0
    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    left_s: float | None = None  # None while nothing tells
    holds_back: str | None = None  # what keeps it from going faster, in words

    @property
    def done(self) -> int:
        return self.completed + self.failed


Observer = Callable[[Snapshot], None]


class Gauge:
    """Reads where the engine is with a run, and tells the observer."""

    def __init__(self, engine: Engine, observer: Observer) -> None:
        self._engine = engine
        self._observer = observer
        self._supervisor: Supervisor | None = None
        self._run: BatchRun | None = None  # the last one; its tally outlives it
        self._settled_before: int | None = None  # when this process began with it
        self._meter = Meter()

    @property
    def settled(self) -> int:
        """Requests with a durable result."""
        return 0 if self._run is None else self._run.tally.settled

    def watch(self, supervisor: Supervisor) -> None:
        """Show where this batch is."""
        if supervisor is not self._supervisor:
            self._supervisor, self._run, self._settled_before = supervisor, None, None
            self._meter = Meter()
        self.show("validating" if supervisor.batch.status is Status.VALIDATING else "running")

    def show(self, phase: Phase) -> None:
        """Tell the observer where the run is now."""
        if self._supervisor is not None and self._supervisor.current is not None:
            self._run = self._supervisor.current
        self._observer(Snapshot(phase=phase) if self._run is None else self._read(self._run, phase))

    def stalled(self) -> str | None:
        """Why nothing at all is answered: every lane in use refuses or is down, and nothing has
        come back since this process began."""
        run = self._run
        if run is None or not run.lanes or run.tally.settled != self._settled_before:
            return None
        reasons = [lane.tripped for lane in run.lanes]
        return next(iter(reasons)) if all(reasons) else None

    def _read(self, run: BatchRun, phase: Phase) -> Snapshot:
        tally = run.tally
        if self._settled_before is None:
            self._settled_before = tally.settled
        self._meter.note(
            monotonic(),
            settled=run.ran,
            calls=tally.attempts,
            tokens=tally.usage.total_tokens,
        )
        settled_per_s, calls_per_s, tokens_per_s = self._meter.rates()
        return Snapshot(
            phase=phase,
            total=run.total,
            completed=tally.completed,
            failed=tally.failed,
            in_flight=sum(lane.in_flight for lane in run.lanes),
            calls_per_s=calls_per_s,
            tokens_per_s=tokens_per_s,
            left_s=run.left / settled_per_s if settled_per_s else None,
            holds_back=self._holds_back(run),
        )

    def _holds_back(self, run: BatchRun) -> str | None:
        if self._supervisor is not None and self._supervisor.problem is not None:
            return self._supervisor.problem
        if self._engine.is_short_of_space:
            return "the disk is nearly full: nothing is sent until there is room"
        return next((reason for lane in run.lanes if (reason := lane.holds_back())), None)


class Meter:
    """Rates over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int, int]] = deque()

    def note(self, now: float, *, settled: int, calls: int, tokens: int) -> None:
        """The totals at the monotonic time `now`."""
        self._samples.append((now, settled, calls, tokens))
        while now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()

    def rates(self) -> tuple[float, float, float]:
        """(settled, calls, tokens) per second."""
        (first_at, *first), (last_at, *last) = self._samples[0], self._samples[-1]
        elapsed = last_at - first_at
        if elapsed <= 0:
            return 0.0, 0.0, 0.0
        settled, calls, tokens = (
            (late - early) / elapsed for early, late in zip(first, last, strict=True)
        )
        return settled, calls, tokens
