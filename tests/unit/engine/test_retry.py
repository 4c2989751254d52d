from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.answers import BadAnswer
from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent, TransportError
from batchwright.engine.retry import (
    BACKOFF_CAP_S,
    DONE,
    RETRY_AFTER_MAX_S,
    Decision,
    backoff_s,
    decide,
    retry_after_s,
)
from batchwright.providers.base import Answer

NOW_S = 1_700_000_000.0


def after(
    outcome: Answer | TransportError | BadAnswer,
    *,
    attempt: int = 1,
    tries: int = 1,
    roll: float = 0.5,
) -> Decision:
    return decide(
        outcome,
        attempt=attempt,
        max_attempts=5,
        random=lambda: roll,
        now_s=NOW_S,
        tries=tries,
    )


def answer(status: int, error: object = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, b"" if error is None else json.dumps({"error": error}).encode())


# --- the table


@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_success_costs_no_new_decision(status: int) -> None:
    assert after(answer(status)) is DONE


@pytest.mark.parametrize(
    ("outcome", "cause", "retry", "slows_lane", "may_be_paid"),
    [
        (NotSent("refused"), "not_sent", True, True, False),
        (Ambiguous("reset"), "ambiguous", True, True, True),
        (AnswerTooLarge("16 MiB"), "answer_too_large", False, False, True),
        (BadAnswer("html"), "bad_answer", True, False, True),
        (answer(307), "redirected", False, False, False),
        (answer(400), "refused", False, False, False),
        (answer(404), "refused", False, False, False),
        (answer(413), "refused", False, False, False),
        (answer(422), "refused", False, False, False),
        (answer(408), "gateway_timeout", True, True, True),
        (answer(409), "server_error", True, False, False),
        (answer(500), "server_error", True, False, False),
        (answer(501), "refused", False, False, False),
        (answer(502), "gateway_timeout", True, True, True),
        (answer(503), "overloaded", True, True, False),
        (answer(504), "gateway_timeout", True, True, True),
        (answer(520), "overloaded", True, True, False),
        (answer(529), "overloaded", True, True, False),
    ],
)
def test_each_outcome_has_its_row(
    outcome: Answer | TransportError | BadAnswer,
    cause: str,
    retry: bool,
    slows_lane: bool,
    may_be_paid: bool,
) -> None:
    decision = after(outcome)

    rule = decision.rule
    assert (rule.cause, decision.retry) == (cause, retry)
    assert (rule.slows_lane, rule.may_be_paid) == (slows_lane, may_be_paid)
    assert rule.uses_attempt
    assert not rule.stops_credential
    assert decision.stops_lane_s == 0


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Ambiguous("x"), "request_failed"),
        (AnswerTooLarge("x"), "response_too_large"),
        (BadAnswer("x"), "invalid_response"),
    ],
)
def test_a_failure_without_an_http_answer_has_a_code_for_its_line(
    outcome: TransportError | BadAnswer, code: str
) -> None:
    assert after(outcome).rule.error_code == code


@pytest.mark.parametrize("outcome", [NotSent("x"), Ambiguous("x"), BadAnswer("x"), answer(503)])
def test_the_last_attempt_is_not_retried(outcome: Answer | TransportError | BadAnswer) -> None:
    assert after(outcome, attempt=4).retry
    assert not after(outcome, attempt=5).retry


# --- told to wait


def test_a_429_uses_no_attempt_and_slows_the_lane() -> None:
    decision = after(answer(429), attempt=99)

    assert (decision.rule.cause, decision.retry) == ("rate_limited", True)
    assert decision.rule.slows_lane
    assert (decision.uses_attempt, decision.stops_lane_s) == (False, 0)


def test_a_request_that_is_larger_than_the_whole_limit_is_not_tried_again() -> None:
    body = b'{"error":{"message":"Request too large for gpt-x: Limit 10000, Requested 20000."}}'

    assert not after(Answer(429, {}, body)).retry


@pytest.mark.parametrize("outcome", [NotSent("x"), Ambiguous("x"), answer(503)])
def test_while_the_lane_is_down_no_attempt_is_used(outcome: Answer | TransportError) -> None:
    decision = decide(
        outcome, attempt=5, max_attempts=5, random=lambda: 0.5, now_s=0.0, is_down=True
    )

    assert (decision.retry, decision.uses_attempt) == (True, False)


def test_a_429_with_retry_after_uses_no_attempt_and_stops_the_lane() -> None:
    decision = after(answer(429, retry_after="7"), attempt=99)

    assert decision.retry
    assert not decision.rule.uses_attempt
    assert (decision.wait_s, decision.stops_lane_s) == (7, 7)


