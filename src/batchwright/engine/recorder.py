"""The recorder: writes what became of a request into the journal, as a result line with its record.

`token` is handed back once the line is durable (see `Journal`).
"""

from __future__ import annotations

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
from batchwright.engine.account import MAYBE_PAID
from batchwright.engine.journal import Journal
from batchwright.engine.pending import Pending
from batchwright.engine.routing import Route
from batchwright.providers.base import Answer

Outcome = Answer | TransportError | BadAnswer
"""What came of an attempt: any HTTP answer, none at all, or a 2xx that is no answer."""

_NO_TOKENS = (0, 0, 0, 0)


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
            _ours(route, pending.tries, cost_nano if rates is not None else None),
        )
        self._journal.add_result(
            request.line,
            is_output=True,
            text=text,
            lane=route.lane.tag,
            code=answer.status,
            flags=MAYBE_PAID if pending.is_maybe_paid else 0,
            attempts=pending.tries,
            tokens=(
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
            ),
            cost_nano=cost_nano,
            charge_nano=cost_nano,
            token=slot_token,
        )

    def failure(self, pending: Pending, outcome: Outcome, slot_token: Any) -> None:
        """The line of a request that was tried and ends without success."""
        request = pending.request
        head = line_head(self._prefix, request.line)
        ours = _ours(pending.route, pending.tries, None)
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
        self._add_error(
            request.line,
            text,
            code=code,
            lane=pending.route.lane.tag,
            tries=pending.tries,
            is_maybe_paid=pending.is_maybe_paid,
            token=slot_token,
        )

    def not_sent(
        self, request: Request, code: Code, message: str, *, is_maybe_paid: bool = False
    ) -> None:
        """The line of a request that ends without being sent, by this process at least."""
        text = self.render_not_sent(request.line, request.custom_id, code, message)
        self.rendered(request.line, text, code, is_maybe_paid=is_maybe_paid)

    def render_not_sent(self, line: int, custom_id: str, code: Code, message: str) -> bytes:
        """Only the text of such a line: for rendering many off the event loop."""
        head = line_head(self._prefix, line)
        return failure_line(head, custom_id, code, message, _ours(None, 0, None))

    def rendered(self, line: int, text: bytes, code: Code, *, is_maybe_paid: bool = False) -> None:
        """A line that `render_not_sent` made."""
        self._add_error(
            line, text, code=code, lane=0, tries=0, is_maybe_paid=is_maybe_paid, token=None
        )

    def lost_attempt(self, pending: Pending, code: int, slot_token: Any) -> None:
        """An attempt whose answer was lost and may have been paid for."""
        self._journal.add_attempt(
            pending.request.line,
            lane=pending.route.lane.tag,
            code=code,
            flags=MAYBE_PAID,
            attempts=pending.tries,
            token=slot_token,
        )

    def _add_error(
        self,
        line: int,
        text: bytes,
        *,
        code: int,
        lane: int,
        tries: int,
        is_maybe_paid: bool,
        token: Any,
    ) -> None:
        self._journal.add_result(
            line,
            is_output=False,
            text=text,
            lane=lane,
            code=code,
            flags=MAYBE_PAID if is_maybe_paid else 0,
            attempts=tries,
            tokens=_NO_TOKENS,
            cost_nano=0,
            charge_nano=0,
            token=token,
        )

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


def _ours(route: Route | None, tries: int, cost_nano: int | None) -> bytes:
    """The object under `batchwright` on a result line; `cost_usd` null if unknown."""
    if route is None:
        return b'{"route":null,"mode":null,"attempts":0,"cost_usd":null}'
    return b'{"route":%b,"mode":"realtime","attempts":%d,"cost_usd":%b}' % (
        route.name_json,
        tries,
        _dollars(cost_nano),
    )


def _dollars(cost_nano: int | None) -> bytes:
    if not cost_nano:
        return b"null" if cost_nano is None else b"0"
    return msgspec.json.encode(cost_nano / 1e9)
