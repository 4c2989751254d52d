"""Suspects: requests that were in flight when the process died, and what is done with them.

Each is judged as the input is read: it goes with the others, is held back, or ends as lost.
Those held back are sent one at a time, once nothing else is left.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from batchwright.engine.journal import Journal
from batchwright.engine.pending import Pending
from batchwright.engine.recovery import CRASHES_MAX, Recovered

WORKER_LOST = "The process ended three times in a row while this request was in flight."


class Verdict(Enum):
    """What becomes of a request that is about to be sent."""

    FIT = auto()  # it goes with the others
    HELD = auto()  # `next_held` gives it later
    LOST = auto()  # it ends as `worker_lost`


class Suspects:
    """The suspects of one batch in one epoch."""

    def __init__(self, recovered: Recovered) -> None:
        self._found = recovered.suspects
        self._crashes = recovered.tally.crashes
        self._held: deque[Pending] = deque()  # in flight at two crashes: sent one at a time

    def __len__(self) -> int:
        """How many are held back."""
        return len(self._held)

    def note(self, journal: Journal) -> None:
        """Gather in the journal what was in flight at the last crash."""
        for suspect in self._found:
            journal.add_crash(suspect.line, crashes=suspect.crashes, epoch=suspect.epoch)

    def judge(self, pending: Pending) -> Verdict:
        """Whether a request may go with the others; keeps it where it is held back."""
        line = pending.request.line
        crashes = self._crashes.get(line)
        if crashes is None:
            return Verdict.FIT
        pending.is_maybe_paid = True
        if any(suspect.line == line and suspect.is_cause for suspect in self._found):
            return Verdict.LOST
        if crashes.in_a_row >= CRASHES_MAX:
            self._held.append(pending)
            return Verdict.HELD
        return Verdict.FIT

    def next_held(self) -> Pending:
        """The next of those held back. Raises `IndexError` if there is none."""
        return self._held.popleft()
