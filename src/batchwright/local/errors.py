"""How a run can end early. Each text says what to do next."""

from __future__ import annotations

from batchwright.client.errors import causes
from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import BatchwrightError, UsageError

_CAUSES_SHOWN = 10


class InvalidInput(UsageError):
    """The requests do not pass validation; nothing was sent. `errors` has the first 1,000."""

    def __init__(self, errors: tuple[BatchError, ...], *, unit: str) -> None:
        found = causes(errors, unit=unit, shown_max=_CAUSES_SHOWN)
        if len(found) == 1:
            super().__init__(f"nothing was sent: {found[0]}")
        else:
            super().__init__("\n".join(["the requests are wrong; nothing was sent", *found]))
        self.errors = errors


def describe(error: BatchError, unit: str = "line") -> str:
    """One fault in a line of text."""
    where = "" if error.line is None else f"{unit} {error.line:,}: "
    return f"{where}{error.message} ({error.code})"


class Stopped(BatchwrightError):
    """The run was asked to stop, and can be resumed."""


class Stalled(BatchwrightError):
    """No provider answers, from the very start; the run can be resumed."""


class InputChanged(BatchwrightError):
    """The input is not what it was when the run was planned; what is answered is kept."""
