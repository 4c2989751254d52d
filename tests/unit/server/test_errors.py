"""Every error has one answer, in OpenAI's shape."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from batchwright.domain.errors import (
    Ambiguous,
    AnswerTooLarge,
    Conflict,
    Damaged,
    LongWait,
    NoSpace,
    NotFound,
    NotSent,
    StorageError,
    UsageError,
)
from batchwright.server.errors import (
    BodyTooLarge,
    Forbidden,
    RangeNotSatisfiable,
    TooManyRequests,
    Unauthorized,
    error_response,
)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UsageError("x"), 400, "invalid_request_error"),
        (Unauthorized(), 401, "invalid_request_error"),
        (Forbidden("x"), 403, "invalid_request_error"),
        (NotFound("x"), 404, "invalid_request_error"),
        (Conflict("x"), 409, "invalid_request_error"),
        (BodyTooLarge("x"), 413, "invalid_request_error"),
        (RangeNotSatisfiable(3), 416, "invalid_request_error"),
        (TooManyRequests("x", retry_after_s=1), 429, "rate_limit_error"),
        (HTTPException(405), 405, "invalid_request_error"),
        (NotSent("x"), 502, "server_error"),
        (LongWait("x", 60), 429, "rate_limit_error"),
        (Ambiguous("x"), 502, "server_error"),
        (AnswerTooLarge("x"), 502, "server_error"),
        (NoSpace("x"), 507, "server_error"),
        (StorageError("x"), 500, "server_error"),
        (Damaged("x"), 500, "server_error"),
        (RuntimeError("x"), 500, "server_error"),
    ],
)
def test_status_and_type_follow_from_the_kind_of_error(
    error: Exception, status: int, kind: str
) -> None:
    answer = error_response(error)

    body = json.loads(bytes(answer.body))
    assert answer.status_code == status
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["type"] == kind


def test_only_a_conflict_and_an_incurable_limit_tell_the_sdk_not_to_retry() -> None:
    told = "x-should-retry"

    assert error_response(Conflict("x")).headers[told] == "false"
    incurable = TooManyRequests("x", retry_after_s=0.2, is_curable=False)
    assert error_response(incurable).headers[told] == "false"
    assert error_response(incurable).headers["retry-after"] == "1"
    assert told not in error_response(TooManyRequests("x", retry_after_s=1)).headers
    assert told not in error_response(UsageError("x")).headers


def test_a_wait_that_a_provider_asked_for_is_told_with_its_name_and_length() -> None:
    answer = error_response(LongWait("acme", 3599.2))

    assert answer.headers["retry-after"] == "3600"
    assert b"acme lets this in only in 3,599 s; nothing was sent." in bytes(answer.body)


def test_what_storage_says_stays_inside() -> None:
    answer = error_response(StorageError("cannot write /srv/data/secret"))

    assert b"/srv" not in bytes(answer.body)
