"""What can go wrong on the way to a server, as one tree.

`BatchwrightError`
├── `ServerUnreachable`     no complete answer came back: connection, timeout, broken answer
├── `ApiError`              the server answered with an error
│   ├── `BadRequest`        400, 413, 415, 422 …: the same call cannot succeed
│   ├── `Unauthenticated`   401
│   ├── `Forbidden`         403
│   ├── `ObjectNotFound`    404
│   ├── `StateConflict`     409
│   ├── `RateLimited`       429
│   └── `ServerFailed`      5xx
├── `BatchInvalid`          a batch failed validation; it names the lines
└── `RequestsFailed`        some direct requests failed and `on_error="raise"` was asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from batchwright.domain.errors import BatchwrightError

_CAUSES_SHOWN_MAX = 5
_TOO_MANY = "too_many_errors"  # the entry of a server that counts those that are not listed


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """What stands in the place of an answer that did not come. It is falsy.

    `code` is a short word for programs (`batch_expired`, `rate_limit_exceeded`, `http_500`),
    `message` is for people, `status` is the HTTP status or None where no answer came.
    """

    code: str
    message: str
    status: int | None = None

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        status = f", HTTP {self.status}" if self.status is not None else ""
        return f"{self.message} ({self.code}{status})"


@dataclass(frozen=True, slots=True)
class LineError:
    """Why one line of an input file was refused."""

    code: str
    message: str
    line: int | None = None  # 1-based; None when the whole file is meant
    param: str | None = None  # the field of the line, such as `body.model`

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.message} ({self.code})"


class Fault(Protocol):
    """What is wrong with one line of an input file, or with all of it (`line` is None)."""

    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def line(self) -> int | None: ...


def causes(faults: Sequence[Fault], *, unit: str = "line", shown_max: int) -> list[str]:
    """A text for each cause: its first line, the message, and how many more lines have it.

    At most `shown_max` causes, then the count of the others. `unit` is what a line is called.
    """
    found: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        found.setdefault((fault.code, fault.message), []).append(fault)
    totals = [_in_all(message, len(faults) - 1) for code, message in found if code == _TOO_MANY]
    groups = [same for (code, _), same in found.items() if code != _TOO_MANY]
    shown = [_cause(same, unit) for same in groups[:shown_max]]
    left = sum(map(len, groups[shown_max:]))
    return [*shown, *([f"and {left:,} more of other causes"] if left else []), *totals]


def _in_all(message: str, listed: int) -> str:
    return f"{message.partition('.')[0]}; the first {listed:,} of them are counted here"


def _cause(same: Sequence[Fault], unit: str) -> str:
    first, others = same[0], len(same) - 1
    where = f"{unit} {first.line:,}: " if first.line is not None else ""
    more = f", and {others:,} more {unit}{'' if others == 1 else 's'}" if others else ""
    return f"{where}{first.message} ({first.code}){more}"


class ServerUnreachable(BatchwrightError):
    """No complete answer came back; the call may or may not have had its effect."""


class ApiError(BatchwrightError):
    """The server answered with an error.

    `status` is the HTTP status; `code`, `kind` (the wire's `type`) and `param` are those of
    the error body or None; `request_id` is the server's name for the call, for its logs;
    `retry_after_s` is how long it asked us to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        kind: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.kind = kind
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadRequest(ApiError):
    """The server refused the call itself; repeating it cannot help."""


class Unauthenticated(ApiError):
    """The key is missing or wrong."""


class Forbidden(ApiError):
    """The key is known, but may not do this."""


class ObjectNotFound(ApiError):
    """No such file, batch, model or path."""


class StateConflict(ApiError):
    """The object is in a state in which this cannot be done, such as cancelling what is done."""


class RateLimited(ApiError):
    """Too many calls, or a quota is used up."""


class ServerFailed(ApiError):
    """The server failed; the same call may succeed later."""


class BatchInvalid(BatchwrightError):
    """A batch failed validation: nothing of it ran and nothing was charged.

    `errors` has an entry per refused line, in line order.
    Where one job was split into several batches the lines count through the whole job. The other
    batches may have run: `cancelled` has the ids of those that were cancelled for this, and
    `results`, where results were asked for, every result of the others.
    """

    def __init__(
        self, batch_id: str, errors: Sequence[LineError], *, cancelled: Sequence[str] = ()
    ) -> None:
        shown = "; ".join(causes(errors, shown_max=_CAUSES_SHOWN_MAX))
        text = f"Batch {batch_id} failed validation: {shown or 'no reason given'}"
        if cancelled:
            text += f". The rest of its input was cancelled: {', '.join(cancelled)}"
        super().__init__(text)
        self.batch_id = batch_id
        self.errors = tuple(errors)
        self.cancelled = tuple(cancelled)
        self.results: list[Any] = []


class RequestsFailed(BatchwrightError):
    """Some requests failed.

    `answers` is the whole list, in the order of the items, with a `RequestFailure` in the
    place of each answer that did not come: nothing that was paid for is thrown away.
    """

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.failures = {
            index: answer
            for index, answer in enumerate(answers)
            if isinstance(answer, RequestFailure)
        }
        index, first = next(iter(self.failures.items()))
        super().__init__(
            f"{len(self.failures):,} of {len(answers):,} requests failed; "
            f"the first is item {index}: {first}"
        )