def test_a_503_with_retry_after_stops_the_lane_but_uses_an_attempt() -> None:
    decision = after(answer(503, retry_after="7"))

    assert decision.rule.uses_attempt
    assert (decision.wait_s, decision.stops_lane_s) == (7, 7)
    assert not after(answer(503, retry_after="7"), attempt=5).retry


def test_the_lane_is_stopped_also_when_the_request_gives_up() -> None:
    assert after(answer(503, retry_after="7"), attempt=5).stops_lane_s == 7


def test_a_refusal_with_retry_after_does_not_stop_the_lane() -> None:
    assert after(answer(400, retry_after="3600")).stops_lane_s == 0


# --- credentials


@pytest.mark.parametrize(
    "outcome",
    [
        answer(402),
        answer(429, {"code": "insufficient_quota", "type": "insufficient_quota"}),
        answer(429, {"code": "credit_balance_exhausted"}, retry_after="1"),
        answer(429, {"code": "organization_spend_limit_exceeded"}),
        answer(403, {"code": "project_usage_limit_exceeded"}),
        answer(400, {"type": "billing_error"}),
        answer(429, {"type": "enforced_spend_limit_reached"}),
    ],
)
def test_no_money_stops_the_credential_and_uses_no_attempt(outcome: Answer) -> None:
    decision = after(outcome, attempt=5)

    assert decision.rule.cause == "no_money"
    assert decision.rule.stops_credential
    assert decision.retry
    assert not decision.rule.uses_attempt


@pytest.mark.parametrize(
    "outcome",
    [answer(401), answer(401, {"code": "invalid_api_key"}), answer(403)],
)
def test_a_refused_key_stops_the_credential_and_uses_no_attempt(outcome: Answer) -> None:
    decision = after(outcome, attempt=5)

    assert decision.rule.cause == "key_refused"
    assert (decision.retry, decision.rule.stops_credential) == (True, True)


def test_a_refused_credential_is_tried_again_after_waits_that_grow_with_all_tries() -> None:
    waits = [after(answer(403), tries=tries).wait_s for tries in (1, 2, 3, 9)]

    assert waits == [0.5, 1, 2, 30]
    assert after(answer(402, retry_after="90"), tries=1).wait_s == 90


@pytest.mark.parametrize(
    "outcome",
    [
        answer(403, {"code": "model_not_found", "message": "no access"}),
        answer(403, {"code": 403, "metadata": {"flagged_input": "…", "reasons": []}}),
        answer(403, {"type": "content_policy_violation"}),
    ],
)
def test_a_403_about_one_request_does_not_stop_the_others(outcome: Answer) -> None:
    decision = after(outcome)

    assert (decision.retry, decision.rule.stops_credential) == (False, False)


def test_a_word_about_money_in_a_message_alone_stops_nothing() -> None:
    outcome = answer(400, {"message": "insufficient_quota", "code": "invalid_value"})

    assert after(outcome).rule.cause == "refused"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"error":"text"}', b'{"error":{"code":5}}', b"[" * 100_000, b"\xff"],
)
def test_an_error_body_that_cannot_be_read_is_judged_by_its_status(body: bytes) -> None:
    assert after(Answer(429, {}, body)).rule.cause == "rate_limited"


# --- waiting


def test_backoff_doubles_with_full_jitter_up_to_a_minute() -> None:
    longest = [backoff_s(attempt, lambda: 1.0) for attempt in range(1, 9)]

    assert longest == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(3, lambda: 0.0) == 0
    assert after(answer(503), attempt=3, roll=0.25).wait_s == 1


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_backoff_is_never_negative_nor_above_its_cap(attempt: int, roll: float) -> None:
    assert 0 <= backoff_s(attempt, lambda: roll) <= BACKOFF_CAP_S


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"retry-after": "86400"}, RETRY_AFTER_MAX_S),
        ({"retry-after": "1e9"}, RETRY_AFTER_MAX_S),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "9" * 1000}, None),
        ({"retry-after": "Fri, 99 Foo 2999 99:99:99 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30),
        ({"retry-after": "Fri, 14 Nov 2053 22:13:50 GMT"}, RETRY_AFTER_MAX_S),
    ],
)
def test_retry_after_is_read_in_every_form_and_nonsense_is_as_if_absent(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(headers, NOW_S) == wait_s


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_header_can_make_the_wait_absurd(seconds: str, milliseconds: str) -> None:
    wait_s = retry_after_s({"retry-after": seconds, "retry-after-ms": milliseconds}, NOW_S)

    assert wait_s is None or 0 < wait_s <= RETRY_AFTER_MAX_S


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)))
def test_every_http_date_is_read(date: datetime) -> None:
    wait_s = retry_after_s({"retry-after": format_datetime(date, usegmt=True)}, NOW_S)

    expected = date.replace(microsecond=0).timestamp() - NOW_S
    assert wait_s == (min(expected, RETRY_AFTER_MAX_S) if expected > 0 else None)
