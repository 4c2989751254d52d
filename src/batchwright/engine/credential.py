"""What a refused credential (401, 402, 403) tells: of the account, or of that one request.

A provider refuses a call for the key or the money of the account, or for what is in it: a text
that a firewall takes for an attack, a model that this key may not use, an answer longer than the
money left allows. The answers look alike; the other calls tell them apart. Calls have numbers, in
the order of sending, and *accepted* is one that was answered with success.

- A call that was sent later was accepted: the credential held, and it was the request. One that is
  refused several times in that way is at fault itself.
- None was: the credential is in doubt. More such requests in a row than so many accepted calls
  explain, and it is stopped, until a call is accepted that was sent after all of them.
- None will be, as nothing else is left: where they are too few to stop it, they are taken to be at
  fault themselves once this has lasted for `PATIENCE_S`. Not so where the last success is older
  than that: what was refused first, after a rest, may as well be a key that was changed meanwhile.

A key that is revoked with thousands of calls in flight is refused far more often than that, and
calls that were sent before may still be accepted for as long as an answer takes. Plain state: no
I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

PATIENCE_S = 120.0
SHARE = 8  # one request of so many accepted calls may be at fault: a bit more than one in ten
ROW_MIN = 3  # of a few calls too
ROW_MAX = 100  # however many were accepted
CHECKS = 20  # in vain: then it is the credential that is refused


class Refusal(Enum):
    """What a refusal of the credential is to the request that met it."""

    FIRST = auto()
    AGAIN = auto()  # and still nothing tells whether it is at fault
    HELD_AGAINST = auto()


@dataclass(slots=True)
class Credential:
    """What the calls of an account have told so far."""

    accepted: int = 0  # the number of the last one that was accepted
    accepted_at: float = 0.0  # a call last was
    packed: int = 0  # requests that were accepted in calls of many, without the first of each
    doubted: int = 0  # of the last one that was refused, of a request that had not been before
    doubted_at: float = 0.0
    doubtful: int = 0  # such requests since a call was accepted that was sent after all of them
    is_proven: bool = True  # a call was accepted not long before the first of these
    row: int = 0  # refusals, held against no request, since an answer last came
    is_stopped: bool = False  # only checks are sent, one at a time
    void: int = 0  # refusals up to this number were no request's fault
    checked: int = 0  # of these, in vain

    @property
    def is_refused(self) -> bool:
        """Whether checks have shown that it is the credential."""
        return self.checked >= CHECKS

    @property
    def bearable(self) -> int:
        """Requests in a row that may be at fault themselves; none where no success proves it."""
        share = (self.accepted + self.packed) // SHARE
        return min(max(share, ROW_MIN), ROW_MAX) if self.accepted and self.is_proven else 0

    def is_after(self, number: int) -> bool:
        """Whether a call was accepted that was sent after the one with `number`; False for 0."""
        return 0 < number < self.accepted


def note_accepted(state: Credential, number: int, now: float) -> None:
    """A call was accepted. While `doubtful` is 0 it is enough to move `accepted` and its time."""
    state.accepted, state.accepted_at = max(state.accepted, number), now
    state.is_proven = True
    state.row = 0
    if number > state.doubted:
        state.doubtful = 0
        if state.is_refused:
            state.void = state.doubted
    if state.doubtful <= state.bearable:
        state.is_stopped = False
        state.checked = 0


def judge(state: Credential, before: int, times: int, now: float) -> Refusal:
    """What a refusal is to its request. `times` is how often one was held against it, `before` the
    number of its call that was refused then, or at first (0: none was)."""
    if before <= state.void:
        return Refusal.FIRST
    if state.accepted > before or (times and state.doubted <= state.accepted):
        return Refusal.HELD_AGAINST
    if state.is_stopped or state.doubtful > state.bearable:
        return Refusal.AGAIN
    has_lasted = now - state.doubted_at >= PATIENCE_S
    return Refusal.HELD_AGAINST if has_lasted else Refusal.AGAIN


def note_refused(
    state: Credential, refusal: Refusal, number: int, now: float, *, requests: int = 1
) -> None:
    """A call of so many requests was refused, and that is such a refusal to them."""
    if number <= state.accepted or refusal is Refusal.HELD_AGAINST:
        return
    state.row += 1
    if refusal is Refusal.FIRST:
        if not state.doubtful:
            state.is_proven = now - state.accepted_at <= PATIENCE_S
        state.doubted, state.doubted_at = max(state.doubted, number), now
        state.doubtful += requests
    if min(state.row, state.doubtful) > state.bearable:
        state.is_stopped = True
