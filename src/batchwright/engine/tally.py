"""What a journal adds up to: which lines are done, the counters and the sums.

A tally is only ever fed durable records, one by one, by recovery and by group commit alike:
so what is shown, billed and decided has one source.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from batchwright.domain.batch import LISTED_LINES_MAX, Closing, Counts, Savings
from batchwright.domain.result import code_name
from batchwright.domain.usage import Usage
from batchwright.engine.account import COPIED, ERROR, IN_CRASH, MAYBE_PAID, OUTPUT, UNPRICED, Fields
from batchwright.engine.line_set import LineSet
from batchwright.engine.suspects import Suspicion

_PLAIN = frozenset((OUTPUT, OUTPUT | UNPRICED))  # the flags of an answer that came at once


class Tally:
    """Counters over the durable records of one batch."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.copies = 0  # among those
        self.attempts = 0  # calls made, also those that did not become a result
        self.cost_nano = 0
        self.unpriced = 0  # answers that `cost_nano` is without
        self.codes: dict[int, int] = {}
        self.suspicions: dict[int, Suspicion] = {}  # of undone lines
        self.tries: dict[int, int] = {}  # of undone lines: calls that are on record
        self._tokens = [0, 0, 0, 0]
        self._unpriced_copies = 0
        self._saved = [0, 0, 0, 0, 0]  # tokens as above, and cost
        self._done = LineSet()
        self._maybe_paid = LineSet()
        self._first_maybe_paid: list[int] = []  # in their order, `LISTED_LINES_MAX` at most

    def is_done(self, line: int) -> bool:
        return line in self._done

    @property
    def settled(self) -> int:
        return self.completed + self.failed

    def apply(self, record: Fields) -> None:
        """Count a durable record. A second result of a line is a bug and raises."""
        line, _, code, flags, attempts, _, given, cached, made, reasoned = record[:10]
        if flags & COPIED:
            self._apply_copy(record)
            return
        self.cost_nano += record[10]
        if flags & MAYBE_PAID:
            self._note_maybe_paid(line)
        if flags & IN_CRASH:
            self.suspicions[line] = Suspicion.unpacked(record[13:])
        if not flags & (OUTPUT | ERROR):
            self._count_tries(line, attempts)
            return
        if self.tries:
            self._count_tries(line, attempts)
            del self.tries[line]
        else:
            self.attempts += attempts
        self._mark_done((line,))
        if flags & OUTPUT:
            self.completed += 1
            if flags & UNPRICED:
                self.unpriced += 1
            tokens = self._tokens
            tokens[0] += given
            tokens[1] += cached
            tokens[2] += made
            tokens[3] += reasoned
        else:
            self.failed += 1
            self.codes[code] = self.codes.get(code, 0) + 1

    def apply_all(self, records: Sequence[Fields]) -> None:
        """Count durable records in their order. See `apply`."""
        if not records:
            return
        lines, _, _, flags, attempts, _, *sums = zip(*records, strict=True)
        if self.tries or self.suspicions or not _PLAIN.issuperset(flags):
            for record in records:
                self.apply(record)
            return
        # Answers and nothing else, as nearly always: column by column that is a third of the time.
        self._mark_done(lines)
        self.completed += len(records)
        self.attempts += sum(attempts)
        self.unpriced += flags.count(OUTPUT | UNPRICED)
        self._tokens = [
            had + sum(amounts) for had, amounts in zip(self._tokens, sums[:4], strict=True)
        ]
        self.cost_nano += sum(sums[4])

    def _apply_copy(self, record: Fields) -> None:
        line, _, code, flags = record[:4]
        self._mark_done((line,))
        if flags & OUTPUT:
            self.completed += 1
        else:
            self.failed += 1
            self.codes[code] = self.codes.get(code, 0) + 1
        self.copies += 1
        self._unpriced_copies += bool(flags & UNPRICED)
        for which, amount in enumerate(record[6:11]):
            self._saved[which] += amount

    def _count_tries(self, line: int, tries: int) -> None:
        """Each record tells all calls of its line so far; a line not sent again tells none."""
        before = self.tries.get(line, 0)
        self.tries[line] = max(before, tries)
        self.attempts += self.tries[line] - before

    def _note_maybe_paid(self, line: int) -> None:
        if self._maybe_paid.add(line):
            insort(self._first_maybe_paid, line)
            del self._first_maybe_paid[LISTED_LINES_MAX:]

    def _mark_done(self, lines: Sequence[int]) -> None:
        twice = self._done.add_all(lines)
        if twice is not None:
            raise AssertionError(f"line {twice} has two results")
        if self.suspicions:
            for line in lines:
                self.suspicions.pop(line, None)

    def counts(self, total: int) -> Counts:
        return Counts(total, self.completed, self.failed)

    @property
    def usage(self) -> Usage:
        return Usage(*self._tokens)

    @property
    def savings(self) -> Savings:
        *tokens, cost_nano = self._saved
        return Savings(self.copies, Usage(*tokens), cost_nano, self._unpriced_copies)

    @property
    def maybe_paid_twice(self) -> int:
        return len(self._maybe_paid)

    def maybe_paid_lines(self) -> tuple[int, ...]:
        """The first `LISTED_LINES_MAX` lines of which an answer was lost on the way."""
        return tuple(self._first_maybe_paid)

    def closing(self) -> Closing:
        return Closing(
            usage=self.usage,
            cost_nano=self.cost_nano,
            unpriced=self.unpriced,
            codes={code_name(code): count for code, count in sorted(self.codes.items())},
            attempts=self.attempts,
            possibly_paid_twice=self.maybe_paid_twice,
            possibly_paid_twice_lines=self.maybe_paid_lines(),
            savings=self.savings,
        )
