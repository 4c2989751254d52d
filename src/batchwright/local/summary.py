"""How a run ended: counts, tokens, cost, and its errors grouped by cause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchwright.domain.batch import Savings
from batchwright.domain.usage import Usage

CAUSES_MAX = 100  # kept apart; further ones are counted together
_TEXT_CHARS = 300
_VARYING = re.compile(r"[0-9a-f]{8,}|[0-9]+", re.IGNORECASE)
_OTHERS = "other errors"


@dataclass(frozen=True, slots=True)
class Cause:
    """Errors of one cause, with the first of them as the example."""

    count: int
    number: int  # of the example's row or line, from 1
    text: str  # of the example


class Causes:
    """Errors by cause: those whose texts differ only in numbers and ids are of one."""

    def __init__(self) -> None:
        self.failed = 0  # requests without success
        self.unanswered = 0  # answers that hold none: refused, or ended before the first word
        self._found: dict[str, Cause] = {}

    def add(self, number: int, text: str, *, is_failure: bool) -> None:
        """Count one error of the row or line `number`."""
        self.failed += is_failure
        self.unanswered += not is_failure
        key = _VARYING.sub("#", text[:_TEXT_CHARS])
        if key not in self._found and len(self._found) >= CAUSES_MAX:
            key = _OTHERS
        first = self._found.get(key, Cause(0, number, _shown(text)))
        self._found[key] = Cause(first.count + 1, first.number, first.text)

    def __iter__(self) -> Iterator[Cause]:
        """The most frequent first."""
        return iter(sorted(self._found.values(), key=lambda cause: (-cause.count, cause.number)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The whole run, however often it was stopped and resumed."""

    total: int
    completed: int
    failed: int
    unanswered: int  # part of `completed`: rows whose answer holds no text (a refusal, say)
    usage: Usage
    cost: float | None  # dollars; None where an answer's price is not known
    savings: Savings  # by sending what is asked twice once
    possibly_paid_twice: int
    elapsed_s: float  # of this time
    output: Path
    errors: Path | None  # the file of the failures, where they have one of their own
    state: Path
    unit: str  # what the numbers of `causes` count: `row` or `line`
    causes: tuple[Cause, ...]

    @property
    def is_all_answered(self) -> bool:
        return not self.failed and not self.unanswered

    def to_json(self) -> Mapping[str, Any]:
        """Plain data, for `--json`."""
        return {
            **asdict(self),
            "usage": self.usage.to_wire(),
            "savings": self.savings.to_wire(),
            "output": str(self.output),
            "errors": None if self.errors is None else str(self.errors),
            "state": str(self.state),
            "elapsed_s": round(self.elapsed_s, 3),
        }


def _shown(text: str) -> str:
    """On one line, without control characters, and not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _TEXT_CHARS else f"{line[: _TEXT_CHARS - 1]}…"
