"""A batch and its eight states (OpenAI reference, "Batch object").

The states are one table, `TRANSITIONS`; every change goes through `advance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import IllegalTransition
from batchwright.domain.order import ORDER, Order
from batchwright.domain.priority import Priority
from batchwright.domain.usage import NO_USAGE, Usage


class Status(StrEnum):
    """The eight states, spelled as on the wire."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[Status, tuple[Status, ...]] = {
    Status.VALIDATING: (Status.IN_PROGRESS, Status.FAILED, Status.EXPIRED, Status.CANCELLING),
    Status.IN_PROGRESS: (Status.FINALIZING, Status.EXPIRED, Status.CANCELLING),
    Status.FINALIZING: (Status.COMPLETED, Status.CANCELLING),
    Status.CANCELLING: (Status.CANCELLED,),
    Status.COMPLETED: (),
    Status.FAILED: (),
    Status.EXPIRED: (),
    Status.CANCELLED: (),
}

TERMINAL = tuple(status for status, following in TRANSITIONS.items() if not following)

SENDING = (Status.VALIDATING, Status.IN_PROGRESS)
"""States in which requests are being sent or will be: only there can a batch be paused."""


@dataclass(frozen=True, slots=True)
class Counts:
    """`request_counts` of the wire: `completed` are successes, `failed` all other settled ones."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """What was not bought, because the answer was there already."""

    requests: int = 0  # whose results are copies
    usage: Usage = NO_USAGE
    cost_nano: int = 0  # billionths of a dollar, as far as it is known
    unpriced: int = 0  # copies of answers of models whose price is not known

    @property
    def cost_usd(self) -> float | None:
        """None where the price of a copied answer is not known."""
        return None if self.unpriced else self.cost_nano / 1e9

    def to_wire(self) -> dict[str, object]:
        """As they stand under the key `batchwright` of a Batch object."""
        return {
            "requests": self.requests,
            "usage": self.usage.to_wire(),
            "cost_usd": self.cost_usd,
        }

    def add(self, other: Savings) -> Savings:
        """The sum of the two."""
        return Savings(
            self.requests + other.requests,
            self.usage.add(other.usage),
            self.cost_nano + other.cost_nano,
            self.unpriced + other.unpriced,
        )


NO_SAVINGS = Savings()


@dataclass(frozen=True, slots=True)
class Closing:
    """What is summed up once, when a batch ends; while it runs the journal knows it."""

    usage: Usage = NO_USAGE
    cost_nano: int = 0  # billionths of a dollar that the providers bill us, as far as it is known
    unpriced: int = 0  # answers of models whose price is not known
    codes: Mapping[str, int] = field(default_factory=dict)  # failed requests by error code
    attempts: int = 0
    possibly_paid_twice: int = 0  # requests
    possibly_paid_twice_lines: tuple[int, ...] = ()  # the first `LISTED_LINES_MAX` of them
    savings: Savings = NO_SAVINGS

    @property
    def cost_usd(self) -> float | None:
        """None where the price of an answer is not known."""
        return None if self.unpriced else self.cost_nano / 1e9


LISTED_LINES_MAX = 10_000
DEDUPE, CACHE = "dedupe", "cache"  # options of a batch
NO_COUNTS = Counts()
NO_CLOSING = Closing()


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of a tenant. Points in time are Unix seconds.

    `epoch` goes up each time the batch gets a new writer; a write under an older one is refused.
    """

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: float
    expires_at: float | None  # None: no deadline (`run`)
    status: Status = Status.VALIDATING
    model: str | None = None
    errors: tuple[BatchError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    counts: Counts = NO_COUNTS
    closing: Closing = NO_CLOSING
    metadata: Mapping[str, str] | None = None
    output_ttl_s: int | None = None  # `output_expires_after.seconds`
    options: Mapping[str, Any] = field(default_factory=dict)  # our extensions, as given
    priority: Priority = Priority.NORMAL
    paused_at: float | None = None  # None: not paused
    epoch: int = 0

    @property
    def is_terminal(self) -> bool:
        return not TRANSITIONS[self.status]

    @property
    def ended_at(self) -> float | None:
        """When it ended with results, or none; None for one that runs, and for a failed one."""
        return self.completed_at or self.expired_at or self.cancelled_at

    @property
    def is_deduped(self) -> bool:
        """Whether requests with the same body are sent once."""
        return bool(self.options.get(DEDUPE))

    @property
    def order(self) -> Order:
        """The order in which its requests go out."""
        return Order(self.options.get(ORDER, Order.INPUT))

    @property
    def may_have_copies(self) -> bool:
        """Whether some of its results may be copies of others."""
        return self.is_deduped or self.cache_max_age_s is not None

    @property
    def cache_max_age_s(self) -> int | None:
        """How old the answers of earlier batches may be; None: it takes none, and gives none."""
        cache = self.options.get(CACHE)
        return None if cache is None else int(cache["max_age_s"])

    @property
    def is_sending(self) -> bool:
        """Whether its requests are being sent or will be, paused or not."""
        return self.status in SENDING


def advance(batch: Batch, to: Status, at: float, **changes: Any) -> Batch:
    """The batch after its change to the state `to` at the time `at`, with `changes` to fields.

    Sets the timestamp that the wire has for the state. A pause ends with the sending.
    Raises `IllegalTransition` where the table does not have the change.
    """
    if to not in TRANSITIONS[batch.status]:
        raise IllegalTransition(f"batch {batch.id} cannot go from {batch.status} to {to}")
    changes[f"{to}_at"] = at
    if to not in SENDING:
        changes["paused_at"] = None
    return replace(batch, status=to, **changes)
