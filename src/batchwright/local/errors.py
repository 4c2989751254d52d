"""How a run can end early. Each text says what to do next."""

from __future__ import annotations

from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import BatchwrightError, UsageError

_SHOWN = 10


class InvalidInput(UsageError):
    """The requests do not pass validation; nothing was sent. `errors` has the first 1,000."""

    def __init__(self, errors: tuple[BatchError, ...], *, unit: str) -> None:
        super().__init__(
            "\n".join(["the requests are wrong; nothing was sent", *_listed(errors, unit)])
        )
        self.errors = errors


def _listed(errors: tuple[BatchError, ...], unit: str) -> list[str]:
    """Each fault once, with the first line that has it."""
    found: dict[tuple[str, str], list[BatchError]] = {}
    for error in errors:
        found.setdefault((error.code, error.message), []).append(error)
    shown = []
    for same in list(found.values())[:_SHOWN]:
        more = f", and {len(same) - 1:,} more {unit}s" if len(same) > 1 else ""
        shown.append(describe(same[0], unit) + more)
    left = sum(map(len, list(found.values())[_SHOWN:]))
    return [*shown, f"… and {left:,} more"] if left else shown


def describe(error: BatchError, unit: str = "line") -> str:
    """One fault in a line of text."""
    where = "" if error.line is None else f"{unit} {error.line:,}: "
    return f"{where}{error.message} ({error.code})"


class Stopped(BatchwrightError):
    """The run was asked to stop, and can be resumed."""


class Stalled(BatchwrightError):
    """No provider answers, from the very start; the run can be resumed."""
