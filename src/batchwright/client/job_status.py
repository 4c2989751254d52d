"""Where a job stands: Batch objects as a server sends them, and several of them as one."""

from __future__ import annotations

from dataclasses import dataclass

from batchwright.client.errors import BatchInvalid, LineError
from batchwright.client.http import Json
from batchwright.domain.errors import UsageError

TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job stands, over all its batches."""

    status: str  # of the batch that is furthest behind: `in_progress`, `completed`, …
    total: int  # requests; 0 until the server has counted them
    completed: int
    failed: int
    batches: tuple[Json, ...]  # the Batch objects as they came

    @property
    def is_done(self) -> bool:
        return all(status_of(batch) in TERMINAL for batch in self.batches)

    def require_valid(self, *, cancelled: tuple[str, ...] = ()) -> None:
        """Raise `BatchInvalid` for the batches whose input was refused.

        `cancelled` are the others of the job that were cancelled for that.
        """
        refused = [batch for batch in self.batches if status_of(batch) == "failed"]
        if refused:
            ids = ",".join(str(batch["id"]) for batch in refused)
            errors = [error for batch in refused for error in line_errors(batch)]
            raise BatchInvalid(ids, errors, cancelled=cancelled)


def split_ids(batch_id: str) -> list[str]:
    """The ids in a string of ids joined by commas, each once."""
    names = [name.strip() for name in batch_id.split(",")]
    ids = list(dict.fromkeys(name for name in names if name))
    if not ids:
        raise UsageError(
            f"batch_id: expected the id of a batch, or several joined by commas, got {batch_id!r}",
            param="batch_id",
        )
    return ids


def status_of(batch: Json) -> str:
    """The status in lower case; empty where the server does not say."""
    return str(batch.get("status") or "").lower()


def counts_of(batch: Json) -> tuple[int, int, int]:
    """total, completed, failed; zeros where the server does not say."""
    counts = batch.get("request_counts") or {}
    total, completed, failed = (int(counts.get(k) or 0) for k in ("total", "completed", "failed"))
    return total, completed, failed


_BEHIND = (
    "validating",
    "in_progress",
    "cancelling",
    "finalizing",
    "failed",
    "expired",
    "cancelled",
)


def job_status(batches: list[Json]) -> JobStatus:
    """One status for the batches of a job, of which there is at least one."""
    states = [status_of(batch) for batch in batches]
    sums = [sum(column) for column in zip(*map(counts_of, batches), strict=True)]
    status = next((state for state in _BEHIND if state in states), states[0])
    return JobStatus(status, sums[0], sums[1], sums[2], tuple(batches))


def line_errors(batch: Json) -> list[LineError]:
    """Why the input of a Batch object was refused, by line."""
    errors = batch.get("errors") or {}
    entries = errors.get("data") or [] if isinstance(errors, dict) else errors
    first_line = (batch.get("metadata") or {}).get("first_line", "1")
    offset = int(first_line) - 1 if str(first_line).isdigit() else 0
    return [
        LineError(
            code=str(entry.get("code") or "invalid"),
            message=str(entry.get("message") or ""),
            line=entry["line"] + offset if isinstance(entry.get("line"), int) else None,
            param=entry.get("param"),
        )
        for entry in entries
    ]
