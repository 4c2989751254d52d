"""The recorder: writes what became of a request into the journal, as a result line with its record.

`token` is handed back once the line is durable (see `Journal`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from batchwright.domain.answers import BadAnswer, CheckedAnswer, error_body
from batchwright.domain.errors import AnswerTooLarge, TransportError
from batchwright.domain.request import Request
from batchwright.domain.result import (
    Code,
    answer_line,
    failure_line,
    head_prefix,
    line_head,
    result_id,
)
from batchwright.engine.account import COPIED, MAYBE_PAID, OUTPUT, UNPRICED, Record
from batchwright.engine.journal import Journal
from batchwright.engine.pending import Pending
from batchwright.providers.base import Answer

Outcome = Answer | TransportError | BadAnswer
"""What came of an attempt: any HTTP answer, none at all, or a 2xx that is no answer."""


_OURS_NOT_SENT = b'{"route":null,"mode":null,"attempts":0,"cost_usd":null}'


class Recorder:
    """Renders the results of one batch and gathers them in its journal."""

    def __init__(self, journal: Journal, batch_id: str) -> None:
        self._journal = journal
        self._batch_id = batch_id
        self._prefix = head_prefix(batch_id)

    def success(
        self, pending: Pending, answer: Answer, checked: CheckedAnswer, slot_token: Any
    ) -> None:
        """The line of an answered request, with its tokens and cost."""
        request, route, usage = pending.request, pending.route, checked.usage
        rates = route.rates
        cost_nano = rates.cost_nano(usage) if rates is not None else 0
        text = answer_line(
            line_head(self._prefix, request.line),
            request.custom_id,
            answer.status,
            self._request_id(pending, answer),
            checked.body,
            _ours(route.name_json, pending.tries, cost_nano if rates is not None else None),
        )
        flags = MAYBE_PAID if pending.is_maybe_paid else 0
        if rates is None:
            flags |= UNPRICED
        self._journal.add_output(
            text,
            (request.line, route.lane.tag, answer.status, flags, pending.tries),
            (
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
                cost_nano,
                cost_nano,
            ),
            slot_token,
        )

    def failure(self, pending: Pending, outcome: Outcome, slot_token: Any) -> None:
        """The line of a request that was tried and ends without success."""
        request = pending.request
        head = line_head(self._prefix, request.line)
        ours = _ours(pending.route.name_json, pending.tries, None)
        code = code_of(outcome)
        if isinstance(outcome, Answer):
            text = answer_line(
                head,
                request.custom_id,
                outcome.status,
                self._request_id(pending, outcome),
                error_body(outcome.status, outcome.body, outcome.headers.get("location")),
                ours,
            )
        else:
            text = failure_line(head, request.custom_id, Code(code), str(outcome), ours)
        flags = MAYBE_PAID if pending.is_maybe_paid else 0
        attempt = (request.line, pending.route.lane.tag, code, flags, pending.tries)
        self._journal.add_error(text, attempt, slot_token)

    def not_sent(
        self, request: Request, code: Code, message: str, *, is_maybe_paid: bool = False
    ) -> None:
        """The line of a request that ends without being sent, by this process at least."""
        text = self.render_not_sent(request.line, request.custom_id, code, message)
        self.rendered(request.line, text, code, is_maybe_paid=is_maybe_paid)

    def render_not_sent(self, line: int, custom_id: str, code: Code, message: str) -> bytes:
        """Only the text of such a line: for rendering many off the event loop."""
        head = line_head(self._prefix, line)
        return failure_line(head, custom_id, code, message, _OURS_NOT_SENT)

    def rendered(self, line: int, text: bytes, code: Code, *, is_maybe_paid: bool = False) -> None:
        """A line that `render_not_sent` made."""
        self._journal.add_error(text, (line, 0, code, MAYBE_PAID if is_maybe_paid else 0, 0))

    def copied(self, line: int, text: bytes, source: Record) -> None:
        """The line of a request that ends as a copy of the result of `source`.

        Its record keeps when the answer was bought: it grows no younger by being copied.
        """
        attempt = (line, source.lane, source.code, COPIED | source.flags & UNPRICED, 0)
        if source.flags & OUTPUT:
            self._journal.add_output(text, attempt, source[6:12], at=source.at)
        else:
            self._journal.add_error(text, attempt)

    def lost_attempt(self, pending: Pending, code: int, slot_token: Any) -> None:
        """An attempt whose answer was lost and may have been paid for."""
        lane = pending.route.lane.tag
        attempt = (pending.request.line, lane, code, MAYBE_PAID, pending.tries)
        self._journal.add_attempt(attempt, slot_token)

    def _request_id(self, pending: Pending, answer: Answer) -> str:
        """The provider's, or one of ours where it gave none."""
        theirs = answer.headers.get("x-request-id")
        return theirs or result_id(self._batch_id, pending.request.line).replace("batch_", "", 1)


def code_of(outcome: Outcome) -> int:
    """The code of an outcome in account records."""
    match outcome:
        case Answer():
            return outcome.status
        case AnswerTooLarge():
            return Code.RESPONSE_TOO_LARGE
        case BadAnswer():
            return Code.INVALID_RESPONSE
        case _:
            return Code.REQUEST_FAILED


@lru_cache(maxsize=256)  # one cost is much like another
def _ours(route_json: bytes, tries: int, cost_nano: int | None) -> bytes:
    """The object under `batchwright` on a result line; `cost_usd` null if unknown."""
    return b'{"route":%b,"mode":"realtime","attempts":%d,"cost_usd":%b}' % (
        route_json,
        tries,
        _dollars(cost_nano),
    )


def _dollars(cost_nano: int | None) -> bytes:
    if not cost_nano:
        return b"null" if cost_nano is None else b"0"
    return msgspec.json.encode(cost_nano / 1e9)
