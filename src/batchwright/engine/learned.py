"""What is known of a limit that nobody tells: the state of `learning`, in five parts."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from batchwright.engine.bucket import Bucket, set_rate

SLOT_S = 0.25
WAIT_S_MAX = 3600.0
FEW = 10  # answers that tell something
PROBE_S = 0.1
BURST_S = 0.05
RATE_MIN_PER_S = 1 / 60.0


Mode = Literal["free", "draining", "paced", "silent", "windowed"]
"""What is known of the limit; see the head of `learning`."""


@dataclass(slots=True)
class Answers:
    """What came back of late."""

    slots: deque[list[float]] = field(  # a minute in quarter seconds: [start, accepted, refused]
        default_factory=lambda: deque(maxlen=240)
    )
    slot_ends_at: float = 0.0
    accepted: int = 0  # in all
    round_trip_s: float = 0.0
    refused_at: float = 0.0
    refusal_s: float = 0.0  # how long a refusal takes
    row: int = 0  # refused since a call was let in that was sent after the first of them
    row_at: float = 0.0  # the first of them was sent
    row_sent: int = 0  # calls since that one came back
    row_accepted: int = 0  # of those sent after it, while draining

    def count(self, since: float) -> tuple[float, float, float]:
        """Accepted, refused, and the start of the first slot that counts."""
        accepted = refused = 0.0
        start = since
        for slot in reversed(self.slots):
            if slot[0] < since:
                break
            start, accepted, refused = slot[0], accepted + slot[1], refused + slot[2]
        return accepted, refused, start


@dataclass(slots=True)
class Settling:
    """A rate that settles: the state of `settling`."""

    is_rated: bool = False  # it has been paced before: the rate is known
    refused_rate: float = 0.0  # per second; the limit was about here
    gain: float = 1.0  # of the growth
    calm_at: float = 0.0  # the rate that ends a gain, for it was refused before; 0: none
    gain_at: float = 0.0  # it was last set
    gain_rate: float = 0.0  # the rate then
    quiet_from: int = 0  # the count of accepted at the last refusal
    quiet_at: float = 0.0
    raised_rate: float = 0.0  # let in, on average, while the rate was raised
    raised_at: float = -math.inf  # until then
    short_at: float = 0.0  # somebody last had to wait for the rate
    top_rate: float = 0.0  # of a moment ago


@dataclass(slots=True)
class Probing:
    """Calls that ask whether it has opened: the state of `probing`."""

    silent_at: float = 0.0
    every_s: float = PROBE_S
    batch: int = 0  # of probes, the last one
    left: int = 0  # of it that have not gone yet
    sent_at: float = 0.0  # the last one went
    next_at: float = 0.0  # the next of the batch may go
    open_at: float = 0.0  # none was refused that went since
    opens_at: float = 0.0  # the end of the window; the past where none is known
    owed: float = 0.0  # calls that those in flight at the last refusal may make room for
    in_vain: int = 0  # refused in a row, none let in between
    through: int = 0  # that were not refused in time
    passed: int = 0  # that were let in
    passed_at: float = 0.0  # the first of those went


@dataclass(slots=True)
class Window:
    """An amount in each span of time: the state of `window`."""

    began_at: float  # the last long silence ended
    accepted_before: int = 0  # the count of accepted then
    filled_at: float = 0.0  # the first refusal since the window opened
    filled: int = 0  # let in up to it
    span_s: float = 0.0  # 0: none is known
    amount: int = 0
    used: int = 0  # of the amount, in this window
    speed: float = 0.0  # of the calls in a window, per second
    number: int = 0
    grown: int = 0  # windows in a row that let in all that was tried beyond the amount
    is_sure: bool = False  # when it opens: nothing has told otherwise
    grant: int = 0  # size of the running trial beyond the amount
    grant_left: int = 0
    grant_answers: int = 0
    grant_at: float = 0.0  # answers to calls sent before are none to the trial
    is_vain: bool = False  # it opened by the clock and let nothing in: it tells no amount
    before: Window | None = None  # what was known before it was seen to open
    silent_at: float = 0.0  # the silence then


@dataclass(slots=True)
class Learned:
    """What is known of a limit that nobody tells."""

    window: Window
    opened_at: float  # the limit was seen to accept again
    mode: Mode = "free"
    bucket: Bucket = field(default_factory=lambda: Bucket(1.0, 1.0, 1.0, 0.0))
    answers: Answers = field(default_factory=Answers)
    settling: Settling = field(default_factory=Settling)
    probing: Probing = field(default_factory=Probing)
    accepted_at_opening: int = 0
    cut_at: float = 0.0  # what was sent before tells nothing more
    until: float = 0.0  # draining ends; the next probe may go; a window's speed begins

    @classmethod
    def start(cls, now: float) -> Learned:
        return cls(Window(began_at=now), opened_at=now)

    @property
    def rate_per_s(self) -> float | None:
        """The learned rate; None where nothing limits."""
        if self.mode == "paced":
            return self.bucket.rate_per_s
        if self.mode == "windowed" or (self.mode == "silent" and self.window.span_s):
            return self.window.amount / self.window.span_s
        return None


def pace(learned: Learned, rate: float, now: float) -> None:
    """Send at that rate from now on."""
    rate = max(rate, RATE_MIN_PER_S)
    set_rate(learned.bucket, rate, max(1.0, rate * BURST_S), now)
